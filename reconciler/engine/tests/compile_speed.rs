//! How long a compilation takes in a large cluster: printed for people, and gated only by ratios to other
//! work of the same run. The full size is for release builds.
//!
//! `cargo test --release -p cilium-engine --test compile_speed -- --nocapture`

use cilium_engine::compile::{Compiled, Compiler, IdBook, compile};
use cilium_engine::config::Config;
use cilium_engine::diff::diff;
use cilium_engine::fake::FakeKernel;
use cilium_engine::map::{Map, Rarely};
use cilium_engine::realise::observe;
use cilium_engine::scope::Scopes;
use cilium_engine::shared::Shared;
use cilium_engine::state::*;
use cilium_engine::world::*;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How large a cluster.
#[derive(Clone, Copy, Debug)]
struct Size {
    services: u32,
    remote_endpoints: u32,
    identities: u32,
    endpoints: u16,
    policies: u32,
}

const FULL: Size =
    Size { services: 10_000, remote_endpoints: 50_000, identities: 10_000, endpoints: 100, policies: 100 };
const SMALL: Size =
    Size { services: 300, remote_endpoints: 1_500, identities: 300, endpoints: 20, policies: 20 };

fn size() -> Size {
    if cfg!(debug_assertions) { SMALL } else { FULL }
}

fn addr(first: u8, n: u32) -> IpAddr {
    let [_, a, b, c] = n.to_be_bytes();
    IpAddr::from([first, a, b, c])
}

fn place(n: u32) -> Place {
    Place { file: format!("shop/{n}.yaml").into(), line: 3 }
}

fn labels(app: u32, own: u32) -> Labels {
    Labels::default()
        .with("k8s", "io.kubernetes.pod.namespace", "shop")
        .with("k8s", "io.cilium.k8s.policy.cluster", "default")
        .with("k8s", "io.cilium.k8s.policy.serviceaccount", "default")
        .with("k8s", "app", &format!("app{app}"))
        .with("k8s", "own", &own.to_string())
}

fn having(key: &str, value: String) -> Selector {
    let operator = Operator::In([value].into());
    Selector { requirements: vec![Requirement { label: Label::new("k8s", key), operator }] }
}

fn config() -> Config {
    let mut config = Config::default();
    config.node.name = "n1".into();
    config.bpf.policy_max = 1 << 17;
    config
}

fn world(size: Size) -> World {
    let mut world = World { synced: SourceSet::ALL, ..World::default() };
    world.host.devices.push(HostDevice {
        name: LinkName("eth0".into()),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        addresses: vec!["192.168.0.1/16".parse().expect("a prefix")],
        default_route: true,
        is_veth: false,
    });
    for n in 1..=200u8 {
        let ip = IpAddr::from([192, 168, 0, n]);
        let cidr = format!("10.{n}.0.0/16").parse().expect("a prefix");
        let addresses = vec![NodeAddress { kind: NodeAddressKind::InternalIp, ip }];
        world.nodes.insert(format!("n{n}"), Node { addresses, pod_cidrs: vec![cidr], ..Node::default() });
    }
    // Sources hold the labels of an identity once.
    let labels: Vec<Shared<Labels>> =
        (0..size.identities).map(|n| labels(n % size.policies, n).into()).collect();
    for n in 0..size.identities {
        world.claims.add(IdentityClaim {
            number: IdentityId(1000 + n),
            labels: labels[n as usize].clone(),
            published_by: Some("n2".into()),
            place: place(n),
        });
    }
    for n in 0..size.remote_endpoints {
        let node = 2 + n % 199;
        let number = n % size.identities;
        let endpoint = RemoteEndpoint {
            ips: vec![addr(10, (node << 16) + n / 199 + 2)].into(),
            identity: IdentityId(1000 + number),
            labels: labels[number as usize].clone(),
            node_ip: Some(addr(192, 0xa8_0000 + node)),
            node_name: Some(format!("n{node}").into()),
            ports: Rarely::default(),
            place: place(n),
        };
        world.remote_endpoints.insert(ObjectName::new("shop", &format!("r{n}")), endpoint);
    }
    for n in 0..size.endpoints {
        let [high, low] = (n + 2).to_be_bytes();
        let pod = ObjectName::new("shop", &format!("p{n}"));
        let app = format!("app{}", u32::from(n) % size.policies);
        let labels = [("app".to_owned(), app), ("local".to_owned(), n.to_string())].into();
        world.pods.insert(pod.clone(), Pod { labels, ..Pod::default() });
        world.endpoints.insert(
            n + 2,
            EndpointRecord {
                id: n + 2,
                container_id: format!("container{n}"),
                network: "cilium".into(),
                ifname: "eth0".into(),
                netns: "/run/netns/x".into(),
                pod: Some(pod),
                pod_uid: None,
                labels: Default::default(),
                link: format!("lxc{n}"),
                mac: Mac([2, 0, 0, 1, high, low]),
                node_mac: Mac([2, 0, 0, 2, high, low]),
                ipv4: Some(IpAddr::from([10, 1, high, low])),
                ipv6: None,
                port_mappings: Default::default(),
            },
        );
    }
    for n in 0..size.policies {
        let clause = Clause {
            direction: Direction::Ingress,
            verdict: RuleVerdict::Allow,
            peers: PeerSet::Of(vec![Peer::Endpoints(having("app", format!("app{n}")))]),
            ports: PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first: 80, last: 80 }]),
            path: "ingress[0]".into(),
        };
        world.rules.add(PolicyRule {
            origin: Origin {
                object: format!("CiliumNetworkPolicy shop/policy{n}"),
                place: place(n).to_string(),
                rule: String::new(),
            },
            subject: Subject::Endpoints(having("app", format!("app{n}"))),
            rank: Rank::default(),
            default_deny: DefaultDeny { ingress: true, egress: false },
            clauses: vec![clause],
        });
    }
    for n in 0..size.services {
        let name = ObjectName::new("shop", &format!("s{n}"));
        let port = ServicePort {
            name: String::new(),
            port: 80,
            proto: Protocol::TCP,
            target: TargetPort::Number(80),
            node_port: None,
        };
        let service = Service {
            cluster_ips: vec![addr(172, n)],
            ports: vec![port],
            place: place(n),
            ..Service::default()
        };
        world.services.insert(name.clone(), service);
        let at = |i: u32| addr(10, ((2 + i % 199) << 16) + i / 199 + 2);
        let slice = EndpointSlice {
            service: name.name.to_string(),
            ports: vec![SlicePort { name: String::new(), port: 8080, proto: Protocol::TCP }],
            endpoints: (0..3).map(|i| BackendAddress::ready(at(n * 3 + i))).collect(),
            weight: None,
            place: place(n),
        };
        world.slices.insert(name, slice);
    }
    world
}

