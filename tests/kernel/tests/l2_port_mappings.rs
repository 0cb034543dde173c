//! Ports of the node that runtimes ask for with an attachment (CNI `runtimeConfig.portMappings`).

use cilium_tests_kernel::cni::{Call, addresses};
use cilium_tests_kernel::probe::{Answer, eventually, serve, tcp, udp};
use cilium_tests_kernel::{Cluster, Netns, Node, Options};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

const TARGET: u16 = 7000;
const WAIT: Duration = Duration::from_secs(10);
/// Numbers of the specification, and our own of CHECK.
const INVALID_CONFIG: u64 = 7;
const CHECK_FAILED: u64 = 100;

/// Asks a server at an address and port.
type Ask = fn(&Netns, IpAddr, u16) -> Option<Answer>;

fn call<'a>(node: &'a Node, command: &'a str, netns: &Netns, name: &str, mappings: &Value) -> Call<'a> {
    let call = Call::new(node, command, netns);
    // A container that is no pod has no name.
    let call = if name.is_empty() { call } else { call.pod(name) };
    call.conf("runtimeConfig", json!({ "portMappings": mappings }))
}

fn add(node: &Node, name: &str, mappings: &Value) -> Netns {
    let netns = Netns::new("pod");
    let result = call(node, "ADD", &netns, name, mappings).run().unwrap_or_else(|e| panic!("ADD: {e}"));
    assert_eq!(addresses(&result).len(), 2);
    serve(&netns, if name.is_empty() { "bare" } else { name }, TARGET);
    netns
}

/// Who answers at an address and port over TCP and UDP.
fn answers(cluster: &Cluster, at: IpAddr, port: u16) -> [Option<String>; 2] {
    let both: [Ask; 2] = [tcp, udp];
    both.map(|ask| ask(&cluster.outside, at, port).map(|answer| answer.server))
}

fn reached(cluster: &Cluster, ats: &[IpAddr], port: u16, name: &str) {
    for at in ats {
        let want = [Some(name.to_owned()), Some(name.to_owned())];
        let mut got = [None, None];
        assert!(
            eventually(WAIT, || {
                got = answers(cluster, *at, port);
                got == want
            }),
            "{at} port {port}: {got:?} instead of {name}\n{}",
            cluster.nodes[0].log_tail()
        );
    }
}

/// Both protocols of one port.
fn both(port: u16, host: &str) -> Vec<Value> {
    let mapping =
        |protocol| json!({"hostPort": port, "containerPort": TARGET, "protocol": protocol, "hostIP": host});
    ["tcp", "udp"].map(mapping).to_vec()
}

