//! The CNI plugin against a running agent, a dead one, and one that is killed meanwhile.

use cilium_tests_kernel::cni::{Call, addresses};
use cilium_tests_kernel::probe::{eventually, ping};
use cilium_tests_kernel::{Cluster, Netns, Node, Options, Pod};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Numbers of the specification, and of `reserved:init`.
const UNKNOWN_CONTAINER: u64 = 3;
const NOT_AVAILABLE: u64 = 50;
const INIT: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(10);

fn one_node() -> Cluster {
    Cluster::start(&Options { nodes: 1, ..Options::default() })
}

fn listed(node: &Node, args: &[&str]) -> Vec<Value> {
    let output = node.cilium(args);
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(rows)) => rows,
        _ => panic!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn endpoints(node: &Node) -> Vec<Value> {
    listed(node, &["endpoint", "list", "-o", "json"])
}

fn endpoint_of(node: &Node, address: IpAddr) -> Option<Value> {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    endpoints(node)
        .into_iter()
        .find(|e| e["status"]["networking"]["addressing"][0][family] == json!(address.to_string()))
}

fn files(dir: std::path::PathBuf) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn records(node: &Node) -> BTreeSet<String> {
    files(node.dir.join("run/state/endpoints"))
}

/// Everything a pod leaves somewhere.
fn traces(cluster: &Cluster, node: &Node) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for map in [
        "cilium_endpoint",
        "cilium_ep_config",
        "cilium_policy",
        "cilium_policy_digest",
        "cilium_ipcache",
        "cilium_ipcache_prefix",
        "cilium_identity_digest",
    ] {
        let rows = listed(node, &["map", "get", map, "-o", "json"]);
        all.extend(rows.iter().map(|row| format!("{map} {}", row["key"])));
    }
    let links =
        String::from_utf8(node.netns.shell("ls /sys/class/net >/dev/null; ip -o link").stdout).unwrap();
    all.extend(
        links.lines().filter_map(|l| Some(format!("link {}", l.split(": ").nth(1)?.split('@').next()?))),
    );
    let routes =
        String::from_utf8(node.netns.shell("ip route show table all; ip -6 route show table all").stdout);
    all.extend(routes.unwrap().lines().filter(|l| !l.contains("fe80:")).map(|l| format!("route {l}")));
    all.extend(records(node).iter().map(|f| format!("record {f}")));
    all.extend(files(node.dir.join("run/deleteQueue")).iter().map(|f| format!("tombstone {f}")));
    all.extend(files(cluster.manifests.join("published")).iter().map(|f| format!("published {f}")));
    all.extend(files(node.pins.join("links")).iter().map(|f| format!("pin {f}")));
    all
}

fn assert_no_trace(cluster: &Cluster, node: &Node, before: &BTreeSet<String>) {
    let gone = eventually(PATIENCE, || traces(cluster, node) == *before);
    let now = traces(cluster, node);
    let (more, less): (Vec<_>, Vec<_>) =
        (now.difference(before).collect(), before.difference(&now).collect());
    assert!(gone, "left over: {more:#?}\nmissing: {less:#?}\n{}", node.log_tail());
}

#[test]
fn verbs_and_versions() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    let pod = Netns::new("pod");
    let version = Call::new(node, "VERSION", &pod).run().expect("VERSION always answers");
    assert_eq!(version["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(Call::new(node, "STATUS", &pod).run(), Ok(Value::Null));

    let first = Call::new(node, "ADD", &pod).pod("a").run().expect("ADD");
    assert_eq!(first["cniVersion"], "1.1.0");
    assert_eq!(addresses(&first).len(), 2);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        // Again for the same attachment: the same answer, in each version's form.
        let call = Call::new(node, "ADD", &pod).pod("a").conf("cniVersion", json!(version));
        let result = call.run().unwrap_or_else(|e| panic!("ADD {version}: {e}"));
        assert_eq!(result["cniVersion"], version);
        assert_eq!(addresses(&result), addresses(&first), "{version}");
        assert_eq!(result["interfaces"][0]["name"], first["interfaces"][0]["name"]);
        let old = version.starts_with("0.");
        assert_eq!(result["ips"][0]["version"].is_string(), old, "{version}");
        assert_eq!(result["interfaces"][1]["mtu"].is_number(), version == "1.1.0", "{version}");
    }
    assert_eq!(records(node).len(), 1);
    let refused = Call::new(node, "ADD", &pod).pod("a").conf("cniVersion", json!("2.0.0")).run().unwrap_err();
    assert_eq!(refused["code"], 1);

    assert_eq!(Call::new(node, "CHECK", &pod).pod("a").run(), Ok(Value::Null));
    let stranger = Netns::new("pod");
    let unknown = Call::new(node, "CHECK", &stranger).pod("b").run().unwrap_err();
    assert_eq!(unknown["code"], UNKNOWN_CONTAINER);

    let other = Netns::new("pod");
    Call::new(node, "ADD", &other).pod("b").run().expect("ADD");
    let valid = json!([{"containerID": pod.name(), "ifname": "eth0"}]);
    Call::new(node, "GC", &pod).conf("cni.dev/valid-attachments", valid).run().expect("GC");
    assert_eq!(records(node).len(), 1, "GC removes what is not listed, and that alone");
    assert_eq!(Call::new(node, "CHECK", &pod).pod("a").run(), Ok(Value::Null));
    assert!(eventually(PATIENCE, || !has_link(&other, "eth0")), "the collected pod keeps its interface");

    for _ in 0..2 {
        assert_eq!(Call::new(node, "DEL", &pod).pod("a").run(), Ok(Value::Null), "DEL may come twice");
    }
    assert!(records(node).is_empty());
}

