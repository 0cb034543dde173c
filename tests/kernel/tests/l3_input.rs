//! Bad input: broken manifests, strangers under our names, a folder that vanishes.

use cilium_tests_kernel::cluster::Node;
use cilium_tests_kernel::probe::{eventually, ping, serve, tcp};
use cilium_tests_kernel::{Cluster, Options, Pod};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

const DENY_B: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: no-b, namespace: \
                      default}\nspec:\n  endpointSelector: {matchLabels: {app: a}}\n  ingress:\n  - fromEndpoints:\n    \
                      - matchLabels: {app: c}\n";

fn service(name: &str, vip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{clusterIP: {vip}, \
         selector: {{app: a}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
    )
}

fn passes(node: &Node) -> u64 {
    node.status()["passes"].as_u64().unwrap_or(0)
}

/// At most so many passes in two seconds of quiet: the loop does not spin.
fn assert_calm(node: &Node, most: u64, when: &str) {
    let (before, since) = (passes(node), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let made = passes(node) - before;
    assert!(made <= most, "{when}: {made} passes in {:?}\n{}", since.elapsed(), node.log_tail());
}

fn status_text(node: &Node) -> String {
    String::from_utf8_lossy(&node.cilium(&["status", "--verbose"]).stdout).into_owned()
}

fn reach(from: &Pod, to: &str) -> bool {
    tcp(&from.netns, to.parse().expect("a literal address"), 80).is_some()
}

#[test]
fn broken_files_among_good_ones() {
    let cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    let (a, b, c) =
        (cluster.pod(0, "a", "app: a"), cluster.pod(0, "b", "app: b"), cluster.pod(0, "c", "app: c"));
    serve(&a.netns, "a", PORT);
    cluster.write("deny.yaml", DENY_B);
    cluster.write("svc.yaml", &service("good", "10.96.0.10"));
    let open = |from: &Pod| tcp(&from.netns, a.ipv4, PORT).is_some();
    assert!(eventually(WAIT, || open(&c) && reach(&c, "10.96.0.10")), "{}", node.log_tail());
    assert!(eventually(WAIT, || !open(&b)), "the policy is in force");
    let pid = node.agent_pid();

    let put = |name: &str, bytes: &[u8]| std::fs::write(cluster.manifests.join(name), bytes).expect("write");
    put("b1.yaml", b"apiVersion: v1\nkind: Service\nmetadata: {name: x\nspec: [\n");
    put("b2.yaml", b"apiVersion: v1\nkind: Service\nmetadata: {name: y}\nspec:\n  clusterIP: 10.96.0.99\n  ports:\n  - port: eighty\n");
    put("b3.yaml", &service("half", "10.96.0.98").as_bytes()[..70]);
    let noise: Vec<u8> = (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    put("b4.yaml", &noise);
    put("b5.yaml", "x: [".repeat(3_000_000).as_bytes());
    put("b6.yaml", "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n".as_bytes());
    put("b7.json", b"{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": 7}}");
    // A policy never seen valid closes what it selects, in the directions it names.
    put("b8.yaml", b"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: odd, namespace: default}\nspec:\n  endpointSelector: {matchLabels: {app: c}}\n  ingress:\n  - fromEndpoints: 12\n");
    // And good ones beside them.
    cluster.write("svc2.yaml", &service("second", "10.96.0.11"));
    assert!(eventually(WAIT, || reach(&c, "10.96.0.11")), "good objects are in force: {}", status_text(node));
    let names = ["b1.yaml", "b2.yaml", "b3.yaml", "b4.yaml", "b5.yaml", "b7.json", "b8.yaml"];
    let told =
        |text: &str, name: &str| text.contains(&format!("{name}:")) || text.contains(&format!("{name} "));
    assert!(
        eventually(WAIT, || {
            let text = status_text(node);
            names.iter().all(|name| told(&text, name))
        }),
        "every broken file is named:\n{}",
        status_text(node)
    );
    let text = status_text(node);
    for place in ["b1.yaml:", "b2.yaml:7", "b7.json:1", "b8.yaml:"] {
        assert!(text.contains(place), "{place} is not in\n{text}");
        assert!(node.log().contains(place), "{place} is not in the log");
    }
    assert!(!open(&b) && reach(&c, "10.96.0.10"), "nothing opened, nothing closed");
    serve(&c.netns, "c", PORT);
    assert!(eventually(WAIT, || tcp(&b.netns, c.ipv4, PORT).is_none()), "an unreadable policy fails closed");
    assert_calm(node, 6, "with broken files");

    // A file in force that breaks: its last good version counts, also for a restarted agent.
    put("deny.yaml", DENY_B.split_at(150).0.as_bytes());
    put("svc.yaml", b"\x00\x01\x02garbage: [");
    assert!(
        eventually(WAIT, || {
            let text = status_text(node);
            told(&text, "deny.yaml") && told(&text, "svc.yaml")
        }),
        "{}",
        status_text(node)
    );
    assert!(!open(&b) && reach(&c, "10.96.0.10"), "last good versions are in force");
    let again = || {
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(open(&b));
        }
        seen
    };
    assert_eq!(node.agent_pid(), pid);
    let mut cluster = cluster;
    cluster.nodes[0].stop_agent(libc::SIGKILL);
    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(WAIT);
    assert!(!again().contains(&true), "never open after a restart");
    assert!(reach(&c, "10.96.0.10"));
    // Mended: the problem goes.
    cluster.write("deny.yaml", DENY_B);
    cluster.write("svc.yaml", &service("good", "10.96.0.10"));
    for name in names {
        cluster.remove(name);
    }
    cluster.remove("b6.yaml");
    let node = &cluster.nodes[0];
    let clean = || node.status()["problems"].as_array().is_some_and(Vec::is_empty);
    assert!(eventually(WAIT, clean), "{}", status_text(node));
    assert!(!open(&b) && open(&c));
    cluster.settle();
}

#[test]
fn a_stranger_under_our_name_is_named_and_left_alone() {
    let mut cluster = Cluster::prepare(&Options { nodes: 1, ..Options::default() });
    cluster.nodes[0].netns.ip("link add cilium_host type bridge");
    let index = |node: &Node| {
        let text =
            String::from_utf8_lossy(&node.netns.shell("ip -d -o link show cilium_host").stdout).into_owned();
        assert!(text.contains(" bridge ") && !text.contains("alias"), "neither removed nor adopted: {text}");
        text.split(':').next().map(str::to_owned)
    };
    let number = index(&cluster.nodes[0]);
    cluster.nodes[0].start_agent();
    let node = &cluster.nodes[0];
    let told = || status_text(node).contains("cilium_host exists and is not ours");
    assert!(eventually(WAIT, told), "{}\n{}", status_text(node), node.log_tail());
    assert!(node.log().contains("cilium_host exists and is not ours"));
    assert_eq!(node.cilium(&["status"]).status.code(), Some(1), "not healthy");
    assert_calm(node, 12, "with a stranger");
    assert_eq!(index(node), number, "never removed");
    // Gone: the agent goes on by itself, though it has backed off.
    node.netns.ip("link del cilium_host");
    node.wait_healthy(WAIT);
    let pod = cluster.pod(0, "a", "app: a");
    assert!(eventually(WAIT, || ping(&pod.netns, cluster.nodes[0].ipv4, None)));
    cluster.settle();
}

#[test]
fn a_folder_that_vanishes_removes_nothing() {
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let (a, b, c) =
        (cluster.pod(0, "a", "app: a"), cluster.pod(0, "b", "app: b"), cluster.pod(0, "c", "app: c"));
    serve(&a.netns, "a", PORT);
    cluster.write("deny.yaml", DENY_B);
    cluster.write("svc.yaml", &service("good", "10.96.0.10"));
    let open = |from: &Pod| tcp(&from.netns, a.ipv4, PORT).is_some();
    let as_before = || open(&c) && !open(&b) && reach(&c, "10.96.0.10");
    assert!(eventually(WAIT, as_before), "{}", cluster.nodes[0].log_tail());
    let away = cluster.manifests.with_extension("away");
    let rows =
        |node: &Node| String::from_utf8_lossy(&node.cilium(&["bpf", "lb", "list"]).stdout).into_owned();
    let before = rows(&cluster.nodes[0]);

    std::fs::rename(&cluster.manifests, &away).expect("move the folder away");
    let reported = |node: &Node| status_text(node).contains("cannot be read");
    assert!(eventually(WAIT, || reported(&cluster.nodes[0])), "{}", status_text(&cluster.nodes[0]));
    assert!(as_before(), "nothing is removed");
    assert_eq!(rows(&cluster.nodes[0]), before);
    // Nor by an agent that starts without it.
    cluster.nodes[0].stop_agent(libc::SIGKILL);
    cluster.nodes[0].start_agent();
    assert!(eventually(WAIT, || reported(&cluster.nodes[0])), "{}", cluster.nodes[0].log_tail());
    assert!(as_before(), "nothing is removed after a restart");
    assert_eq!(rows(&cluster.nodes[0]), before);
    assert_calm(&cluster.nodes[0], 10, "without a folder");

    // There again, but empty: not believed at once.
    let _ = std::fs::remove_dir_all(&cluster.manifests);
    std::fs::create_dir_all(&cluster.manifests).expect("an empty folder");
    std::thread::sleep(Duration::from_secs(2));
    assert!(as_before(), "an empty folder is not believed at once");
    assert_eq!(rows(&cluster.nodes[0]), before);
    // Unless it says so.
    std::fs::write(cluster.manifests.join(".empty"), "").expect("write the mark");
    assert!(
        eventually(WAIT, || !rows(&cluster.nodes[0]).contains("10.96.0.10")),
        "{}",
        status_text(&cluster.nodes[0])
    );
    // Back.
    std::fs::remove_dir_all(&cluster.manifests).expect("remove the empty folder");
    std::fs::rename(&away, &cluster.manifests).expect("move the folder back");
    assert!(
        eventually(WAIT, as_before),
        "{}\n{}",
        status_text(&cluster.nodes[0]),
        cluster.nodes[0].log_tail()
    );
    cluster.nodes[0].wait_healthy(WAIT);
    cluster.settle();
}