fn host_ports(node: &Node) -> usize {
    let output = node.cilium(&["service", "list", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).expect("a list");
    list.as_array().map_or(0, Vec::len)
}

#[test]
fn l2_ports_of_the_node_lead_to_the_container_that_asked_for_them() {
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let [v4, v6] = [cluster.nodes[0].ipv4, cluster.nodes[0].ipv6];
    let node = &cluster.nodes[0];
    let conflist = std::fs::read(node.dir.join("cni/05-cilium.conflist")).expect("it is written");
    let conflist: Value = serde_json::from_slice(&conflist).expect("JSON");
    assert_eq!(conflist["plugins"][0]["capabilities"], json!({"portMappings": true}));

    // What a pod's object says too is no second claim.
    let ports = ["TCP", "UDP"].map(|p| format!("{{containerPort: {TARGET}, hostPort: 8081, protocol: {p}}}"));
    cluster.write(
        "web.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: default}}\nspec: {{nodeName: n1, containers: \
             [{{name: c, ports: [{}]}}]}}\n",
            ports.join(", ")
        ),
    );
    let wanted = json!([both(8081, ""), both(8082, &v6.to_string()), both(8083, "0.0.0.0")].concat());
    let web = add(node, "web", &wanted);
    reached(&cluster, &[v4, v6], 8081, "web");
    reached(&cluster, &[v6], 8082, "web");
    reached(&cluster, &[v4], 8083, "web");
    for (at, port) in [(v4, 8082), (v6, 8083), (v4, 8084)] {
        assert_eq!(answers(&cluster, at, port), [None, None], "{at} port {port} was not asked for");
    }
    assert!(eventually(WAIT, || node.status()["problems"] == json!([])), "{}", node.status()["problems"]);
    assert_eq!(call(node, "CHECK", &web, "web", &wanted).run(), Ok(Value::Null));
    let other = call(node, "CHECK", &web, "web", &json!(both(8090, ""))).run().unwrap_err();
    assert_eq!(other["code"], CHECK_FAILED);
    assert!(other["details"].as_str().is_some_and(|d| d.contains("8090/TCP was not asked for")), "{other}");

    // The younger of two waits, and both are told.
    let bare_wanted = json!([both(8082, ""), both(8085, "")].concat());
    let bare = add(node, "", &bare_wanted);
    reached(&cluster, &[v4, v6], 8085, "bare");
    reached(&cluster, &[v4], 8082, "bare");
    reached(&cluster, &[v6], 8082, "web");
    let told = || node.status()["problems"].to_string();
    assert!(
        eventually(WAIT, || told().contains("already belongs to") && told().contains("is also wanted by")),
        "{}",
        told()
    );
    assert!(call(node, "CHECK", &web, "web", &wanted).run().is_ok());

    // Agents come and go.
    cluster.nodes[0].stop_agent(libc::SIGTERM);
    reached(&cluster, &[v4, v6], 8085, "bare");
    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(Duration::from_secs(30));
    cluster.settle();
    reached(&cluster, &[v4, v6], 8081, "web");
    reached(&cluster, &[v4, v6], 8085, "bare");
    let node = &cluster.nodes[0];
    assert_eq!(call(node, "CHECK", &web, "web", &wanted).run(), Ok(Value::Null));

    // Who waited gets it; then nobody has anything.
    call(node, "DEL", &web, "web", &wanted).run().expect("DEL");
    reached(&cluster, &[v4, v6], 8082, "bare");
    assert_eq!(call(node, "CHECK", &bare, "", &bare_wanted).run(), Ok(Value::Null));
    assert_eq!(answers(&cluster, v4, 8081), [None, None], "gone with its container");
    call(node, "DEL", &bare, "", &bare_wanted).run().expect("DEL");
    assert!(eventually(WAIT, || host_ports(node) == 0));
    assert_eq!(answers(&cluster, v6, 8085), [None, None], "gone with its container");
    cluster.settle();
}

#[test]
fn l2_port_mappings_that_make_no_sense_leave_nothing() {
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let netns = Netns::new("pod");
    for (field, value) in [
        ("hostPort", json!(0)),
        ("containerPort", json!(65_536)),
        ("protocol", json!("icmp")),
        ("hostIP", json!("here")),
    ] {
        let mut mapping = json!({"hostPort": 8081, "containerPort": 80, "protocol": "tcp"});
        mapping[field] = value;
        let refused = call(node, "ADD", &netns, "web", &json!([mapping])).run().unwrap_err();
        assert_eq!(refused["code"], INVALID_CONFIG, "{refused}");
        let name = format!("runtimeConfig.portMappings[0].{field}: ");
        assert!(refused["msg"].as_str().is_some_and(|msg| msg.starts_with(&name)), "{refused}");
    }
    let records = std::fs::read_dir(node.dir.join("run/state/endpoints")).map_or(0, Iterator::count);
    assert_eq!(records, 0);

    // Beside a kube-proxy they are the portmap plugin's, and runtimes are not told otherwise.
    let extra = "[load_balancer]\nkube_proxy_replacement = false\n".to_owned();
    let cluster = Cluster::start(&Options { nodes: 1, extra, ..Options::default() });
    let node = &cluster.nodes[0];
    let conflist = std::fs::read_to_string(node.dir.join("cni/05-cilium.conflist")).expect("it is written");
    assert!(!conflist.contains("portMappings"), "{conflist}");
    let refused = call(node, "ADD", &netns, "web", &json!(both(8081, ""))).run().unwrap_err();
    assert_eq!(refused["code"], 2, "{refused}");
    assert!(refused["details"].as_str().is_some_and(|d| d.contains("portmap plugin")), "{refused}");
}
