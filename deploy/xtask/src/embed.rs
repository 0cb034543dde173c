//! What the build script of a crate does that holds the eBPF object: builds it, says where it is in
//! `CILIUM_BPF_OBJECT`, and when to build it again. How it is built is decided in [`crate::ebpf`].

use crate::ebpf;
use std::process::ExitCode;

/// The whole of such a build script.
pub fn embed() -> ExitCode {
    println!("cargo::rerun-if-env-changed={}", ebpf::PREBUILT);
    println!("cargo::rerun-if-changed=build.rs");
    match ebpf::build() {
        Ok(built) => {
            for input in &built.inputs {
                println!("cargo::rerun-if-changed={}", input.display());
            }
            println!("cargo::rustc-env=CILIUM_BPF_OBJECT={}", built.object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}
