//! C10 to C12: restarting the agent under traffic, the first start, memory at rest.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Interval, bootstrap, median};
use crate::topology::Ours;
use crate::traffic::{ECHO, connect, round_trip};
use anyhow::{Context, Result, bail};
use cilium_tests_kernel::probe::{eventually, serve, tcp};
use cilium_tests_kernel::{Cluster, Options, Pod};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a client saw while it ran.
#[derive(Default)]
struct Load {
    done: AtomicU64,
    /// The slowest, nanoseconds.
    slowest: AtomicU64,
    errors: Mutex<Vec<String>>,
}

impl Load {
    fn run(&self, stop: &AtomicBool, mut once: impl FnMut() -> std::io::Result<()>) {
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            if let Err(e) = once()
                && let Ok(mut errors) = self.errors.lock()
            {
                errors.push(e.to_string());
                if errors.len() > 100 {
                    return;
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.slowest.fetch_max(took, Ordering::Relaxed);
            // The agent shares the machine; a client that never waits would starve it on one CPU.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Rows written since a place in the agent's log, by what its passes say.
fn rows_written(log: &str) -> Result<u64> {
    let mut sum = 0;
    for line in log.lines().filter(|line| line.contains("woken_by=")) {
        let steps = line.split_whitespace().find_map(|word| word.strip_prefix("steps="));
        sum += steps.and_then(|n| n.parse::<u64>().ok()).with_context(|| format!("no steps in {line:?}"))?;
    }
    Ok(sum)
}

/// C10: the agent is ended and started again, five times, under round trips and connections.
pub(crate) fn restarts(ours: &mut Ours) -> Result<Vec<Figure>> {
    const TIMES: usize = 5;
    ours.cluster.settle();
    let (stop, steady, short_lived) = (AtomicBool::new(false), Load::default(), Load::default());
    let pairs = [&ours.within[0], &ours.across[0]];
    let node = &mut ours.cluster.nodes[0];
    let log = node.dir.join("agent.log");
    let (mut ready, mut written) = (Vec::new(), 0);
    std::thread::scope(|scope| -> Result<()> {
        for pair in pairs {
            let to = SocketAddr::new(pair.server.address, ECHO);
            let (stop, steady, short_lived) = (&stop, &steady, &short_lived);
            // A server has one connection at a time: the steady one within the node, others across.
            let is_steady = std::ptr::eq(pair, pairs[0]);
            scope.spawn(move || {
                pair.client.netns.enter(|| {
                    if is_steady {
                        match connect(to) {
                            Ok(mut stream) => steady.run(stop, || round_trip(&mut stream)),
                            Err(e) => steady.run(stop, || Err(std::io::Error::other(e.to_string()))),
                        }
                    } else {
                        short_lived.run(stop, || round_trip(&mut connect(to)?));
                    }
                });
            });
        }
        for time in 0..TIMES {
            let from = std::fs::metadata(&log).map_or(0, |meta| meta.len());
            // In turn asked to end, and killed.
            node.stop_agent(if time % 2 == 0 { libc::SIGTERM } else { libc::SIGKILL });
            // For a while nobody is there; traffic must not notice.
            std::thread::sleep(Duration::from_millis(300));
            let started = Instant::now();
            node.start_agent();
            node.wait_healthy(Duration::from_secs(20));
            ready.push(started.elapsed().as_secs_f64());
            let text = std::fs::read(&log).context("read the agent's log")?;
            let since = text.get(usize::try_from(from)?..).unwrap_or_default();
            written += rows_written(&String::from_utf8_lossy(since))?;
        }
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })
    .inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
    let errors: Vec<String> = [&steady, &short_lived]
        .iter()
        .filter_map(|load| load.errors.lock().ok().map(|errors| errors.clone()))
        .flatten()
        .collect();
    let exact = |n: f64| Interval { low: n, mid: n, high: n };
    let traffic = format!(
        "{} round trips, {} connections",
        steady.done.load(Ordering::Relaxed),
        short_lived.done.load(Ordering::Relaxed)
    );
    let slowest = steady.slowest.load(Ordering::Relaxed).max(short_lived.slowest.load(Ordering::Relaxed));
    let mut failed = Figure::value(
        ("C10", "restart under traffic, errors"),
        "",
        exact(errors.len() as f64),
        Goal::limit(0.0),
    );
    failed.reference = traffic;
    if let Some(first) = errors.first() {
        failed.verdict = Verdict::Void(first.clone());
    }
    Ok(vec![
        failed,
        Figure {
            id: "C10",
            name: "  slowest of them".into(),
            value: format!("{} ms", short(slowest as f64 / 1e6)),
            reference: "-".into(),
            number: exact(slowest as f64 / 1e6),
            goal: None,
            verdict: Verdict::None,
        },
        Figure::value(
            ("C10", format!("rows written by {TIMES} restarts")),
            "",
            exact(written as f64),
            Goal::limit(0.0),
        ),
        Figure::value(("C10", "restart to healthy"), "s", bootstrap(&ready), Goal::at_most(2.0, 0.7)),
    ])
}

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

/// C12: memory of an agent at rest, with the few pods of this run.
pub(crate) fn memory(cluster: &Cluster) -> Result<Vec<Figure>> {
    let mut sizes = Vec::new();
    let mut anonymous = Vec::new();
    for node in &cluster.nodes {
        let pid = node.agent_pid().context("the agent runs")?;
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        sizes.push(field("VmRSS:")?);
        anonymous.push(field("RssAnon:")?);
    }
    let mut figure = Figure::value(
        ("C12", "agent's memory (RSS), idle"),
        "MiB",
        bootstrap(&sizes),
        Goal::at_most(24.0, 12.0),
    );
    figure.reference = format!("of it not file-backed: {} MiB", short(median(&anonymous)));
    Ok(vec![figure])
}
