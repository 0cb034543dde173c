//! C9: attaching and detaching pods, as a container runtime sees it, beside the least that any plugin has to
//! do: a process, and the fewest netlink messages that make, or end, the same pair.

use crate::figure::{Figure, Goal, Verdict, short};
use crate::stats::{Interval, bootstrap, median};
use crate::topology::Ours;
use anyhow::{Context, Result, bail};
use cilium_tests_kernel::cluster::binary;
use cilium_tests_kernel::{Cluster, Netns, Node, floor};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pods attached one at a time, with little else there.
const SINGLE: usize = 30;
/// Pods attached at once, and then there.
const BURST: usize = 100;
/// Pods attached one right after the other while those are there.
const AMONG: usize = 100;
/// Between two calls of which each is to be measured on its own: a call that comes while the agent looks at
/// what the last one changed waits for it, which the other figures are about.
const APART: Duration = Duration::from_millis(150);

/// Milliseconds, by what was done.
#[derive(Default)]
struct Times {
    add: Vec<f64>,
    del: Vec<f64>,
    /// A call that asks nothing of the agent: the plugin's process.
    process: Vec<f64>,
    made: Vec<f64>,
    ended: Vec<f64>,
}

/// Everything of C9.
pub(crate) fn run(ours: &Ours) -> Result<Vec<Figure>> {
    let node = &ours.cluster.nodes[0];
    for (name, count) in [("single", SINGLE), ("burst", BURST), ("among", AMONG)] {
        objects(&ours.cluster, name, count);
    }
    ours.cluster.settle();
    let mut figures = one_at_a_time(node)?;
    let pods: Vec<Netns> = (0..BURST).map(|_| Netns::new("pod")).collect();
    figures.push(burst(node, &pods));
    ours.cluster.settle();
    figures.push(among(node)?);
    for (n, pod) in pods.iter().enumerate() {
        call(node, "DEL", pod, &format!("burst{n}"))?;
    }
    for name in ["single", "burst", "among"] {
        ours.cluster.remove(&format!("pods-{name}.yaml"));
    }
    ours.cluster.settle();
    Ok(figures)
}

fn one_at_a_time(node: &Node) -> Result<Vec<Figure>> {
    let beside = Netns::new("beside");
    let mut times = Times::default();
    for n in 0..SINGLE {
        let (pod, other) = (Netns::new("pod"), Netns::new("pod"));
        let number = u8::try_from(n + 2)?;
        times.made.push(floor::attach(&beside, &other, number).as_secs_f64() * 1e3);
        times.ended.push(floor::detach(&beside, number).as_secs_f64() * 1e3);
        let name = format!("single{n}");
        for command in ["VERSION", "ADD", "DEL"] {
            std::thread::sleep(APART);
            let took = call(node, command, &pod, &name)?;
            match command {
                "ADD" => times.add.push(took),
                "DEL" => times.del.push(took),
                _ => times.process.push(took),
            }
        }
    }
    let beside =
        |least: &[f64]| format!("process + kernel {} ms", short(median(&sum(&times.process, least))));
    let row = |name: &str, of: &[f64]| Figure {
        id: "C9",
        name: format!("  {name}"),
        value: format!("{} ms", short(median(of))),
        reference: "-".into(),
        number: bootstrap(of),
        goal: None,
        verdict: Verdict::None,
    };
    let mut del = Figure::value(("C9", "CNI DEL, p50"), "ms", bootstrap(&times.del), Goal::limit(40.0));
    del.reference = beside(&times.ended);
    Ok(vec![
        Figure::ratio(
            ("C9", "CNI ADD, p50"),
            format!("{} ms", short(median(&times.add))),
            beside(&times.made),
            bootstrap(&ratios(&times.add, &sum(&times.process, &times.made))),
            Goal::at_most(3.0, 1.5),
        ),
        row("the plugin's process alone", &times.process),
        row("fewest netlink messages to make a pair", &times.made),
        row("one netlink message to end a pair", &times.ended),
        del,
    ])
}

fn burst(node: &Node, pods: &[Netns]) -> Figure {
    let started = Instant::now();
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (n, pod) in pods.iter().enumerate() {
            let failures = &failures;
            scope.spawn(move || {
                if let Err(e) = call(node, "ADD", pod, &format!("burst{n}"))
                    && let Ok(mut failures) = failures.lock()
                {
                    failures.push(e);
                }
            });
        }
    });
    let took = started.elapsed().as_secs_f64();
    let mut figure = Figure::value(
        ("C9", format!("CNI ADD, {BURST} at once")),
        "s",
        Interval { low: took, mid: took, high: took },
        Goal::at_most(3.0, 1.0),
    );
    if let Some(e) = failures.into_inner().ok().and_then(|mut list| list.pop()) {
        figure.verdict = Verdict::Void(e.to_string());
    }
    figure
}

/// The slowest but one of a hundred ADDs, without a pause between a DEL and the next ADD.
fn among(node: &Node) -> Result<Figure> {
    let mut times = Vec::with_capacity(AMONG);
    for n in 0..AMONG {
        let (pod, name) = (Netns::new("pod"), format!("among{n}"));
        times.push(call(node, "ADD", &pod, &name)?);
        call(node, "DEL", &pod, &name)?;
    }
    times.sort_unstable_by(f64::total_cmp);
    let p99 = times.get(AMONG * 99 / 100 - 1).copied().context("there are figures")?;
    let mut figure = Figure::value(
        ("C9", format!("CNI ADD, p99, {BURST} pods there")),
        "ms",
        Interval { low: p99, mid: p99, high: p99 },
        Goal::limit(100.0),
    );
    figure.reference = format!("p50 {} ms", short(median(&times)));
    Ok(figure)
}

fn sum(some: &[f64], others: &[f64]) -> Vec<f64> {
    some.iter().zip(others).map(|(a, b)| a + b).collect()
}

fn ratios(ours: &[f64], least: &[f64]) -> Vec<f64> {
    ours.iter().zip(least).map(|(ours, least)| ours / least).collect()
}

/// Pod objects `name0` to `name<count-1>` on the first node.
fn objects(cluster: &Cluster, name: &str, count: usize) {
    let mut yaml = String::new();
    for n in 0..count {
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{n}, namespace: default, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c}}]}}\n"
        );
    }
    cluster.write(&format!("pods-{name}.yaml"), &yaml);
}

/// Runs the plugin as a runtime does, from the start of its process to its end; milliseconds.
fn call(node: &Node, command: &str, netns: &Netns, pod: &str) -> Result<f64> {
    let conf = serde_json::json!({
        "cniVersion": "1.1.0", "name": "cilium", "type": "cilium-cni", "run_dir": node.dir.join("run"),
    });
    let (conf, plugin) = (conf.to_string(), binary("cilium-cni"));
    let started = Instant::now();
    let mut child = Command::new(plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", netns.name())
        .env("CNI_NETNS", netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("start the plugin")?;
    let mut stdin = child.stdin.take().context("the plugin's input")?;
    // VERSION does not read its input, and may be gone already.
    let _ = stdin.write_all(conf.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("wait for the plugin")?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        bail!("CNI {command} of {pod}: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(took)
}
