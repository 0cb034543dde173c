//! Where pins are, and opening them. Only paths: what a pin means is said by the module of its kind.
//!
//! ```text
//! bpf_dir/maps/<name>_v<version>         bpf_dir/progs/<set>/<program>, private_<map>
//! bpf_dir/links/<interface>_<hook>       bpf_dir/links/<program of a cgroup>
//! bpf_dir/links/<interface>_xdp          a symbolic link that leads nowhere: the driver cannot
//! …/new-<name>: being made; left behind by a kill, it is a stray
//! ```

use super::fault::fault;
use super::sys::{self, MapFd, ObjectKind, Pinned};
use cilium_abi::maps::MapSpec;
use cilium_engine::driver::DriverError;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What the names of unfinished pins begin with. bpffs reserves dots.
pub(super) const UNFINISHED: &str = "new-";

/// The pins of one `bpf_dir`.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    pub(super) root: PathBuf,
}

impl Pins {
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }
    pub(super) fn progs(&self) -> PathBuf {
        self.root.join("progs")
    }
    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }
    /// The pin of a map, in the version of this build.
    pub(super) fn map(&self, spec: &MapSpec) -> PathBuf {
        self.maps().join(pin_name(spec))
    }

    /// Opens a map of ours; `None`: it is not there.
    ///
    /// # Errors
    /// As [`Self::shaped`].
    pub(super) fn open_map(&self, spec: &MapSpec) -> Result<Option<MapFd>, DriverError> {
        open_map(&self.map(spec))?.map(|map| self.shaped(map, spec)).transpose()
    }

    /// Hands a map back that has the shape of this build.
    ///
    /// # Errors
    /// It has another: its rows could not be read as what they are.
    pub(super) fn shaped(&self, map: MapFd, spec: &MapSpec) -> Result<MapFd, DriverError> {
        let info = map.info;
        if (info.kind, info.key_size, info.value_size) != (spec.kind as u32, spec.key_size, spec.value_size) {
            return Err(DriverError::new(format!(
                "open map {}: type {}, key {} and row {} bytes, but this build has type {}, key {} and row {} bytes",
                self.map(spec).display(),
                info.kind,
                info.key_size,
                info.value_size,
                spec.kind as u32,
                spec.key_size,
                spec.value_size
            ))
            .hint("the agent or `cilium apply` replaces it in its next pass"));
        }
        Ok(map)
    }
}

/// `<name>_v<version>`.
pub(super) fn pin_name(spec: &MapSpec) -> String {
    format!("{}_v{}", spec.name, spec.version)
}

/// Opens a pinned map; `None`: nothing is there, or it is no map.
pub(super) fn open_map(path: &Path) -> Result<Option<MapFd>, DriverError> {
    match open_as(path, ObjectKind::Map)? {
        Some(fd) => {
            MapFd::new(fd).map(Some).map_err(|e| fault(&e, format!("read the shape of {}", path.display())))
        }
        None => Ok(None),
    }
}

/// Opens a pin of one sort; `None`: nothing is there, or it is of another sort.
pub(super) fn open_as(path: &Path, kind: ObjectKind) -> Result<Option<OwnedFd>, DriverError> {
    match sys::open_pin(path) {
        Ok(Pinned { fd, kind: seen }) if seen == kind => Ok(Some(fd)),
        Ok(_) => Ok(None),
        // A file that is no pin, or a directory, gives EACCES or EPERM; only for root is that certain.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EISDIR)) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && !path.is_file() => Ok(None),
        Err(e) => Err(fault(&e, format!("open pin {}", path.display()))),
    }
}

/// Names in a directory, sorted; none if it is not there.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, DriverError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(fault(&e, format!("list {}", dir.display()))),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fault(&e, format!("list {}", dir.display())))?;
        // A name that is not UTF-8 is not ours.
        if let Ok(name) = entry.file_name().into_string() {
            out.push(name);
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Makes a directory with its parents.
pub(super) fn make_dir(dir: &Path) -> Result<(), DriverError> {
    std::fs::create_dir_all(dir).map_err(|e| fault(&e, format!("create {}", dir.display())))
}

/// Pins under a name, in one step, whatever was there before.
pub(super) fn pin_over(fd: &OwnedFd, path: &Path) -> Result<(), DriverError> {
    let dir = path.parent().unwrap_or(path);
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    make_dir(dir)?;
    let draft = dir.join(format!("{UNFINISHED}{name}"));
    remove(&draft)?;
    sys::pin(fd, &draft).map_err(|e| fault(&e, format!("pin {}", draft.display())))?;
    std::fs::rename(&draft, path).map_err(|e| fault(&e, format!("rename {} to {name}", draft.display())))
}

/// Removes a pin; gone already is fine.
pub(super) fn remove(path: &Path) -> Result<(), DriverError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fault(&e, format!("remove {}", path.display()))),
        _ => Ok(()),
    }
}

/// Refuses a key that would lead out of the directory.
pub(super) fn checked<'a>(name: &'a str, what: &str) -> Result<&'a str, DriverError> {
    let plain = !name.is_empty()
        && name.len() < 200
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'.');
    if plain {
        Ok(name)
    } else {
        Err(DriverError::new(format!("{what} {name:?} cannot be the name of a pin")))
    }
}
