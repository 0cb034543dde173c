//! What wakes the loop: the manifest folder, netlink, signals. None of them carries what changed.

use super::shared::{Shared, Wake};
use anyhow::{Context, Result};
use cilium_engine::state::Kind;
use cilium_kernel::net::watch::Watch;
use cilium_sources::folder::{Watch as FolderWatch, WatchError};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked whether another folder is in the place of the one that is watched.
const REPLACED_LOOK: Duration = Duration::from_secs(1);

/// What happens within this time after something was heard is heard together: a write of our own is a dozen
/// events, and whoever waits for it would wait for a dozen wakes. Far below the debounce time of the loop.
const TOGETHER: Duration = Duration::from_millis(5);

/// Starts the watchers; they end with the process. Called in the network namespace to be watched.
///
/// # Errors
/// A watcher cannot be started.
pub(super) fn start(folder: Result<FolderWatch, WatchError>, shared: &Arc<Shared>) -> Result<()> {
    let watch = Watch::open().context("watch the network state")?;
    let waker = shared.clone();
    std::thread::Builder::new()
        .name("netlink".into())
        .spawn(move || follow(watch, &waker))
        .context("start the netlink watcher")?;
    match folder {
        Ok(folder) => {
            let waker = shared.clone();
            std::thread::Builder::new()
                .name("manifests".into())
                .spawn(move || watch_folder(&folder, &waker))
                .context("start the folder watcher")?;
        }
        Err(e) => tracing::warn!("{e}; changes are found by the periodic look"),
    }
    Ok(())
}

/// Hears netlink until the loop has ended. A broken socket is replaced, and counts as "everything changed".
fn follow(mut watch: Watch, shared: &Shared) {
    loop {
        wait_readable(watch.as_raw_fd());
        let kinds: Vec<Kind> = match watch.drain() {
            Ok(changed) if changed.kinds.is_empty() => continue,
            Ok(changed) => changed.kinds.into_iter().collect(),
            Err(e) => {
                tracing::warn!("netlink watcher: {e}");
                std::thread::sleep(Duration::from_secs(1));
                match Watch::open() {
                    Ok(new) => watch = new,
                    Err(e) => tracing::warn!("netlink watcher: {e}"),
                }
                Kind::ALL.to_vec()
            }
        };
        if shared.wake(Wake::Kernel(kinds)).is_err() {
            return;
        }
        std::thread::sleep(TOGETHER);
    }
}

/// Wakes the loop for what no pass has seen yet, until the loop has ended.
fn watch_folder(folder: &FolderWatch, shared: &Shared) {
    loop {
        if folder.wait(REPLACED_LOOK) && shared.wake(Wake::Manifests).is_err() {
            return;
        }
        std::thread::sleep(TOGETHER);
    }
}

fn wait_readable(fd: i32) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd; the call only writes its `revents`.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

/// Returns at SIGTERM or SIGINT.
///
/// # Errors
/// The handlers cannot be installed.
pub(super) async fn terminated() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
