//! One request to the agent over its socket, without an async runtime.

use crate::error::{self, CniError};
use crate::wire::{Answer, MAX_MESSAGE, PATH, Request, SOCKET};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How the agent could not be asked.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens: the agent is down.
    Down(String),
    /// It listens, but the exchange failed.
    Broken(String),
}

impl AskError {
    /// As the runtime reads it.
    pub fn into_cni(self, code: u32) -> CniError {
        match self {
            Self::Down(why) => CniError::new(code, "the cilium agent does not answer")
                .details(format!("{why}; is `cilium agent` running with this run_dir?")),
            Self::Broken(why) => {
                CniError::new(error::IO_FAILURE, "talking to the cilium agent failed").details(why)
            }
        }
    }
}

/// Sends `request` and waits up to `patience` for the answer.
///
/// # Errors
/// See [`AskError`].
pub fn ask(run_dir: &Path, request: &Request, patience: Duration) -> Result<Answer, AskError> {
    let socket = run_dir.join(SOCKET);
    let mut stream = UnixStream::connect(&socket)
        .map_err(|e| AskError::Down(format!("connect {}: {e}", socket.display())))?;
    let broken = |what: &str, e: &dyn std::fmt::Display| AskError::Broken(format!("{what}: {e}"));
    stream.set_read_timeout(Some(patience)).map_err(|e| broken("set timeout", &e))?;
    stream.set_write_timeout(Some(patience)).map_err(|e| broken("set timeout", &e))?;
    let body = serde_json::to_vec(request).map_err(|e| broken("encode", &e))?;
    // HTTP/1.0: the answer ends where the connection ends, and is never chunked.
    let head = format!(
        "POST {PATH} HTTP/1.0\r\nhost: cilium\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // In one piece: each wakes the agent.
    stream.write_all(&[head.as_bytes(), &body].concat()).map_err(|e| broken("write", &e))?;
    let mut answer = Vec::new();
    stream.take(MAX_MESSAGE as u64).read_to_end(&mut answer).map_err(|e| broken("read", &e))?;
    let split =
        answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| broken("read", &"no HTTP header"))?;
    serde_json::from_slice(&answer[split + 4..]).map_err(|e| {
        let head = String::from_utf8_lossy(&answer[..split]);
        broken("decode", &format!("{e} after {:?}", head.lines().next().unwrap_or_default()))
    })
}
