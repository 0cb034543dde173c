//! C4, C5, C6: what one changed Service costs among many, how soon it is in force, and how long it takes to begin
//! with all of them; beside `iptables-restore` and `nft` with kube-proxy's rules.

use crate::calls::{Calls, Counted};
use crate::figure::{Figure, Goal, Verdict, short};
use crate::kubeproxy::{Service, iptables, iptables_change, nftables, nftables_change, nth};
use crate::manifests::{PORT, remote_pod, service, service_ip, services};
use crate::restart::rows_written;
use crate::services::Sizes;
use crate::stats::{Interval, bootstrap, median};
use crate::topology::feed;
use anyhow::{Context, Result, bail, ensure};
use aya::maps::MapData;
use cilium_abi::{
    Address, Be16,
    lb::{FrontendKey, FrontendRow, SCOPE_EXTERNAL},
    maps, proto,
};
use cilium_tests_kernel::l1::sys;
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Netns, Options};
use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Backends of each Service.
const BACKENDS: u32 = 3;
/// How often one Service changes.
const CHANGES: usize = 30;
/// How often the rules change: each takes seconds.
const RULE_CHANGES: usize = 3;
/// Longer than this to be in force is an error.
const PATIENCE: Duration = Duration::from_secs(5);

fn shown(id: &'static str, name: &str, milliseconds: &[f64]) -> Figure {
    Figure {
        id,
        name: format!("  {name}"),
        value: format!("{} ms", short(median(milliseconds))),
        reference: "-".into(),
        number: bootstrap(milliseconds),
        goal: None,
        verdict: Verdict::None,
    }
}

/// Milliseconds of kube-proxy's rules.
struct Rules {
    /// All of them.
    load: f64,
    /// One Service of them.
    change: Vec<f64>,
}

impl Rules {
    /// `load` and `change` are commands that read the text.
    fn measure(
        many: u32,
        (load, change): (&str, &str),
        whole: fn(&[Service]) -> String,
        one: impl Fn(&[Service], &Service) -> String,
    ) -> Result<Self> {
        let netns = Netns::new("rules");
        let mut all: Vec<Service> = (0..many).map(|n| nth(n, BACKENDS)).collect();
        let milliseconds = |took: Duration| took.as_secs_f64() * 1e3;
        let loaded = milliseconds(feed(&netns, load, &whole(&all))?);
        let mut times = Vec::new();
        for round in 0..RULE_CHANGES {
            let n = all.len() / 2;
            let round = u16::try_from(round)?;
            if let Some(backend) = all[n].backends.last_mut() {
                *backend = SocketAddrV4::new(*backend.ip(), 9_000 + round);
            }
            times.push(milliseconds(feed(&netns, change, &one(&all, &all[n]))?));
        }
        Ok(Self { load: loaded, change: times })
    }
}

/// An agent among Services, one of which changes.
struct Scene {
    cluster: Cluster,
    frontend: MapData,
    key: FrontendKey,
    at: SocketAddrV4,
}

impl Scene {
    /// Starts an agent without Services, then gives it all of them at once: also seconds until it has them, and
    /// those of its pass without reading files.
    fn start(many: u32) -> Result<(Self, f64, f64)> {
        let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
        cluster.settle();
        let at = SocketAddrV4::new(service_ip(many), PORT);
        let node = &cluster.nodes[0];
        let pin = node.pins.join(format!("maps/{}_v{}", maps::FRONTEND.name, maps::FRONTEND.version));
        let frontend = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        let addr = Address::from(IpAddr::V4(*at.ip()));
        let key = FrontendKey { addr, port: Be16::new(at.port()), proto: proto::TCP, scope: SCOPE_EXTERNAL };
        let beside = cluster.manifests.with_file_name("prepared");
        std::fs::create_dir(&beside)?;
        for (name, text) in services(many, BACKENDS) {
            std::fs::write(beside.join(name), text)?;
        }
        let scene = Self { cluster, frontend, key, at };
        std::fs::write(beside.join("changing.yaml"), scene.text(0))?;
        // Else the files are still being written, as far as the agent can tell.
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        std::fs::rename(&beside, scene.cluster.manifests.join("services"))?;
        ensure!(eventually(Duration::from_secs(60), || scene.row().is_some()), "the Services do not come");
        let whole = began.elapsed().as_secs_f64();
        let pass = scene.loading_pass(many)?;
        scene.cluster.settle();
        Ok((scene, whole, pass))
    }

