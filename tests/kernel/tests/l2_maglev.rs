//! Maglev between real nodes: whichever node a connection from outside comes to, it meets the same backend; few
//! move when one goes; and an agent that starts again finds its tables.

use cilium_tests_kernel::cluster::OUTSIDE_V4;
use cilium_tests_kernel::probe::{eventually, scaled, serve, udp};
use cilium_tests_kernel::{Cluster, Node, Options, Pod};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const TARGET: u16 = 7000;
const NODE_PORT: u16 = 30_021;
const PATIENCE: Duration = Duration::from_secs(15);
const SOURCES: std::ops::Range<u16> = 41_000..41_200;
const MAGLEV: &str = "[load_balancer]\nalgorithm = \"maglev\"\n";

/// A Service with a NodePort and these backends: addresses, and the nodes that they are on.
fn service(
    name: &str,
    ips: [&str; 2],
    node_port: u16,
    backends: &[(IpAddr, usize)],
    annotations: &str,
) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, annotations: \
         {{{annotations}}}}}\nspec:\n  type: NodePort\n  clusterIP: {}\n  clusterIPs: [{}, \"{}\"]\n  \
         ipFamilyPolicy: RequireDualStack\n  ports: [{{name: udp, port: 80, protocol: UDP, targetPort: {TARGET}, \
         nodePort: {node_port}}}]\n",
        ips[0], ips[0], ips[1]
    );
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        let endpoints: Vec<String> = backends
            .iter()
            .filter(|(ip, _)| ip.is_ipv6() == v6)
            .map(|(ip, node)| format!("{{addresses: [\"{ip}\"], nodeName: n{}}}", node + 1))
            .collect();
        text.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{}, namespace: \
             default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\nports: [{{name: udp, \
             port: {TARGET}, protocol: UDP}}]\nendpoints: [{}]\n",
            family.to_lowercase(),
            endpoints.join(", ")
        ));
    }
    text
}

fn json(node: &Node, args: &[&str]) -> Option<Value> {
    serde_json::from_slice(&node.cilium(args).stdout).ok()
}

/// The number of what a node serves at one of its addresses.
fn id(node: &Node, addr: IpAddr, port: u16) -> Option<u64> {
    let list = json(node, &["service", "list", "-o", "json"])?;
    let front = |row: &&Value| {
        let front = &row["spec"]["frontend-address"];
        front["ip"] == addr.to_string().as_str() && front["port"] == u64::from(port)
    };
    list.as_array()?.iter().find(front)?["spec"]["id"].as_u64()
}

/// Backends by place, as the node's own map has them.
fn table(node: &Node, addr: IpAddr, port: u16) -> Option<Vec<String>> {
    let id = id(node, addr, port)?.to_string();
    let value = json(node, &["bpf", "lb", "list", "--maglev", &id, "-o", "json"])?;
    let places = value[&id].as_array()?;
    places.iter().map(|place| place.as_str().map(str::to_owned)).collect()
}

/// Who answers a packet from this port.
fn ask(source: u16, to: SocketAddr) -> Option<String> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let any: IpAddr = any.parse().expect("an address");
    // A process that another test is just starting holds the port's last socket until it has begun to run.
    let mut bound = None;
    eventually(Duration::from_secs(2), || {
        bound = UdpSocket::bind((any, source)).ok();
        bound.is_some()
    });
    let socket = bound.unwrap_or_else(|| panic!("source port {source} stays taken"));
    socket.set_read_timeout(Some(scaled(Duration::from_secs(2)))).ok()?;
    socket.connect(to).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 128];
    let n = socket.recv(&mut buffer).ok()?;
    let (name, _) = std::str::from_utf8(&buffer[..n]).ok()?.split_once(' ')?;
    Some(name.to_owned())
}

fn backends(pods: &[Pod]) -> Vec<(IpAddr, usize)> {
    pods.iter().flat_map(|pod| [(pod.ipv4, pod.node), (pod.ipv6, pod.node)]).collect()
}

