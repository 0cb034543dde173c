//! Contradictions within a configuration, and values that need more than their type to be refused.
//!
//! Each rule names every key that takes part, the one to look at first first. Rules only read the
//! configuration: whether a device or a folder exists on this host is found out by a pass, not here.

use super::{AllowLocalhost, Config, DsrDispatch, Enforcement, LbMode, RoutingMode, TunnelProtocol, keys};
use ipnet::IpNet;
use std::net::IpAddr;

/// Something wrong with a configuration as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The keys that take part, most telling first; never empty.
    pub keys: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Bytes an overlay adds to a packet over IPv4: IPv4 20, UDP 8, VXLAN or Geneve 8, inner Ethernet 14.
const OVERLAY_OVERHEAD: u16 = 50;
/// Least MTU of a link that carries IPv6 (RFC 8200, section 5).
const IPV6_MIN_MTU: u16 = 1_280;
/// Least MTU of a link that is of use for IPv4 (RFC 791: every host takes datagrams of 576 bytes).
const IPV4_MIN_MTU: u16 = 576;

pub(super) fn validate(config: &Config) -> Vec<Fault> {
    let mut faults = Faults::default();
    single_values(config, &mut faults);
    names(config, &mut faults);
    families(config, &mut faults);
    node(config, &mut faults);
    routing(config, &mut faults);
    paths(config, &mut faults);
    policy(config, &mut faults);
    load_balancer(config, &mut faults);
    if !config.bpf.events_bytes.is_power_of_two() {
        faults.add(
            &["bpf.events_bytes"],
            format!("{} is not a power of two", config.bpf.events_bytes),
            "the kernel takes only powers of two for a ring buffer, for example 1048576",
        );
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, keys: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.0.push(Fault { keys, message: message.into(), hint: hint.into() });
    }
}

/// Ranges and forms again, for configurations that were built in code and not read from a file.
fn single_values(config: &Config, faults: &mut Faults) {
    let value = config.to_value();
    for key in keys::all() {
        let Some(value) = value.pointer(&key.pointer()) else { continue };
        if let Err(reason) = key.check(value) {
            faults.add(&[&key.path], format!("{} {reason}", key.path), "");
        }
    }
}

fn names(config: &Config, faults: &mut Faults) {
    if !is_label(&config.cluster.name, 32) {
        faults.add(
            &["cluster.name"],
            format!("{:?} cannot name a cluster", config.cluster.name),
            "at most 32 of a-z, 0-9 and `-`, beginning and ending with a letter or digit",
        );
    }
    let node = &config.node.name;
    if !node.is_empty() && (node.len() > 253 || !node.split('.').all(|part| is_label(part, 63))) {
        faults.add(
            &["node.name"],
            format!("{node:?} cannot name a node"),
            "a DNS name in lower case, as Kubernetes' Node objects have",
        );
    }
    let proxy = &config.load_balancer.service_proxy_name;
    if !proxy.is_empty() && !is_label_value(proxy) {
        faults.add(
            &["load_balancer.service_proxy_name"],
            format!("load_balancer.service_proxy_name: {proxy:?} cannot be the value of a label"),
            "at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit",
        );
    }
}

/// Value of a Kubernetes label that is not empty.
fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

/// RFC 1123 label of at most `longest` bytes.
fn is_label(text: &str, longest: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=longest).contains(&text.len())
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

fn families(config: &Config, faults: &mut Faults) {
    if !config.ipv4.enabled && !config.ipv6.enabled {
        faults.add(
            &["ipv4.enabled", "ipv6.enabled"],
            "both address families are disabled",
            "enable at least one",
        );
    }
    let (v4, v6) = (config.ipv4.enabled, config.ipv6.enabled);
    for (net, native, enabled, on) in [
        (config.routing.ipv4_native_cidr.map(IpNet::V4), "routing.ipv4_native_cidr", "ipv4.enabled", v4),
        (config.routing.ipv6_native_cidr.map(IpNet::V6), "routing.ipv6_native_cidr", "ipv6.enabled", v6),
    ] {
        let Some(net) = net else { continue };
        host_bits(native, net, faults);
        if !on {
            faults.add(
                &[native, enabled],
                format!("{native} is set, but {enabled} = false"),
                format!("set {enabled} = true, or remove {native}"),
            );
        }
    }
}

