//! `plan`, `apply`, `destroy`: exit codes, and that the host is as it was.

use cilium_tests_kernel::cluster::{Node, binary};
use cilium_tests_kernel::footprint::{files, host, wait_quiet};
use cilium_tests_kernel::probe::{eventually, ping};
use cilium_tests_kernel::{Cluster, Options};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

fn one_node() -> Cluster {
    let cluster = Cluster::prepare(&Options { nodes: 1, ..Options::default() });
    // Values that differ from what is wanted, whatever this machine's defaults are.
    let set = "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > \
               /proc/sys/net/ipv4/conf/default/rp_filter; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding";
    assert!(cluster.nodes[0].netns.shell(set).status.success());
    wait_quiet(&cluster.nodes[0].netns);
    cluster
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command of this node that must end with `want`.
fn expect(node: &Node, args: &[&str], want: i32) -> String {
    let output = node.cilium(args);
    assert_eq!(code(&output), want, "cilium {args:?}:\n{}", said(&output));
    said(&output)
}

#[test]
fn the_host_is_as_before() {
    let mut cluster = one_node();
    let manifests = cluster.manifests.clone();
    let before = host(&cluster.nodes[0].netns);
    let there = files(&cluster.nodes[0].dir);
    // Nothing is written by looking.
    let plan = expect(&cluster.nodes[0], &["plan"], 2);
    assert!(plan.contains("cilium_host"), "{plan}");
    expect(&cluster.nodes[0], &["destroy", "--plan"], 0);
    assert_eq!(files(&cluster.nodes[0].dir), there, "plan wrote files");
    assert_eq!(files(&cluster.nodes[0].pins).len(), 0, "plan pinned");
    assert_eq!(host(&cluster.nodes[0].netns), before, "plan changed the host");

    expect(&cluster.nodes[0], &["apply"], 0);
    expect(&cluster.nodes[0], &["plan"], 0);
    expect(&cluster.nodes[0], &["apply"], 0);
    assert_ne!(host(&cluster.nodes[0].netns), before);
    assert!(files(&manifests.join("published")).len() == 1, "the node publishes itself");

    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(WAIT);
    let pod = cluster.pod(0, "a", "app: a");
    assert!(eventually(WAIT, || ping(&pod.netns, cluster.nodes[0].ipv4, None)));
    let pid = cluster.nodes[0].agent_pid().expect("it runs").to_string();
    for args in [&["destroy"][..], &["destroy", "--with-pods"], &["apply"], &["agent"]] {
        let text = expect(&cluster.nodes[0], args, 1);
        assert!(text.contains(&format!("pid {pid}")), "the holder is named: {text}");
    }
    cluster.nodes[0].stop_agent(libc::SIGTERM);
    let text = expect(&cluster.nodes[0], &["destroy"], 1);
    assert!(text.contains("pods are attached") && text.contains("--with-pods"), "{text}");
    expect(&cluster.nodes[0], &["destroy", "--plan"], 2);
    expect(&cluster.nodes[0], &["plan"], 0);
    assert!(ping(&pod.netns, cluster.nodes[0].ipv4, None), "the pod was not touched");

    expect(&cluster.nodes[0], &["destroy", "--with-pods"], 0);
    let after = host(&cluster.nodes[0].netns);
    let differ = |a: &str, b: &str| a.lines().filter(|l| !b.contains(l)).collect::<Vec<_>>().join("\n");
    assert!(after == before, "gone:\n{}\nleft:\n{}", differ(&before, &after), differ(&after, &before));
    assert!(!cluster.nodes[0].pins.exists(), "pins are left: {:?}", files(&cluster.nodes[0].pins));
    assert_eq!(files(&manifests.join("published")).len(), 0, "published files are left");
    let home = cluster.nodes[0].dir.clone();
    assert!(!home.join("cni/05-cilium.conflist").exists());
    assert_eq!(files(&home.join("run/state")).into_keys().filter(|f| f.ends_with(".json")).count(), 0);
    assert_eq!(
        pod.netns.shell("ip link show eth0").status.code(),
        Some(1),
        "the pod's end went with its pair"
    );
    expect(&cluster.nodes[0], &["destroy", "--plan"], 0);
    expect(&cluster.nodes[0], &["destroy"], 0);
}

#[test]
fn exit_codes_tell_problems_and_failures() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    cluster.write(
        "bad.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: wrong}]}\n",
    );
    let text = expect(node, &["apply"], 3);
    assert!(text.contains("bad.yaml:"), "{text}");
    expect(node, &["plan"], 0);
    expect(node, &["plan", "--strict"], 1);
    cluster.remove("bad.yaml");
    expect(node, &["plan", "--strict"], 0);
    expect(node, &["apply"], 0);

    expect(node, &["--set", "routing.mode=sideways", "plan"], 1);
    expect(node, &["--set", "routing.mode=sideways", "apply"], 1);
    expect(node, &["plan", "--observed", "/nowhere"], 1);

    // A stranger under a name of ours: never adopted, never removed, and everything else is in force.
    node.netns.ip("link del cilium_vxlan");
    node.netns.ip("link add cilium_vxlan type bridge");
    let index = || {
        let text =
            String::from_utf8_lossy(&node.netns.shell("ip -d -o link show cilium_vxlan").stdout).into_owned();
        assert!(text.contains(" bridge "), "the stranger is there: {text}");
        text.split(':').next().map(str::to_owned)
    };
    let number = index();
    let text = expect(node, &["apply"], 3);
    assert!(text.contains("cilium_vxlan exists and is not ours"), "{text}");
    expect(node, &["plan"], 2);
    let text = expect(node, &["destroy"], 0);
    assert!(!text.contains("not ours"), "destroy does not even try: {text}");
    assert_eq!(index(), number, "the stranger is still there");
    expect(node, &["destroy", "--plan"], 0);
}

