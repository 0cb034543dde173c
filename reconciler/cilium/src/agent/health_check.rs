//! `healthCheckNodePort`: load balancers outside the cluster ask each node for a Service's backends on it.
//!
//! Answers are what kube-proxy gives: 200 with at least one ready backend here, 503 without, and the number of them
//! in the body and in `X-Load-Balancing-Endpoint-Weight`
//! (<https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/>).

use super::shared::Shared;
use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use cilium_engine::compile::HealthCheckView;
use cilium_engine::map::Map;
use cilium_engine::world::Name;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Connections served at once on one port. Who holds one open longer than [`PATIENCE`] loses it.
const SEATS: usize = 64;
/// The longest a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

type Wanted = Map<Name, cilium_engine::shared::Shared<HealthCheckView>>;

/// The servers, from outside. They end with the runtime.
pub(super) struct HealthChecks {
    wanted: watch::Sender<Wanted>,
    trouble: Arc<Mutex<Vec<String>>>,
}

impl HealthChecks {
    /// Starts to follow what is wanted; nothing is yet. Must be called within the runtime that serves.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (wanted, follow) = watch::channel(Wanted::default());
        let trouble = Arc::<Mutex<Vec<String>>>::default();
        tokio::spawn(keep(follow, shared, trouble.clone()));
        Self { wanted, trouble }
    }

    /// These ports are to be served from now on. What they answer is looked up in what is shown last.
    pub(super) fn follow(&self, wanted: &Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = !before.shares(wanted);
            before.clone_from(wanted);
            differs
        });
    }

    /// Ports that are not served, and why.
    pub(super) fn trouble(&self) -> Vec<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

async fn keep(mut wanted: watch::Receiver<Wanted>, shared: Arc<Shared>, told: Arc<Mutex<Vec<String>>>) {
    let mut open: BTreeMap<u16, Door> = BTreeMap::new();
    loop {
        let (ports, mut trouble) = by_port(&wanted.borrow_and_update());
        open.retain(|port, door| ports.get(port) == Some(&door.name));
        for (port, name) in ports {
            if open.contains_key(&port) {
                continue;
            }
            match listen(port) {
                Ok(listener) => {
                    let task = tokio::spawn(serve(listener, name.clone(), shared.clone()));
                    open.insert(port, Door { name, task });
                }
                Err(e) => trouble.push(format!(
                    "Service/{name}: cannot listen on healthCheckNodePort {port}: {e}; tried again every {AGAIN:?}"
                )),
            }
        }
        let is_whole = trouble.is_empty();
        *told.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if !is_whole => {}
        }
    }
}

/// Listens on every address of the node, of both families where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let (socket, at): (_, SocketAddr) = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, (Ipv6Addr::UNSPECIFIED, port).into())
        }
        Err(_) => (Socket::new(Domain::IPV4, Type::STREAM, None)?, (Ipv4Addr::UNSPECIFIED, port).into()),
    };
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn serve(listener: TcpListener, name: Name, shared: Arc<Shared>) {
    let seats = Arc::new(Semaphore::new(SEATS));
    loop {
        // Nobody closes the semaphore.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (name, shared) = (name.clone(), shared.clone());
                tokio::spawn(async move {
                    // Who is too slow, or asks nonsense, is nobody's trouble but his.
                    let _ = timeout(PATIENCE, converse(stream, &name, &shared)).await;
                    drop(seat);
                });
            }
            // Out of descriptors, say: they come back.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, name: &Name, shared: &Shared) {
    let answer = service_fn(|_| async { Ok::<_, Infallible>(answer(name, shared)) });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    // As above: the other side's troubles.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
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
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", header::HeaderValue::from(ready));
    response
}