/// The least of a few runs, and the value of the last one: others on the machine only add.
fn fastest<T>(runs: usize, mut what: impl FnMut() -> T) -> (Duration, T) {
    let mut run = || {
        let start = Instant::now();
        let value = what();
        (start.elapsed(), value)
    };
    let least = (0..runs).map(|_| run().0).min().expect("some runs");
    let (last, value) = run();
    (least.min(last), value)
}

/// What a pass does between reading its sources and writing: compile, ask what to look at, compare.
struct Passes {
    compiler: Compiler,
    config: Config,
    last: Compiled,
}

impl Passes {
    fn pass(&mut self, world: &World) -> usize {
        let now = self.compiler.compile(world, &self.config, &self.last.book);
        let scopes = Scopes::between(&self.last.desired.state, &now.desired.state);
        // The kernel holds what was wanted last.
        let mut kernel = FakeKernel::with(self.last.desired.state.clone());
        let plan = diff(&now.desired, &observe(&mut kernel, &scopes));
        self.last = now;
        plan.len()
    }

    /// The fastest of a few passes, each after another change.
    fn after(&mut self, world: &mut World, mut change: impl FnMut(&mut World, u32)) -> (Duration, usize) {
        let mut least = Duration::MAX;
        let mut steps = 0;
        for n in 1..=12 {
            change(world, n);
            let start = Instant::now();
            steps = self.pass(world);
            least = least.min(start.elapsed());
        }
        (least, steps)
    }
}

fn change<K: Ord + Clone, V: Clone>(map: &mut Map<K, Shared<V>>, nth: usize, change: impl FnOnce(&mut V)) {
    let key = map.keys().nth(nth).expect("there are so many").clone();
    change(map.get_mut(&key).expect("just seen"));
}

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// One identity more, and an endpoint that has it.
fn newcomer(world: &mut World, n: u32, app: u32) {
    let labels = Shared::from(labels(app, 1_000_000 + n));
    let number = IdentityId(40_000 + n);
    world.claims.add(IdentityClaim {
        number,
        labels: labels.clone(),
        published_by: Some("n2".into()),
        place: place(n),
    });
    let endpoint = RemoteEndpoint {
        ips: vec![addr(10, (2 << 16) + 50_000 + n)].into(),
        identity: number,
        labels,
        node_ip: Some(addr(192, 0xa8_0002)),
        node_name: Some("n2".into()),
        ports: Rarely::default(),
        place: place(n),
    };
    world.remote_endpoints.insert(ObjectName::new("shop", &format!("new{n}")), endpoint);
}