fn has_link(netns: &Netns, name: &str) -> bool {
    netns.shell(&format!("ip link show {name}")).status.success()
}

#[test]
fn deleted_while_the_agent_is_down() {
    let mut cluster = one_node();
    let pod = cluster.pod(0, "gone", "app: gone");
    let stays = cluster.pod(0, "stays", "app: stays");
    cluster.settle();
    cluster.nodes[0].stop_agent(libc::SIGTERM);
    let node = &cluster.nodes[0];
    let down = Call::new(node, "STATUS", &pod.netns).run().unwrap_err();
    assert_eq!(down["code"], NOT_AVAILABLE);
    assert!(Call::new(node, "ADD", &Netns::new("pod")).pod("new").run().is_err());
    assert!(ping(&node.netns, stays.ipv4, None), "the datapath stays without an agent");
    for _ in 0..2 {
        assert_eq!(Call::new(node, "DEL", &pod.netns).pod("gone").run(), Ok(Value::Null));
    }
    assert!(!has_link(&pod.netns, "eth0"), "the interface goes at once");
    assert_eq!(files(node.dir.join("run/deleteQueue")).len(), 1, "one tombstone per attachment");

    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(Duration::from_secs(30));
    let node = &cluster.nodes[0];
    assert!(eventually(PATIENCE, || endpoint_of(node, pod.ipv4).is_none()), "the pod is not forgotten");
    assert!(files(node.dir.join("run/deleteQueue")).is_empty());
    assert_eq!(records(node).len(), 1);
    assert!(endpoint_of(node, stays.ipv4).is_some());
    assert!(ping(&node.netns, stays.ipv4, None));
    // The address is free again.
    let heir = Netns::new("pod");
    let wanted = json!({"cni": {"ips": [pod.ipv4.to_string()]}});
    let result = Call::new(node, "ADD", &heir).conf("args", wanted).run().expect("the address is free");
    assert!(addresses(&result).contains(&pod.ipv4));
    Call::new(node, "DEL", &heir).run().expect("DEL");
}

#[test]
fn without_an_object_a_pod_is_init_until_it_has_one() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    let pod = cluster.attach(0, "late");
    let identity =
        || endpoint_of(node, pod.ipv4).map_or(0, |e| e["status"]["identity"]["id"].as_u64().unwrap());
    assert_eq!(identity(), INIT);
    let early = cluster.pod(0, "late", "app: late").ipv4;
    assert_ne!(early, pod.ipv4, "another container of the same pod has its own address");
    assert!(eventually(PATIENCE, || identity() >= 256), "identity {}", identity());
    let labels = endpoint_of(node, pod.ipv4).unwrap()["status"]["identity"]["labels"].clone();
    assert!(labels.as_array().unwrap().contains(&json!("k8s:app=late")), "{labels}");
}

#[test]
fn a_container_that_is_no_pod() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    let wanted: IpAddr = "10.77.1.77".parse().unwrap();
    let args = json!({"cni": {"labels": [{"key": "app", "value": "solo"}], "ips": [format!("{wanted}/24")]}});
    let solo = Netns::new("pod");
    let result = Call::new(node, "ADD", &solo).conf("args", args.clone()).run().expect("ADD");
    let got = addresses(&result);
    assert!(got.contains(&wanted) && got.len() == 2, "{got:?}");
    let endpoint = endpoint_of(node, wanted).expect("an endpoint");
    assert!(endpoint["status"]["identity"]["id"].as_u64().unwrap() >= 256, "an identity at once: {endpoint}");
    let labels = endpoint["status"]["identity"]["labels"].as_array().unwrap();
    assert!(labels.iter().any(|l| l.as_str().unwrap().ends_with(":app=solo")), "{labels:?}");
    assert!(eventually(PATIENCE, || ping(&node.netns, wanted, None)));

    let second = Netns::new("pod");
    let taken = Call::new(node, "ADD", &second).conf("args", args).run().expect_err("the address is taken");
    assert!(taken["code"].as_u64().unwrap() > 0 && taken["msg"].is_string(), "{taken}");
    assert_eq!(records(node).len(), 1, "an ADD that fails leaves nothing");
    for netns in [&solo, &second] {
        Call::new(node, "DEL", netns).run().expect("DEL");
    }
}

