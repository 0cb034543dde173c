//! Policies that come and go under connections that live: what is forbidden is cut, what is allowed goes
//! on, and the node always reaches its own pods.

use cilium_tests_kernel::policy_cases::stage::{Drop, PATIENCE, Stage};
use cilium_tests_kernel::policy_cases::{End, Probe, Proto};
use cilium_tests_kernel::probe::eventually;
use cilium_tests_kernel::{Netns, Options};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long an answer may take that is expected to come.
const ANSWER: Duration = Duration::from_secs(3);
/// How long to wait for one that is expected not to.
const SILENCE: Duration = Duration::from_millis(500);

/// An open connection to a server that answers every request.
enum Talk {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Talk {
    fn tcp(from: &Netns, to: IpAddr) -> Self {
        let stream = from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(to, 80), ANSWER));
        Self::Tcp(stream.unwrap_or_else(|e| panic!("connect to {to}: {e}")))
    }

    fn udp(from: &Netns, to: IpAddr) -> Self {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("a literal");
        let socket = from.enter(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(SocketAddr::new(to, 80))?;
            Ok::<_, std::io::Error>(socket)
        });
        Self::Udp(socket.unwrap_or_else(|e| panic!("a UDP socket to {to}: {e}")))
    }

    /// Reads what earlier requests were answered with: TCP sent some of them again, late.
    fn drain(&mut self) {
        let mut buffer = [0; 256];
        loop {
            let read = match self {
                Self::Tcp(stream) => {
                    stream.set_nonblocking(true).expect("a socket can");
                    let read = stream.read(&mut buffer);
                    stream.set_nonblocking(false).expect("a socket can");
                    read
                }
                Self::Udp(socket) => {
                    socket.set_nonblocking(true).expect("a socket can");
                    let read = socket.recv(&mut buffer);
                    socket.set_nonblocking(false).expect("a socket can");
                    read
                }
            };
            if !matches!(read, Ok(n) if n > 0) {
                return;
            }
        }
    }

    /// Asks, and says whether an answer came in time.
    fn answers(&mut self, patience: Duration) -> bool {
        let mut buffer = [0; 256];
        let answer = match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(patience)).expect("not zero");
                stream.write_all(b"?").and_then(|()| stream.read(&mut buffer))
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(patience)).expect("not zero");
                socket.send(b"?").and_then(|_| socket.recv(&mut buffer))
            }
        };
        matches!(answer, Ok(n) if n > 0)
    }
}

/// A connection from one end to `web`, with the words for it.
struct Flow {
    probe: Probe,
    talk: Talk,
}

fn flows(stage: &Stage, from: End) -> Vec<Flow> {
    let mut flows = Vec::new();
    for v6 in [false, true] {
        let (netns, to) = (stage.netns(0, from), stage.address(0, End::Web, v6));
        let tcp = Probe { from, to: End::Web, proto: Proto::Tcp(80), v6 };
        flows.push(Flow { probe: tcp, talk: Talk::tcp(netns, to) });
        flows.push(Flow { probe: Probe { proto: Proto::Udp(80), ..tcp }, talk: Talk::udp(netns, to) });
    }
    flows
}

fn live(flows: &mut [Flow], when: &str) {
    for flow in flows {
        assert!(flow.talk.answers(ANSWER), "{when}: the connection {} does not live", flow.probe);
    }
}

fn cut(stage: &Stage, flows: &mut [Flow], reason: u64, when: &str) {
    for flow in flows {
        stage.forget();
        flow.talk.drain();
        assert!(!flow.talk.answers(SILENCE), "{when}: the connection {} lives on", flow.probe);
        // No SYN: it is the open connection that is cut.
        let old = |drop: &Drop| !drop.l4.contains("SYN") && drop.reason == reason;
        let told = || stage.drops().iter().any(|d| old(d) && stage.is_about(0, flow.probe, d));
        assert!(eventually(PATIENCE, told), "{when}: {}: cut, but not told: {:?}", flow.probe, stage.drops());
    }
}

