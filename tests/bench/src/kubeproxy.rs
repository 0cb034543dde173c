//! Services as kube-proxy 1.33 lays them out, for `iptables-restore` and for `nft -f`. Pure.
//!
//! Chains, order of rules, marks, probabilities and comments are those of `pkg/proxy/iptables` and
//! `pkg/proxy/nftables` with `--detect-local-mode=ClusterCIDR` and the cluster's CIDR 10.0.0.0/8; names are as
//! long as theirs.

use crate::manifests::{PORT, TARGET, backends_of, service_ip};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

/// A Service with one TCP port.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name in `default`.
    pub name: String,
    /// Address and port.
    pub at: SocketAddrV4,
    /// Backends.
    pub backends: Vec<SocketAddrV4>,
}

impl Service {
    fn port_name(&self) -> String {
        format!("default/{}:web", self.name)
    }
}

/// What stands for a digest in names: as many characters.
fn digest(of: &str, length: usize) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    (0..length)
        .map(|round| {
            for byte in of.bytes().chain([u8::try_from(round).unwrap_or(0)]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(hash >> 40) as usize % 32])
        })
        .collect()
}

fn line(out: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{args}");
}

const FILTER: &str = "*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

/// Made once, not with each sync.
const JUMPS: &str = "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
";

const NAT_RULES: &str = "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

const LAST: &str = "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
";

/// Input of `iptables-restore`: a whole sync.
pub(crate) fn iptables(services: &[Service]) -> String {
    format!("{FILTER}{NAT}{}COMMIT\n", nat(services, None))
}

/// Input of `iptables-restore --noflush` when one Service of them has changed: its own chains, and the way to all
/// of them, which each sync writes anew.
pub(crate) fn iptables_change(services: &[Service], changed: &Service) -> String {
    format!("{NAT}{}COMMIT\n", nat(services, Some(&changed.name)))
}

/// More endpoints than this, and rules about them carry no comments any more.
const LARGE: usize = 1000;

/// Chains and rules of the nat table; of one Service only the chains of its own, if it alone has changed.
fn nat(services: &[Service], only: Option<&str>) -> String {
    let (mut chains, mut portals, mut rules) = (String::new(), String::new(), String::new());
    let is_large = services.iter().map(|service| service.backends.len()).sum::<usize>() > LARGE;
    let comment = |text: &str| if is_large { String::new() } else { format!("-m comment --comment {text} ") };
    for service in services {
        let (name, at) = (service.port_name(), service.at);
        let chain = format!("KUBE-SVC-{}", digest(&name, 16));
        let (ip, port) = (at.ip(), at.port());
        let portal =
            format!("-m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {ip} --dport {port}");
        line(&mut portals, format_args!("-A KUBE-SERVICES {portal} -j {chain}"));
        if only.is_some_and(|only| only != service.name) {
            continue;
        }
        line(&mut chains, format_args!(":{chain} - [0:0]"));
        line(&mut rules, format_args!("-A {chain} {portal} ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ"));
        for (index, backend) in service.backends.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{}", digest(&format!("{name}{backend}"), 16));
            line(&mut chains, format_args!(":{endpoint} - [0:0]"));
            let left = service.backends.len() - index;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            let there = comment(&format!("\"{name} -> {backend}\""));
            line(&mut rules, format_args!("-A {chain} {there}{chance}-j {endpoint}"));
            let named = format!("-A {endpoint} {}", comment(&name));
            line(&mut rules, format_args!("{named}-s {} -j KUBE-MARK-MASQ", backend.ip()));
            line(&mut rules, format_args!("{named}-m tcp -p tcp -j DNAT --to-destination {backend}"));
        }
    }
    let jumps = if only.is_none() { JUMPS } else { "" };
    format!("{chains}{jumps}{NAT_RULES}{portals}{LAST}{rules}")
}