/// What the pod sees of its interface, without the kernel's number for it.
fn inside(pod: &Pod) -> String {
    let script = "ip -o link show eth0 | sed -n 's/.*link.ether \\([^ ]*\\) .*/\\1/p'; ip -o link show eth0 | sed -n \
                  's/.*\\(mtu [0-9]*\\) .*/\\1/p'; ip -o addr show dev eth0 scope global | awk '{print $3, $4}'; ip route; \
                  ip -6 route | grep -v fe80";
    String::from_utf8(pod.netns.shell(script).stdout).unwrap()
}

#[test]
fn a_deleted_veth_is_made_again_as_it_was() {
    let cluster = Cluster::start(&Options::default());
    let pod = cluster.pod(0, "a", "app: a");
    let peer = cluster.pod(1, "b", "app: b");
    cluster.settle();
    let node = &cluster.nodes[0];
    let reach = || {
        ping(&pod.netns, peer.ipv4, None)
            && ping(&peer.netns, pod.ipv6, None)
            && ping(&node.netns, pod.ipv4, None)
    };
    assert!(eventually(PATIENCE, reach), "no connectivity to begin with");
    let before = inside(&pod);
    assert!(before.contains("default via"), "{before}");
    let link = endpoint_of(node, pod.ipv4).unwrap()["status"]["networking"]["interface-name"].clone();
    let link = link.as_str().unwrap();
    for _ in 0..3 {
        node.netns.ip(&format!("link del {link}"));
        assert!(eventually(PATIENCE, || inside(&pod) == before), "{}\ninstead of\n{before}", inside(&pod));
        assert!(eventually(PATIENCE, reach), "connectivity does not return\n{}", node.log_tail());
    }
    cluster.settle();
}

/// Whatever an ADD has done when the agent dies: after DEL nothing of it is left, and no address is lost.
#[test]
fn killed_within_adds_leaks_nothing() {
    const AT_ONCE: usize = 4;
    let mut cluster = one_node();
    cluster.settle();
    let before = traces(&cluster, &cluster.nodes[0]);
    let (mut answered, mut refused) = (0, 0);
    for round in 0..10_u64 {
        let namespaces: Vec<Netns> = (0..AT_ONCE).map(|_| Netns::new("pod")).collect();
        let node = &cluster.nodes[0];
        let pid = i32::try_from(node.agent_pid().expect("it runs")).unwrap();
        std::thread::scope(|scope| {
            let adds: Vec<_> = namespaces
                .iter()
                .map(|netns| scope.spawn(|| Call::new(node, "ADD", netns).pod("x").run()))
                .collect();
            // From before the first request is read until after the last is answered.
            std::thread::sleep(Duration::from_millis(5 + 25 * round));
            // SAFETY: a plain system call; the child is ours and not yet reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            for add in adds {
                match add.join().expect("the call ends") {
                    Ok(_) => answered += 1,
                    Err(_) => refused += 1,
                }
            }
        });
        let node = &mut cluster.nodes[0];
        node.stop_agent(libc::SIGKILL);
        node.start_agent();
        node.wait_healthy(Duration::from_secs(30));
        let node = &cluster.nodes[0];
        let consistent = || endpoints(node).len() == records(node).len();
        assert!(
            eventually(PATIENCE, consistent),
            "round {round}: {} records, {:#?}",
            records(node).len(),
            endpoints(node)
        );
        // Half of them ask again, as runtimes do, and get what they ask for.
        for netns in namespaces.iter().take(AT_ONCE / 2) {
            let again = Call::new(node, "ADD", netns).pod("x").run();
            assert_eq!(addresses(&again.unwrap_or_else(|e| panic!("round {round}: {e}"))).len(), 2);
            assert!(has_link(netns, "eth0"));
        }
        for netns in &namespaces {
            assert_eq!(Call::new(node, "DEL", netns).pod("x").run(), Ok(Value::Null));
        }
        assert_eq!(records(node), BTreeSet::new(), "round {round}");
    }
    println!("10 kills: {answered} ADDs had been answered, {refused} had not");
    cluster.settle();
    assert_no_trace(&cluster, &cluster.nodes[0], &before);
}

#[test]
fn fifty_pods_leave_no_trace() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    cluster.settle();
    let before = traces(&cluster, node);
    let pods: Vec<Pod> =
        (0..50).map(|n| cluster.pod(0, &format!("p{n}"), &format!("app: a{}", n % 7))).collect();
    cluster.settle();
    let during = traces(&cluster, node);
    assert!(during.len() >= before.len() + 50 * 6, "too few traces are looked at: {}", during.len());
    let unique: BTreeSet<IpAddr> = pods.iter().flat_map(|p| [p.ipv4, p.ipv6]).collect();
    assert_eq!(unique.len(), 100, "an address was given twice");
    assert!(eventually(PATIENCE, || ping(&pods[0].netns, pods[49].ipv4, None)));
    // Namespaces outlive their detachment, so that nothing goes merely because the kernel cleans up.
    for pod in &pods {
        node.cni("DEL", &pod.netns, &pod.name).expect("DEL always succeeds");
        cluster.remove(&format!("pod-default-{}.yaml", pod.name));
    }
    cluster.settle();
    assert_no_trace(&cluster, node, &before);
    for pod in &pods {
        assert!(!has_link(&pod.netns, "eth0"), "{} keeps its interface", pod.name);
    }
}
