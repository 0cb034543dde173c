//! A small HTTP server for load balancers outside: few seats, little patience, and an answer made of what is
//! shown.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections served at once on one port. Who holds one open longer than [`PATIENCE`] loses it.
const SEATS: usize = 64;
/// The longest a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on every address of the node, of both families where there are both.
pub(super) fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            begin(socket, (Ipv6Addr::UNSPECIFIED, port).into())
        }
        Err(_) => begin(Socket::new(Domain::IPV4, Type::STREAM, None)?, (Ipv4Addr::UNSPECIFIED, port).into()),
    }
}

/// Listens on one address, or on all of its family.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    begin(Socket::new(Domain::for_address(at), Type::STREAM, None)?, at)
}

fn begin(socket: Socket, at: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers whoever connects, by the path he asks for.
pub(super) async fn serve<A>(listener: TcpListener, answer: A)
where
    A: Fn(&str) -> Response<Body> + Send + Sync + 'static,
{
    let (answer, seats) = (Arc::new(answer), Arc::new(Semaphore::new(SEATS)));
    loop {
        // Nobody closes the semaphore.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    // Who is too slow, or asks nonsense, is nobody's trouble but his.
                    let _ = timeout(PATIENCE, converse(stream, &*answer)).await;
                    drop(seat);
                });
            }
            // Out of descriptors, say: they come back.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, answer: impl Fn(&str) -> Response<Body>) {
    let answer = service_fn(|request: hyper::Request<_>| {
        let _: &hyper::body::Incoming = request.body();
        let response = answer(request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    // As above: the other side's troubles.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}

/// JSON, with the code that says it all to most.
pub(super) fn json(code: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}
