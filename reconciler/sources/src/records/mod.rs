//! Records of this node's CNI attachments: one JSON file each in `run_dir/state/endpoints`, written whole
//! and renamed before an attachment is told to be done, with a copy in `run_dir/state/copies`, made afterwards,
//! that counts where the record is lost or damaged. None of it is synced to disk: a power cut ends the pods too, and what
//! another boot recorded is discarded. The router's addresses stand apart in `state_dir/router.json`, synced,
//! because they outlive a reboot, and pods do not.

mod format;

use crate::kept::{self, Lasting};
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::state::Origin;
use cilium_engine::world::EndpointRecord;
use format::{StoredRecord, StoredRouter};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Largest record read, in bytes.
const MAX_RECORD: u64 = 256 << 10;

/// Why a record was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path in it is not UTF-8.
    #[error("record of endpoint {id}: {source}")]
    Format {
        /// Its number.
        id: u16,
        /// Why not.
        source: serde_json::Error,
    },
}

/// The router's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterAddresses {
    /// IPv4.
    pub ipv4: Option<IpAddr>,
    /// IPv6.
    pub ipv6: Option<IpAddr>,
}

/// The records, in memory as on disk.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    copies: PathBuf,
    router_file: PathBuf,
    boot_id: String,
    endpoints: BTreeMap<u16, EndpointRecord>,
    router: RouterAddresses,
    problems: Vec<Problem>,
    readable: bool,
    mending: Mending,
    /// Written, but for their copies.
    uncopied: BTreeSet<u16>,
}

/// Whether loading puts things in order on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mending {
    Yes,
    No,
}

impl Records {
    /// Loads the records. Those of another boot are removed (their pods are gone); one that cannot be read is
    /// put aside, ending in `.bad`, and reported.
    pub fn load(run_dir: &Path, state_dir: &Path, boot_id: &str) -> Self {
        Self::read(run_dir, state_dir, boot_id, Mending::Yes)
    }

    /// As [`Self::load`], for commands that change nothing: what is wrong on disk stays as it is.
    pub fn to_look(run_dir: &Path, state_dir: &Path, boot_id: &str) -> Self {
        Self::read(run_dir, state_dir, boot_id, Mending::No)
    }

