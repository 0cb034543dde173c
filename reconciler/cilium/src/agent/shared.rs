//! What the loop shows to the servers, and how they wake it.

use super::health_check::HealthTrouble;
use super::healthz::Pulse;
use super::metrics::AgentMetrics;
use super::status::Status;
use super::view::Shown;
use cilium_cni::wire::{Answer, Request};
use std::sync::mpsc::{SendError, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{broadcast, oneshot};

/// Why the loop looks again. No variant carries state to act on: a CNI call changes the endpoint
/// records, which are read like every other source.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something in the manifest folder.
    Manifests,
    /// Something the kernel told by netlink: kinds to look at.
    Kernel(Vec<cilium_engine::state::Kind>),
    /// A container runtime.
    Cni(CniCall),
    /// End after the current pass.
    Stop,
}

/// A CNI request with the way to answer it.
#[derive(Debug)]
pub(super) struct CniCall {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Events of the datapath as JSON lines, shared among monitors.
pub(super) type EventLine = Arc<str>;

/// Shared between the loop and the servers. The loop writes, once a pass; the servers read.
pub(super) struct Shared {
    status: RwLock<Arc<Status>>,
    shown: RwLock<Arc<Shown>>,
    wake: Mutex<Sender<Wake>>,
    /// What is wrong with answering health checks: it changes between passes.
    pub health: HealthTrouble,
    /// Metrics of loop and datapath.
    pub metrics: AgentMetrics,
    /// Whether the loop does what it is for.
    pub pulse: Pulse,
    /// Events for monitors.
    pub events: broadcast::Sender<EventLine>,
}

/// How many events a slow monitor may lag behind.
const EVENT_BACKLOG: usize = 8192;

impl Shared {
    /// Nothing known yet; `wake` leads to the loop.
    pub(super) fn new(wake: Sender<Wake>, metrics: AgentMetrics) -> Self {
        Self {
            status: RwLock::default(),
            shown: RwLock::default(),
            wake: Mutex::new(wake),
            health: HealthTrouble::default(),
            metrics,
            pulse: Pulse::new(),
            events: broadcast::channel(EVENT_BACKLOG).0,
        }
    }

    /// The status after the last pass, with what is wrong with answering health checks now.
    pub(super) fn status(&self) -> Arc<Status> {
        let mut status = self.status.read().unwrap_or_else(PoisonError::into_inner).clone();
        let health_checks = self.health.all();
        if status.health_checks != health_checks {
            Arc::make_mut(&mut status).health_checks = health_checks;
        }
        status
    }

    /// What the last pass found.
    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes how a pass ended.
    pub(super) fn publish(&self, status: Status) {
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }

    /// Shows what a pass found.
    pub(super) fn show(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    /// Wakes the loop.
    ///
    /// # Errors
    /// The loop has ended.
    pub(super) fn wake(&self, wake: Wake) -> Result<(), SendError<Wake>> {
        self.wake.lock().unwrap_or_else(PoisonError::into_inner).send(wake)
    }

    /// Wakes the loop with a CNI call.
    ///
    /// # Errors
    /// The loop has ended.
    pub(super) fn wake_cni(&self, call: CniCall) -> Result<(), SendError<Wake>> {
        self.wake(Wake::Cni(call))
    }
}
