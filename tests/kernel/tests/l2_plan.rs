//! `cilium plan` before objects go.

use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Options};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);

/// A Service of type NodePort with a backend of each address.
fn service(name: &str, n: u8, backends: &[&str]) -> String {
    let endpoints: Vec<String> = backends.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{type: NodePort, \
         clusterIP: 10.96.0.{n}, ports: [{{port: 80, nodePort: {}}}]}}\n---\napiVersion: \
         discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: default, labels: \
         {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n",
        30_000 + u16::from(n),
        endpoints.join(", ")
    )
}

#[test]
fn l2_what_would_go_with_a_service_is_named() {
    let mut cluster = Cluster::start(&Options { nodes: 1, ..Options::default() });
    let both =
        [service("cart", 10, &["192.0.2.1", "192.0.2.2"]), service("web", 11, &["192.0.2.2"])].concat();
    cluster.write("services.yaml", &both);
    cluster.settle();
    let frontends = |cluster: &Cluster| {
        let output = cluster.nodes[0].cilium(&["service", "list", "-o", "json"]).stdout;
        serde_json::from_slice::<serde_json::Value>(&output).ok().and_then(|l| Some(l.as_array()?.len()))
    };
    // Each has its ClusterIP, the node's address, and the one that stands for all.
    assert!(eventually(WAIT, || frontends(&cluster) == Some(6)), "{:?}", frontends(&cluster));

    let without = cluster.manifests.with_file_name("without");
    std::fs::create_dir(&without).expect("a folder");
    std::fs::copy(cluster.manifests.join("nodes.yaml"), without.join("nodes.yaml")).expect("a copy");
    std::fs::write(without.join("services.yaml"), service("web", 11, &["192.0.2.2"])).expect("write");
    let plan = |cluster: &Cluster| {
        let folder = without.display().to_string();
        let output = cluster.nodes[0].cilium(&["plan", "--manifests", &folder]);
        String::from_utf8(output.stdout).expect("text")
    };
    let shown = plan(&cluster);
    let group: Vec<&str> =
        shown.lines().skip_while(|line| !line.starts_with("- Service default/cart: ")).collect();
    let leads = "to 192.0.2.1:8080/TCP, 192.0.2.2:8080/TCP";
    let alternatives = "to 192.0.2.2:8080/TCP, 192.0.2.1:8080/TCP";
    let [head, fronts @ .., _] = &group[..] else { panic!("the Service is not named:\n{shown}") };
    // A way back for each frontend, and a slot for each backend of each.
    assert_eq!(*head, "- Service default/cart: 3 frontends, 1 backend, 13 rows in all", "{shown}");
    let node = format!("-   {}:30010/TCP [NodePort] to ", cluster.nodes[0].ipv4);
    assert!(fronts.iter().any(|line| line.starts_with(&node)), "{shown}");
    for line in &fronts[..3] {
        assert!(line.ends_with(leads) || line.ends_with(alternatives), "{line}");
    }
    assert_eq!(fronts[3], "-   backend 192.0.2.1:8080/TCP", "the other is web's, too");
    let told_apart = |line: &&str| line.starts_with("- slot") || line.starts_with("- revnat");
    assert!(!shown.lines().any(|line| told_apart(&line)), "{shown}");

    // Nobody knows without an agent, but what can be known is said.
    cluster.nodes[0].stop_agent(libc::SIGTERM);
    let shown = plan(&cluster);
    assert!(shown.contains("- no longer wanted: 3 frontends, 1 backend, 13 rows in all\n"), "{shown}");
}
