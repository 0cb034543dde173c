//! Sockets to backends that are gone: ended, so that their owners connect anew.
//!
//! On a thread of its own: looking through the sockets of every pod takes its time, and nobody's pass waits
//! for it. What is to be ended is found by looking: sockets that met a backend through a Service, where the
//! backend is neither wanted nor in the kernel's map any more. So it does not matter whether the agent ran
//! when it went.

use super::shared::Shared;
use cilium_engine::config::Config;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{Backend, Table};
use cilium_kernel::bpf::sockets::ServiceSockets;
use cilium_kernel::net::sockdiag::{Transport, terminate};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often all is looked through although nothing was heard of.
const PERIOD: Duration = Duration::from_secs(60);
/// How soon after a look that failed or was cut short the next one is.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest one look may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Where to look, and what to spare.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// The backends wanted.
    pub backends: Table<Backend>,
    /// Network namespaces of pods. Those that are gone do no harm.
    pub pods: Vec<PathBuf>,
}

#[derive(Default)]
struct Orders {
    ground: Option<Arc<Ground>>,
    /// A backend went.
    due: bool,
}

/// The thread, from outside. It ends with the process.
pub(super) struct Terminator {
    orders: Arc<(Mutex<Orders>, Condvar)>,
    trouble: Arc<Mutex<String>>,
}

impl Terminator {
    /// Starts it; `None`: the configuration wants no socket ended.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(config: &Config, shared: &Arc<Shared>) -> io::Result<Option<Self>> {
        let wanted = &config.load_balancer;
        if !wanted.at_sockets() || !wanted.socket_terminate {
            return Ok(None);
        }
        let (orders, trouble) = (Arc::<(Mutex<Orders>, Condvar)>::default(), Arc::<Mutex<String>>::default());
        let worker = Worker {
            orders: orders.clone(),
            trouble: trouble.clone(),
            shared: shared.clone(),
            bpf_dir: config.paths.bpf_dir.to_path_buf(),
            transports: match wanted.socket_terminate_tcp {
                true => &[Transport::Udp, Transport::Tcp],
                false => &[Transport::Udp],
            },
        };
        std::thread::Builder::new().name("sockets".into()).spawn(move || worker.run())?;
        Ok(Some(Self { orders, trouble }))
    }

    /// Says where to look from now on; `now`: without waiting for the next period.
    pub(super) fn look(&self, ground: Ground, now: bool) {
        let (orders, bell) = &*self.orders;
        let mut orders = locked(orders);
        orders.due |= now || orders.ground.is_none();
        orders.ground = Some(Arc::new(ground));
        if orders.due {
            bell.notify_one();
        }
    }

    /// Why the last look was not whole; empty: it was.
    pub(super) fn trouble(&self) -> String {
        locked(&self.trouble).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    orders: Arc<(Mutex<Orders>, Condvar)>,
    trouble: Arc<Mutex<String>>,
    shared: Arc<Shared>,
    bpf_dir: PathBuf,
    transports: &'static [Transport],
}

impl Worker {
    fn run(&self) {
        let mut patience = PERIOD;
        loop {
            let Some(ground) = self.wait(patience) else { continue };
            let began = Instant::now();
            let (ended, trouble) = match self.sweep(&ground) {
                Ok(ended) => (ended, String::new()),
                Err((ended, e)) => (ended, e.to_string()),
            };
            if ended > 0 {
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                tracing::info!(ended, micros, "sockets to removed backends were ended");
                self.shared.metrics.sockets_ended.inc_by(ended);
            }
            patience = if trouble.is_empty() { PERIOD } else { AGAIN };
            let mut before = locked(&self.trouble);
            if *before != trouble && !trouble.is_empty() {
                tracing::warn!("sockets to removed backends: {trouble}");
            }
            *before = trouble;
        }
    }

    /// Waits for an order, or for the time of the next look. `None`: there was no order ever.
    fn wait(&self, patience: Duration) -> Option<Arc<Ground>> {
        let (orders, bell) = &*self.orders;
        let (mut orders, _) = bell
            .wait_timeout_while(locked(orders), patience, |orders| !orders.due)
            .unwrap_or_else(PoisonError::into_inner);
        orders.due = false;
        orders.ground.clone()
    }

    /// Looks everywhere once. How many sockets were ended, also where something went wrong.
    fn sweep(&self, ground: &Ground) -> Result<u64, (u64, DriverError)> {
        let none = |e| (0, e);
        let Some(sockets) = ServiceSockets::open(&self.bpf_dir).map_err(none)? else { return Ok(0) };
        let met = sockets.met().map_err(none)?;
        if met.is_empty() {
            return Ok(0);
        }
        // Read after the sockets: whoever met a backend since is not taken for one that lost it.
        let mut alive = sockets.backends().map_err(none)?;
        let wanted = ground.backends.iter().map(|(_, entry)| &entry.row);
        alive.extend(wanted.map(|row| (row.proto.0, SocketAddr::new(row.addr, row.port))));
        let deadline = Instant::now() + LIMIT;
        let (mut ended, mut wrong) = (0, None);
        for transport in self.transports {
            let is_gone = |end: &&SocketAddr| !alive.contains(&(transport.number(), **end));
            let gone: BTreeSet<SocketAddr> = met.iter().filter(is_gone).copied().collect();
            if gone.is_empty() {
                continue;
            }
            for place in std::iter::once(None).chain(ground.pods.iter().map(|pod| Some(pod.as_path()))) {
                if Instant::now() >= deadline {
                    let late = format!("looking through all of them takes longer than {LIMIT:?}");
                    return Err((ended, DriverError::new(late)));
                }
                match end_in(place, *transport, &gone, &sockets) {
                    Ok(count) => ended += count,
                    // The pod went meanwhile.
                    Err(_) if place.is_some_and(|pod| !pod.exists()) => {}
                    Err(e) => drop(wrong.get_or_insert(e)),
                }
            }
        }
        wrong.map_or(Ok(ended), |e| Err((ended, e)))
    }
}

/// Ends what met its backend through a Service; who connected to the backend itself is spared.
fn end_in(
    place: Option<&Path>,
    transport: Transport,
    gone: &BTreeSet<SocketAddr>,
    sockets: &ServiceSockets,
) -> Result<u64, DriverError> {
    let mut unread = None;
    let done = terminate(place, transport, gone, |socket| {
        sockets.has_met(socket.cookie, socket.remote).unwrap_or_else(|e| {
            unread = Some(e);
            false
        })
    })?;
    match unread {
        Some(e) => Err(e),
        None => Ok(u64::try_from(done.ended).unwrap_or(u64::MAX)),
    }
}
