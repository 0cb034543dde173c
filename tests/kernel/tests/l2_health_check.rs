//! `healthCheckNodePort` as a load balancer outside asks it.

use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Cluster, Options, Pod};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PORT: u16 = 32_100;
const WAIT: Duration = Duration::from_secs(10);
/// Longer than a connection may last (`agent/health_check.rs`).
const PATIENCE: Duration = Duration::from_secs(8);

/// A Service of policy `Local` in front of these pods, the younger the greater `n`. `port` is where its health
/// is asked.
fn service(name: &str, port: u16, n: u8, pods: &[&Pod]) -> String {
    let endpoints: Vec<String> = pods
        .iter()
        .map(|pod| format!("{{addresses: [\"{}\"], nodeName: n{}}}", pod.ipv4, pod.node + 1))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, creationTimestamp: \
         \"2026-01-{n}T00:00:00Z\"}}\nspec:\n  type: LoadBalancer\n  \
         clusterIP: 10.96.0.{n}\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {port}\n  ports: [{{port: 80, \
         protocol: TCP, targetPort: 7000, nodePort: {}}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: \
         {name}}}}}\naddressType: IPv4\nports: [{{port: 7000, protocol: TCP}}]\nendpoints: [{}]\n",
        31_000 + u16::from(n),
        endpoints.join(", ")
    )
}

/// Status code and body of a GET, or nothing if nobody answers.
fn get(to: SocketAddr) -> Option<(u16, String)> {
    get_path(to, "/healthz")
}

fn get_path(to: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[test]
fn l2_load_balancers_outside_are_told_where_backends_are() {
    let cluster = Cluster::start(&Options::default());
    let web = cluster.pod(0, "web", "app: web");
    cluster.write("web.yaml", &service("web", PORT, 10, &[&web]));
    let ask = |ip: IpAddr, port: u16| cluster.outside.enter(|| get((ip, port).into()));
    let code = |ip: IpAddr| ask(ip, PORT).map(|(code, _)| code);
    let [near, far] = [&cluster.nodes[0], &cluster.nodes[1]];

    assert!(eventually(WAIT, || code(near.ipv4) == Some(200)), "{:?}", ask(near.ipv4, PORT));
    assert!(eventually(WAIT, || code(far.ipv4) == Some(503)), "no backend there: {:?}", ask(far.ipv4, PORT));
    assert_eq!(code(near.ipv6), Some(200));
    let (_, body) = ask(near.ipv4, PORT).expect("it answers");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["service"], serde_json::json!({"namespace": "default", "name": "web"}));
    assert_eq!((&told["localEndpoints"], &told["serviceProxyHealthy"]), (&1.into(), &true.into()));

    // Those who connect and say nothing take every seat, but not for long.
    cluster.outside.enter(|| {
        let at = SocketAddr::from((near.ipv4, PORT));
        let silent: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(at).ok()).collect();
        assert_eq!(silent.len(), 100);
        let since = Instant::now();
        assert!(eventually(2 * PATIENCE, || get(at).is_some_and(|(code, _)| code == 200)));
        println!("100 silent clients: served after {:?}", since.elapsed());
    });

    // A second Service that wants the port is reported, and does not take it; one whose port a process of the
    // node has is served when that goes.
    let taken = far.netns.enter(|| TcpListener::bind(("0.0.0.0", PORT + 1)).expect("a free port"));
    cluster.write("second.yaml", &service("second", PORT, 11, &[&web]));
    cluster.write("third.yaml", &service("third", PORT + 1, 12, &[&web]));
    let trouble = |node: &cilium_tests_kernel::cluster::Node| node.status()["health-checks"].to_string();
    assert!(
        eventually(WAIT, || trouble(near)
            .contains("Service/default/second: healthCheckNodePort 32100 answers for Service/default/web")
            && trouble(far).contains("Service/default/third: cannot listen on healthCheckNodePort 32101")),
        "{}\n{}",
        trouble(near),
        trouble(far)
    );
    assert_eq!(ask(near.ipv4, PORT + 1).map(|(code, _)| code), Some(200));
    drop(taken);
    assert!(eventually(WAIT, || ask(far.ipv4, PORT + 1).map(|(code, _)| code) == Some(503)));
    cluster.remove("second.yaml");
    assert!(eventually(WAIT, || trouble(near) == "[]"), "{}", trouble(near));

    // The last backend here goes, then the Service.
    cluster.write("web.yaml", &service("web", PORT, 10, &[]));
    assert!(eventually(WAIT, || code(near.ipv4) == Some(503)));
    cluster.remove("web.yaml");
    assert!(eventually(WAIT, || code(near.ipv4).is_none()), "the port is closed");
}

