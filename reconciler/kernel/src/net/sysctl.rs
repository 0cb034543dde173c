//! Kernel parameters, by `/proc/sys` of the calling thread's network namespace.

#![forbid(unsafe_code)]

use super::{Net, each, ports::Ports};
use crate::file::{self, Lasting};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{FileRow, RESERVED_PORTS, Sysctl, SysctlKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Every parameter this project sets.
pub const SYSCTLS: &[&str] = &[
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv6.conf.all.forwarding",
    RESERVED_PORTS,
];

/// Longest value read, in bytes.
const LONGEST: u64 = 32_768;
/// Longest record read, in bytes.
const LONGEST_RECORD: u64 = 1 << 16;

/// Which parameters are looked at, and where is written what they were before.
#[derive(Debug)]
pub(super) struct Watched {
    keys: BTreeSet<SysctlKey>,
    /// What [`RESERVED_PORTS`] is to have at least.
    reserved: Option<String>,
    record: Option<PathBuf>,
}

impl Default for Watched {
    fn default() -> Self {
        let keys = SYSCTLS.iter().map(|key| SysctlKey((*key).to_owned())).collect();
        Self { keys, reserved: None, record: None }
    }
}

impl Net {
    /// Says which parameters a whole read returns, besides those in the record, and where the record is.
    ///
    /// A parameter exists whether anybody wants it or not, so "all that are ours" needs telling: those wanted
    /// now, and those that were changed by us once and not given back. Without a call: [`SYSCTLS`], and
    /// nothing can be given back.
    ///
    /// `reserved` is what [`RESERVED_PORTS`] is to have at least: as long as it has, that is what is seen of it.
    pub fn watch_sysctls(&mut self, keys: BTreeSet<SysctlKey>, reserved: Option<String>, record: PathBuf) {
        self.sysctls = Watched { keys, reserved, record: Some(record) };
    }
}

impl Driver<Sysctl> for Net {
    fn observe(&mut self, scope: &Scope<SysctlKey>) -> Result<Vec<(SysctlKey, String)>, DriverError> {
        let keys: BTreeSet<SysctlKey> = match scope {
            Scope::Keys(keys) => keys.clone(),
            Scope::All => {
                self.sysctls.recorded()?.into_keys().chain(self.sysctls.keys.iter().cloned()).collect()
            }
        };
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            match read(&path(&key)?) {
                Ok(value) => {
                    let value = self.sysctls.seen(&key, value);
                    rows.push((key, value));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(DriverError::new(format!("read sysctl {key}: {error}"))),
            }
        }
        Ok(rows)
    }

    /// To remove a parameter is to give back what it was before us; without a record: to leave it.
    fn apply(&mut self, steps: &[Step<Sysctl>]) -> Vec<Result<(), DriverError>> {
        each(steps, |step| match step {
            Step::Create { key, row } | Step::Update { key, row, .. } => {
                self.sysctls.remember(key)?;
                write(key, &merged(key, row)?)
            }
            Step::Remove { key, .. } => self.sysctls.give_back(key),
        })
    }
}

/// What is to be written for a row: [`RESERVED_PORTS`] keeps what is there already.
fn merged(key: &SysctlKey, row: &str) -> Result<String, DriverError> {
    if key.0 != RESERVED_PORTS {
        return Ok(row.to_owned());
    }
    let now = read(&path(key)?).map_err(|error| DriverError::new(format!("read sysctl {key}: {error}")))?;
    let both = Ports::parse(&now).zip(Ports::parse(row));
    let (mut ports, ours) =
        both.ok_or_else(|| DriverError::new(format!("sysctl {key}: not ports: {now}")))?;
    ports.add(&ours);
    Ok(ports.to_string())
}

impl Watched {
    /// What is seen of a parameter that has this value.
    fn seen(&self, key: &SysctlKey, value: String) -> String {
        match &self.reserved {
            Some(wanted) if key.0 == RESERVED_PORTS => {
                let both = Ports::parse(&value).zip(Ports::parse(wanted));
                if both.is_some_and(|(now, wanted)| now.holds(&wanted)) { wanted.clone() } else { value }
            }
            _ => value,
        }
    }

    /// Values before us, as `key = value` lines; others are passed over, and so are parameters that are
    /// never set here, whatever damaged the record. What is no file records nothing.
    fn recorded(&self) -> Result<BTreeMap<SysctlKey, String>, DriverError> {
        let Some(record) = &self.record else { return Ok(BTreeMap::new()) };
        let mut bytes = Vec::new();
        // Not blocking: a pipe in its place would wait for a writer.
        let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(record);
        let file = match opened {
            Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => Some(file),
            Ok(_) => None,
            // Nothing there, a link that leads nowhere, a socket.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::ENXIO)) => {
                None
            }
            // To take what cannot be read now for nothing would be to forget it.
            Err(error) => return Err(DriverError::new(format!("read {}: {error}", record.display()))),
        };
        if let Some(file) = file {
            file.take(LONGEST_RECORD)
                .read_to_end(&mut bytes)
                .map_err(|error| DriverError::new(format!("read {}: {error}", record.display())))?;
        }
        let text = String::from_utf8_lossy(&bytes);
        // The last line of a record that was cut has no end.
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let lines = whole
            .filter_map(|line| line.split_once(" = "))
            .filter(|(key, value)| SYSCTLS.contains(key) && is_value(key, value));
        Ok(lines.map(|(key, value)| (SysctlKey(key.to_owned()), value.to_owned())).collect())
    }

    fn save(&self, recorded: &BTreeMap<SysctlKey, String>) -> Result<(), DriverError> {
        let Some(record) = &self.record else { return Ok(()) };
        if record.is_dir() {
            // A file is replaced by the new one; a folder must be out of the way first.
            let aside = record.with_extension("bad");
            tracing::warn!("{} is a folder, and now ends in .bad", record.display());
            fs::rename(record, &aside)
                .map_err(|error| DriverError::new(format!("rename {}: {error}", record.display())))?;
        }
        let content = recorded.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        file::write(record, &FileRow { content, mode: 0o600 }, Lasting::Forever)
            .map_err(|error| DriverError::new(format!("write {}: {error}", record.display())))
    }

    /// Before the first change of ours. The first value recorded stays.
    fn remember(&self, key: &SysctlKey) -> Result<(), DriverError> {
        let mut recorded = self.recorded()?;
        if self.record.is_none() || recorded.contains_key(key) {
            return Ok(());
        }
        // A parameter that cannot be read cannot be written either: that error is the one to report.
        let Ok(value) = read(&path(key)?) else { return Ok(()) };
        recorded.insert(key.clone(), value);
        self.save(&recorded)
    }

    fn give_back(&self, key: &SysctlKey) -> Result<(), DriverError> {
        let mut recorded = self.recorded()?;
        let Some(value) = recorded.remove(key) else { return Ok(()) };
        if path(key)?.exists() {
            write(key, &value)?;
        }
        self.save(&recorded)
    }
}

