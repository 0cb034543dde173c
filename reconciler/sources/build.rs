//! Says in `CILIUM_READING` what reading a manifest means: a digest of the sources that turn its text into
//! facts. What another build has read is of no use to this one.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// From this crate's folder.
const READING: [&str; 8] = [
    "../../Cargo.lock",
    "../../crds/src",
    "../engine/src/map",
    "../engine/src/problem.rs",
    "../engine/src/shared.rs",
    "../engine/src/state",
    "../engine/src/world",
    "src/folder",
];

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for place in READING {
        println!("cargo::rerun-if-changed={place}");
        list(Path::new(place), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(Sha256::digest(fs::read(file)?));
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=CILIUM_READING={hex}");
    Ok(())
}

fn list(place: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if place.is_dir() {
        for entry in fs::read_dir(place)? {
            list(&entry?.path(), files)?;
        }
    } else {
        files.push(place.to_owned());
    }
    Ok(())
}
