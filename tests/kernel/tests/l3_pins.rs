//! Pins taken away: what programs use is pinned again, not replaced, and no connection notices. And agents
//! that come and go leave nothing behind, nor do those that run out of descriptors.

use cilium_tests_kernel::cluster::{Node, OUTSIDE_V4, long};
use cilium_tests_kernel::flow::{Flow, flow};
use cilium_tests_kernel::footprint::{below, host, wait_quiet};
use cilium_tests_kernel::probe::{eventually, ping, serve, tcp};
use cilium_tests_kernel::{Cluster, Options, Pod};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;
const VIP: &str = "10.96.0.10";

/// Two nodes; a client on the first, a server on each, behind a Service and a policy.
struct Lab {
    cluster: Cluster,
    client: Pod,
    near: Pod,
    far: Pod,
}

fn literal(address: &str) -> IpAddr {
    address.parse().expect("a literal address")
}

impl Lab {
    fn new() -> Self {
        let extra = "[reconciler]\nfull_read = \"200ms\"\n".to_owned();
        let cluster = Cluster::start(&Options { extra, ..Options::default() });
        let client = cluster.pod(0, "client", "app: client");
        let near = cluster.pod(0, "near", "app: server");
        let far = cluster.pod(1, "far", "app: server");
        for pod in [&near, &far] {
            serve(&pod.netns, &pod.name, PORT);
        }
        serve(&cluster.outside, "outside", PORT);
        cluster.write(
            "svc.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: default}}\nspec: {{clusterIP: {VIP}, \
                 selector: {{app: server}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
            ),
        );
        cluster.write(
            "policy.yaml",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: default}\nspec:\n  \
             endpointSelector: {matchLabels: {app: server}}\n  ingress:\n  - fromEndpoints: [{matchLabels: {app: \
             client}}]\n",
        );
        let lab = Self { cluster, client, near, far };
        assert!(eventually(WAIT, || lab.works()), "{}", lab.node().log_tail());
        lab.cluster.settle();
        lab
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// New connections, every way.
    fn works(&self) -> bool {
        self.ways().iter().all(|(_, to)| tcp(&self.client.netns, to.ip(), to.port()).is_some())
            && tcp(&self.far.netns, self.near.ipv4, PORT).is_none()
            && ping(&self.near.netns, self.node().ipv4, None)
    }

    fn ways(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![
            ("Service", (literal(VIP), 80).into()),
            ("policy", (self.near.ipv4, PORT).into()),
            ("policy, IPv6", (self.near.ipv6, PORT).into()),
            ("other node", (self.far.ipv4, PORT).into()),
            ("masquerade", (literal(OUTSIDE_V4), PORT).into()),
        ]
    }

    /// Connections that stand: four of each way, so that the Service's go to both its backends.
    fn flows(&self, stop: &Arc<AtomicBool>) -> Vec<Flow> {
        let each = |(name, to): (&'static str, SocketAddr)| {
            (0..4).map(move |n| {
                flow(&self.client.netns, &format!("{name} {n}"), to, Duration::from_millis(20), stop)
            })
        };
        self.ways().into_iter().flat_map(each).collect()
    }

    fn settled(&self, when: &str) {
        assert!(
            eventually(WAIT, || self.node().plan_is_empty()),
            "{when}: the plan is not empty\n{}\n{}",
            String::from_utf8_lossy(&self.node().cilium(&["plan"]).stdout),
            self.node().log_tail()
        );
    }
}

fn none_broken(flows: &[Flow], when: &str, node: &Node) {
    let broken: Vec<&str> = flows.iter().filter(|flow| flow.is_broken()).map(Flow::name).collect();
    assert!(broken.is_empty(), "{when}: broken: {broken:?}\n{}", node.log_tail());
}

/// Ends the flows: none was broken, no segment was lost.
fn all_well(flows: Vec<Flow>, stop: &AtomicBool) {
    stop.store(true, Ordering::Relaxed);
    let (mut answers, mut slowest) = (0, Duration::ZERO);
    for flow in flows {
        let name = flow.name().to_owned();
        let told = flow.end().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(told.retransmitted, 0, "{name}: segments were lost");
        (answers, slowest) = (answers + told.answers, slowest.max(told.slowest));
    }
    eprintln!("{answers} answers on connections that stood all the time, slowest {slowest:?}");
}

/// Pinned maps and their numbers in the kernel.
fn maps(node: &Node) -> BTreeMap<String, u64> {
    let number = |pin: &Path| -> u64 {
        let pin = pin.display().to_string();
        let output = Command::new("bpftool").args(["-j", "map", "show", "pinned", &pin]).output();
        let output = output.expect("bpftool is installed");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        shown["id"].as_u64().unwrap_or(0)
    };
    let pins = below(&node.pins.join("maps"));
    let name =
        |pin: &Path| pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    pins.iter().map(|pin| (name(pin), number(pin))).collect()
}

