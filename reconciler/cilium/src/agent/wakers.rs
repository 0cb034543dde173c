//! What wakes the loop: the manifest folder, netlink, signals. None of them carries what changed.

use super::shared::{Shared, Wake};
use anyhow::{Context, Result};
use cilium_engine::config::Config;
use cilium_engine::state::Kind;
use cilium_kernel::net::watch::Watch;
use cilium_sources::folder::Watch as FolderWatch;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

/// The watchers; they end with the process.
pub(super) struct Wakers {
    _folder: std::thread::JoinHandle<()>,
}

/// Starts the watchers. Called in the network namespace to be watched.
///
/// # Errors
/// A watcher cannot be started.
pub(super) fn start(config: &Config, shared: &Arc<Shared>) -> Result<Wakers> {
    let watch = Watch::open().context("watch the network state")?;
    let waker = shared.clone();
    std::thread::Builder::new()
        .name("netlink".into())
        .spawn(move || follow(watch, &waker))
        .context("start the netlink watcher")?;
    let waker = shared.clone();
    let path = config.source.manifests.path.to_path_buf();
    let folder = std::thread::Builder::new()
        .name("manifests".into())
        .spawn(move || watch_folder(&path, &waker))
        .context("start the folder watcher")?;
    Ok(Wakers { _folder: folder })
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
                std::thread::sleep(std::time::Duration::from_secs(1));
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
    }
}

/// Keeps a watch on the folder, which may come, go, or be replaced.
fn watch_folder(path: &Path, shared: &Arc<Shared>) {
    let waker = shared.clone();
    // The loop has ended: nobody is left to wake.
    let mut watch = match FolderWatch::new(path, move || drop(waker.wake(Wake::Manifests))) {
        Ok(watch) => watch,
        Err(e) => {
            tracing::warn!("{e}; changes are found by the periodic look");
            return;
        }
    };
    let mut there = None;
    loop {
        match watch.ensure() {
            Ok(now) if there != Some(now) => {
                there = Some(now);
                if shared.wake(Wake::Manifests).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("{e}; changes are found by the periodic look"),
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
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
