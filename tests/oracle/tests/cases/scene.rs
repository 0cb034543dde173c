//! Small worlds and questions, written short.

use cilium_tests_oracle::{
    Config, Decision, Family, Packet, Party, Protocol, Reserved, Verdict, World, verdict,
};
use serde_json::{Value, json};

/// A world in the making. The node asked is `here`; `there` is another.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) objects: Vec<Value>,
    pub(crate) config: Config,
}

impl Scene {
    /// Two nodes, two namespaces (`red` with the label `team=red`, `blue` with `team=blue`), no pods.
    pub(crate) fn new() -> Scene {
        let node = |name: &str, address: &str, role: &str| {
            json!({"kind": "Node", "metadata": {"name": name, "labels": {"role": role}},
                   "status": {"addresses": [{"type": "InternalIP", "address": address},
                                            {"type": "Hostname", "address": name}]}})
        };
        let namespace = |name: &str| {
            let labels = json!({"kubernetes.io/metadata.name": name, "team": name});
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        };
        let objects = vec![
            node("here", "192.168.0.1", "worker"),
            node("there", "192.168.0.2", "control-plane"),
            namespace("red"),
            namespace("blue"),
        ];
        Scene { objects, config: Config::default() }
    }

    pub(crate) fn with(mut self, object: Value) -> Scene {
        self.objects.push(object);
        self
    }

    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Scene {
        change(&mut self.config);
        self
    }

    /// A pod on `here`: `("red", "web", "10.1.0.1", {"app": "web"})`, with a port `http`, TCP 8080.
    pub(crate) fn pod(self, namespace: &str, name: &str, address: &str, labels: Value) -> Scene {
        self.with(json!({
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": "here", "serviceAccountName": name, "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080},
                                        {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"podIPs": [{"ip": address}]},
        }))
    }

    /// A policy: kind, `namespace/name` (or `name`), spec.
    pub(crate) fn policy(self, kind: &str, name: &str, spec: Value) -> Scene {
        let (namespace, name) =
            name.split_once('/').map_or((Value::Null, name), |(ns, name)| (json!(ns), name));
        self.with(json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec}))
    }

    pub(crate) fn cnp(self, spec: Value) -> Scene {
        let name = format!("red/p{}", self.objects.len());
        self.policy("CiliumNetworkPolicy", &name, spec)
    }

    pub(crate) fn ccnp(self, spec: Value) -> Scene {
        let name = format!("p{}", self.objects.len());
        self.policy("CiliumClusterwideNetworkPolicy", &name, spec)
    }

    pub(crate) fn world(&self) -> World {
        World::new(&self.objects, self.config.clone(), "here")
    }

    /// `FROM > TO PROTOCOL/PORT`, see [`question`].
    pub(crate) fn says(&self, text: &str) -> Verdict {
        verdict(&self.world(), &question(text))
    }

    /// Whether each of the questions is answered so; and that the policies have nothing wrong in them.
    #[track_caller]
    pub(crate) fn check(&self, allowed: &[&str], dropped: &[&str]) {
        let world = self.world();
        assert_eq!(world.findings(), [], "sound policies");
        self.check_unsound(allowed, dropped);
    }

    #[track_caller]
    pub(crate) fn check_unsound(&self, allowed: &[&str], dropped: &[&str]) {
        let world = self.world();
        for (list, wanted) in [(allowed, true), (dropped, false)] {
            for text in list {
                let seen = verdict(&world, &question(text));
                assert_eq!(seen.allowed(), wanted, "{text}: {seen:?}");
            }
        }
    }
}

/// `red/web > blue/db TCP/80`. A party is a pod, `host`, `node:NAME`, `health`, `init`, `ingress`,
/// `unmanaged`, or an address; with an IPv6 address on either side the packet is IPv6.
pub(crate) fn question(text: &str) -> Packet {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [from, ">", to, what] = words[..] else { panic!("{text}: FROM > TO PROTOCOL/PORT") };
    let (protocol, port) = what.split_once('/').expect("PROTOCOL/PORT");
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => Protocol::Icmp,
        "ICMPv6" => Protocol::IcmpV6,
        number => Protocol::Other(number.parse().expect("a protocol")),
    };
    let family = if from.contains("::") || to.contains("::") { Family::V6 } else { Family::V4 };
    Packet { from: party(from), to: party(to), protocol, port: port.parse().expect("a port"), family }
}

fn party(text: &str) -> Party {
    let reserved = |identity| Party::Reserved { identity, address: None };
    match text {
        "host" => Party::Host,
        "health" => reserved(Reserved::Health),
        "init" => reserved(Reserved::Init),
        "ingress" => reserved(Reserved::Ingress),
        "unmanaged" => reserved(Reserved::Unmanaged),
        _ => {
            if let Ok(address) = text.parse() {
                return Party::Address(address);
            }
            if let Some(node) = text.strip_prefix("node:") {
                return Party::Node(node.to_owned());
            }
            let (namespace, name) = text.split_once('/').expect("NAMESPACE/NAME");
            Party::pod(namespace, name)
        }
    }
}

/// The rule that decided, as `KIND NAMESPACE/NAME PATH`.
pub(crate) fn decided_by(decision: &Decision) -> String {
    match decision {
        Decision::NotEnforced => String::new(),
        Decision::Allowed { rule } | Decision::Denied { rule } => rule.to_string(),
        Decision::DefaultDenied { by } => by.to_string(),
    }
}