#[test]
fn a_pass_costs_what_has_changed() {
    let (size, config) = (size(), config());
    let empty = resident();
    let mut world = world(size);
    println!("{size:?}: the world takes {:.1} MiB", resident() - empty);
    let before = resident();
    let mut compiler = Compiler::default();
    let first = compiler.compile(&world, &config, &IdBook::default());
    println!("a compiler and its result take {:.1} MiB", resident() - before);
    assert!(first.problems.is_empty(), "{:?}", first.problems.iter().next());
    let (cold, _) = fastest(4, || compile(&world, &config, &IdBook::default()));
    let (warm, _) = fastest(4, || compile(&world, &config, &first.book));
    println!("{} rows; whole compile cold {cold:?}, warm {warm:?}", first.desired.state.len());

    let mut passes = Passes { compiler, config, last: first };
    let (same, _) = passes.after(&mut world, |_, _| ());
    let middle = size.services as usize / 2;
    let slice = passes.after(&mut world, |world, n| {
        change(&mut world.slices, middle, |slice| {
            let ip = addr(10, (3 << 16) + 60_000 + n);
            slice.endpoints[1] = BackendAddress::ready(ip);
        });
    });
    let pod = passes.after(&mut world, |world, n| {
        let mut record = world.endpoints[&2].clone();
        let id = 1000 + u16::try_from(n).expect("few");
        let name = ObjectName::new("shop", &format!("added{n}"));
        record.id = id;
        record.link = format!("lxcadded{n}");
        record.pod = Some(name.clone());
        record.ipv4 = Some(addr(10, 0x1_f000 + n));
        let labels = [("app".to_owned(), "app7".to_owned()), ("local".to_owned(), format!("new{n}"))];
        world.pods.insert(name, Pod { labels: labels.into(), ..Pod::default() });
        world.endpoints.insert(id, record);
    });
    let place = passes.after(&mut world, |world, n| {
        change(&mut world.services, middle, |service| service.place.line = 100 + n);
    });
    let identity = passes.after(&mut world, |world, n| newcomer(world, n, 3));
    println!(
        "a pass with nothing new {same:?}; with a slice {slice:?}, a pod {pod:?}, a Service moved in its file \
         {place:?}, an identity {identity:?}"
    );
    assert_eq!((slice.1, place.1), (9, 0));
    // Far from what it is, so that a busy machine is no failure; work that grows with all there is, is.
    for (what, (took, _)) in [("a slice", slice), ("a pod", pod), ("an identity", identity)] {
        assert!(took < warm / 5, "{what}: {took:?}, a whole compilation {warm:?}");
    }
}

/// The same with an identity that every local pod's policy selects, each by a policy of its own.
#[test]
fn an_identity_is_told_to_all_who_select_it() {
    let (mut size, mut config) = (size(), config());
    (size.services, size.policies) = (10, u32::from(size.endpoints));
    config.bpf.policy_max = 1 << 22;
    let mut world = world(size);
    world.rules = Default::default();
    for n in 0..size.policies {
        let peers = |key: &str| PeerSet::Of(vec![Peer::Endpoints(having(key, "shop".into()))]);
        let clause = Clause {
            direction: Direction::Ingress,
            verdict: RuleVerdict::Allow,
            peers: peers("io.kubernetes.pod.namespace"),
            ports: PortSet::Of(vec![PortMatch { proto: Protocol::TCP, first: 80, last: 80 }]),
            path: format!("ingress[{n}]"),
        };
        world.rules.add(PolicyRule {
            origin: Origin { object: format!("policy {n}"), place: String::new(), rule: String::new() },
            subject: Subject::Endpoints(having("local", n.to_string())),
            rank: Rank::default(),
            default_deny: DefaultDeny { ingress: true, egress: false },
            clauses: vec![clause],
        });
    }
    let mut compiler = Compiler::default();
    let start = Instant::now();
    let first = compiler.compile(&world, &config, &IdBook::default());
    let whole = start.elapsed();
    let mut passes = Passes { compiler, config, last: first };
    let identity = passes.after(&mut world, |world, n| newcomer(world, n, 3));
    let rows = passes.last.desired.state.policies.len();
    println!("{rows} policy rows, made in {whole:?}; an identity for all of {} {identity:?}", size.endpoints);
    assert!(identity.1 >= 2 * usize::from(size.endpoints));
    assert!(identity.0 < whole / 5, "{identity:?}, whole {whole:?}");
}

#[test]
fn with_little_there_a_pod_is_attached_in_no_time() {
    let size = Size { services: 10, remote_endpoints: 20, identities: 10, endpoints: 5, policies: 5 };
    let mut world = world(size);
    let mut compiler = Compiler::default();
    let config = config();
    let first = compiler.compile(&world, &config, &IdBook::default());
    let mut passes = Passes { compiler, config, last: first };
    let (took, steps) = passes.after(&mut world, |world, n| {
        let mut record = world.endpoints[&2].clone();
        let id = 1000 + u16::try_from(n).expect("few");
        (record.id, record.link) = (id, format!("lxcadded{n}"));
        record.ipv4 = Some(addr(10, 0x1_f000 + n));
        world.endpoints.insert(id, record);
    });
    println!("with little there: a pod {took:?}, {steps} steps");
    assert!(steps > 4);
}
