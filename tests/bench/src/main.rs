//! `cilium-bench [--quick | --long] [--small] [--only ID,…] [--json FILE]`: the figures of the performance goals in
//! one table, each against a reference measured in the same run, and as JSON.
//!
//! `--quick` is the part without traffic, whose figures hardly depend on what else the machine does;
//! it exits with 1 if a goal is missed. `--small` makes large clusters a hundredth of their size, to try the
//! machinery: such figures are of no goal. Root is needed. Everything made here is in network namespaces and
//! bpffs directories that carry the measuring process's id; the first process waits for it and clears up
//! behind it, however it ends.

mod attach;
mod calls;
mod control;
mod datapath;
mod figure;
mod kubeproxy;
mod manifests;
mod maps;
mod packets;
mod programming;
mod race;
mod restart;
mod scale;
mod services;
mod stats;
mod sweep;
mod tables;
mod topology;
mod traffic;

use anyhow::{Context, Result, bail};
use cilium_tests_kernel::{Cluster, Options};
use figure::Figure;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What was asked for.
struct Wanted {
    traffic: Traffic,
    only: Vec<String>,
    json: PathBuf,
    size: scale::Size,
    sizes: services::Sizes,
}

/// How much traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// None.
    Quick,
    /// Few rounds, doubled twice at most.
    Short,
    /// Doubled three times at most.
    Long,
}

impl Wanted {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self {
            traffic: Traffic::Short,
            only: Vec::new(),
            json: PathBuf::from("target/bench.json"),
            size: scale::Size::GOAL,
            sizes: services::Sizes::GOAL,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => wanted.traffic = Traffic::Quick,
                "--long" => wanted.traffic = Traffic::Long,
                "--only" => wanted.only = value()?.split(',').map(str::to_uppercase).collect(),
                "--small" => (wanted.size, wanted.sizes) = (scale::Size::SMALL, services::Sizes::SMALL),
                "--json" => wanted.json = value()?.into(),
                other => bail!("{other}: unknown (--quick, --long, --small, --only D1,C9, --json FILE)"),
            }
        }
        Ok(wanted)
    }

    fn any(&self, ids: &[&str]) -> bool {
        self.only.is_empty() || ids.iter().any(|id| self.only.iter().any(|only| only == id))
    }
}

fn measure(wanted: &Wanted) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let begun = |what: &str| eprintln!("bench: {what}");
    if wanted.any(&["D10"]) {
        begun("packets through the programs");
        figures.extend(packets::run()?);
    }
    if wanted.any(&["D12"]) {
        begun("frames through the driver's program");
        figures.extend(packets::drivers()?);
    }
    if wanted.any(&["C1", "C2"]) {
        begun("passes over many rows");
        figures
            .extend(std::thread::spawn(maps::run).join().map_err(|_| anyhow::anyhow!("C1, C2 panicked"))??);
    }
    if wanted.any(&["M1"]) {
        begun("Maglev tables");
        figures.extend(tables::run());
    }
    if wanted.any(&["C4", "C5", "C6"]) {
        begun("Services that change");
        let with_rules = wanted.traffic != Traffic::Quick;
        figures.extend(programming::run(wanted.sizes, &|id| wanted.any(&[id]), with_rules)?);
    }
    if wanted.traffic == Traffic::Quick {
        if wanted.any(&["C12"]) {
            begun("memory at rest");
            let cluster = Cluster::start(&Options::default());
            cluster.settle();
            figures.extend(control::memory(&cluster)?);
        }
        return Ok(figures);
    }
    let most = if wanted.traffic == Traffic::Long { 160 } else { 80 };
    if wanted.any(&["C11"]) {
        begun("first start");
        figures.extend(control::first_start()?);
    }
    if wanted.any(&["D1", "D2", "D4", "D13", "C9", "C10", "C12"]) {
        begun("two nodes, eight pods");
        let mut ours = topology::Ours::start()?;
        if wanted.any(&["C12"]) {
            figures.extend(control::memory(&ours.cluster)?);
        }
        if wanted.any(&["D1", "D2", "D4", "D13"]) {
            figures.extend(datapath::run(&ours, &|id| wanted.any(&[id]), most)?);
        }
        if wanted.any(&["C10"]) {
            begun("restarts under traffic");
            figures.extend(restart::few(&mut ours)?);
        }
        if wanted.any(&["C9"]) {
            begun("attachments");
            figures.extend(attach::run(&ours)?);
        }
    }
    if wanted.any(&["D5", "D6", "D7", "D8", "D9"]) {
        begun("Services");
        figures.extend(services::run(wanted.sizes, &|id| wanted.any(&[id]), most)?);
    }
    if wanted.any(&["C10", "C12"]) {
        begun("a large cluster");
        figures.extend(scale::run(wanted.size)?);
    }
    figures.sort_by_key(|figure| order(figure.id));
    Ok(figures)
}

/// As in the list of goals: by letter, then by number.
fn order(id: &str) -> (Option<usize>, u32) {
    ("DCM".find(&id[..1]), id[1..].parse().unwrap_or(0))
}

fn main() -> Result<ExitCode> {
    let wanted = Wanted::parse(std::env::args().skip(1))?;
    if let Some(code) = sweep::behind_another()? {
        return Ok(code);
    }
    let started = Instant::now();
    let figures = measure(&wanted)?;
    print!("{}", figure::table(&figures));
    let mut json = figure::json(&figures);
    json["seconds"] = started.elapsed().as_secs().into();
    std::fs::write(&wanted.json, format!("{json:#}\n"))
        .with_context(|| format!("write {}", wanted.json.display()))?;
    println!("{} s; {}", started.elapsed().as_secs(), wanted.json.display());
    let missed = figures.iter().any(|figure| figure.verdict.is_bad());
    Ok(if missed && wanted.traffic == Traffic::Quick { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