fn host_bits(key: &str, net: IpNet, faults: &mut Faults) {
    if net != net.trunc() {
        faults.add(&[key], format!("{net} has bits set beyond its prefix"), format!("write {}", net.trunc()));
    }
}

fn node(config: &Config, faults: &mut Faults) {
    let node = &config.node;
    for address in &node.addresses {
        let useless = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        if useless || matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
            faults.add(
                &["node.addresses"],
                format!("{address} cannot be an address other nodes reach this node by"),
                "name an address of one of this node's devices",
            );
        }
    }
    for (i, net) in node.pod_cidrs.iter().enumerate() {
        host_bits("node.pod_cidrs", *net, faults);
        let (enabled, on) = match net {
            IpNet::V4(_) => ("ipv4.enabled", config.ipv4.enabled),
            IpNet::V6(_) => ("ipv6.enabled", config.ipv6.enabled),
        };
        if !on {
            faults.add(
                &["node.pod_cidrs", enabled],
                format!("node.pod_cidrs has {net}, but {enabled} = false"),
                format!("set {enabled} = true, or remove {net}"),
            );
        }
        for other in &node.pod_cidrs[..i] {
            if net.contains(other) || other.contains(net) {
                faults.add(
                    &["node.pod_cidrs"],
                    format!("{other} and {net} overlap"),
                    "name each address once",
                );
            }
        }
        for address in node.addresses.iter().filter(|address| net.contains(*address)) {
            faults.add(
                &["node.addresses", "node.pod_cidrs"],
                format!("the node's address {address} lies in its pod prefix {net}"),
                "pods and nodes need addresses of their own",
            );
        }
    }
}

fn routing(config: &Config, faults: &mut Faults) {
    let routing = &config.routing;
    let families = [
        (config.ipv4.enabled, config.masquerade.ipv4, routing.ipv4_native_cidr.is_some(), "ipv4"),
        (config.ipv6.enabled, config.masquerade.ipv6, routing.ipv6_native_cidr.is_some(), "ipv6"),
    ];
    match routing.mode {
        RoutingMode::Tunnel => {
            if routing.auto_direct_node_routes {
                faults.add(
                    &["routing.auto_direct_node_routes", "routing.mode"],
                    "routing.auto_direct_node_routes = true needs routing.mode = \"native\"",
                    "in tunnel mode pods of other nodes are reached through the overlay; remove one of the two",
                );
            }
        }
        RoutingMode::Native => {
            for (enabled, masquerade, native, family) in families {
                if enabled && masquerade && !native && !routing.auto_direct_node_routes {
                    faults.add(
                        &["routing.mode", &format!("routing.{family}_native_cidr"), &format!("masquerade.{family}")],
                        format!(
                            "routing.mode = \"native\" with masquerade.{family} = true does not say which addresses pods \
                             reach as themselves"
                        ),
                        format!(
                            "set routing.{family}_native_cidr to the prefix of all pods, or \
                             routing.auto_direct_node_routes = true, or masquerade.{family} = false"
                        ),
                    );
                }
            }
        }
    }
    mtu(config, faults);
    for (i, device) in routing.devices.iter().enumerate() {
        if device.starts_with("cilium_") || device.starts_with("lxc") || &**device == "lo" {
            faults.add(
                &["routing.devices"],
                format!("{device} is no device between nodes"),
                "name devices that lead to other nodes, such as eth0",
            );
        }
        if routing.devices[..i].contains(device) {
            faults.add(&["routing.devices"], format!("{device} is named twice"), "name each device once");
        }
    }
}

