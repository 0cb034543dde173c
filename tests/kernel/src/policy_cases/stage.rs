//! Where policy cases are played: a cluster of two nodes, namespaces with the same four pods each, two
//! more namespaces, and two hosts of the world behind a router. And what `cilium monitor` told meanwhile.
//!
//! Never decides what is right: it sends, and says what came of it.

use super::{End, Probe, Proto};
use crate::cluster::{Node, OUTSIDE_V4, OUTSIDE_V6};
use crate::probe::{ask_tcp, ask_udp, eventually, scaled, serve};
use crate::{Cluster, Netns, Options, Pod};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Ports that everyone serves, TCP and UDP.
pub const PORTS: [u16; 3] = [80, 443, 8080];

/// How long an event may take to reach a reader, and an agent to act on a file.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Four pods of one namespace.
#[derive(Debug)]
struct Lane {
    namespace: String,
    web: Pod,
    near: Pod,
    far: Pod,
    odd: Pod,
}

/// A host of the world.
#[derive(Debug)]
struct Far {
    netns: Netns,
    ipv4: IpAddr,
    ipv6: IpAddr,
}

/// The cluster with everyone in it. The monitors end before the agents do.
#[derive(Debug)]
pub struct Stage {
    monitors: Vec<Monitor>,
    lanes: Vec<Lane>,
    blue: Pod,
    green: Pod,
    world: [Far; 2],
    /// The cluster.
    pub cluster: Cluster,
}

/// A dropped packet, as `cilium monitor -o json` told it.
#[derive(Clone, Debug)]
pub struct Drop {
    /// Number of the reason.
    pub reason: u64,
    /// Name and address of the sender.
    pub source: (Option<String>, IpAddr),
    /// Name and address of the receiver.
    pub destination: (Option<String>, IpAddr),
    /// Port it was sent to.
    pub port: Option<u64>,
    /// Protocol, as `TCP SYN` or `ICMPv4 EchoRequest`.
    pub l4: String,
    /// The rule that decided, if one did.
    pub rule: Option<String>,
}

impl Drop {
    fn read(event: &Value) -> Option<Self> {
        if event["type"] != "drop" {
            return None;
        }
        let end =
            |end: &Value| Some((end["name"].as_str().map(str::to_owned), end["ip"].as_str()?.parse().ok()?));
        Some(Self {
            reason: event["reason"].as_u64()?,
            source: end(&event["source"])?,
            destination: end(&event["destination"])?,
            port: event["destination"]["port"].as_u64(),
            l4: event["l4"].as_str()?.to_owned(),
            rule: event["rule"].as_str().map(str::to_owned),
        })
    }
}

/// A running `cilium monitor -o json`.
#[derive(Debug)]
struct Monitor {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Monitor {
    fn start(node: &Node) -> Self {
        let mut child = node
            .netns
            .command(crate::cluster::binary("cilium"))
            .arg("--config")
            .arg(node.config())
            .args(["monitor", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the monitor");
        let events = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let seen = events.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("the monitor writes one JSON object a line");
                seen.lock().expect("no reader panics").push(event);
            }
        });
        Self { child, events }
    }
}

