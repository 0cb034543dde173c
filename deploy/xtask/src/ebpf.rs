//! Building the eBPF object: find a compiler, compile, refuse panics, strip, publish.
//!
//! ```text
//! ebpf/{abi,programs} ──compiler──▶ ebpf/programs/target/…/cilium ──check, strip──▶ target/bpf/cilium.bpf.o
//!     or $CILIUM_BPF_OBJECTS/cilium.bpf.o ────────────────check──────────────────▲
//! ```
//! The object is published by rename and only when its bytes differ, so that whoever embeds
//! it is rebuilt exactly when it changed. Two builds at once are safe: cargo locks the
//! programs' target folder, the rest works on files of its own process.
//! Never: load anything into a kernel.

mod compiler;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use compiler::Compiler;

use crate::elf;

/// Names a folder holding a prebuilt [`OBJECT`]: release archives build without a BPF compiler.
pub const PREBUILT: &str = "CILIUM_BPF_OBJECTS";
/// The object's file name, in [`PREBUILT`]'s folder and in `target/bpf`.
pub const OBJECT: &str = "cilium.bpf.o";

const TARGET: &str = "bpfel-unknown-none";
/// Separated by 0x1f, as `CARGO_ENCODED_RUSTFLAGS` wants it. `v3` because the programs use
/// atomics on 32-bit words; DWARF only so that the linker can make BTF and its line
/// information from it.
const RUSTFLAGS: &str = "-Cdebuginfo=2\u{1f}-Ctarget-cpu=v3\u{1f}-Clink-arg=--btf";

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// Absolute path of the checked and stripped object.
    pub object: PathBuf,
    /// Size of the object in bytes.
    pub bytes: u64,
    /// What it was made with.
    pub compiler: Compiler,
    /// Files and folders which, when changed, call for another build.
    pub inputs: Vec<PathBuf>,
}

/// Why there is no object.
#[derive(Debug)]
pub enum BuildError {
    /// A tool is not on this machine.
    Missing {
        /// What was looked for, and where.
        what: String,
    },
    /// The compiler ran and said no; its own words are on standard error.
    Compile {
        /// The command's exit status.
        status: String,
        /// What it was compiled with.
        compiler: Compiler,
    },
    /// Code that can panic was left in the object.
    Panics {
        /// The symbols that show it.
        symbols: Vec<String>,
    },
    /// The object is not one.
    Object {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: elf::Malformed,
    },
    /// A file or command could not be read, written or run.
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        why: std::io::Error,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what } => write!(
                f,
                "cannot build the eBPF programs: {what} (hint: run `make setup`, or name a folder holding {OBJECT} in {PREBUILT})"
            ),
            Self::Compile { status, compiler } => {
                write!(f, "the eBPF programs do not compile with {compiler}: {status}")
            }
            Self::Panics { symbols } => write!(
                f,
                "the eBPF object can panic, which no program in the kernel may: {} (hint: look for `unwrap`, `[i]` and arithmetic on unchecked input; use `get`, `let … else`, masks)",
                symbols.join(", ")
            ),
            Self::Object { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Io { doing, why } => write!(f, "{doing}: {why}"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The texts above already hold the cause.
        None
    }
}

/// Builds, checks and publishes the object.
///
/// # Errors
/// See [`BuildError`]; the previous object, if any, stays where it was.
pub fn build() -> Result<Built, BuildError> {
    let root = repository();
    let compiler = compiler::find(&root)?;
    let object = root.join("target/bpf").join(OBJECT);
    let mut inputs: Vec<PathBuf> =
        ["abi/src", "abi/Cargo.toml", "programs/src", "programs/Cargo.toml", "programs/Cargo.lock"]
            .into_iter()
            .map(|name| root.join("ebpf").join(name))
            .collect();

    let bytes = match &compiler {
        Compiler::Prebuilt { object } => {
            inputs = vec![object.clone()];
            read(object).and_then(|bytes| refuse_panics(object, &bytes).map(|()| bytes))?
        }
        Compiler::Nightly { linker, strip, .. } | Compiler::Debian { linker, strip, .. } => {
            inputs.push(linker.clone());
            let linked = compile(&root, &compiler)?;
            // Before stripping: the symbol table is whole here.
            refuse_panics(&linked, &read(&linked)?)?;
            stripped(&linked, strip)?
        }
    };
    publish(&object, &bytes)?;
    Ok(Built { object, bytes: bytes.len() as u64, compiler, inputs })
}