/// Digests are for agents alone, and Maglev tables and sockets are not asked here: no
/// program that runs uses their maps, and a lost
/// one is made anew.
fn is_digest(name: &str) -> bool {
    name.contains("_digest_")
        || ["cilium_maglev_", "cilium_sock_rev_"].iter().any(|map| name.starts_with(map))
}

fn used(mut maps: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    maps.retain(|name, _| !is_digest(name));
    maps
}

fn connections(node: &Node) -> usize {
    String::from_utf8_lossy(&node.cilium(&["bpf", "ct", "list"]).stdout).lines().count()
}

#[test]
fn every_map_whose_pin_is_lost_is_found_again_and_no_connection_notices() {
    let mut lab = Lab::new();
    let stop = Arc::new(AtomicBool::new(false));
    let flows = lab.flows(&stop);
    let before = maps(lab.node());
    assert!(before.len() > 15 && before.values().all(|id| *id > 0), "{before:?}");
    assert!(connections(lab.node()) >= flows.len());
    let removed = |pins: &[PathBuf]| {
        for pin in pins {
            std::fs::remove_file(pin).expect("remove a pin");
        }
    };
    let pin = |node: &Node, name: &str| node.pins.join("maps").join(name);
    let names = |node: &Node| String::from_utf8_lossy(&node.cilium(&["ip", "list"]).stdout).into_owned();
    let identities = names(lab.node());
    let same = |lab: &Lab, when: &str| {
        lab.settled(when);
        assert_eq!(
            used(maps(lab.node())),
            used(before.clone()),
            "{when}: other maps\n{}",
            lab.node().log_tail()
        );
        assert_eq!(names(lab.node()), identities, "{when}");
        none_broken(&flows, when, lab.node());
    };
    // One by one; in an ordinary run some at a time.
    let all: Vec<&String> = before.keys().collect();
    for names in all.chunks(if long() { 1 } else { 5 }) {
        let pins: Vec<PathBuf> = names.iter().map(|name| pin(lab.node(), name)).collect();
        removed(&pins);
        let back = || pins.iter().all(|pin| pin.exists());
        assert!(eventually(WAIT, back), "{names:?}: not pinned again\n{}", lab.node().log_tail());
        same(&lab, &format!("{names:?}"));
    }
    assert!(lab.works(), "{}", lab.node().log_tail());

    // All at once, while no agent runs; and with them the programs' pins: what is attached still uses them.
    for folders in [&["maps"][..], &["maps", "progs"]] {
        lab.cluster.nodes[0].stop_agent(libc::SIGKILL);
        for folder in folders {
            std::fs::remove_dir_all(lab.node().pins.join(folder)).expect("remove pins");
        }
        lab.cluster.nodes[0].start_agent();
        lab.node().wait_healthy(WAIT);
        same(&lab, &format!("without {folders:?}"));
        assert!(lab.works(), "without {folders:?}: {}", lab.node().log_tail());
    }

    // Its pin lost, and another size wanted: a new map, with the connections of the old.
    lab.cluster.nodes[0].stop_agent(libc::SIGTERM);
    let config = lab.node().config();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let resized = text
        .replace("ct_tcp_max = 65536", "ct_tcp_max = 131072")
        .replace("nat_max = 65536", "nat_max = 131072");
    std::fs::write(&config, resized).expect("write the configuration");
    let resized = |name: &&String| name.contains("ct_tcp") || name.contains("snat");
    removed(&before.keys().filter(resized).map(|name| pin(lab.node(), name)).collect::<Vec<_>>());
    lab.cluster.nodes[0].start_agent();
    lab.node().wait_healthy(WAIT);
    lab.settled("resized");
    let after = maps(lab.node());
    let changed: Vec<&String> = all
        .iter()
        .filter(|name| !is_digest(name) && after.get(**name) != before.get(**name))
        .copied()
        .collect();
    assert_eq!(changed, before.keys().filter(resized).collect::<Vec<_>>(), "{}", lab.node().log_tail());
    assert!(connections(lab.node()) >= flows.len(), "connections were carried over");
    none_broken(&flows, "resized", lab.node());
    assert!(lab.works(), "{}", lab.node().log_tail());
    all_well(flows, &stop);
}