#[test]
fn l2_the_balancers_own_address_tells_too_if_asked() {
    let extra = "[load_balancer]\nhealth_check_load_balancer_ips = true\n".to_owned();
    let cluster = Cluster::start(&Options { extra, ..Options::default() });
    let web = cluster.pod(0, "web", "app: web");
    let balancer: [IpAddr; 2] =
        ["203.0.113.10", "2001:db8:99::10"].map(|text| text.parse().expect("an address"));
    let ingress = "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}, {ip: \"2001:db8:99::10\"}]}}\n";
    let both = "  clusterIPs: [10.96.0.10, \"fd96::10\"]\n  ipFamilyPolicy: RequireDualStack\n  clusterIP: 10.96.0.10\n";
    let text = service("web", PORT, 10, &[&web]);
    let text =
        text.replace("  clusterIP: 10.96.0.10\n", both).replacen("---\n", &format!("{ingress}---\n"), 1);
    cluster.write("web.yaml", &text);
    let code = |ip: IpAddr| cluster.outside.enter(|| get((ip, PORT).into())).map(|(code, _)| code);
    for (family, want) in [("-4", 0), ("-6", 1)] {
        for (node, ready) in [(0, Some(200)), (1, Some(503))] {
            let via = [cluster.nodes[node].ipv4, cluster.nodes[node].ipv6][want];
            cluster.outside.ip(&format!("{family} route replace {} via {via}", balancer[want]));
            let mut got = None;
            assert!(
                eventually(WAIT, || {
                    got = code(balancer[want]);
                    got == ready
                }),
                "{} by n{}: {got:?} instead of {ready:?}",
                balancer[want],
                node + 1
            );
        }
    }
    cluster.remove("web.yaml");
    assert!(
        eventually(WAIT, || balancer.into_iter().all(|ip| code(ip).is_none())),
        "nobody answers any more"
    );
    cluster.settle();
}

#[test]
fn l2_the_nodes_own_health_is_answered_as_by_kube_proxy() {
    const HEALTHZ: u16 = 10_256;
    let extra = format!("[load_balancer]\nhealthz_listen = \"[::]:{HEALTHZ}\"\n");
    let mut cluster = Cluster::prepare(&Options { nodes: 1, extra, ..Options::default() });
    let at = cluster.nodes[0].ipv4;
    let taken = cluster.nodes[0].netns.enter(|| TcpListener::bind(("::", HEALTHZ)).expect("a free port"));
    cluster.nodes[0].start_agent();
    cluster.nodes[0].wait_healthy(Duration::from_secs(30));
    let trouble = cluster.nodes[0].status()["health-checks"].to_string();
    assert!(trouble.contains("cannot listen on load_balancer.healthz_listen [::]:10256"), "{trouble}");
    drop(taken);
    let ask = |path: &str| {
        let (code, body) = cluster.outside.enter(|| get_path((at, HEALTHZ).into(), path))?;
        Some((code, serde_json::from_str::<serde_json::Value>(&body).expect("JSON")))
    };
    let code = |path: &str| ask(path).map(|(code, _)| code);
    assert!(eventually(WAIT, || code("/healthz") == Some(200)), "{:?}", ask("/healthz"));
    let (_, body) = ask("/healthz").expect("it answers");
    assert_eq!((&body["nodeEligible"], &body["lastUpdated"]), (&true.into(), &body["currentTime"]));
    assert_eq!((code("/livez"), code("/metrics")), (Some(200), Some(404)));
    assert!(eventually(WAIT, || cluster.nodes[0].status()["health-checks"] == serde_json::json!([])));

    // The autoscaler is about to take the node: it serves, and is to get nothing new.
    let taint = |taints: &str| {
        cluster.write(
            "node.yaml",
            &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nspec: {{taints: [{taints}]}}\n"),
        );
    };
    taint("{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}");
    assert!(eventually(WAIT, || code("/healthz") == Some(503)), "{:?}", ask("/healthz"));
    assert_eq!(ask("/healthz").map(|(_, body)| body["nodeEligible"].clone()), Some(false.into()));
    assert_eq!(code("/livez"), Some(200));
    taint("");
    assert!(eventually(WAIT, || code("/healthz") == Some(200)), "{:?}", ask("/healthz"));
}