/// The repository this crate was built from.
fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Runs cargo on `ebpf/programs` and returns the linked object.
fn compile(root: &Path, compiler: &Compiler) -> Result<PathBuf, BuildError> {
    let folder = root.join("ebpf/programs");
    let target = folder.join("target");
    let mut cargo = compiler.cargo();
    cleared(&mut cargo);
    compiler.configure(&mut cargo);
    cargo
        .args(["build", "--quiet", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS)
        .current_dir(&folder);
    let status = cargo.status().map_err(|why| BuildError::Io { doing: format!("running {cargo:?}"), why })?;
    if !status.success() {
        return Err(BuildError::Compile { status: status.to_string(), compiler: compiler.clone() });
    }
    Ok(target.join(TARGET).join("release/cilium"))
}

/// Takes from the child's environment what the cargo around us put there: another target's
/// flags, wrappers and build-script variables would leak into this build. Settings of the
/// network and of the registries stay, or the build could not download behind a proxy.
fn cleared(command: &mut Command) {
    const STAYS: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_TERM_",
        "CARGO_REGISTRY_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
    ];
    const GOES: [&str; 6] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "MAKEFLAGS"];
    let inherited: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in inherited {
        let text = name.to_string_lossy();
        let begins = |prefixes: &[&str]| prefixes.iter().any(|p| text.starts_with(p));
        if begins(&GOES) && !begins(&STAYS) {
            command.env_remove(&name);
        }
    }
}

/// A panic in the kernel would be an endless loop; so no trace of one may be left.
fn refuse_panics(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let names =
        elf::symbol_names(bytes).map_err(|why| BuildError::Object { path: path.to_path_buf(), why })?;
    let symbols: Vec<String> = names.into_iter().filter(|name| name.contains("panicking")).collect();
    if symbols.is_empty() { Ok(()) } else { Err(BuildError::Panics { symbols }) }
}

/// The object without DWARF; BTF stays, since map definitions and line information live in it.
fn stripped(linked: &Path, strip: &Path) -> Result<Vec<u8>, BuildError> {
    let out = linked.with_extension(format!("stripped.{}", std::process::id()));
    let status = Command::new(strip)
        .arg("--strip-debug")
        .arg("-o")
        .arg(&out)
        .arg(linked)
        .status()
        .map_err(|why| BuildError::Io { doing: format!("running {}", strip.display()), why })?;
    if !status.success() {
        return Err(BuildError::Io {
            doing: format!("stripping {} with {}", linked.display(), strip.display()),
            why: std::io::Error::other(status.to_string()),
        });
    }
    let bytes = read(&out)?;
    fs::remove_file(&out)
        .map_err(|why| BuildError::Io { doing: format!("removing {}", out.display()), why })?;
    Ok(bytes)
}

/// Puts the object in its place in one step, and only when it is another one.
fn publish(object: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    if fs::read(object).is_ok_and(|now| now == bytes) {
        return Ok(());
    }
    let folder = object.parent().unwrap_or(object);
    let draft = object.with_extension(format!("o.{}", std::process::id()));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&draft, bytes))
        .and_then(|()| fs::rename(&draft, object))
        .map_err(|why| BuildError::Io { doing: format!("writing {}", object.display()), why })
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|why| BuildError::Io { doing: format!("reading {}", path.display()), why })
}
