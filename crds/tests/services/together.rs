//! Hostile Services and slices beside healthy ones, read, lowered and compiled together. Who wants what is
//! worked out here a second time, the plain way: every frontend that somebody may have is there and its owner's,
//! nobody else's is; who is told of a conflict; and that neither the order of files nor that of their coming
//! matters.

use super::mutate::{Edit, edit, mutate, size, templates};
use cilium_crds::lower::{Facts, LowerOptions, Pieces, combine};
use cilium_crds::object::{Object, Reading};
use cilium_crds::read_file;
use cilium_engine::check::{check, lint};
use cilium_engine::compile::{Compiled, Compiler, IdBook, ServiceView, compile};
use cilium_engine::config::{Config, InvalidPolicy};
use cilium_engine::state::{FrontendKey, LinkName, Mac, Protocol, SlotKey, SourceSet, State};
use cilium_engine::world::{
    Allocation, FrontendKind, HostDevice, IpFamily, Node, NodeAddress, NodeAddressKind, ObjectName, Service,
    TrafficPolicy, World,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODE: [&str; 2] = ["192.168.0.1", "fd11::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn config() -> Config {
    let mut config = Config::default();
    config.node.name = "n1".into();
    config.ipv6.enabled = true;
    config.load_balancer.health_check_load_balancer_ips = true;
    config
}

fn read(text: &str) -> Vec<Arc<Object>> {
    let file = read_file(text.as_bytes(), "f.yaml");
    let object = |reading| match reading {
        Reading::Object(object, _) => Some(Arc::new(*object)),
        Reading::Nameless(_) | Reading::Other(_) => None,
    };
    file.readings.into_iter().filter_map(object).collect()
}

fn pieces(objects: &[Arc<Object>]) -> Pieces {
    combine(objects, &LowerOptions { node_name: "n1".into(), invalid: InvalidPolicy::Isolate })
}

/// A node with one card, and these objects.
fn world(objects: &[Arc<Object>]) -> World {
    let Pieces { services, slices, pods, problems, .. } = pieces(objects);
    let mut world = World { synced: SourceSet::ALL, services, slices, pods, problems, ..World::default() };
    let prefixes = [format!("{}/24", NODE[0]), format!("{}/64", NODE[1])];
    world.host.devices.push(HostDevice {
        name: LinkName("eth0".into()),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        addresses: prefixes.iter().map(|text| text.parse().expect("a prefix")).collect(),
        default_route: true,
        is_veth: false,
    });
    let addresses =
        NODE.iter().map(|text| NodeAddress { kind: NodeAddressKind::InternalIp, ip: ip(text) }).collect();
    let pod_cidrs = ["10.1.0.0/24", "fd00:1::/64"].map(|text| text.parse().expect("a prefix")).into();
    world.nodes.insert("n1", Node { addresses, pod_cidrs, ..Node::default() });
    world
}

fn compiled(objects: &[Arc<Object>]) -> Compiled {
    let begun = Instant::now();
    let compiled = compile(&world(objects), &config(), &IdBook::default());
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
    compiled
}

// --- who wants what -----------------------------------------------------------------------------

type Spot = (IpAddr, u16, Protocol);
/// What decides: whether its age is unknown, its age, its name.
type Senior = (bool, Option<String>, ObjectName);

/// The spots a Service asks for.
fn wants(service: &Service) -> BTreeSet<Spot> {
    let served = service.unserved().is_none() && service.proxy_name.is_none();
    if !served || !service.on_node(&BTreeMap::new()) {
        return BTreeSet::new();
    }
    let everywhere = ["0.0.0.0", "::"].map(ip);
    let of_node: Vec<IpAddr> = NODE.map(ip).into_iter().chain(everywhere).collect();
    let [first, last] = config().load_balancer.node_port_range;
    let mut spots = BTreeSet::new();
    let mut want = |kind, addrs: &[IpAddr], port: u16, proto| {
        let in_family = addrs.iter().filter(|addr| service.in_family(IpFamily::of(**addr)));
        spots.extend(in_family.filter(|_| service.has(kind)).map(|addr| (*addr, port, proto)));
    };
    for port in &service.ports {
        want(FrontendKind::ClusterIp, &service.cluster_ips, port.port, port.proto);
        let balanced = service.load_balancer_ips(Allocation::AsWritten);
        want(FrontendKind::LoadBalancer, balanced, port.port, port.proto);
        want(FrontendKind::ExternalIp, &service.external_ips, port.port, port.proto);
        if let Some(number) = port.node_port.filter(|number| (first..=last).contains(number)) {
            want(FrontendKind::NodePort, &of_node, number, port.proto);
        }
    }
    if let Some(check) =
        service.health_check_node_port.filter(|_| service.external_policy == TrafficPolicy::Local)
    {
        let balanced = service.load_balancer_ips(Allocation::AsWritten);
        want(FrontendKind::LoadBalancer, balanced, check, Protocol::TCP);
    }
    spots
}

fn seniority(name: &ObjectName, service: &Service) -> Senior {
    (service.created.is_none(), service.created.as_ref().map(|at| at.0.clone()), name.clone())
}

/// All that want a spot, its owner first.
fn claims(objects: &[Arc<Object>]) -> BTreeMap<Spot, BTreeSet<Senior>> {
    let mut claims: BTreeMap<Spot, BTreeSet<Senior>> = BTreeMap::new();
    for (name, service) in &pieces(objects).services {
        let name = ObjectName::new(&name.namespace, &name.name);
        for spot in wants(service) {
            claims.entry(spot).or_default().insert(seniority(&name, service));
        }
    }
    claims
}

// --- what must hold -----------------------------------------------------------------------------

/// What a frontend says, but for numbers that were given out.
fn content(view: &ServiceView) -> String {
    let backends: Vec<_> = view.backends.iter().map(|b| (b.addr, b.port, b.terminating)).collect();
    let ServiceView { service, port_name, flags, affinity, count, .. } = view;
    format!("{service} {port_name} {flags:#x} {affinity} {count} {backends:?}")
}

fn contents(compiled: &Compiled) -> BTreeMap<String, String> {
    compiled.view.services.iter().map(|(key, view)| (key.to_string(), content(view))).collect()
}

fn sound_rows(state: &State) {
    assert_eq!(check(state), []);
    assert_eq!(lint(state), []);
    let unicast = |ip: IpAddr| !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast());
    let everywhere = |key: &FrontendKey| {
        let [first, last] = config().load_balancer.node_port_range;
        key.addr.is_unspecified() && (first..=last).contains(&key.port)
    };
    for (key, entry) in state.frontends.iter() {
        assert!(key.port > 0 && (unicast(key.addr) || everywhere(key)), "{key}");
        let behind: Vec<_> = (0..u32::from(entry.row.count))
            .map(|slot| *state.slots.find(&SlotKey { list: entry.row.list, slot }).expect("a whole list"))
            .collect();
        for id in behind {
            let backend = state.backends.find(&id).expect("a backend");
            assert!(backend.port > 0 && unicast(backend.addr), "{key}: {backend}");
            assert_eq!((backend.addr.is_ipv4(), backend.proto), (key.addr.is_ipv4(), key.proto), "{key}");
        }
    }
}

