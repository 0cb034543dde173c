//! C11, C12: the first start, memory at rest.

use crate::figure::{Figure, Goal, short};
use crate::stats::{bootstrap, median};
use anyhow::{Context, Result, bail};
use cilium_tests_kernel::probe::{eventually, serve, tcp};
use cilium_tests_kernel::{Cluster, Node, Options, Pod};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// C11: from the start of an agent on a host with nothing of ours to the first answer between two pods.
pub(crate) fn first_start() -> Result<Vec<Figure>> {
    const TIMES: usize = 5;
    const PORT: u16 = 7000;
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let node = &mut cluster.nodes[0];
        node.stop_agent(libc::SIGTERM);
        let done = node.cilium(&["destroy", "--with-pods"]);
        if !done.status.success() {
            bail!("destroy: {}", String::from_utf8_lossy(&done.stderr));
        }
        let started = Instant::now();
        node.start_agent();
        let socket = node.dir.join("run/cilium.sock");
        if !eventually(Duration::from_secs(20), || UnixStream::connect(&socket).is_ok()) {
            bail!("the agent does not listen\n{}", node.log_tail());
        }
        let pods: [Pod; 2] = ["first", "second"].map(|name| cluster.pod(0, name, "app: first"));
        serve(&pods[1].netns, "second", PORT);
        if !eventually(Duration::from_secs(20), || tcp(&pods[0].netns, pods[1].ipv4, PORT).is_some()) {
            bail!("the first pods do not reach each other\n{}", cluster.nodes[0].log_tail());
        }
        times.push(started.elapsed().as_secs_f64());
        for pod in pods {
            cluster.detach(pod);
        }
    }
    Ok(vec![Figure::value(
        ("C11", "first start to first pods' connectivity"),
        "s",
        bootstrap(&times),
        Goal::at_most(1.5, 0.6),
    )])
}

/// Memory of an agent, MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All that is resident.
    pub resident: f64,
    /// Of it what no file backs.
    pub anonymous: f64,
    /// The most that was ever resident.
    pub peak: f64,
}

/// What a node's agent takes now.
pub(crate) fn memory_of(node: &Node) -> Result<Memory> {
    let pid = node.agent_pid().context("the agent runs")?;
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")?, peak: field("VmHWM:")? })
}

/// C12: memory of an agent at rest, with the few pods of this run.
pub(crate) fn memory(cluster: &Cluster) -> Result<Vec<Figure>> {
    let all: Vec<Memory> = cluster.nodes.iter().map(memory_of).collect::<Result<_>>()?;
    let of = |field: fn(&Memory) -> f64| all.iter().map(field).collect::<Vec<_>>();
    let mut figure = Figure::value(
        ("C12", "agent's memory (RSS), idle"),
        "MiB",
        bootstrap(&of(|memory| memory.resident)),
        Goal::at_most(24.0, 12.0),
    );
    let anonymous = median(&of(|memory| memory.anonymous));
    figure.reference = format!("of it not file-backed: {} MiB", short(anonymous));
    Ok(vec![figure])
}