/// What `bpf lb list` says: objects of lists of texts.
fn shown(node: &Node, pods: &[Pod]) {
    let list = |option: &[&str]| -> BTreeMap<String, Vec<String>> {
        let output = node.cilium(&[&["bpf", "lb", "list", "-o", "json"], option].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{option:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let place = SocketAddr::new(node.ipv4, NODE_PORT);
    let id = id(node, node.ipv4, NODE_PORT).expect("it is served");
    let mut backends: Vec<String> =
        pods.iter().map(|pod| format!("{}/UDP", SocketAddr::new(pod.ipv4, TARGET))).collect();
    let services = list(&[]);
    let texts = &services[&format!("{place}/UDP")];
    assert_eq!(texts[0], format!("0.0.0.0:0 ({id}) (0) [NodePort, maglev]"));
    for (slot, text) in texts.iter().enumerate().skip(1) {
        let (backend, rest) = text.split_once(' ').expect("its numbers follow");
        assert_eq!(rest, format!("({id}) ({slot})"));
        backends.retain(|other| other != backend);
    }
    assert_eq!((backends, texts.len()), (Vec::new(), pods.len() + 1), "{texts:?}");
    assert_eq!(list(&["--frontends"]).len(), services.len());
    assert_eq!(list(&["--backends"]).len(), 2 * pods.len());
    assert_eq!(list(&["--revnat"])[&id.to_string()], [place.to_string()]);
    assert!(list(&["--source-ranges"]).is_empty() && list(&["--affinity"]).is_empty());
    let said = |args: &[&str]| {
        let output = node.cilium(args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let dice = self::id(node, node.ipv4, NODE_PORT + 1).expect("it is served").to_string();
    let random = said(&["bpf", "lb", "list", "--maglev", &dice]);
    assert!(random.contains("chosen at random") && random.contains("lb-algorithm"), "{random}");
    assert!(said(&["service", "get", "64999"]).contains("there is no service 64999"));
    let one = json(node, &["service", "get", &id.to_string(), "-o", "json"]).expect("JSON");
    assert_eq!(one[0]["spec"]["frontend-address"]["port"], u64::from(NODE_PORT));
    assert_eq!(one[0]["spec"]["backend-addresses"].as_array().map(Vec::len), Some(pods.len()));
}

#[test]
fn a_flow_meets_the_same_backend_at_whichever_node() {
    let mut cluster = Cluster::start(&Options { extra: MAGLEV.into(), ..Options::default() });
    let pods: Vec<Pod> = (0..4).map(|n| cluster.pod(n % 2, &format!("b{n}"), "app: b")).collect();
    for pod in &pods {
        serve(&pod.netns, &pod.name, TARGET);
    }
    let web = service("web", ["10.96.0.21", "fd96::21"], NODE_PORT, &backends(&pods), "");
    // The same, but told to choose at random: what the comparison would say without tables.
    let random = "service.cilium.io/lb-algorithm: random";
    let dice = service("dice", ["10.96.0.22", "fd96::22"], NODE_PORT + 1, &backends(&pods), random);
    cluster.write("services.yaml", &format!("{web}{dice}"));
    let nodes = [0, 1].map(|n| [cluster.nodes[n].ipv4, cluster.nodes[n].ipv6]);
    let served = |port| nodes.as_flattened().iter().all(|addr| udp(&cluster.outside, *addr, port).is_some());
    let up = || served(NODE_PORT) && served(NODE_PORT + 1);
    assert!(eventually(PATIENCE, up), "{}", cluster.nodes[0].log_tail());
    cluster.settle();

    // What each node answers to each source port, by the NodePort.
    let differing = |port: u16, family: usize| -> usize {
        let mut differing = 0;
        let mut met: BTreeMap<String, usize> = BTreeMap::new();
        for source in SOURCES {
            let [a, b] = nodes.map(|node| {
                let to = SocketAddr::new(node[family], port);
                cluster
                    .outside
                    .enter(|| ask(source, to))
                    .unwrap_or_else(|| panic!("{source} to {to}: no answer"))
            });
            differing += usize::from(a != b);
            *met.entry(a).or_default() += 1;
        }
        println!("NodePort {port}, family {family}: {met:?}, {differing} of {} differ", SOURCES.len());
        assert_eq!(met.len(), pods.len(), "every backend is met: {met:?}");
        differing
    };
    for family in 0..2 {
        assert_eq!(differing(NODE_PORT, family), 0);
    }
    assert!(differing(NODE_PORT + 1, 0) > SOURCES.len() / 2, "at random three in four differ");

    // The tables themselves: of both nodes alike; and an agent that starts again leads to the same.
    for family in [0, 1] {
        let [here, there] = [0, 1].map(|n| table(&cluster.nodes[n], nodes[n][family], NODE_PORT));
        assert!(here.as_ref().is_some_and(|places| places.len() == 16_381));
        assert_eq!(here, there);
    }
    let frontends = |node: &Node| {
        String::from_utf8_lossy(&node.cilium(&["bpf", "lb", "list", "--frontends"]).stdout).into_owned()
    };
    shown(&cluster.nodes[0], &pods);
    let before = frontends(&cluster.nodes[0]);
    assert!(before.contains("maglev"), "{before}");
    cluster.nodes[0].stop_agent(libc::SIGKILL);
    assert!(cluster.nodes[0].plan_is_empty());
    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(PATIENCE);
    cluster.settle();
    assert_eq!(frontends(&cluster.nodes[0]), before);
    let outside: IpAddr = OUTSIDE_V4.parse().expect("an address");
    assert!(!before.contains(&outside.to_string()));
}

#[test]
fn few_other_flows_move_when_a_backend_goes() {
    // It begins in `[bpf]`.
    let extra = format!("maglev_max = 3\n{MAGLEV}");
    let cluster = Cluster::start(&Options { extra, ..Options::default() });
    let addr = |n: u8| (IpAddr::from([10, 77, 2, n]), 1);
    let all: Vec<_> = (100..200).map(addr).collect();
    let write = |backends: &[(IpAddr, usize)]| {
        cluster.write("web.yaml", &service("web", ["10.96.0.21", "fd96::21"], NODE_PORT, backends, ""));
    };
    let tables = |gone: Option<IpAddr>| -> Vec<String> {
        let both = || [0, 1].map(|n| table(&cluster.nodes[n], cluster.nodes[n].ipv4, NODE_PORT));
        let is = |places: &Option<Vec<String>>| {
            let gone = gone.map(|gone| format!("{gone}:{TARGET}/UDP"));
            places.as_ref().is_some_and(|all| gone.is_none_or(|gone| !all.contains(&gone)))
        };
        assert!(eventually(PATIENCE, || both().iter().all(is)), "{}", cluster.nodes[0].log_tail());
        let [here, there] = both();
        assert_eq!(here, there, "both nodes have the same table");
        here.expect("just seen")
    };
    write(&all);
    let whole = tables(None);
    assert_eq!(whole.len(), 16_381);
    for gone in [0, 41, 99] {
        let mut rest = all.clone();
        let (removed, _) = rest.remove(gone);
        write(&rest);
        let after = tables(Some(removed));
        let name = format!("{removed}:{TARGET}/UDP");
        let others = whole.iter().filter(|backend| **backend != name).count();
        let moved = whole.iter().zip(&after).filter(|(was, is)| **was != name && was != is).count();
        let percent = moved as f64 * 100.0 / others as f64;
        println!("without {removed}: {moved} of {others} other places moved, {percent:.2} %");
        assert!(percent < 3.0 && after.iter().all(|backend| *backend != name));
        write(&all);
        let back = || table(&cluster.nodes[0], cluster.nodes[0].ipv4, NODE_PORT).as_ref() == Some(&whole);
        assert!(eventually(PATIENCE, back), "one that comes back has its places again");
        let back = || table(&cluster.nodes[1], cluster.nodes[1].ipv4, NODE_PORT).as_ref() == Some(&whole);
        assert!(eventually(PATIENCE, back));
    }
}
