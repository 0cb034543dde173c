//! Sysctls as they were before this project changed them: written before the first change, given back by
//! `destroy`.

use anyhow::{Context, Result};
use cilium_engine::state::{ObservedState, State, SysctlKey};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The record in `state_dir/sysctls.json`.
#[derive(Debug)]
pub struct Originals {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Originals {
    /// Reads the record; none is an empty one.
    ///
    /// # Errors
    /// The record is there but cannot be read: changing sysctls then would lose what they were.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("sysctls.json");
        let values = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; remove it to forget the values before", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self { path, values })
    }

    /// Remembers the values of sysctls about to be changed for the first time. Those of our own
    /// interfaces go with the interfaces, and are not worth a line.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn remember(&mut self, wanted: &State, seen: &ObservedState) -> Result<()> {
        let before = self.values.len();
        for (key, entry) in seen.state.sysctls.iter() {
            let changes = wanted.sysctls.find(key).is_some_and(|want| *want != entry.row);
            if changes && !key.0.contains("cilium_") && !key.0.contains(".lxc") {
                self.values.entry(key.0.clone()).or_insert_with(|| entry.row.clone());
            }
        }
        if self.values.len() == before {
            return Ok(());
        }
        let dir = self.path.parent().context("the record has a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let temporary = self.path.with_extension("tmp");
        fs::write(&temporary, serde_json::to_vec_pretty(&self.values)?)
            .and_then(|()| fs::rename(&temporary, &self.path))
            .with_context(|| format!("write {}", self.path.display()))
    }

    /// The values to give back.
    pub fn rows(&self) -> impl Iterator<Item = (SysctlKey, String)> + '_ {
        self.values.iter().map(|(key, value)| (SysctlKey(key.clone()), value.clone()))
    }

    /// Forgets the record, once given back.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("remove the record of sysctls"),
            _ => Ok(()),
        }
    }
}
