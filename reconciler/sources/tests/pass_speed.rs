//! What a pass costs from the snapshot of the folder to the plan, in a large cluster, when one object has
//! changed: printed for people, and gated only by a ratio to the first pass. The full size is for release
//! builds.
//!
//! `cargo test --release -p cilium-sources --test pass_speed -- --nocapture`

use cilium_crds::kind::ObjectKind;
use cilium_crds::lower::{Facts, Header};
use cilium_crds::object::Object;
use cilium_engine::compile::{Compiled, Compiler};
use cilium_engine::config::Config;
use cilium_engine::diff::diff;
use cilium_engine::fake::FakeKernel;
use cilium_engine::map::Rarely;
use cilium_engine::realise::observe;
use cilium_engine::scope::Scopes;
use cilium_engine::shared::Shared;
use cilium_engine::state::{IdentityId, Mac, Protocol};
use cilium_engine::world::{
    BackendAddress, EndpointRecord, EndpointSlice, HostFacts, IdentityClaim, Labels, Node, NodeAddress,
    NodeAddressKind, ObjectName, Pod, RemoteEndpoint, Service, ServicePort, SlicePort, TargetPort,
};
use cilium_sources::folder::{Identity, ManifestFolder, Now, Objects, Snapshot};
use cilium_sources::records::Records;
use cilium_sources::world::Assembler;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const SERVICES: u32 = if cfg!(debug_assertions) { 200 } else { 10_000 };
const ENDPOINTS: u32 = if cfg!(debug_assertions) { 1_000 } else { 50_000 };
const IDENTITIES: u32 = if cfg!(debug_assertions) { 200 } else { 10_000 };
const PODS: u16 = if cfg!(debug_assertions) { 20 } else { 100 };

fn addr(first: u8, n: u32) -> IpAddr {
    let [_, a, b, c] = n.to_be_bytes();
    IpAddr::from([first, a, b, c])
}

fn object(kind: ObjectKind, namespace: &str, name: String, facts: Facts) -> Arc<Object> {
    let name = ObjectName::new(namespace, &name);
    let header = Header { kind, name: name.into(), published_by: None, place: Default::default() };
    Arc::new(Object { header, valid: true, facts, problems: Rarely::default() })
}

fn slice(n: u32, last: u32) -> Arc<Object> {
    let ready = |ip| BackendAddress::ready(ip);
    let slice = EndpointSlice {
        service: format!("s{n:05}"),
        ports: vec![SlicePort { name: String::new(), port: 8080, proto: Protocol::TCP }],
        endpoints: [n * 3, n * 3 + 1, last].map(|i| ready(addr(10, (2 << 16) + i))).into(),
        ..EndpointSlice::default()
    };
    object(ObjectKind::EndpointSlice, "shop", format!("s{n:05}"), Facts::Slice(slice.into()))
}

fn by_identity(objects: Vec<Arc<Object>>) -> Objects {
    objects.into_iter().map(|object| (Identity::of(&object.header).into(), object)).collect()
}

