//! Long-lived connections that notice every loss.

use crate::Netns;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A TCP connection to a server of [`crate::probe::serve`]: asks, waits for the answer, asks again.
#[derive(Debug)]
pub struct Flow {
    name: String,
    thread: JoinHandle<Result<Told, String>>,
}

/// What a flow that was never broken tells at its end.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Answers.
    pub answers: u64,
    /// Segments sent again.
    pub retransmitted: u32,
    /// The longest wait for an answer.
    pub slowest: Duration,
}

/// Connects, and asks every `pause` until `stop`.
pub fn flow(from: &Netns, name: &str, to: SocketAddr, pause: Duration, stop: &Arc<AtomicBool>) -> Flow {
    let connected = from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    let mut stream = connected.unwrap_or_else(|e| panic!("{name}: connect {to}: {e}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let stop = stop.clone();
    let thread = std::thread::spawn(move || {
        let (mut answers, mut slowest, mut buffer) = (0, Duration::ZERO, [0; 128]);
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            stream.write_all(b"?").map_err(|e| format!("write after {answers} answers: {e}"))?;
            match stream.read(&mut buffer) {
                Ok(0) => return Err(format!("closed after {answers} answers")),
                Ok(_) => answers += 1,
                Err(e) => return Err(format!("read after {answers} answers: {e}")),
            }
            slowest = slowest.max(asked.elapsed());
            std::thread::sleep(pause);
        }
        Ok(Told { answers, retransmitted: retransmissions(&stream), slowest })
    });
    Flow { name: name.to_owned(), thread }
}

impl Flow {
    /// As it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is broken already.
    pub fn is_broken(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end, once `stop` is set.
    ///
    /// # Errors
    /// How it broke.
    pub fn end(self) -> Result<Told, String> {
        self.thread.join().map_err(|_| "its thread panicked".to_owned())?
    }
}

/// `tcpi_total_retrans`.
fn retransmissions(stream: &TcpStream) -> u32 {
    // SAFETY: all-zero bytes are a valid `tcp_info`: it holds numbers alone.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).expect("small");
    // SAFETY: the buffer is as large as `size` says, and the descriptor is open.
    let code = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    assert_eq!(code, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}
