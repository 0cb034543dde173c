//! `[paths]`.

use super::optional;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::path::{Component, Path};
use std::str::FromStr;

/// A path that begins with `/` and has no `..`. UTF-8, because it came from TOML.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("x-form" = "path"))]
pub struct AbsolutePath(String);

/// Why a text is no [`AbsolutePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAbsolute {
    /// Does not begin with `/`.
    #[error("`{0}` is not an absolute path")]
    Relative(String),
    /// Has a `..` component.
    #[error("`{0}` has `..` in it")]
    Parent(String),
    /// Holds a NUL byte, which no path of the kernel can.
    #[error("holds a NUL byte")]
    Nul,
}

impl TryFrom<String> for AbsolutePath {
    type Error = NotAbsolute;

    fn try_from(text: String) -> Result<Self, NotAbsolute> {
        if text.contains('\0') {
            return Err(NotAbsolute::Nul);
        }
        let path = Path::new(&text);
        if !path.is_absolute() {
            return Err(NotAbsolute::Relative(text));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(NotAbsolute::Parent(text));
        }
        Ok(Self(text))
    }
}

impl FromStr for AbsolutePath {
    type Err = NotAbsolute;

    fn from_str(text: &str) -> Result<Self, NotAbsolute> {
        text.to_owned().try_into()
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for AbsolutePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// Where things are on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Sockets, the lock of the one writer, and the CNI plugin's queue of deletions.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub run_dir: AbsolutePath,
    /// Folder in a BPF file system where maps, links and programs are pinned. One per agent.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub bpf_dir: AbsolutePath,
    /// Root of the cgroup2 hierarchy. Empty: the first cgroup2 mount.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "path", "x-impact" = "hitless"))]
    pub cgroup_root: Option<AbsolutePath>,
    /// Where the agent installs the CNI plugin. Empty: it installs none.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "path", "x-impact" = "hitless"))]
    pub cni_bin_dir: Option<AbsolutePath>,
    /// Where the agent writes the CNI configuration. Empty: it writes none.
    #[serde(with = "optional")]
    #[schemars(with = "String", extend("x-form" = "path", "x-impact" = "hitless"))]
    pub cni_conf_dir: Option<AbsolutePath>,
    /// What must survive a reboot: history, last good versions of objects, recorded sysctls.
    #[schemars(extend("x-impact" = "disruptive"))]
    pub state_dir: AbsolutePath,
}

impl Default for Paths {
    fn default() -> Self {
        let path = |text: &str| AbsolutePath(text.into());
        Self {
            run_dir: path("/var/run/cilium"),
            bpf_dir: path("/sys/fs/bpf/cilium"),
            cgroup_root: None,
            cni_bin_dir: Some(path("/opt/cni/bin")),
            cni_conf_dir: Some(path("/etc/cni/net.d")),
            state_dir: path("/var/lib/cilium"),
        }
    }
}
