//! Sources without a host, and folders that are only looked at.

use anyhow::Result;
use cilium_engine::compile::{Compiled, IdBook, compile};
use cilium_engine::config::Config;
use cilium_engine::state::Source;
use cilium_engine::world::Cgroup;
use cilium_kernel::bpf::object_digest;
use cilium_sources::config::Loaded;
use cilium_sources::folder::{ManifestFolder, Now};
use cilium_sources::records::Records;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Sources without a host: what `plan --against` and `--observed none` compile.
pub(crate) struct Offline {
    loaded: Loaded,
    folder: ManifestFolder,
}

impl Offline {
    /// Opens the sources; needs neither root nor a kernel.
    ///
    /// # Errors
    /// None today; the folder is read when compiling.
    pub(crate) fn open(loaded: &Loaded, manifests: Option<&Path>) -> Result<Self> {
        Ok(Self { folder: folder_to_look(&loaded.config, manifests), loaded: loaded.clone() })
    }

    /// Compiles what the folder says. This host's devices and attachments are not looked at.
    ///
    /// # Errors
    /// None today.
    pub(crate) fn compile(&mut self) -> Result<Compiled> {
        let snapshot = self.folder.scan(Now { uptime: Duration::ZERO, wall: SystemTime::now() });
        let config = &self.loaded.config;
        let root = config.paths.cgroup_root.as_ref().map_or("/sys/fs/cgroup".into(), |p| p.to_path_buf());
        let facts = cilium_engine::world::HostFacts {
            object_digest: object_digest().to_owned(),
            cgroup: Cgroup::At(root),
            ..cilium_engine::world::HostFacts::default()
        };
        let nowhere = Path::new("/nonexistent");
        let records = Records::to_look(nowhere, nowhere, "");
        let mut world = cilium_sources::world::assemble(&snapshot, &records, facts, config);
        world.synced = world.synced.with(Source::Endpoints).with(Source::Config);
        Ok(compile(&world, config, &IdBook::default()))
    }
}

/// The folder, read without a trace. Another folder than the configured one has no last good versions.
pub(super) fn folder_to_look(config: &Config, manifests: Option<&Path>) -> ManifestFolder {
    let name = &config.node.name;
    match manifests {
        Some(other) => ManifestFolder::to_look(other, name, None),
        None => ManifestFolder::to_look(&config.source.manifests.path, name, Some(&config.paths.state_dir)),
    }
}
