//! The BPF half of `cilium-kernel` on this kernel. Root; every test makes its own directory
//! `/sys/fs/bpf/cilium-test-*` and network namespaces `kb-*`, which go with it, also when it panics.

mod bench;
mod cgroup;
mod flip;
mod maglev;
mod maps;
mod programs;
mod reading;
mod traffic;
