//! `cargo xtask …`: the command-line face of the build steps.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask ebpf    build target/bpf/cilium.bpf.o and print its path";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ebpf"] => ebpf(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn ebpf() -> ExitCode {
    let begun = Instant::now();
    match xtask::ebpf::build() {
        Ok(built) => {
            eprintln!(
                "eBPF object: {} bytes, {}, {:.1} s",
                built.bytes,
                built.compiler,
                begun.elapsed().as_secs_f32()
            );
            println!("{}", built.object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
