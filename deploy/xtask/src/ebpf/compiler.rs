//! Which compiler builds the eBPF object on this machine.
//!
//! In this order: a prebuilt object; rustup's nightly with `rust-src`, which is usual on
//! developers' machines; Debian's `rustc-web`, which carries the BPF target's `core`.
//! User space always builds on stable and never asks here.
//! Never: installs anything. That is `make setup`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BuildError, OBJECT, PREBUILT, TARGET};

/// Debian's compiler; a rustup toolchain in `PATH` must not hide it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A way to an object that exists on this machine, with the tools it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// No compiler: this very object.
    Prebuilt {
        /// The object file.
        object: PathBuf,
    },
    /// rustup's nightly, building `core` from source.
    Nightly {
        /// The compiler's version, as it prints it.
        version: String,
        /// `bpf-linker`.
        linker: PathBuf,
        /// `llvm-strip`.
        strip: PathBuf,
    },
    /// Debian's rustc-web with its packaged `core` for BPF.
    Debian {
        /// The compiler's version, as it prints it.
        version: String,
        /// `bpf-linker`.
        linker: PathBuf,
        /// `llvm-strip`.
        strip: PathBuf,
    },
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prebuilt { object } => write!(f, "prebuilt {}", object.display()),
            Self::Nightly { version, .. } => write!(f, "{version} with rust-src"),
            Self::Debian { version, .. } => write!(f, "{version} from Debian"),
        }
    }
}

impl Compiler {
    /// The cargo to run; its environment is still the caller's.
    pub(super) fn cargo(&self) -> Command {
        match self {
            Self::Nightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
                command
            }
            // Any cargo will do, so the one that runs us, if one does.
            Self::Debian { .. } | Self::Prebuilt { .. } => {
                Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            }
        }
    }

    /// What this compiler wants in the environment, after it was cleared.
    pub(super) fn configure(&self, cargo: &mut Command) {
        match self {
            Self::Prebuilt { .. } => {}
            Self::Nightly { linker, .. } => {
                cargo.env("PATH", path_with(linker));
            }
            Self::Debian { linker, .. } => {
                // BOOTSTRAP: Debian ships a stable compiler, the programs use nightly features.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").env("PATH", path_with(linker));
            }
        }
    }
}

/// The first way that is whole on this machine.
pub(super) fn find(root: &Path) -> Result<Compiler, BuildError> {
    if let Some(folder) = env::var_os(PREBUILT).filter(|v| !v.is_empty()) {
        // Relative to the repository: build scripts run in their crate's folder.
        let object = root.join(folder).join(OBJECT);
        if object.is_file() {
            return Ok(Compiler::Prebuilt { object });
        }
        return Err(BuildError::Missing {
            what: format!("{PREBUILT} is set, but there is no {}", object.display()),
        });
    }
    let nightly = nightly();
    let debian = debian();
    let Some(rustc) = nightly.as_ref().or(debian.as_ref()) else {
        return Err(BuildError::Missing {
            what: format!(
                "no compiler for {TARGET} (looked for rustup's nightly with rust-src, and for {DEBIAN_RUSTC} with libstd-rust-web-dev-bpf)"
            ),
        });
    };
    let linker = in_path("bpf-linker").ok_or_else(|| BuildError::Missing {
        what: "bpf-linker is neither in PATH nor in cargo's bin folder".into(),
    })?;
    let strip = strip_of(rustc).ok_or_else(|| BuildError::Missing {
        what: format!("no llvm-strip (looked in /usr/lib/llvm-{}/bin and PATH)", rustc.llvm),
    })?;
    let version = rustc.version.clone();
    Ok(if nightly.is_some() {
        Compiler::Nightly { version, linker, strip }
    } else {
        Compiler::Debian { version, linker, strip }
    })
}

/// What a compiler says of itself.
struct Rustc {
    version: String,
    llvm: u32,
    sysroot: PathBuf,
}

fn nightly() -> Option<Rustc> {
    let rustc = ask(&["rustup", "run", "nightly", "rustc"])?;
    rustc.sysroot.join("lib/rustlib/src/rust/library/core").is_dir().then_some(rustc)
}

fn debian() -> Option<Rustc> {
    let rustc = ask(&[DEBIAN_RUSTC])?;
    rustc.sysroot.join("lib/rustlib").join(TARGET).is_dir().then_some(rustc)
}

/// Asks a compiler what it is; `None` if it does not run.
fn ask(compiler: &[&str]) -> Option<Rustc> {
    let (program, words) = compiler.split_first()?;
    let answer = |question: &[&str]| {
        let mut command = Command::new(program);
        super::cleared(&mut command);
        let output = command.args(words).args(question).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    described(&answer(&["-vV"])?, &answer(&["--print", "sysroot"])?)
}

/// Reads the two answers [`ask`] got.
fn described(version: &str, sysroot: &str) -> Option<Rustc> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(Rustc {
        // "rustc 1.96.0 (ac68faa20 2026-05-25) (built from …)": the first two words.
        version: version.lines().next()?.split(' ').take(2).collect::<Vec<_>>().join(" "),
        llvm: llvm.split('.').next()?.parse().ok()?,
        sysroot: sysroot.trim_end().into(),
    })
}

fn strip_of(rustc: &Rustc) -> Option<PathBuf> {
    let packaged = PathBuf::from(format!("/usr/lib/llvm-{}/bin/llvm-strip", rustc.llvm));
    if packaged.is_file() { Some(packaged) } else { in_path("llvm-strip") }
}

/// The folders of `PATH`, then the one `cargo install` fills: a fresh shell may lack it.
fn folders() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    all.extend(home.map(|home| home.join("bin")));
    all
}

fn in_path(name: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// `PATH` with the linker's folder in it: the target names its linker without a path.
fn path_with(linker: &Path) -> OsString {
    let mut all = folders();
    all.extend(linker.parent().map(Path::to_path_buf));
    // A folder whose name holds a colon cannot be in PATH; then the inherited one must do.
    env::join_paths(all).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_described_by_its_own_words() {
        let version = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                       binary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let rustc = described(version, "/usr\n").unwrap();
        assert_eq!(rustc.version, "rustc 1.96.0");
        assert_eq!(rustc.llvm, 22);
        assert_eq!(rustc.sysroot, Path::new("/usr"));
    }

    #[test]
    fn a_compiler_without_llvm_is_none() {
        assert!(described("rustc 1.96.0\n", "/usr").is_none());
        assert!(described("", "").is_none());
    }
}
