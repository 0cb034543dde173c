//! What is there of a host and of a folder, to be compared before and after.

use crate::Netns;
use crate::probe::eventually;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Everything of a namespace that this project may touch, as text.
pub fn host(netns: &Netns) -> String {
    let script = "ip -o link | sed 's/ *$//'; ip -o addr; ip route show table all; ip -6 route show table all; \
                  ip rule; ip -6 rule; tc qdisc; for f in $(find /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf \
                  /proc/sys/net/ipv4/ip_forward -type f | sort); do echo \"$f $(cat $f 2>/dev/null)\"; done; \
                  bpftool net show dev eth0";
    // Times that count down are not state.
    let text = String::from_utf8_lossy(&netns.shell(script).stdout).into_owned();
    let lines = text.lines().filter(|line| !line.contains("stable_secret"));
    lines.map(|line| line.split(" expires ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Waits until the kernel has done what it does by itself after a link goes up: every interface that has a
/// carrier has its IPv6 address, and knows that nobody else has it.
pub fn wait_quiet(netns: &Netns) {
    let script = "ip -o addr | grep -q tentative && exit 1; for i in $(ip -o link show up | grep LOWER_UP | cut -d' ' -f2 | \
                  cut -d@ -f1 | tr -d :); do ip -6 -o addr show dev $i | grep -q inet6 || exit 1; done";
    let quiet = || netns.shell(script).status.success();
    assert!(eventually(Duration::from_secs(20), quiet), "{}", host(netns));
}

/// What is below a folder, folders included, with its times.
pub fn files(root: &Path) -> BTreeMap<String, Option<SystemTime>> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let meta = entry.metadata().expect("a file that stays");
            if meta.is_dir() {
                folders.push(entry.path());
            }
            out.insert(entry.path().display().to_string(), meta.modified().ok());
        }
    }
    out
}

/// What is below a folder and is no folder, sorted.
pub fn below(root: &Path) -> Vec<PathBuf> {
    let paths = files(root).into_keys().map(PathBuf::from);
    paths.filter(|path| !path.symlink_metadata().is_ok_and(|meta| meta.is_dir())).collect()
}