/// Frontends are there for those who may have them, and everybody concerned is told.
fn right_owners(objects: &[Arc<Object>], compiled: &Compiled) {
    let claims = claims(objects);
    let there: BTreeSet<Spot> =
        compiled.view.services.values().map(|view| (view.addr, view.port, view.proto)).collect();
    let wanted: BTreeSet<Spot> = claims.keys().copied().collect();
    assert_eq!(there, wanted);
    for view in compiled.view.services.values() {
        let (_, _, owner) = claims[&(view.addr, view.port, view.proto)].first().expect("somebody wants it");
        assert_eq!(view.service.to_string(), owner.to_string(), "{view:?}");
    }
    let told: BTreeSet<(&str, &str)> =
        compiled.problems.iter().map(|p| (p.origin.object.as_str(), p.message.as_str())).collect();
    let told = |who: &ObjectName, what: &str, whom: &ObjectName| {
        let (who, whom) = (format!("Service {who}"), format!("Service {whom} "));
        let about =
            |(object, message): &(&str, &str)| *object == who && format!("{message} ").contains(&whom);
        let whole = |(_, message): &(&str, &str)| message.contains(what);
        assert!(told.iter().any(|one| about(one) && whole(one)), "{who}: {what} {whom}: {told:#?}");
    };
    let mut pairs = BTreeSet::new();
    for seniors in claims.values() {
        let mut names = seniors.iter().map(|(_, _, name)| name);
        let owner = names.next().expect("somebody wants it");
        pairs.extend(names.map(|other| (owner, other)));
    }
    for (owner, other) in pairs {
        told(other, "already belongs to", owner);
        told(owner, "is also wanted by", other);
    }
}

// --- what is drawn ------------------------------------------------------------------------------

fn healthy() -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "healthy", "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ipFamilyPolicy": "RequireDualStack", "externalIPs": ["198.51.100.1"],
            "externalTrafficPolicy": "Local",
            "ports": [
                {"name": "http", "port": 80, "nodePort": 30_080, "targetPort": 8080},
                {"name": "dns", "port": 53, "nodePort": 30_053, "protocol": "UDP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    let slice = |family: &str, ips: [&str; 2]| {
        let endpoints = ips.map(|ip| json!({"addresses": [ip], "nodeName": "n1"}));
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "name": format!("healthy-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "healthy"},
            },
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        })
    };
    let items = [service, slice("IPv4", ["10.1.0.1", "10.2.0.9"]), slice("IPv6", ["fd00:1::1", "fd00:2::9"])];
    json!({"kind": "List", "items": items}).to_string()
}