impl std::ops::Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    /// Sets up `lanes` namespaces `lane0`, `lane1`, … and everyone else.
    pub fn set(options: &Options, lanes: usize) -> Self {
        let cluster = Cluster::start(options);
        let mut namespaces = String::new();
        let mut namespace = |name: &str, labels: &str| {
            namespaces.push_str(&format!(
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
            ));
        };
        for n in 0..lanes {
            namespace(&format!("lane{n}"), "kind: lane");
        }
        namespace("blue", "team: blue");
        namespace("green", "team: green, trust: low");
        cluster.write("namespaces.yaml", &namespaces);
        let pod = |node: usize, name: &str, labels: &str| {
            let pod = cluster.pod(node, name, labels);
            for port in PORTS {
                serve(&pod.netns, name, port);
            }
            let (router, home) = (&cluster.outside, &cluster.nodes[node]);
            router.ip(&format!("route add {} via {}", pod.ipv4, home.ipv4));
            router.ip(&format!("-6 route add {} via {}", pod.ipv6, home.ipv6));
            pod
        };
        let lanes = (0..lanes)
            .map(|n| Lane {
                namespace: format!("lane{n}"),
                web: pod(0, &format!("lane{n}/web"), "app: web, tier: back"),
                near: pod(0, &format!("lane{n}/near"), "app: near, tier: front, env: prod"),
                far: pod(1, &format!("lane{n}/far"), "app: far, tier: front, env: test"),
                odd: pod(1, &format!("lane{n}/odd"), "app: odd, tier: back"),
            })
            .collect();
        let (blue, green) = (pod(0, "blue/guest", "app: guest"), pod(1, "green/guest", "app: guest"));
        for node in &cluster.nodes {
            for port in PORTS {
                serve(&node.netns, &node.name, port);
            }
        }
        let world = [
            beyond(
                &cluster,
                "out-a",
                ["203.0.113.1/25", "203.0.113.10/25"],
                ["2001:db8:1:a::1", "2001:db8:1:a::10"],
            ),
            beyond(
                &cluster,
                "out-b",
                ["203.0.113.129/25", "203.0.113.200/25"],
                ["2001:db8:1:f::1", "2001:db8:1:f::10"],
            ),
        ];
        let monitors = cluster.nodes.iter().map(Monitor::start).collect();
        let stage = Self { monitors, lanes, blue, green, world, cluster };
        stage.cluster.settle();
        stage.wait_for_monitors();
        stage
    }

    /// Until each reader has told of some packet: from then on it misses none.
    fn wait_for_monitors(&self) {
        for (monitor, end) in self.monitors.iter().zip([End::Near, End::Far]) {
            let probe = Probe { from: end, to: End::Web, proto: Proto::Icmp, v6: false };
            let told = || {
                self.ask(0, probe);
                !monitor.events.lock().expect("no reader panics").is_empty()
            };
            assert!(eventually(PATIENCE, told), "the monitor tells nothing");
        }
    }

    /// Namespace of a lane.
    pub fn namespace(&self, lane: usize) -> &str {
        &self.lanes[lane].namespace
    }

    /// Namespace to send from, name to be known by, and addresses.
    fn who<'a>(&'a self, lane: usize, end: End) -> (&'a Netns, Option<&'a str>, [IpAddr; 2]) {
        let lane = &self.lanes[lane];
        let pod = |p: &'a Pod| (&p.netns, Some(p.name.as_str()), [p.ipv4, p.ipv6]);
        let node = |n: usize| {
            let node = &self.cluster.nodes[n];
            (&node.netns, Some(node.name.as_str()), [node.ipv4, node.ipv6])
        };
        let far = |n: usize| {
            let far = &self.world[n];
            (&far.netns, None, [far.ipv4, far.ipv6])
        };
        match end {
            End::Web => pod(&lane.web),
            End::Near => pod(&lane.near),
            End::Far => pod(&lane.far),
            End::Odd => pod(&lane.odd),
            End::Blue => pod(&self.blue),
            End::Green => pod(&self.green),
            End::Host1 => node(0),
            End::Host2 => node(1),
            End::OutA => far(0),
            End::OutB => far(1),
        }
    }

    /// Namespace an end sends from.
    pub fn netns(&self, lane: usize, end: End) -> &Netns {
        self.who(lane, end).0
    }

    /// Address of an end.
    pub fn address(&self, lane: usize, end: End, v6: bool) -> IpAddr {
        self.who(lane, end).2[usize::from(v6)]
    }

    /// Whether the right one answers, with the patience of all probes.
    pub fn ask(&self, lane: usize, probe: Probe) -> bool {
        self.ask_within(lane, probe, crate::probe::PATIENCE)
    }

    /// Whether the right one answers in time.
    pub fn ask_within(&self, lane: usize, probe: Probe, patience: Duration) -> bool {
        let (netns, _, _) = self.who(lane, probe.from);
        let (_, name, addresses) = self.who(lane, probe.to);
        let to = addresses[usize::from(probe.v6)];
        let answer = match probe.proto {
            Proto::Icmp => {
                let ping = format!("ping -n -q -c 1 -W {:.3} {to}", scaled(patience).as_secs_f64());
                return netns.shell(&ping).status.success();
            }
            Proto::Tcp(port) => netns.enter(|| ask_tcp(SocketAddr::new(to, port), patience)),
            Proto::Udp(port) => netns.enter(|| ask_udp(SocketAddr::new(to, port), patience)),
        };
        let want = name.unwrap_or(if probe.to == End::OutA { "out-a" } else { "out-b" });
        answer.is_some_and(|answer| {
            assert_eq!(answer.server, want, "{probe} was answered by another");
            true
        })
    }

    /// Drops told of since the last [`Self::forget`].
    pub fn drops(&self) -> Vec<Drop> {
        let of = |monitor: &Monitor| -> Vec<Drop> {
            monitor.events.lock().expect("no reader panics").iter().filter_map(Drop::read).collect()
        };
        self.monitors.iter().flat_map(of).collect()
    }

    /// Forgets what the monitors told.
    pub fn forget(&self) {
        for monitor in &self.monitors {
            monitor.events.lock().expect("no reader panics").clear();
        }
    }

    /// Whether a drop is of this probe, with the right names on both ends.
    pub fn is_about(&self, lane: usize, probe: Probe, drop: &Drop) -> bool {
        let (_, from, sender) = self.who(lane, probe.from);
        let (_, to, receiver) = self.who(lane, probe.to);
        let family = usize::from(probe.v6);
        // A node sends to pods from its router address as well: there its name is what counts.
        let sent = probe.from.is_host() || drop.source.1 == sender[family];
        let proto = match (probe.proto, probe.v6) {
            (Proto::Tcp(port), _) => drop.l4.starts_with("TCP") && drop.port == Some(port.into()),
            (Proto::Udp(port), _) => drop.l4 == "UDP" && drop.port == Some(port.into()),
            (Proto::Icmp, false) => drop.l4 == "ICMPv4 EchoRequest",
            (Proto::Icmp, true) => drop.l4 == "ICMPv6 EchoRequest",
        };
        sent && proto
            && drop.destination.1 == receiver[family]
            && drop.source.0.as_deref() == from
            && drop.destination.0.as_deref() == to
    }

    /// Waits until the plan of every node is empty, all at once.
    pub fn settle(&self) {
        std::thread::scope(|scope| {
            for node in &self.cluster.nodes {
                scope.spawn(move || {
                    assert!(
                        eventually(PATIENCE, || node.plan_is_empty()),
                        "{} does not settle:\n{}\n{}",
                        node.name,
                        String::from_utf8_lossy(&node.cilium(&["plan"]).stdout),
                        node.log_tail()
                    );
                });
            }
        });
    }

    /// Writes a manifest, and waits until it is in force.
    pub fn put(&self, file: &str, yaml: &str) {
        self.cluster.write(file, yaml);
        self.settle();
    }

    /// Removes a manifest, and waits until it is out of force.
    pub fn take(&self, file: &str) {
        self.cluster.remove(file);
        self.settle();
    }
}

