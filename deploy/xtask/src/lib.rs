//! Build steps that plain cargo cannot express.
//!
//! Holds: how the eBPF object is built and checked. Used by the `xtask` binary
//! (`cargo xtask ebpf`) and by the build scripts of the crates that hold the result.
//! Never: anything that runs on a node; any dependency outside the standard library.
#![forbid(unsafe_code)]

pub mod ebpf;
pub mod elf;
pub mod embed;
