//! The agent's socket: status, views, events, and CNI requests.

use super::shared::{CniCall, Shared};
use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cilium_cni::error::{CniError, DECODING_FAILURE, NOT_AVAILABLE};
use cilium_cni::wire::{Answer, MAX_MESSAGE, PATH, Request};
use cilium_engine::config::Config;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

/// Binds `cilium.sock` and the metrics address, and serves both until the process ends.
///
/// # Errors
/// An address cannot be bound.
pub(super) async fn listen(config: &Config, shared: Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let socket = config.paths.run_dir.join(cilium_cni::wire::SOCKET);
    // The writer lock is held: a socket that is there is a dead agent's.
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove the old {}", socket.display()));
        }
        _ => {}
    }
    let unix = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o660))
        .with_context(|| format!("set the mode of {}", socket.display()))?;
    let mut servers = vec![serve("socket", axum::serve(unix, router(shared.clone())).into_future())];
    if let Some(listen) = &config.metrics.listen {
        let tcp = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listen on {listen} ([metrics] listen)"))?;
        servers.push(serve("metrics", axum::serve(tcp, metrics_router(shared)).into_future()));
    }
    Ok(servers)
}

fn serve(
    name: &'static str,
    server: impl Future<Output = std::io::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(e) = server.await {
            tracing::error!("{name} server ended: {e}");
        }
    })
}

/// Routes on `cilium.sock`.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/healthz", get(healthz))
        .route("/v1/status", get(status))
        .route("/v1/view", get(view))
        .route("/v1/monitor", get(monitor))
        .route(PATH, post(cni))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE))
        .with_state(shared)
}

/// Routes on the TCP address of `[metrics]`.
pub(super) fn metrics_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(shared)
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.status();
    let code = if status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, if status.healthy() { "ok\n" } else { "not healthy\n" }).into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Json(&*shared.status()).into_response()
}

async fn view(State(shared): State<Arc<Shared>>) -> Response {
    // Away from this thread: it answers container runtimes, and a large view takes its time.
    match tokio::task::spawn_blocking(move || shared.shown().json()).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}\n")).into_response(),
    }
}

/// Events as JSON lines until the client goes. A slow client loses events, and is told how many.
async fn monitor(State(shared): State<Arc<Shared>>) -> Response {
    let receiver = shared.events.subscribe();
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        use tokio::sync::broadcast::error::RecvError;
        let line = match receiver.recv().await {
            Ok(line) => line.to_string(),
            Err(RecvError::Lagged(n)) => format!("{{\"type\":\"lost\",\"count\":{n}}}\n"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), receiver))
    });
    Body::from_stream(lines).into_response()
}

async fn cni(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => {
            let error = CniError::new(DECODING_FAILURE, "the request is not valid").details(e.to_string());
            return Json(Answer::Failed(error)).into_response();
        }
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    let stopping = || CniError::new(NOT_AVAILABLE, "the agent is stopping");
    if shared.wake_cni(CniCall { request, reply }).is_err() {
        return Json(Answer::Failed(stopping())).into_response();
    }
    Json(answer.await.unwrap_or_else(|_| Answer::Failed(stopping()))).into_response()
}
