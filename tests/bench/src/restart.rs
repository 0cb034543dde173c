//! C10: the agent is ended and started again under round trips and connections.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Interval, bootstrap, median};
use crate::topology::Ours;
use crate::traffic::{ECHO, connect, round_trip};
use anyhow::{Context, Result, bail};
use cilium_tests_kernel::{Netns, Node};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often.
const TIMES: usize = 5;
/// Longer than this to healthy is an error, not a figure.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// A client and what it asks.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    /// Where the client is.
    pub client: &'a Netns,
    /// What answers.
    pub to: SocketAddr,
}

/// What restarts showed.
pub(crate) struct Restarts {
    /// Requests that failed.
    errors: Vec<String>,
    /// Round trips on the one connection, and connections.
    done: [u64; 2],
    /// Nanoseconds.
    slowest: u64,
    /// Rows written by all passes since the first end.
    written: u64,
    /// Seconds from start to healthy, of each.
    ready: Vec<f64>,
    /// Milliseconds of each stage of the first pass, of each.
    stages: Vec<Stages>,
}

/// Milliseconds of a pass.
#[derive(Clone, Copy)]
struct Stages {
    sources: f64,
    compile: f64,
    observe: f64,
    diff: f64,
    total: f64,
}

impl Stages {
    /// Of the first pass, which read everything.
    fn of(status: &serde_json::Value) -> Result<Self> {
        let pass = &status["last-pass"];
        if pass["steps"] != 0 {
            bail!("the first pass had something to do: {pass}");
        }
        let of = |name: &str| pass["micros"][name].as_f64().map(|micros| micros / 1e3);
        let all = ["sources", "compile", "observe", "diff", "total"].map(of);
        let [Some(sources), Some(compile), Some(observe), Some(diff), Some(total)] = all else {
            bail!("the status has no times: {status}");
        };
        Ok(Self { sources, compile, observe, diff, total })
    }
}

/// Rows written by all passes that a log tells of. Those that had nothing to do are told of at level debug alone, by
/// what they read.
///
/// # Errors
/// A pass is told of in another way.
pub(crate) fn rows_written(log: &str) -> Result<u64> {
    let mut sum = 0;
    for line in log.lines().filter(|line| line.contains("woken_by=")) {
        let number =
            |name| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        let idle = || number("read=").map(|_| 0);
        sum += number("steps=").or_else(idle).with_context(|| format!("no steps in {line:?}"))?;
    }
    Ok(sum)
}