fn objects() -> Vec<Arc<Object>> {
    let mut objects = Vec::new();
    for n in 1..=2u8 {
        let addresses =
            vec![NodeAddress { kind: NodeAddressKind::InternalIp, ip: addr(192, 0xa8_0000 + u32::from(n)) }];
        let pod_cidrs = vec![format!("10.{n}.0.0/16").parse().expect("a prefix")];
        let node = Node { addresses, pod_cidrs, ..Node::default() };
        objects.push(object(ObjectKind::Node, "", format!("n{n}"), Facts::Node(node.into())));
    }
    for n in 0..PODS {
        let labels = [("app".to_owned(), format!("app{n}"))].into();
        let pod = Pod { labels, ..Pod::default() };
        objects.push(object(ObjectKind::Pod, "shop", format!("p{n:05}"), Facts::Pod(pod.into())));
    }
    for n in 0..SERVICES {
        let (proto, target) = (Protocol::TCP, TargetPort::Number(80));
        let service = Service {
            cluster_ips: vec![addr(172, n)],
            ports: vec![ServicePort { name: String::new(), port: 80, proto, target, node_port: None }],
            ..Service::default()
        };
        objects.push(object(ObjectKind::Service, "shop", format!("s{n:05}"), Facts::Service(service.into())));
    }
    objects.extend((0..SERVICES).map(|n| slice(n, n * 3 + 2)));
    let labels: Vec<Shared<Labels>> = (0..IDENTITIES)
        .map(|n| Labels::default().with("k8s", "app", "far").with("k8s", "n", &n.to_string()).into())
        .collect();
    for n in 0..ENDPOINTS {
        let endpoint = RemoteEndpoint {
            ips: vec![addr(10, (2 << 16) + n)].into(),
            identity: IdentityId(1000 + n % IDENTITIES),
            labels: labels[(n % IDENTITIES) as usize].clone(),
            node_ip: Some(addr(192, 0xa8_0002)),
            node_name: Some("n2".into()),
            ports: Rarely::default(),
            place: Default::default(),
        };
        let facts = Facts::Endpoint(endpoint.into());
        objects.push(object(ObjectKind::CiliumEndpoint, "shop", format!("r{n:05}"), facts));
    }
    for (n, labels) in (0..).zip(labels) {
        let claim = IdentityClaim {
            number: IdentityId(1000 + n),
            labels,
            published_by: Some("n2".into()),
            place: Default::default(),
        };
        let name = (1000 + n).to_string();
        objects.push(object(ObjectKind::CiliumIdentity, "", name, Facts::Claim(claim.into())));
    }
    objects
}

fn record(n: u16) -> EndpointRecord {
    let [high, low] = (n + 2).to_be_bytes();
    EndpointRecord {
        id: n + 2,
        container_id: format!("container{n}"),
        network: "cilium".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/x".into(),
        pod: Some(ObjectName::new("shop", &format!("p{n:05}"))),
        pod_uid: None,
        labels: Default::default(),
        link: format!("lxc{n}"),
        mac: Mac([2, 0, 0, 1, high, low]),
        node_mac: Mac([2, 0, 0, 2, high, low]),
        ipv4: Some(IpAddr::from([10, 1, high, low])),
        ipv6: None,
        port_mappings: Default::default(),
    }
}

struct Node1 {
    assembler: Assembler,
    compiler: Compiler,
    config: Config,
    records: Records,
    last: Compiled,
}

impl Node1 {
    /// From the snapshot to the plan; how many steps it has. The kernel holds what was wanted last.
    fn pass(&mut self, snapshot: &Snapshot) -> usize {
        let world = self.assembler.assemble(snapshot, &self.records, HostFacts::default(), &self.config);
        let now = self.compiler.compile(&world, &self.config, &self.last.book);
        let scopes = Scopes::between(&self.last.desired.state, &now.desired.state);
        let mut kernel = FakeKernel::with(self.last.desired.state.clone());
        let plan = diff(&now.desired, &observe(&mut kernel, &scopes));
        self.last = now;
        plan.len()
    }
}

fn timed(what: impl FnOnce() -> usize) -> (Duration, usize) {
    let start = Instant::now();
    let value = what();
    (start.elapsed(), value)
}

#[test]
fn one_object_among_many_costs_little() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut records = Records::load(dir.path(), dir.path(), "boot");
    for n in 0..PODS {
        records.put(record(n)).expect("it is written");
    }
    let mut config = Config::default();
    config.node.name = "n1".into();
    let objects = by_identity(objects());
    let mut snapshot = Snapshot { objects, synced: true, ..Snapshot::default() };
    let (assembler, compiler, last) = (Assembler::default(), Compiler::default(), Compiled::default());
    let mut node = Node1 { assembler, compiler, config, records, last };
    let (first, rows) = timed(|| node.pass(&snapshot));
    println!("{} objects: the first pass {first:?}, {rows} steps", snapshot.objects.len());
    let (same, _) = (0..5).map(|_| timed(|| node.pass(&snapshot))).min().expect("five passes");

    let mut changed = Vec::new();
    for n in 1..=8 {
        let slice = slice(SERVICES / 2, 100_000 + n);
        snapshot.objects.insert(Identity::of(&slice.header), slice);
        changed.push(timed(|| node.pass(&snapshot)));
    }
    let (slice, steps) = changed.into_iter().min().expect("some passes");
    let mut attached = Vec::new();
    for n in 0..8 {
        // A pod that is known by name only, as CNI ADD often finds it.
        node.records.put(record(PODS + n)).expect("it is written");
        attached.push(timed(|| node.pass(&snapshot)));
    }
    let (pod, _) = attached.into_iter().min().expect("some passes");
    println!("nothing new {same:?}; one slice {slice:?} ({steps} steps); one pod {pod:?}");
    assert_eq!(steps, 9);
    for took in [slice, pod] {
        assert!(took < first / 20, "{took:?}, the first pass {first:?}");
    }
}

