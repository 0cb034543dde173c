//! Bad input: broken manifests, damaged state, wrong configuration, strangers under our names.

use cilium_tests_kernel::cluster::{Node, binary, long};
use cilium_tests_kernel::probe::{eventually, ping, serve, tcp};
use cilium_tests_kernel::{Cluster, Options, Pod};
use serde_json::Value;
use std::path::{Path, PathBuf};
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

/// One way to damage a file.
fn damage(path: &Path, way: usize) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let changed: Vec<u8> = match way % 5 {
        0 => Vec::new(),
        1 => bytes[..bytes.len() / 2].to_vec(),
        2 => {
            let mut bytes = bytes;
            let at = (way * 7919) % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (way % 7);
            }
            bytes
        }
        3 => vec![0xff; 4096],
        _ => b"{}".repeat(50_000),
    };
    std::fs::write(path, changed).expect("damage a file");
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { out.extend(below(&entry.path())) } else { out.push(entry.path()) }
    }
    out.sort();
    out
}

#[test]
fn damaged_state_is_mended_and_pods_keep_their_addresses() {
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let pods: Vec<Pod> = (0..4).map(|n| cluster.pod(0, &format!("p{n}"), &format!("app: p{n}"))).collect();
    serve(&pods[0].netns, "p0", PORT);
    cluster.write("deny.yaml", &DENY_B.replace("app: a", "app: p0").replace("app: c", "app: p1"));
    let open = |n: usize| tcp(&pods[n].netns, pods[0].ipv4, PORT).is_some();
    assert!(eventually(WAIT, || open(1) && !open(2)), "the policy is in force");
    cluster.settle();
    let addresses = |node: &Node| -> String {
        let list: Value =
            serde_json::from_slice(&node.cilium(&["endpoint", "list", "-o", "json"]).stdout).expect("JSON");
        list.to_string()
    };
    let before = addresses(&cluster.nodes[0]);
    let identities = |node: &Node| String::from_utf8_lossy(&node.cilium(&["ip", "list"]).stdout).into_owned();
    let numbers = identities(&cluster.nodes[0]);
    let home = cluster.nodes[0].dir.clone();
    let mut damaged = 0;
    let ways = if long() { 40 } else { 5 };
    for way in 0..ways {
        cluster.nodes[0].stop_agent(libc::SIGKILL);
        for path in below(&home.join("state")).into_iter().chain(below(&home.join("run/state/endpoints"))) {
            damage(&path, way + damaged);
            damaged += 1;
        }
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(WAIT);
        let node = &cluster.nodes[0];
        assert_eq!(addresses(node), before, "way {way}: {}", node.log_tail());
        assert_eq!(identities(node), numbers, "way {way}");
        assert!(open(1) && !open(2), "way {way}: the policy is in force");
        for pod in &pods {
            assert!(ping(&pod.netns, node.ipv4, None), "way {way}: {} lost its network", pod.name);
        }
        assert_calm_short(node);
    }
    cluster.settle();
    assert!(!cluster.nodes[0].log().contains("panicked"), "{}", cluster.nodes[0].log_tail());
    eprintln!("{damaged} files damaged in {ways} restarts: addresses, identities and policy unchanged");
}

fn assert_calm_short(node: &Node) {
    let before = passes(node);
    std::thread::sleep(Duration::from_millis(300));
    assert!(passes(node) - before < 10, "the loop spins: {}", node.log_tail());
}

/// Runs a command that should refuse; one that does not is ended.
fn bounded(node: &Node, command: &str) -> std::process::Output {
    let mut run = node.netns.command("timeout");
    run.arg("10").arg(binary("cilium")).arg("--config").arg(node.config()).arg(command);
    run.output().expect("timeout is installed")
}

#[test]
fn a_wrong_configuration_touches_nothing() {
    let mut cluster = Cluster::prepare(&Options { nodes: 1, ..Options::default() });
    let node = &mut cluster.nodes[0];
    let good = std::fs::read_to_string(node.config()).expect("the configuration");
    let links = |node: &Node| String::from_utf8_lossy(&node.netns.shell("ip -o link").stdout).into_owned();
    let before = links(node);
    let wrong: &[(&str, &str, &str)] = &[
        ("mode = \"tunnel\"", "mode = \"sideways\"", "routing.mode"),
        ("mode = \"tunnel\"", "mode = 7", "routing.mode"),
        ("ct_tcp_max = 65536", "ct_tcp_max = -1", "ct_tcp_max"),
        ("ct_tcp_max = 65536", "ct_tcp_max = \"many\"", "ct_tcp_max"),
        ("ct_tcp_max = 65536", "ct_tpc_max = 65536", "ct_tcp_max"),
        ("version = 1", "version = 99", "version"),
        ("version = 1", "version = 1\nversion = 1", "version"),
        ("enabled = true", "enabled = \"perhaps\"", "ipv6.enabled"),
        ("[bpf]", "[bfp]", "bpf"),
        ("name = \"n1\"", "name = \"no/good name\"", "node.name"),
        ("[cluster]", "[cluster", "cilium.toml:"),
    ];
    for (from, to, named) in wrong {
        assert!(good.contains(from), "{from}");
        std::fs::write(node.config(), good.replacen(from, to, 1)).expect("write it");
        for command in ["agent", "apply", "plan", "destroy"] {
            let output = bounded(node, command);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command} with {to}: {text}");
            assert!(text.contains(named) && text.contains("cilium.toml:"), "{command} with {to}: {text}");
        }
        assert_eq!(std::fs::read_dir(&node.pins).expect("it is there").count(), 0, "{to}: pins were made");
        assert_eq!(links(node), before, "{to}: interfaces were made");
        assert!(!node.dir.join("run").exists() && !node.dir.join("state").exists(), "{to}: files were made");
    }
    // A file that is not there, a folder in its place, garbage.
    for bytes in [&b"\xff\xfe\x00"[..], &[0; 100], b""] {
        std::fs::write(node.config(), bytes).expect("write it");
        let output = bounded(node, "agent");
        assert_eq!(output.status.code(), Some(1), "{bytes:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write(node.config(), &good).expect("write it");
    node.start_agent();
    node.wait_healthy(WAIT);
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
