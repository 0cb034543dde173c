//! Builds the eBPF object which the packet tests load and says where it is, in `CILIUM_BPF_OBJECT`.

fn main() -> std::process::ExitCode {
    xtask::embed::embed()
}