fn mtu(config: &Config, faults: &mut Faults) {
    let mtu = config.routing.mtu;
    if mtu == 0 {
        return;
    }
    let least = if config.ipv6.enabled { IPV6_MIN_MTU } else { IPV4_MIN_MTU };
    let (overhead, mode) = match config.routing.mode {
        RoutingMode::Tunnel => (OVERLAY_OVERHEAD, "tunnel"),
        RoutingMode::Native => (0, "native"),
    };
    if mtu < least + overhead {
        faults.add(
            &["routing.mtu", "routing.mode", "ipv6.enabled"],
            format!(
                "routing.mtu = {mtu} leaves pods {} bytes with routing.mode = \"{mode}\": less than the {least} that \
                 ipv6.enabled = {} needs",
                mtu.saturating_sub(overhead),
                config.ipv6.enabled
            ),
            format!("set routing.mtu to at least {}, or 0 to take the devices'", least + overhead),
        );
    }
}

fn paths(config: &Config, faults: &mut Faults) {
    let paths = &config.paths;
    let own = [
        ("paths.run_dir", &paths.run_dir),
        ("paths.bpf_dir", &paths.bpf_dir),
        ("paths.state_dir", &paths.state_dir),
    ];
    for (i, (name, path)) in own.iter().enumerate() {
        for (other, taken) in &own[..i] {
            if path == taken {
                faults.add(
                    &[name, other],
                    format!("{name} and {other} are both {path}"),
                    "give each its own folder",
                );
            }
        }
    }
    let manifests = &config.source.manifests;
    for (name, path) in own {
        if path.starts_with(&manifests.path) {
            faults.add(
                &["source.manifests.path", name],
                format!("{name} ({path}) lies inside source.manifests.path ({})", manifests.path),
                "the agent would read its own files as manifests; use separate folders",
            );
        }
    }
}

fn load_balancer(config: &Config, faults: &mut Faults) {
    let [first, last] = config.load_balancer.node_port_range;
    if first > last {
        faults.add(
            &["load_balancer.node_port_range"],
            format!("its first port {first} is greater than its last {last}"),
            "write the lesser first, for example [30000, 32767]",
        );
    }
    let mode = config.load_balancer.mode;
    if mode != LbMode::Snat && config.routing.host_stack && config.load_balancer.kube_proxy_replacement {
        faults.add(
            &["load_balancer.mode", "routing.host_stack"],
            "backends cannot answer clients themselves (load_balancer.mode) where their packets go through the host's \
             stack (routing.host_stack = true), which would not know the frontend",
            "set load_balancer.mode = \"snat\", or routing.host_stack = false",
        );
    }
    let geneve = config.routing.mode == RoutingMode::Tunnel
        && config.routing.tunnel_protocol == TunnelProtocol::Geneve;
    if config.load_balancer.dsr_dispatch == DsrDispatch::Geneve && !geneve {
        faults.add(
            &["load_balancer.dsr_dispatch", "routing.mode", "routing.tunnel_protocol"],
            "load_balancer.dsr_dispatch = \"geneve\" needs routing.mode = \"tunnel\" with routing.tunnel_protocol = \"geneve\": \
             frontends are told in the header of the overlay",
            "set both on every node, or load_balancer.dsr_dispatch = \"opt\"",
        );
    }
    for net in &config.load_balancer.node_port_addresses {
        host_bits("load_balancer.node_port_addresses", *net, faults);
    }
}

fn policy(config: &Config, faults: &mut Faults) {
    let policy = &config.policy;
    if policy.enforcement == Enforcement::Never && policy.allow_localhost == AllowLocalhost::Policy {
        faults.add(
            &["policy.allow_localhost", "policy.enforcement"],
            "policy.allow_localhost = \"policy\" asks for policies, but policy.enforcement = \"never\" enforces none",
            "remove one of the two",
        );
    }
}