    fn read(run_dir: &Path, state_dir: &Path, boot_id: &str, mending: Mending) -> Self {
        let mut out = Self {
            dir: run_dir.join("state/endpoints"),
            copies: run_dir.join("state/copies"),
            router_file: state_dir.join("router.json"),
            boot_id: boot_id.to_owned(),
            endpoints: BTreeMap::new(),
            router: RouterAddresses::default(),
            problems: Vec::new(),
            readable: true,
            mending,
            uncopied: BTreeSet::new(),
        };
        out.load_router();
        match fs::read_dir(&out.dir) {
            Ok(entries) => out.load_all(entries),
            // Never written, or lost: its copies stand in.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                // Pods whose records are not seen must not be taken for gone.
                out.readable = false;
                let hint = "check the permissions of `run_dir`; attachments of pods stay as they are";
                out.tell(&out.dir.clone(), format!("cannot be read: {error}"), hint);
                return out;
            }
        }
        out.load_copies();
        out
    }

    fn load_all(&mut self, entries: fs::ReadDir) {
        for entry in entries {
            let Ok(entry) = entry else {
                self.readable = false;
                continue;
            };
            let path = entry.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => self.load_one(&path),
                // Left by a crash within a write: the attachment was never told to be done.
                Some("tmp") => self.discard(&path),
                Some(_) | None => {}
            }
        }
    }

    /// Copies stand in for records that are lost or damaged, and are made anew where they are.
    fn load_copies(&mut self) {
        let mut good = BTreeSet::new();
        if self.mending == Mending::Yes && self.copies.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            let _stays = kept::put_aside(&self.copies);
        }
        for path in fs::read_dir(&self.copies).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match read_one(&path) {
                Ok((boot_id, record)) if boot_id == self.boot_id && is_named(&path, record.id) => {
                    let id = record.id;
                    if let Some(own) = self.endpoints.get(&id) {
                        good.extend((*own == record).then_some(id));
                        continue;
                    }
                    let mended = self.mending == Mending::No || self.put(record.clone()).is_ok();
                    self.endpoints.insert(id, record);
                    good.insert(id);
                    let hint = if mended { "nothing to do: it was written anew" } else { "check the disk" };
                    self.tell_as(
                        Severity::Warning,
                        &self.path(id),
                        "was lost or damaged; its copy counts".to_owned(),
                        hint,
                    );
                }
                // A copy that is bad, or of another boot, says nothing.
                Ok(_) | Err(_) => self.discard(&path),
            }
        }
        if self.mending == Mending::Yes {
            self.uncopied = self.endpoints.keys().filter(|id| !good.contains(id)).copied().collect();
            self.copy();
        }
    }

    fn load_one(&mut self, path: &Path) {
        match read_one(path) {
            Ok((boot_id, _)) if boot_id != self.boot_id => self.discard(path),
            Ok((_, record)) if is_named(path, record.id) => {
                self.endpoints.insert(record.id, record);
            }
            Ok((_, record)) => {
                self.quarantine(path, format!("is the record of endpoint {}, misnamed", record.id))
            }
            Err(why) => self.quarantine(path, format!("is no record: {why}")),
        }
    }

    fn load_router(&mut self) {
        let path = self.router_file.clone();
        match kept::read(&path, MAX_RECORD) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.quarantine(&path, format!("cannot be read: {error}")),
            Ok(bytes) => {
                let stored = serde_json::from_slice::<StoredRouter>(&bytes).map_err(|e| e.to_string());
                match stored.and_then(StoredRouter::checked) {
                    Ok(stored) => {
                        self.router = RouterAddresses { ipv4: stored.ipv4, ipv6: stored.ipv6 };
                    }
                    Err(why) => self.quarantine(&path, format!("is no record of the router: {why}")),
                }
            }
        }
    }

    /// Removes what nobody needs any more. That it stays is no harm: it is tried again at the next start.
    fn discard(&self, path: &Path) {
        if self.mending == Mending::Yes {
            let _stays = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        }
    }

    fn quarantine(&mut self, path: &Path, why: String) {
        let moved = self.mending == Mending::Yes && kept::put_aside(path);
        let hint = if moved {
            "it was renamed to end in .bad; if no copy stands in, attach its pod anew"
        } else {
            "remove it"
        };
        self.tell(path, why, hint);
    }

    fn tell(&mut self, path: &Path, message: String, hint: &str) {
        self.tell_as(Severity::Error, path, message, hint);
    }

    fn tell_as(&mut self, severity: Severity, path: &Path, message: String, hint: &str) {
        let origin = Origin {
            object: "endpoint records".into(),
            place: path.display().to_string(),
            rule: String::new(),
        };
        self.problems.push(Problem { severity, origin, message, hint: hint.to_owned() });
    }

    /// All attachments by endpoint number.
    pub fn endpoints(&self) -> &BTreeMap<u16, EndpointRecord> {
        &self.endpoints
    }

    /// Whether the folder of records could be read: if not, pods that are not there may exist all the same.
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// What was wrong when they were loaded.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The attachment with this container id and interface, as CNI names it.
    pub fn find(&self, container_id: &str, ifname: &str) -> Option<&EndpointRecord> {
        self.endpoints.values().find(|r| r.container_id == container_id && r.ifname == ifname)
    }

    /// Writes a record. When this returns, it outlives the agent; [`Self::copy`] is still to be called.
    pub fn put(&mut self, record: EndpointRecord) -> Result<(), RecordError> {
        let id = record.id;
        write(&self.path(id), &self.text(&record)?, Lasting::ThisBoot)?;
        self.endpoints.insert(id, record);
        self.uncopied.insert(id);
        Ok(())
    }

    /// Writes the copies of records put since this was last called: by whoever put them, when nobody waits.
    pub fn copy(&mut self) {
        for id in std::mem::take(&mut self.uncopied) {
            let Some(record) = self.endpoints.get(&id) else { continue };
            let path = self.copies.join(format!("{id}.json"));
            // Not told if it fails: the record itself is there, and the next start tries again.
            let _copied = self.text(record).and_then(|text| write(&path, &text, Lasting::ThisBoot));
        }
    }

    fn text(&self, record: &EndpointRecord) -> Result<Vec<u8>, RecordError> {
        StoredRecord::new(record, &self.boot_id)
            .and_then(|stored| serde_json::to_vec_pretty(&stored))
            .map_err(|source| RecordError::Format { id: record.id, source })
    }

    /// Removes a record. One that is gone already is a success.
    pub fn remove(&mut self, id: u16) -> Result<Option<EndpointRecord>, RecordError> {
        // The copy first: alone it would bring the attachment back.
        for path in [self.copies.join(format!("{id}.json")), self.path(id)] {
            if let Err(source) = fs::remove_file(&path)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(RecordError::Io { operation: "remove", path, source });
            }
        }
        Ok(self.endpoints.remove(&id))
    }

    /// The router's addresses, as last kept.
    pub fn router(&self) -> RouterAddresses {
        self.router
    }

    /// Keeps the router's addresses. Nothing is written if they are the same.
    pub fn keep_router(&mut self, router: RouterAddresses) -> Result<(), RecordError> {
        if router == self.router && self.router_file.exists() {
            return Ok(());
        }
        let text = StoredRouter::new(router.ipv4, router.ipv6)
            .and_then(|stored| serde_json::to_vec_pretty(&stored))
            .map_err(|source| RecordError::Format { id: 0, source })?;
        write(&self.router_file, &text, Lasting::Forever)?;
        self.router = router;
        Ok(())
    }

    fn path(&self, id: u16) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// A record with the boot it was made in.
fn read_one(path: &Path) -> Result<(String, EndpointRecord), String> {
    let bytes = kept::read(path, MAX_RECORD).map_err(|error| error.to_string())?;
    let stored: StoredRecord = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok((stored.boot_id.clone(), stored.record()?))
}

fn is_named(path: &Path, id: u16) -> bool {
    path.file_name().and_then(|name| name.to_str()) == Some(format!("{id}.json").as_str())
}

fn write(path: &Path, text: &[u8], lasting: Lasting) -> Result<(), RecordError> {
    let failed = |(operation, source)| RecordError::Io { operation, path: path.to_owned(), source };
    kept::write(path, text, lasting).map_err(failed)
}