/// Descriptors of a process, by what they lead to.
fn descriptors(pid: u32) -> Vec<String> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the agent runs");
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    let mut all: Vec<String> = listed
        .flatten()
        .filter_map(target)
        // Numbers of sockets and pipes differ from process to process.
        .map(|path| path.display().to_string().split(":[").next().unwrap_or_default().to_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn agents_that_come_and_go_leave_nothing_behind() {
    let mut lab = Lab::new();
    let stop = Arc::new(AtomicBool::new(false));
    let flows = lab.flows(&stop);
    let footprint = |node: &Node| {
        let mut pins: Vec<PathBuf> = below(&node.pins);
        pins.sort();
        let files: Vec<PathBuf> =
            below(&node.dir).into_iter().filter(|p| !p.ends_with("agent.log")).collect();
        wait_quiet(&node.netns);
        (pins, maps(node), files, host(&node.netns))
    };
    let pid = |node: &Node| node.agent_pid().expect("it runs");
    // Once it is calm: while it serves a request, it has a descriptor for it.
    let fds = |node: &Node, want: &[String]| {
        eventually(WAIT, || descriptors(pid(node)) == want);
        descriptors(pid(node))
    };
    // The first that was started on a node that was ready is the measure: it made what it found missing.
    lab.cluster.nodes[0].stop_agent(libc::SIGTERM);
    lab.cluster.nodes[0].start_agent();
    lab.node().wait_healthy(WAIT);
    lab.settled("at first");
    let before = footprint(lab.node());
    let mut least = descriptors(pid(lab.node()));
    eventually(Duration::from_secs(1), || {
        let now = descriptors(pid(lab.node()));
        let less = now.len() < least.len();
        if less {
            least = now;
        }
        false
    });
    let restarts = if long() { 100 } else { 10 };
    for n in 0..restarts {
        lab.cluster.nodes[0].stop_agent([libc::SIGTERM, libc::SIGKILL][n % 2]);
        lab.cluster.nodes[0].start_agent();
        lab.node().wait_healthy(WAIT);
    }
    lab.settled("after the restarts");
    let after = footprint(lab.node());
    assert_eq!(after.0, before.0, "pins");
    assert_eq!(after.1, before.1, "maps");
    assert_eq!(after.2, before.2, "files");
    assert_eq!(after.3, before.3, "the host");
    assert_eq!(fds(lab.node(), &least), least, "descriptors");
    // The same within one life: passes, requests, pods that come and go.
    for n in 0..restarts {
        let pod = lab.cluster.pod(0, &format!("guest{n}"), "app: guest");
        lab.cluster.detach(pod);
        lab.node().status();
    }
    lab.settled("after the pods");
    assert_eq!(fds(lab.node(), &least), least, "descriptors after {restarts} pods");
    let after = footprint(lab.node());
    assert_eq!((after.0, after.1), (before.0, before.1), "pins and maps after {restarts} pods");
    none_broken(&flows, "after the restarts", lab.node());
    all_well(flows, &stop);
    eprintln!("{restarts} restarts and {restarts} pods: {} descriptors, as before", least.len());
}

/// Sets the agent's limit of open descriptors (soft).
fn limit(pid: u32, most: u64) {
    let command = format!("prlimit --pid {pid} --nofile={most}:");
    let output = Command::new("sh").args(["-c", &command]).output().expect("sh is installed");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_agent_without_descriptors_neither_dies_nor_spins_and_goes_on_when_it_has_some() {
    let lab = Lab::new();
    let stop = Arc::new(AtomicBool::new(false));
    let flows = lab.flows(&stop);
    let node = lab.node();
    let pid = node.agent_pid().expect("it runs");
    let since = node.log().len();
    // The next would have the lowest free number.
    let free =
        (0..).find(|n| !Path::new(&format!("/proc/{pid}/fd/{n}")).exists()).expect("not all are taken");
    limit(pid, free);
    // Something to do, which it cannot.
    lab.cluster.write(
        "more.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: more, namespace: default}}\nspec: {{clusterIP: 10.96.0.11, \
             selector: {{app: server}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
        ),
    );
    let told = || node.log()[since..].contains("Too many open files");
    assert!(eventually(WAIT, told), "{}", node.log_tail());
    std::thread::sleep(Duration::from_secs(3));
    let lines = node.log()[since..].lines().count();
    assert!(lines < 60, "{lines} lines of log in 3 s:\n{}", node.log_tail());
    assert!(lab.works(), "the datapath needs no agent");
    none_broken(&flows, "without descriptors", node);
    limit(pid, 1024);
    node.wait_healthy(WAIT);
    let reached = || tcp(&lab.client.netns, literal("10.96.0.11"), 80).is_some();
    assert!(eventually(WAIT, reached), "{}", node.log_tail());
    lab.settled("with descriptors again");
    assert_eq!(node.agent_pid(), Some(pid));
    assert!(!node.log().contains("panicked"), "{}", node.log_tail());
    all_well(flows, &stop);
}
