//! Builds the eBPF object which the packet tests load and says where it is, in `CILIUM_BPF_OBJECT`.
//! Never: decides how it is built; that is `xtask::ebpf`.

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={}", xtask::ebpf::PREBUILT);
    println!("cargo::rerun-if-changed=build.rs");
    match xtask::ebpf::build() {
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
