//! Kernel parameters, by `/proc/sys` of the calling thread's network namespace.

#![forbid(unsafe_code)]

use super::ownership::{NameOf, is_ours, name_of};
use super::{Net, each};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{Sysctl, SysctlKey};
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Every parameter this project sets; `*` stands for each of the node's own links.
pub const SYSCTLS: &[&str] = &[
    "net.ipv4.conf.all.forwarding",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.*.forwarding",
    "net.ipv4.conf.*.rp_filter",
    "net.ipv4.conf.*.accept_local",
    "net.ipv4.conf.*.send_redirects",
    "net.ipv6.conf.*.forwarding",
];

/// Longest value read, in bytes.
const LONGEST: u64 = 4096;

impl Driver<Sysctl> for Net {
    fn observe(&mut self, scope: &Scope<SysctlKey>) -> Result<Vec<(SysctlKey, String)>, DriverError> {
        let keys: Vec<SysctlKey> = match scope {
            Scope::Keys(keys) => keys.iter().cloned().collect(),
            Scope::All => self.listed()?,
        };
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            match read(&path(&key)?) {
                Ok(value) => rows.push((key, value)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(DriverError::new(format!("read sysctl {key}: {error}"))),
            }
        }
        Ok(rows)
    }

    /// A parameter cannot be removed: what it was before is not known here.
    fn apply(&mut self, steps: &[Step<Sysctl>]) -> Vec<Result<(), DriverError>> {
        each(steps, |step| match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => write(key, row),
            Step::Remove { .. } => Ok(()),
        })
    }
}

impl Net {
    fn listed(&mut self) -> Result<Vec<SysctlKey>, DriverError> {
        let mut links = self.all_links()?;
        links.retain(|link| name_of(&link.name) == NameOf::Node && is_ours(link));
        let mut keys = Vec::new();
        for pattern in SYSCTLS {
            match pattern.split_once('*') {
                None => keys.push(SysctlKey((*pattern).to_owned())),
                Some((before, after)) => {
                    keys.extend(links.iter().map(|link| {
                        SysctlKey(format!("{before}{}{after}", link.name.0.replace('.', "/")))
                    }));
                }
            }
        }
        Ok(keys)
    }
}

fn write(key: &SysctlKey, value: &str) -> Result<(), DriverError> {
    let path = path(key)?;
    fs::write(&path, value).map_err(|error| {
        let failed = DriverError::new(format!("set sysctl {key} to {value}: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound => failed.hint("the interface does not exist, or this kernel lacks the parameter"),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                failed.hint("/proc/sys must be writable; in a container: mount it so")
            }
            _ => failed,
        }
    })
}

/// Tabs between numbers count as blanks.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Dots separate, a slash is a dot within a name.
fn path(key: &SysctlKey) -> Result<PathBuf, DriverError> {
    let relative: String = key
        .0
        .chars()
        .map(|char| match char {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let plain = Path::new(&relative).components().all(|part| matches!(part, Component::Normal(_)));
    if relative.is_empty() || !plain || relative.contains('\0') {
        return Err(DriverError::new(format!("sysctl {key}: not the name of a parameter")));
    }
    Ok(Path::new("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_an_interface_name_is_written_as_a_slash() {
        let key = SysctlKey("net.ipv4.conf.eth0/100.rp_filter".into());
        assert_eq!(path(&key).expect("a name"), Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn nothing_outside_is_named() {
        for key in ["", ".etc.passwd", "net.//.x", "a\0b"] {
            assert!(path(&SysctlKey(key.into())).is_err(), "{key:?}");
        }
    }
}