/// Whether they come back: TCP sends again what was lost, later and later.
fn back(flows: &mut [Flow], when: &str) {
    for flow in flows {
        let answers = eventually(PATIENCE, || flow.talk.answers(SILENCE));
        assert!(answers, "{when}: the connection {} does not come back", flow.probe);
    }
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: live, namespace: lane0}}\nspec: \
         {spec}\n"
    )
}

#[test]
fn a_policy_cuts_established_connections_it_forbids_and_no_others() {
    let stage = Stage::set(&Options::default(), 1);
    let (mut near, mut far) = (flows(&stage, End::Near), flows(&stage, End::Far));
    live(&mut near, "without a policy");
    live(&mut far, "without a policy");

    let only_far = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]}";
    stage.put("live.yaml", &policy(only_far));
    cut(&stage, &mut near, 133, "only far may come");
    live(&mut far, "only far may come");

    let near_but = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}]}], ingressDeny: \
                    [{fromEndpoints: [{matchLabels: {app: far}}]}]}";
    stage.put("live.yaml", &policy(near_but));
    back(&mut near, "all but far may come");
    cut(&stage, &mut far, 181, "all but far may come");

    let no_egress = "{endpointSelector: {matchLabels: {app: near}}, egress: [{toEndpoints: [{matchLabels: {app: odd}}]}]}";
    stage.put("live.yaml", &policy(no_egress));
    cut(&stage, &mut near, 133, "near may send to odd alone");
    back(&mut far, "near may send to odd alone");

    stage.take("live.yaml");
    back(&mut near, "without a policy again");
    live(&mut far, "without a policy again");

    // The node's own probes of its pods (a kubelet's, say) pass whatever the policy.
    stage.put("live.yaml", &policy("{endpointSelector: {}, ingress: [{}]}"));
    std::thread::scope(|scope| {
        let ends = [
            (End::Host1, End::Web, true),
            (End::Host2, End::Far, true),
            (End::Host2, End::Web, false),
            (End::Near, End::Web, false),
        ];
        for (from, to, passes) in ends {
            for v6 in [false, true] {
                for proto in [Proto::Tcp(80), Proto::Udp(80), Proto::Icmp] {
                    let (stage, probe) = (&stage, Probe { from, to, proto, v6 });
                    scope.spawn(move || assert_eq!(stage.ask(0, probe), passes, "all closed: {probe}"));
                }
            }
        }
    });
}

/// API servers are the endpoints of the Service `default/kubernetes`, wherever these are, from one moment to the next.
#[test]
fn api_servers_are_where_their_service_says() {
    let stage = Stage::set(&Options::default(), 1);
    let only = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEntities: [kube-apiserver]}], egress: \
                [{toEntities: [kube-apiserver]}]}";
    stage.put("live.yaml", &policy(only));
    let servers = |end: End| {
        let slice = |family: &str, addr: IpAddr| {
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: kubernetes-{}, namespace: \
                 default, labels: {{kubernetes.io/service-name: kubernetes}}}}\naddressType: {family}\nports: [{{name: \
                 https, port: 6443}}]\nendpoints: [{{addresses: [\"{addr}\"]}}]\n",
                family.to_lowercase()
            )
        };
        let (v4, v6) = (stage.address(0, end, false), stage.address(0, end, true));
        stage.put("servers.yaml", &(slice("IPv4", v4) + &slice("IPv6", v6)));
    };
    let ends = [End::OutA, End::OutB, End::Host2, End::Far];
    let judge = |server: Option<End>, when: &str| {
        for end in ends {
            for (from, to) in [(end, End::Web), (End::Web, end)] {
                for v6 in [false, true] {
                    let probe = Probe { from, to, proto: Proto::Tcp(80), v6 };
                    assert_eq!(stage.ask_within(0, probe, SILENCE), server == Some(end), "{when}: {probe}");
                }
            }
        }
    };
    judge(None, "nobody is known to be one");
    servers(End::OutA);
    judge(Some(End::OutA), "one outside");
    servers(End::Host2);
    judge(Some(End::Host2), "the other node");
    servers(End::OutB);
    judge(Some(End::OutB), "another outside");
    stage.take("servers.yaml");
    judge(None, "nobody any more");
}