const NFT: &str = "table ip kube-proxy {
  comment \"rules for kube-proxy\"
  set cluster-ips { type ipv4_addr; comment \"Active ClusterIPs\"; }
  set nodeport-ips { type ipv4_addr; comment \"IPs that accept NodePort traffic\"; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set mark or 0x4000; }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set mark xor 0x4000
    masquerade fully-random
  }
  chain reject-chain { reject; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"
    ip daddr 10.96.0.0/12 drop comment \"Drop traffic to unallocated ClusterIPs\"
  }
  chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
  chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain filter-prerouting-pre-dnat { type filter hook prerouting priority dstnat - 10; ct state new jump firewall-check; }
  chain filter-output-pre-dnat { type filter hook output priority -110; ct state new jump firewall-check; }
  chain filter-input {
    type filter hook input priority filter
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority filter
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority filter
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
";

/// Names of a Service's chain and of its backends'.
fn nft_chains(service: &Service) -> (String, Vec<String>) {
    let name = format!("default/{}/tcp/web", service.name);
    let chain = format!("service-{}-{name}", digest(&name, 8));
    let endpoint = |backend: &SocketAddrV4| {
        format!(
            "endpoint-{}-{name}__{}/{}",
            digest(&format!("{name}{backend}"), 8),
            backend.ip(),
            backend.port()
        )
    };
    (chain, service.backends.iter().map(endpoint).collect())
}

fn nft_service(service: &Service, out: &mut String) {
    let (chain, endpoints) = nft_chains(service);
    for (endpoint, backend) in endpoints.iter().zip(&service.backends) {
        line(
            out,
            format_args!(
                "add rule ip kube-proxy {endpoint} ip saddr {} jump mark-for-masquerade",
                backend.ip()
            ),
        );
        line(out, format_args!("add rule ip kube-proxy {endpoint} meta l4proto tcp dnat to {backend}"));
    }
    let (ip, port) = (service.at.ip(), service.at.port());
    line(
        out,
        format_args!(
            "add rule ip kube-proxy {chain} ip daddr {ip} tcp dport {port} ip saddr != 10.0.0.0/8 jump mark-for-masquerade"
        ),
    );
    let choices: Vec<String> =
        endpoints.iter().enumerate().map(|(n, endpoint)| format!("{n} : goto {endpoint}")).collect();
    line(
        out,
        format_args!(
            "add rule ip kube-proxy {chain} numgen random mod {} vmap {{ {} }}",
            endpoints.len(),
            choices.join(", ")
        ),
    );
}

/// Input of `nft -f`: a whole sync.
pub(crate) fn nftables(services: &[Service]) -> String {
    let mut out = String::from(NFT);
    for service in services {
        let (chain, endpoints) = nft_chains(service);
        for chain in std::iter::once(&chain).chain(&endpoints) {
            line(&mut out, format_args!("add chain ip kube-proxy {chain}"));
        }
    }
    for service in services {
        nft_service(service, &mut out);
        let (chain, _) = nft_chains(service);
        let (ip, port) = (service.at.ip(), service.at.port());
        line(&mut out, format_args!("add element ip kube-proxy cluster-ips {{ {ip} }}"));
        line(
            &mut out,
            format_args!("add element ip kube-proxy service-ips {{ {ip} . tcp . {port} : goto {chain} }}"),
        );
    }
    out
}

/// One Service's change: its chains, flushed and written anew.
pub(crate) fn nftables_change(service: &Service) -> String {
    let mut out = String::new();
    let (chain, endpoints) = nft_chains(service);
    for chain in std::iter::once(&chain).chain(&endpoints) {
        line(&mut out, format_args!("add chain ip kube-proxy {chain}"));
        line(&mut out, format_args!("flush chain ip kube-proxy {chain}"));
    }
    nft_service(service, &mut out);
    out
}

/// The `n`th Service, as [`crate::manifests::services`] writes it.
pub(crate) fn nth(n: u32, backends: u32) -> Service {
    let at = |ip: Ipv4Addr| SocketAddrV4::new(ip, TARGET);
    Service {
        name: format!("svc{n}"),
        at: SocketAddrV4::new(service_ip(n), PORT),
        backends: backends_of(n, backends).map(at).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn chains_have_names_of_their_own() {
        let services: Vec<Service> = (0..2_000).map(|n| nth(n, 3)).collect();
        let text = iptables(&services);
        let nat = text.split("*nat").nth(1).expect("there is a nat table");
        let chains: Vec<&str> = nat.lines().filter(|line| line.starts_with(':')).collect();
        assert_eq!(chains.len(), 4 + 2_000 * 4);
        assert_eq!(chains.iter().collect::<BTreeSet<_>>().len(), chains.len());
        assert_eq!((nat.matches(" -> ").count(), nat.matches(" cluster IP").count()), (0, 4_000));
        assert_eq!(iptables(&services[..7]).matches(" -> ").count(), 7 * 3);
        assert_eq!(nat.matches("--probability 0.3333333333 ").count(), 2_000);
        assert_eq!(nat.matches("--probability 0.5000000000 ").count(), 2_000);
        let nft = nftables(&services);
        assert_eq!(nft.matches("add chain ").count(), 2_000 * 4);
        assert_eq!(nft.matches("numgen random mod 3 vmap").count(), 2_000);
    }

    #[test]
    fn a_change_is_the_services_own_chains_and_the_way_to_all() {
        let services: Vec<Service> = (0..100).map(|n| nth(n, 3)).collect();
        let change = iptables_change(&services, &services[7]);
        let count = |start: &str| change.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!([":KUBE-SVC", ":KUBE-SEP", "-A KUBE-SVC", "-A KUBE-SEP"].map(count), [1, 3, 4, 6]);
        assert_eq!(count("-A KUBE-SERVICES"), 100 + 1);
        assert_eq!(count("-A PREROUTING"), 0);
        assert_eq!(nftables_change(&nth(7, 3)).matches("flush chain").count(), 4);
    }
}
