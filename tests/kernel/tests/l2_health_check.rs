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
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
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