/// Files of the folder, each with a Service and its EndpointSlice.
const FILES: u32 = if cfg!(debug_assertions) { 1_000 } else { 10_000 };

fn manifest(n: u32, port: u32) -> String {
    let [_, a, b, c] = n.to_be_bytes();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: s{n:05}
  namespace: shop
  labels:
    app: s{n}
spec:
  type: ClusterIP
  clusterIP: 172.{a}.{b}.{c}
  ports:
  - name: http
    port: {port}
    targetPort: 8080
    protocol: TCP
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{n:05}
  namespace: shop
  labels:
    kubernetes.io/service-name: s{n:05}
addressType: IPv4
ports:
- name: http
  port: 8080
  protocol: TCP
endpoints:
- addresses: [10.{a}.{b}.{c}]
  conditions:
    ready: true
"
    )
}

#[test]
fn one_file_among_many_costs_little() {
    let dir = tempfile::tempdir().expect("a folder");
    let (root, state) = (dir.path().join("manifests"), dir.path().join("state"));
    let write = |n: u32, port| std::fs::write(root.join(format!("{}/{n}.yaml", n % 10)), manifest(n, port));
    for n in 0..10 {
        std::fs::create_dir_all(root.join(n.to_string())).expect("a folder");
    }
    (0..FILES).try_for_each(|n| write(n, 80)).expect("files");
    let mut folder = ManifestFolder::new(&root, "n1", &state);
    let _watch = folder.watch().expect("a watch");
    let began = Instant::now();
    // All files have settled.
    let now = || Now { uptime: began.elapsed(), wall: SystemTime::now() + Duration::from_secs(60) };
    let (first, objects) = timed(|| folder.scan(now()).objects.len());
    assert_eq!(objects, 2 * FILES as usize);
    let (whole, _) = (0..5).map(|_| timed(|| folder.scan(now()).objects.len())).min().expect("some scans");
    let quiet: Vec<_> = (0..20).map(|_| timed(|| folder.scan_heard(now()).objects.len())).collect();
    let mut changed = Vec::new();
    let mut before = folder.scan_heard(now()).objects;
    for n in 1..=8 {
        write(FILES / 2, 80 + n).expect("a file");
        changed.push(timed(|| {
            let objects = folder.scan_heard(now()).objects;
            let mut others = 0;
            objects.changes(&before, |_, now, before| others += usize::from(now != before));
            before = objects;
            others
        }));
    }
    let (one, others) = changed.into_iter().min().expect("some scans");
    let (quiet, _) = quiet.into_iter().min().expect("some scans");
    println!(
        "{FILES} files: the first scan {first:?}; a look at each {whole:?}; nothing heard {quiet:?}; one file {one:?}"
    );
    assert_eq!(others, 1);
    drop(folder);
    let (load, _) = timed(|| {
        ManifestFolder::new(&root, "n1", &state);
        0
    });
    println!("last good versions of {objects} objects are loaded in {load:?}");
    assert!(quiet < first / 200, "{quiet:?}, the first {first:?}");
    assert!(one < first / 50, "{one:?}, the first {first:?}");
    assert!(whole < first / 4, "{whole:?}, the first {first:?}");
}
