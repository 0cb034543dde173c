//! `cilium-bench [--quick] [--long] [--only ID,…]`: the figures of the performance goals in one table,
//! each against a reference measured in the same run, and as JSON in `target/bench.json`.
//!
//! Root is needed. Everything made here is in network namespaces and bpffs directories that carry this
//! process's id; a first process waits for the measuring one and clears up behind it, however it ends.

mod datapath;
mod figure;
mod stats;
mod topology;
mod traffic;

use anyhow::Result;
use figure::Figure;

fn main() -> Result<()> {
    let ours = topology::Ours::start()?;
    let figures: Vec<Figure> = datapath::run(&ours, 40)?;
    print!("{}", figure::table(&figures));
    Ok(())
}
