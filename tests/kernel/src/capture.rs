//! What passes an interface: every frame, whichever way it goes.

use crate::Netns;
use crate::probe::eventually;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running capture; frames have at most 2 KiB.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How often there was nothing to be read.
    idle: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// How long a capture may lag behind packets without a pause.
const LAG: Duration = Duration::from_secs(2);
/// Bytes that wait for a reader who gets no time.
static WAITING: libc::c_int = 8 << 20;

/// A packet socket of one interface.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a NUL-terminated name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let patience = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    // SAFETY: plain numbers; all zero is valid. Each pointer is valid for the size beside it.
    let code = unsafe {
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let fd = socket.as_raw_fd();
        let time = (&raw const patience).cast();
        let waiting = (&raw const WAITING).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time, size_of::<libc::timeval>() as u32)
            | libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                waiting,
                size_of_val(&WAITING) as u32,
            )
            | libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    };
    if index == 0 || code != 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

impl Capture {
    /// Starts on an interface of a namespace.
    pub fn start(netns: &Netns, interface: &str) -> Self {
        let socket = netns.enter(|| open(interface)).unwrap_or_else(|e| panic!("capture {interface}: {e}"));
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let idle = Arc::new(AtomicUsize::new(0));
        let (stopped, seen, pauses) = (stop.clone(), frames.clone(), idle.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0u8; 2048];
            while !stopped.load(Ordering::Relaxed) {
                // SAFETY: the buffer is valid for its length.
                let n =
                    unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                if let Ok(n) = usize::try_from(n) {
                    seen.lock().expect("no reader panics").push(buffer[..n].to_vec());
                } else {
                    pauses.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, frames, idle, thread: Some(thread) }
    }

    /// Waits until all that has passed so far is read.
    fn settle(&self) {
        let before = self.idle.load(Ordering::Relaxed);
        eventually(LAG, || self.idle.load(Ordering::Relaxed) != before);
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        self.settle();
        self.frames.lock().expect("no reader panics").clear();
    }

    /// Counts frames.
    pub fn count(&self, which: impl Fn(&[u8]) -> bool) -> usize {
        self.settle();
        self.frames.lock().expect("no reader panics").iter().filter(|frame| which(frame)).count()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Source and destination of the IP packet in a frame.
pub fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let at = |n: usize| frame.get(n..n + 4)?.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b));
            Some((at(26)?, at(30)?))
        }
        [0x86, 0xdd] => {
            let at = |n: usize| frame.get(n..n + 16)?.try_into().ok().map(|b: [u8; 16]| IpAddr::from(b));
            Some((at(22)?, at(38)?))
        }
        _ => None,
    }
}

/// Whether the IP packet in a frame tells of a frontend (`cilium_abi::dsr`).
pub fn tells_frontend(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(34..36) == Some(&[0x9a, 8]) && frame[14] & 0xf >= 7,
        Some([0x86, 0xdd]) => frame.get(20) == Some(&60) && frame.get(55..58) == Some(&[2, 0x1b, 20]),
        _ => false,
    }
}

/// Whether the IP packet in a frame is TCP or UDP, whatever stands before it.
pub fn has_ports(frame: &[u8]) -> bool {
    let number = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23),
        Some([0x86, 0xdd]) if frame.get(20) == Some(&60) => frame.get(54),
        Some([0x86, 0xdd]) => frame.get(20),
        _ => None,
    };
    matches!(number, Some(6 | 17))
}
