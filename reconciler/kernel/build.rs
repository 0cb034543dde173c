//! Builds the eBPF object this crate embeds and says where it is, in `CILIUM_BPF_OBJECT`.

fn main() -> std::process::ExitCode {
    xtask::embed::embed()
}