impl End {
    fn is_host(self) -> bool {
        matches!(self, Self::Host1 | Self::Host2)
    }
}

/// A host behind the cluster's outside host, which routes for it. First the router's address, then its own.
fn beyond(cluster: &Cluster, name: &str, v4: [&str; 2], v6: [&str; 2]) -> Far {
    let router = &cluster.outside;
    let netns = Netns::new(name);
    netns.ip(&format!("link add eth0 type veth peer name {name} netns {}", router.name()));
    for (netns, link, n) in [(router, name, 0), (&netns, "eth0", 1)] {
        netns.ip(&format!("addr add {} dev {link}", v4[n]));
        netns.ip(&format!("-6 addr add {}/64 dev {link} nodad", v6[n]));
        netns.ip(&format!("link set {link} up"));
    }
    let bare = |cidr: &str| -> IpAddr {
        cidr.split('/').next().and_then(|ip| ip.parse().ok()).expect("a literal prefix")
    };
    netns.ip(&format!("route add default via {}", bare(v4[0])));
    netns.ip(&format!("-6 route add default via {}", v6[0]));
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
    assert!(router.shell(forward).status.success(), "{OUTSIDE_V4} and {OUTSIDE_V6} become a router");
    for port in PORTS {
        serve(&netns, name, port);
    }
    Far { ipv4: bare(v4[1]), ipv6: v6[1].parse().expect("a literal address"), netns }
}
