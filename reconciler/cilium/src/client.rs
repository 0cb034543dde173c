//! Asking the agent over its socket, as the reading commands do.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest answer taken, bytes.
const MAX_ANSWER: u64 = 256 << 20;

/// The agent behind `run_dir/cilium.sock`.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The agent of this run directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(cilium_cni::wire::SOCKET) }
    }

    /// Sends GET and returns the reader after a 2xx header; other answers are errors with their body.
    ///
    /// HTTP/1.0: the answer ends where the connection ends.
    fn send(&self, path: &str, patience: Option<Duration>) -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("the agent does not answer on {}", self.socket.display()))
            .context("is `cilium agent` running, and is this its configuration?")?;
        stream.set_read_timeout(patience)?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: cilium\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 || head.len() > 64 << 10 {
                bail!("the agent's answer to {path} has no header");
            }
        }
        let code: u32 = head.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        if !(200..300).contains(&code) {
            let mut body = String::new();
            reader.take(64 << 10).read_to_string(&mut body)?;
            bail!("the agent refused {path} ({code}): {}", body.trim());
        }
        Ok(reader)
    }

    /// The body as text.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let mut body = String::new();
        self.send(path, Some(Duration::from_secs(30)))?.take(MAX_ANSWER).read_to_string(&mut body)?;
        Ok(body)
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_str(&self.text(path)?).with_context(|| format!("the agent's answer to {path}"))
    }

    /// The body line by line, for as long as the agent sends.
    pub(crate) fn lines(&self, path: &str) -> Result<impl Iterator<Item = std::io::Result<String>>> {
        Ok(self.send(path, None)?.lines())
    }
}