    /// Seconds of the pass that wrote most, but for reading files.
    fn loading_pass(&self, many: u32) -> Result<f64> {
        let mut found = None;
        let written = || {
            let pass = self.cluster.nodes[0].status()["last-pass"].clone();
            if pass["steps"].as_u64() > Some(u64::from(many) * (1 + u64::from(BACKENDS))) {
                let of = |stage: &str| pass["micros"][stage].as_f64().unwrap_or(0.0);
                found = Some(["compile", "observe", "diff", "apply"].map(of).iter().sum::<f64>() / 1e6);
            }
            found.is_some()
        };
        if !eventually(PATIENCE * 12, written) {
            bail!("no pass is told of that wrote the Services");
        }
        found.context("a pass")
    }

    /// The Service that changes, its third backend another each time.
    fn text(&self, round: u32) -> String {
        let backends: Vec<SocketAddrV4> =
            [0, 1, 2 + round % 50].map(|n| SocketAddrV4::new(remote_pod(n), 9_000)).to_vec();
        service("changing", self.at, &backends)
    }

    fn row(&self) -> Option<FrontendRow> {
        sys::lookup(self.frontend.fd().as_fd(), &self.key)
    }

    /// Milliseconds from the rename of the file until packets meet the new backends.
    fn change(&self, round: u32) -> Result<f64> {
        let before = self.row().context("the Service is there")?;
        let folder = self.cluster.manifests.join("services");
        std::fs::write(folder.join(".changing.tmp"), self.text(round))?;
        let began = Instant::now();
        std::fs::rename(folder.join(".changing.tmp"), folder.join("changing.yaml"))?;
        while self.row().is_none_or(|now| now == before) {
            ensure!(began.elapsed() < PATIENCE, "the change does not come");
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Rows written by all passes so far, as the log tells.
    fn written(&self) -> Result<u64> {
        rows_written(&self.cluster.nodes[0].log())
    }

    /// C4: what a change costs in system calls; and how many rows differ.
    fn calls(&self, round: u32) -> Result<(Counted, u64)> {
        let pid = self.cluster.nodes[0].agent_pid().context("the agent runs")?;
        let mut calls = Calls::of(pid)?;
        // Until nothing is looked at any more, but before the next whole look.
        let mut rest = || -> Result<Counted> {
            loop {
                let before = calls.counted()?;
                std::thread::sleep(Duration::from_millis(400));
                let now = calls.counted()?;
                if now.all == before.all {
                    return Ok(now);
                }
            }
        };
        let (before, rows) = (rest()?, self.written()?);
        self.change(round)?;
        let after = rest()?;
        let counted = Counted { all: after.all - before.all, writes: after.writes - before.writes };
        Ok((counted, self.written()? - rows))
    }
}

/// Everything. The goals are about many Services; the rest shows how what it costs grows with their number.
pub(crate) fn run(sizes: Sizes, wanted: &dyn Fn(&str) -> bool, with_rules: bool) -> Result<Vec<Figure>> {
    let mut out = Vec::new();
    let (scene, whole, pass) = Scene::start(sizes.many)?;
    if wanted("C4") {
        out.extend(count(&scene)?);
    }
    if with_rules && (wanted("C5") || wanted("C6")) {
        out.extend(beside_rules(&scene, (whole, pass), sizes.many)?);
        drop(scene);
        for fewer in [sizes.some, sizes.few] {
            let (scene, whole, pass) = Scene::start(fewer)?;
            let figures = beside_rules(&scene, (whole, pass), fewer)?;
            out.extend(figures.into_iter().filter(|figure| figure.goal.is_some()).map(Figure::without_goal));
        }
    }
    Ok(out)
}

/// C5 and C6 among so many Services, beside kube-proxy's rules for as many. The scene took `whole` seconds to have them
/// all, and its pass `pass` of these.
fn beside_rules(scene: &Scene, (whole, pass): (f64, f64), many: u32) -> Result<Vec<Figure>> {
    let tables = Rules::measure(
        many,
        ("iptables-restore -w", "iptables-restore -w --noflush"),
        iptables,
        iptables_change,
    )?;
    let nft =
        Rules::measure(many, ("nft -f -", "nft -f -"), nftables, |_, changed| nftables_change(changed))?;
    let mut changes = Vec::new();
    for round in 0..CHANGES {
        changes.push(scene.change(u32::try_from(round)? + 10)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut out = change_figures(&changes, &tables, &nft, many);
    let mut load = Figure::ratio(
        ("C6", format!("{many} Services come, computed and written")),
        format!("{} ms", short(pass * 1e3)),
        format!("iptables-restore {} ms", short(tables.load)),
        Interval::exact(pass * 1e3 / tables.load),
        Goal::at_most(0.25, 0.07),
    );
    load.reference += &format!(", nft {} ms", short(nft.load));
    out.push(load);
    out.push(shown("C6", "the same with reading and parsing their files", &[whole * 1e3]));
    Ok(out)
}

/// C4, of the change in the middle: now and then a sweep of expired connections falls into one.
fn count(scene: &Scene) -> Result<Vec<Figure>> {
    let mut counted = Vec::new();
    for round in 1..6 {
        counted.push(scene.calls(round)?);
    }
    let middle = |of: fn(&(Counted, u64)) -> f64| median(&counted.iter().map(of).collect::<Vec<_>>());
    let rows = counted.first().map_or(0, |(_, rows)| *rows);
    let mut calls = Figure::value(
        ("C4", "bpf() calls of one Service change, for each allowed"),
        "",
        Interval::exact(middle(|(calls, rows)| calls.all as f64 / (4.0 + 3.0 * *rows as f64))),
        Goal::limit(1.0),
    );
    let all: Vec<String> = counted.iter().map(|(calls, _)| calls.all.to_string()).collect();
    calls.reference = format!("{} calls; allowed 4 + 3 x {rows} rows", all.join(", "));
    let mut writes = Figure::value(
        ("C4", "  calls that write, for each row that differs"),
        "",
        Interval::exact(middle(|(calls, rows)| calls.writes as f64 / *rows as f64)),
        Goal::limit(1.0),
    );
    let all: Vec<String> = counted.iter().map(|(calls, _)| calls.writes.to_string()).collect();
    writes.reference = format!("{} calls, {rows} rows", all.join(", "));
    Ok(vec![calls, writes])
}

fn change_figures(changes: &[f64], tables: &Rules, nft: &Rules, many: u32) -> Vec<Figure> {
    let mut sorted = changes.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let slowest = sorted.last().copied().unwrap_or(f64::NAN);
    let beside = |name: &str, rules: &Rules| {
        let ratios: Vec<f64> = changes.iter().map(|ours| ours / median(&rules.change)).collect();
        Figure::ratio(
            ("C5", format!("one change among {many} Services, file to map, beside {name}")),
            format!("{} ms", short(median(changes))),
            format!("{name} {} ms", short(median(&rules.change))),
            bootstrap(&ratios),
            Goal::limit(0.02),
        )
    };
    let mut worst = Figure::value(
        ("C5", format!("  slowest of {}", changes.len())),
        "ms",
        Interval::exact(slowest),
        Goal::at_most(20.0, 2.0),
    );
    worst.reference = format!("p50 {} ms", short(median(changes)));
    vec![beside("iptables-restore", tables), beside("nft", nft), worst]
}