#[test]
fn plans_need_neither_root_nor_a_kernel() {
    let cluster = one_node();
    let node = &cluster.nodes[0];
    let home = node.dir.clone();
    let root = cluster.manifests.parent().expect("the cluster's folder").to_owned();
    // Anybody may read the configuration, the manifests and the binary.
    for dir in [&root, &home, &cluster.manifests] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir, open).expect("chmod");
    }
    let bin = home.join("cilium");
    std::fs::copy(binary("cilium"), &bin).expect("copy the binary");
    let old = home.join("old.toml");
    let text = std::fs::read_to_string(node.config()).expect("the configuration");
    std::fs::write(&old, text.replace("mode = \"tunnel\"", "mode = \"tunnel\"\ntunnel_port = 8473"))
        .expect("write the old one");
    let same = home.join("same.toml");
    std::fs::write(&same, &text).expect("write the same");
    let there = (files(&root), host(&node.netns));
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--",
        ]);
        command.arg(&bin).arg("--config").arg(node.config()).args(args).current_dir("/");
        command.output().expect("setpriv is installed")
    };
    let expect = |args: &[&str], want: i32| {
        let output = nobody(args);
        assert_eq!(code(&output), want, "{args:?}:\n{}", said(&output));
        said(&output)
    };
    let text = expect(&["plan", "--observed", "none"], 2);
    assert!(text.contains("cilium_host"), "{text}");
    let text = expect(&["plan", "--observed", "none", "-o", "json"], 2);
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    let against = |old: &Path| old.display().to_string();
    expect(&["plan", "--against", &against(&same)], 0);
    let text = expect(&["plan", "--against", &against(&old)], 2);
    assert!(text.contains("routing.tunnel_port"), "the change is named: {text}");
    // Without root the programs of interfaces cannot be read: said, and the rest is still a plan.
    let text = expect(&["plan"], 2);
    assert!(text.contains("not read") && text.contains("operation not permitted"), "{text}");
    assert_eq!((files(&root), host(&node.netns)), there, "a plan wrote something");
}
