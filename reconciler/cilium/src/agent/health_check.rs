//! `healthCheckNodePort`: load balancers outside the cluster ask each node for a Service's backends on it.
//!
//! Answers are what kube-proxy gives: 200 with at least one ready backend here, 503 without, and the number of them
//! in the body and in `X-Load-Balancing-Endpoint-Weight`
//! (<https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/>).

use super::answers::{json, listen_everywhere, serve};
use super::healthz;
use super::shared::Shared;
use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use cilium_engine::compile::HealthCheckView;
use cilium_engine::map::Map;
use cilium_engine::world::Name;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How soon a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

type Wanted = Map<Name, cilium_engine::shared::Shared<HealthCheckView>>;

/// What is not served, and why; kept by those who serve, between passes too.
#[derive(Debug, Default)]
pub(super) struct HealthTrouble {
    node: Mutex<Option<String>>,
    services: Mutex<Vec<String>>,
}

impl HealthTrouble {
    /// Of the node's own health.
    pub(super) fn of_node(&self, reason: Option<String>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn of_services(&self, reasons: Vec<String>) {
        *self.services.lock().unwrap_or_else(PoisonError::into_inner) = reasons;
    }

    /// All of it.
    pub(super) fn all(&self) -> Vec<String> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner).clone();
        node.into_iter().chain(services).collect()
    }
}

/// The servers, from outside. They end with the runtime.
pub(super) struct HealthChecks {
    wanted: watch::Sender<Wanted>,
}

impl HealthChecks {
    /// Starts to follow what is wanted; nothing is yet. Must be called within the runtime that serves. The node's
    /// own health is answered at `healthz`, if given.
    pub(super) fn start(shared: Arc<Shared>, healthz: Option<SocketAddr>) -> Self {
        let (wanted, follow) = watch::channel(Wanted::default());
        if let Some(at) = healthz {
            healthz::start(at, shared.clone());
        }
        tokio::spawn(keep(follow, shared));
        Self { wanted }
    }

    /// These ports are to be served from now on. What they answer is looked up in what is shown last.
    pub(super) fn follow(&self, wanted: &Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = !before.shares(wanted);
            before.clone_from(wanted);
            differs
        });
    }
}

/// The Service that each port is for, the oldest or the first by name, and what to say of the others.
fn by_port(wanted: &Wanted) -> (BTreeMap<u16, Name>, Vec<String>) {
    let mut checks: Vec<_> = wanted.iter().collect();
    checks.sort_by_key(|(_, check)| (check.created.is_none(), check.created.as_ref()));
    let (mut ports, mut trouble) = (BTreeMap::<u16, Name>::new(), Vec::new());
    for (name, check) in checks {
        if let Some(first) = ports.get(&check.port) {
            trouble.push(format!(
                "Service/{name}: healthCheckNodePort {} answers for Service/{first}; give one of them another port",
                check.port
            ));
        } else {
            ports.insert(check.port, name.clone());
        }
    }
    (ports, trouble)
}

/// A port that is served, until this is dropped.
struct Door {
    name: Name,
    task: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(mut wanted: watch::Receiver<Wanted>, shared: Arc<Shared>) {
    let mut open: BTreeMap<u16, Door> = BTreeMap::new();
    loop {
        let (ports, mut trouble) = by_port(&wanted.borrow_and_update());
        open.retain(|port, door| ports.get(port) == Some(&door.name));
        for (port, name) in ports {
            if open.contains_key(&port) {
                continue;
            }
            match listen_everywhere(port) {
                Ok(listener) => {
                    let (of, shared) = (name.clone(), shared.clone());
                    let task = tokio::spawn(serve(listener, move |_| answer(&of, &shared)));
                    open.insert(port, Door { name, task });
                }
                Err(e) => trouble.push(format!(
                    "Service/{name}: cannot listen on healthCheckNodePort {port}: {e}; tried again every {AGAIN:?}"
                )),
            }
        }
        let is_whole = trouble.is_empty();
        shared.health.of_services(trouble);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if !is_whole => {}
        }
    }
}

/// Any path and method get the same answer.
fn answer(name: &Name, shared: &Shared) -> Response<Body> {
    let ready = shared.shown().view.health_checks.get(name).map_or(0, |check| check.ready);
    let code = if ready > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "service": {"namespace": name.namespace, "name": name.name},
        "localEndpoints": ready,
        "serviceProxyHealthy": true,
    });
    let mut response = json(code, body.to_string());
    let weight = header::HeaderValue::from(ready);
    response.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
    response
}