/// A Service that may ask for what others ask for, of any age, before its edits.
fn wanting(name: &str, draw: u32) -> Value {
    let [mut service, ..] = templates();
    let pick = |shift: u32, of: u32| (draw >> shift) % of;
    service["metadata"]["name"] = json!(name);
    service["metadata"]["labels"] = json!({});
    let annotations = service["metadata"]["annotations"].as_object_mut().expect("a mapping");
    annotations.remove("service.cilium.io/node-selector");
    if pick(0, 4) > 0 {
        annotations.remove("service.cilium.io/type");
    }
    if pick(2, 4) == 0 {
        service["metadata"].as_object_mut().expect("a mapping").remove("creationTimestamp");
    } else {
        service["metadata"]["creationTimestamp"] = json!(format!("2026-03-0{}T10:00:00Z", 1 + pick(4, 4)));
    }
    let spec = &mut service["spec"];
    let ips = [format!("10.96.0.{}", 1 + pick(6, 3)), format!("fd00::{}", 1 + pick(8, 3))];
    spec["clusterIP"] = json!(ips[0]);
    spec["clusterIPs"] = json!(ips);
    for (at, port) in spec["ports"].as_array_mut().expect("a list").iter_mut().enumerate() {
        port["nodePort"] = json!(30_080 + pick(10, 3) + u32::try_from(at).expect("few"));
    }
    if pick(12, 2) == 0 {
        spec["externalIPs"] = json!(["198.51.100.1", NODE[0]]);
    }
    if pick(13, 4) == 0 {
        // A port that is another's NodePort, on an address of the node.
        spec["ports"][0]["port"] = json!(30_080 + pick(15, 3));
    }
    service
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, Edit)>> {
    let some = prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4);
    prop_oneof![1 => Just(Vec::new()), 2 => some]
}

/// Files of one object each.
fn files() -> impl Strategy<Value = Vec<String>> {
    let one = (any::<u32>(), edits(), edits());
    prop::collection::vec(one, 1..5).prop_map(|drawn| {
        let mut files = Vec::new();
        for (n, (draw, of_service, of_slice)) in drawn.into_iter().enumerate() {
            let name = format!("s{n}");
            let mut service = wanting(&name, draw);
            mutate(&mut service, &of_service);
            let [_, mut slice, _] = templates();
            slice["metadata"]["name"] = json!(format!("{name}-1"));
            slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
            mutate(&mut slice, &of_slice);
            files.extend([service, slice].iter().filter(|o| size(o) < 20_000).map(Value::to_string));
        }
        files
    })
}

/// The first of each name; which of several counts is a matter of the folder.
fn distinct(objects: Vec<Arc<Object>>) -> Vec<Arc<Object>> {
    let mut seen = BTreeSet::new();
    objects.into_iter().filter(|o| seen.insert((o.header.kind, o.header.name.clone()))).collect()
}

fn judge(healthy: &[Arc<Object>], hostile: &[Arc<Object>], order: &[prop::sample::Index]) {
    let all: Vec<_> = distinct(healthy.iter().chain(hostile).cloned().collect());
    let whole = compiled(&all);
    sound_rows(&whole.desired.state);
    right_owners(&all, &whole);
    let meddles = |o: &Arc<Object>| matches!(&o.facts, Facts::Slice(slice) if slice.service == "healthy");
    if !hostile.iter().any(meddles) {
        // The oldest: it has all it asks for, with its own backends.
        let beside = contents(&whole);
        for (key, content) in contents(&compiled(healthy)) {
            assert_eq!(beside.get(&key), Some(&content), "{key}");
        }
    }
    // Any order at once.
    let mut shuffled = all.clone();
    for (at, with) in order.iter().enumerate().take(shuffled.len()) {
        let with = with.index(shuffled.len());
        shuffled.swap(at, with);
    }
    let other = compiled(&shuffled);
    assert_eq!(whole.desired, other.desired);
    assert_eq!(whole.problems, other.problems);
    // And one after the other.
    let (mut compiler, mut book, mut last) = (Compiler::default(), IdBook::default(), Compiled::default());
    for n in 1..=shuffled.len() {
        last = compiler.compile(&world(&shuffled[..n]), &config(), &book);
        book = last.book.clone();
    }
    sound_rows(&last.desired.state);
    assert_eq!(contents(&whole), contents(&last));
    assert_eq!(whole.problems, last.problems);
}

proptest! {
    #![proptest_config(super::config(120))]

    #[test]
    fn hostile_objects_harm_nobody_beside_them(
        files in files(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 16),
    ) {
        let hostile: Vec<_> = files.iter().flat_map(|text| read(text)).collect();
        judge(&read(&healthy()), &hostile, &order);
    }
}

/// Files that found something once.
#[test]
fn what_was_found_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/found");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is part of the crate") {
        let path = entry.expect("a readable entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let objects = read(&text);
        assert!(!objects.is_empty(), "{}", path.display());
        judge(&read(&healthy()), &objects, &[]);
        seen += 1;
    }
    assert!(seen > 0, "no file in {}", folder.display());
}
