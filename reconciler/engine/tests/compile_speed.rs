//! How long a compilation takes in a large cluster: printed for people, and gated only by ratios to other
//! work of the same run. The full size is for release builds.
//!
//! `cargo test --release -p cilium-engine --test compile_speed -- --nocapture`

use cilium_engine::compile::{Compiled, Compiler, IdBook, compile};
use cilium_engine::config::Config;
use cilium_engine::state::*;
use cilium_engine::world::*;
use std::net::IpAddr;
use std::time::Duration;

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
    Place { file: format!("shop/{n}.yaml"), line: 3 }
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
    });
    for n in 1..=200u8 {
        let ip = IpAddr::from([192, 168, 0, n]);
        let cidr = format!("10.{n}.0.0/16").parse().expect("a prefix");
        let addresses = vec![NodeAddress { kind: NodeAddressKind::InternalIp, ip }];
        world.nodes.insert(format!("n{n}"), Node { addresses, pod_cidrs: vec![cidr], ..Node::default() });
    }
    for n in 0..size.identities {
        world.claims.push(IdentityClaim {
            number: IdentityId(1000 + n),
            labels: labels(n % size.policies, n),
            published_by: Some("n2".into()),
            place: place(n),
        });
    }
    for n in 0..size.remote_endpoints {
        let node = 2 + n % 199;
        let number = n % size.identities;
        let endpoint = RemoteEndpoint {
            ips: vec![addr(10, (node << 16) + n / 199 + 2)],
            identity: IdentityId(1000 + number),
            labels: labels(number % size.policies, number),
            node_ip: Some(addr(192, 0xa8_0000 + node)),
            node_name: Some(format!("n{node}")),
            ports: Vec::new(),
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
        world.rules.push(PolicyRule {
            origin: Origin {
                object: format!("CiliumNetworkPolicy shop/policy{n}"),
                place: place(n).to_string(),
                rule: String::new(),
            },
            subject: Subject::Endpoints(having("app", format!("app{n}"))),
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
            service: name.name.clone(),
            ports: vec![SlicePort { name: String::new(), port: 8080, proto: Protocol::TCP }],
            endpoints: (0..3).map(|i| BackendAddress::ready(at(n * 3 + i))).collect(),
            weight: None,
            place: place(n),
        };
        world.slices.insert(name, slice);
    }
    world
}

/// Time this thread has had on a processor: others on the machine do not count.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// The least of a few runs, and the value of the last one.
fn fastest<T>(mut what: impl FnMut() -> T) -> (Duration, T) {
    let mut run = || {
        let start = on_processor();
        let value = what();
        (on_processor().saturating_sub(start), value)
    };
    let least = (0..6).map(|_| run().0).min().expect("six runs");
    let (last, value) = run();
    (least.min(last), value)
}

#[test]
fn a_large_cluster_compiles_in_time() {
    let (size, config) = (size(), config());
    let mut world = world(size);
    let (cold, first): (_, Compiled) = fastest(|| compile(&world, &config, &IdBook::default()));
    let (warm, second) = fastest(|| compile(&world, &config, &first.book));
    let rows = second.desired.state.len();
    println!("{size:?}: {rows} rows; whole compile cold {cold:?}, warm {warm:?}");
    assert!(first.problems.is_empty(), "{:?}", first.problems.first());

    let mut compiler = Compiler::default();
    drop(compiler.compile(&world, &config, &first.book));
    let (same, _) = fastest(|| compiler.compile(&world, &config, &first.book));
    let mut line = 10;
    let (service, _) = fastest(|| {
        line += 1;
        world.services.values_mut().next().expect("a Service").place.line = line;
        compiler.compile(&world, &config, &first.book)
    });
    let (pod, _) = fastest(|| {
        line += 1;
        world.endpoints.values_mut().next().expect("a pod").container_id = format!("container{line}");
        compiler.compile(&world, &config, &first.book)
    });
    println!("keyed: nothing new {same:?}, one Service {service:?}, one pod {pod:?}");
    // Far from what it is, so that a busy machine is no failure; lost memory is.
    assert!(same < warm * 4 / 5, "nothing new {same:?}, whole {warm:?}");
}