/// Ends the agent, in turn by asking and by killing, and starts it again, while one client makes round trips on
/// one connection and the other one connection after the other.
pub(crate) fn under_traffic(node: &mut Node, steady: Flow<'_>, short_lived: Flow<'_>) -> Result<Restarts> {
    let (stop, loads) = (AtomicBool::new(false), [Load::default(), Load::default()]);
    let log = node.dir.join("agent.log");
    let (mut ready, mut stages, mut written) = (Vec::new(), Vec::new(), 0);
    std::thread::scope(|scope| -> Result<()> {
        let (stop, loads) = (&stop, &loads);
        scope.spawn(move || {
            steady.client.enter(|| match connect(steady.to) {
                Ok(mut stream) => loads[0].run(stop, || round_trip(&mut stream)),
                Err(e) => loads[0].run(stop, || Err(std::io::Error::other(e.to_string()))),
            });
        });
        scope.spawn(move || {
            short_lived.client.enter(|| loads[1].run(stop, || round_trip(&mut connect(short_lived.to)?)));
        });
        let mut restart = |time: usize| -> Result<()> {
            let from = std::fs::metadata(&log).map_or(0, |meta| meta.len());
            node.stop_agent(if time.is_multiple_of(2) { libc::SIGTERM } else { libc::SIGKILL });
            // For a while nobody is there; traffic must not notice.
            std::thread::sleep(Duration::from_millis(300));
            let started = Instant::now();
            node.start_agent();
            node.wait_healthy(PATIENCE);
            ready.push(started.elapsed().as_secs_f64());
            stages.extend(Stages::of(&node.status()));
            let text = std::fs::read(&log).context("read the agent's log")?;
            let since = text.get(usize::try_from(from)?..).unwrap_or_default();
            written += rows_written(&String::from_utf8_lossy(since))?;
            Ok(())
        };
        let done = (0..TIMES).try_for_each(&mut restart);
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    let listed = |load: &Load| load.errors.lock().map(|errors| errors.clone()).unwrap_or_default();
    Ok(Restarts {
        errors: loads.iter().flat_map(listed).collect(),
        done: [0, 1].map(|n| loads[n].done.load(Ordering::Relaxed)),
        slowest: loads.iter().map(|load| load.slowest.load(Ordering::Relaxed)).max().unwrap_or(0),
        written,
        ready,
        stages,
    })
}

impl Restarts {
    /// The figures; `size` tells what was there.
    pub(crate) fn figures(&self, size: &str) -> Vec<Figure> {
        let shown = |name: &str, milliseconds: Interval| Figure {
            id: "C10",
            name: format!("  {name}"),
            value: format!("{} ms", short(milliseconds.mid)),
            reference: "-".into(),
            number: milliseconds,
            goal: None,
            verdict: Verdict::None,
        };
        let mut failed = Figure::value(
            ("C10", format!("restart under traffic{size}, errors")),
            "",
            Interval::exact(self.errors.len() as f64),
            Goal::limit(0.0),
        );
        failed.reference = format!("{} round trips, {} connections", self.done[0], self.done[1]);
        if let Some(first) = self.errors.first() {
            failed.verdict = Verdict::Void(first.clone());
        }
        let of = |field: fn(&Stages) -> f64| self.stages.iter().map(field).collect::<Vec<_>>();
        let mut first = Figure::value(
            ("C10", "  first plan there, and empty"),
            "s",
            bootstrap(&of(|stages| stages.total / 1e3)),
            Goal::limit(2.0),
        );
        first.reference = format!(
            "sources {}, compile {}, read {}, compare {} ms",
            short(median(&of(|stages| stages.sources))),
            short(median(&of(|stages| stages.compile))),
            short(median(&of(|stages| stages.observe))),
            short(median(&of(|stages| stages.diff))),
        );
        vec![
            failed,
            shown("slowest of them", Interval::exact(self.slowest as f64 / 1e6)),
            Figure::value(
                ("C10", format!("rows written by {TIMES} restarts")),
                "",
                Interval::exact(self.written as f64),
                Goal::limit(0.0),
            ),
            Figure::value(
                ("C10", "restart to healthy"),
                "s",
                bootstrap(&self.ready),
                Goal::at_most(2.0, 0.7),
            ),
            first,
        ]
    }
}

/// C10 with the few pods of this run: the steady client within the node, the other across.
pub(crate) fn few(ours: &mut Ours) -> Result<Vec<Figure>> {
    ours.cluster.settle();
    let flow = |pair: usize| {
        let pair = if pair == 0 { &ours.within[0] } else { &ours.across[0] };
        Flow { client: &pair.client.netns, to: SocketAddr::new(pair.server.address, ECHO) }
    };
    let (steady, short_lived) = (flow(0), flow(1));
    Ok(under_traffic(&mut ours.cluster.nodes[0], steady, short_lived)?.figures(""))
}

#[cfg(test)]
mod tests {
    use super::rows_written;

    #[test]
    fn idle_passes_write_nothing() {
        let log = "t INFO cilium: pass woken_by=start steps=12 failed=0\nt DEBUG cilium: pass woken_by=timer read=7 micros=1\n\
                   t DEBUG cilium: else\nt INFO cilium: pass woken_by=a,b steps=3 failed=1\n";
        assert_eq!(rows_written(log).expect("all lines are known"), 15);
        assert!(rows_written("pass woken_by=start").is_err());
    }
}