/// Whether a parameter of ours may have had this value.
fn is_value(key: &str, value: &str) -> bool {
    if key == RESERVED_PORTS { Ports::parse(value).is_some() } else { value.parse::<i32>().is_ok() }
}

fn write(key: &SysctlKey, value: &str) -> Result<(), DriverError> {
    let path = path(key)?;
    // Without its end an empty value would not be written at all.
    fs::write(&path, format!("{value}\n")).map_err(|error| {
        let failed = DriverError::new(format!("set sysctl {key} to {value}: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound => {
                failed.hint("the interface does not exist, or this kernel lacks the parameter")
            }
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
    if text.len() as u64 == LONGEST {
        // Given back, what was cut would be another value.
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{LONGEST} bytes or more")));
    }
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
    fn a_damaged_record_gives_back_only_what_is_whole_and_ours() {
        let record = tempfile::NamedTempFile::new().expect("a file");
        let bytes = b"net.ipv4.ip_forward = 0\nnet.ipv4.tcp_rmem = 1\n\xff\xfe = 1\nnet.ipv6.conf.all.forwarding = \n\
            net.ipv4.conf.all.rp_filter = 2";
        fs::write(record.path(), bytes).expect("written");
        let watched =
            Watched { keys: BTreeSet::new(), reserved: None, record: Some(record.path().to_owned()) };
        let recorded = watched.recorded().expect("read all the same");
        assert_eq!(recorded, BTreeMap::from([(SysctlKey("net.ipv4.ip_forward".into()), "0".to_owned())]));
    }

    #[test]
    fn what_is_no_record_says_nothing_and_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = dir.path().join("sysctls");
        let watched = Watched { keys: BTreeSet::new(), reserved: None, record: Some(record.clone()) };
        let values = BTreeMap::from([(SysctlKey("net.ipv4.ip_forward".into()), "0".to_owned())]);
        let mkfifo = || std::process::Command::new("mkfifo").arg(&record).status().expect("mkfifo").success();
        let ways: [&dyn Fn(); 3] = [
            &|| fs::create_dir_all(record.join("within")).expect("a folder"),
            &|| std::os::unix::fs::symlink(&record, &record).expect("a link"),
            &|| assert!(mkfifo()),
        ];
        for way in ways {
            way();
            assert_eq!(watched.recorded().expect("nothing"), BTreeMap::new());
            watched.save(&values).expect("saved");
            assert_eq!(watched.recorded().expect("read"), values);
            fs::remove_file(&record).expect("removed");
        }
    }

    #[test]
    fn nothing_outside_is_named() {
        for key in ["", ".etc.passwd", "net.//.x", "a\0b"] {
            assert!(path(&SysctlKey(key.into())).is_err(), "{key:?}");
        }
    }
}
