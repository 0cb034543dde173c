//! Build steps that plain cargo cannot express.
//!
//! Holds: how the eBPF object is built and checked. Used by the `xtask` binary
//! (`cargo xtask ebpf`) and by `cilium-kernel`'s build script, which embeds the result.
//! Never: anything that runs on a node; any dependency outside the standard library.
#![forbid(unsafe_code)]

pub mod ebpf;
pub mod elf;
