//! C10, C12 at the size of their goals: one node with 100 pods in a cluster of 10 000 Services and 50 000 other
//! pods.

use crate::control::memory_of;
use crate::figure::{Figure, Goal, short};
use crate::manifests::{published, service, service_ip, services};
use crate::restart::{Flow, under_traffic};
use crate::stats::Interval;
use crate::topology::{Pair, pair, policy};
use crate::traffic::{ECHO, SINK};
use anyhow::{Result, bail};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Options, Pod};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Services with three backends each.
    pub services: u32,
    /// Pods of other nodes: one row of the ipcache each, and an identity for every five.
    pub remote_pods: u32,
    /// Pods of this node.
    pub pods: usize,
}

impl Size {
    /// That of the goals.
    pub(crate) const GOAL: Self = Self { services: 10_000, remote_pods: 50_000, pods: 100 };
    /// To try the machinery.
    pub(crate) const SMALL: Self = Self { services: 100, remote_pods: 500, pods: 10 };
}

/// A node in a large cluster.
pub(crate) struct Scene {
    steady: Pair,
    through_service: Pair,
    _others: Vec<Pod>,
    cluster: Cluster,
    vip: SocketAddr,
}

impl Scene {
    /// Writes the objects, starts the agent, attaches the pods and waits until all is at rest.
    pub(crate) fn start(size: Size) -> Result<Self> {
        let mut cluster = Cluster::prepare(&Options { nodes: 1, ..Options::default() });
        for (name, text) in services(size.services, 3) {
            std::fs::write(cluster.manifests.join(name), text)?;
        }
        for (name, text) in published(size.remote_pods) {
            std::fs::write(cluster.manifests.join("published").join(name), text)?;
        }
        cluster.write("policy.yaml", &policy(ECHO..=SINK));
        cluster.write("pods.yaml", &pods(size.pods));
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(Duration::from_secs(120));
        let steady = pair(&cluster, "a", 0, 0)?;
        let through_service = pair(&cluster, "b", 0, 0)?;
        let others = (4..size.pods).map(|n| cluster.attach(0, &format!("pod{n}"))).collect();
        let vip = SocketAddrV4::new(service_ip(size.services), ECHO);
        let IpAddr::V4(backend) = through_service.server.address else { bail!("servers have IPv4") };
        cluster.write("live.yaml", &service("live", vip, &[SocketAddrV4::new(backend, ECHO)]));
        let scene = Self { steady, through_service, _others: others, cluster, vip: vip.into() };
        scene.rest()?;
        Ok(scene)
    }

    /// Waits until every last good version is written and nothing is left to do.
    fn rest(&self) -> Result<()> {
        let store = self.cluster.nodes[0].dir.join("state/last-good");
        let count = || std::fs::read_dir(&store).map_or(0, Iterator::count);
        let mut before = 0;
        let steady = || {
            std::thread::sleep(Duration::from_millis(500));
            let now = count();
            let steady = now > 0 && now == before;
            before = now;
            steady
        };
        if !eventually(Duration::from_secs(120), steady) {
            bail!("last good versions are still being written");
        }
        self.cluster.settle();
        Ok(())
    }
}

/// Objects of the pods that only fill the node.
fn pods(count: usize) -> String {
    let mut yaml = String::new();
    for n in 4..count {
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod{n}, namespace: default, labels: {{app: filler{}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c}}]}}\n",
            n % 10
        );
    }
    yaml
}

/// C10 and C12, at the size given.
pub(crate) fn run(size: Size) -> Result<Vec<Figure>> {
    let mut scene = Scene::start(size)?;
    let steady =
        Flow { client: &scene.steady.client.netns, to: SocketAddr::new(scene.steady.server.address, ECHO) };
    let through = Flow { client: &scene.through_service.client.netns, to: scene.vip };
    let restarts = under_traffic(&mut scene.cluster.nodes[0], steady, through)?;
    let mut figures = restarts.figures(&format!(
        " ({} Services, {} remote pods, {} pods)",
        size.services, size.remote_pods, size.pods
    ));
    figures.extend(memory(&mut scene, size)?);
    Ok(figures)
}

/// Memory after a start with everything there; and with half of the remote pods, which gives what each costs.
fn memory(scene: &mut Scene, size: Size) -> Result<Vec<Figure>> {
    let all = memory_of(&scene.cluster.nodes[0])?;
    scene.cluster.nodes[0].stop_agent(libc::SIGTERM);
    for (name, _) in
        published(size.remote_pods).filter(|(name, _)| name.contains(".ciliumendpoint.")).step_by(2)
    {
        std::fs::remove_file(scene.cluster.manifests.join("published").join(name))?;
    }
    scene.cluster.nodes[0].start_agent();
    scene.cluster.nodes[0].wait_healthy(Duration::from_secs(120));
    scene.rest()?;
    scene.cluster.nodes[0].stop_agent(libc::SIGTERM);
    scene.cluster.nodes[0].start_agent();
    scene.cluster.nodes[0].wait_healthy(Duration::from_secs(120));
    let half = memory_of(&scene.cluster.nodes[0])?;
    let per_thousand = (all.resident - half.resident) / (f64::from(size.remote_pods) / 2000.0);
    let mut whole = Figure::value(
        ("C12", "agent's memory (RSS), at that size"),
        "MiB",
        Interval::exact(all.resident),
        Goal::at_most(120.0, 60.0),
    );
    whole.reference = format!("not file-backed {}, most ever {} MiB", short(all.anonymous), short(all.peak));
    let mut each = Figure::value(
        ("C12", "memory for each 1 000 remote pods"),
        "MiB",
        Interval::exact(per_thousand),
        Goal::at_most(1.0, 0.4),
    );
    each.reference = format!("{} MiB with half of them", short(half.resident));
    Ok(vec![whole, each])
}
