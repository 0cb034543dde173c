//! Rules as kube-proxy 1.33 lays them out on a node, for `iptables-restore` and for `nft -f`. Pure.

use super::services::Service;
use cilium_tests_kernel::services::{PORT, TARGET, balancer, cluster_ip, node_port};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Iptables,
    Nftables,
}

/// A node's kube-proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) services: &'a [Service],
    /// Which node.
    pub(crate) node: usize,
    /// Pod CIDRs by family, if kube-proxy was told (`--cluster-cidr`).
    pub(crate) cluster: Option<[&'a str; 2]>,
    /// The node's addresses by family.
    pub(crate) addresses: [IpAddr; 2],
}

const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

impl Rules<'_> {
    /// Input of `iptables-restore` or `ip6tables-restore`.
    pub(crate) fn iptables(&self, family: usize) -> String {
        let mut out = String::from(
            "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n-A INPUT -m conntrack --ctstate NEW -j \
             KUBE-EXTERNAL-SERVICES\n-A FORWARD -j KUBE-FORWARD\n-A FORWARD -m conntrack --ctstate NEW -j \
             KUBE-EXTERNAL-SERVICES\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n-A KUBE-FORWARD -m mark \
             --mark 0x4000/0x4000 -j ACCEPT\n-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
        );
        let mut filter = |rule: String| out.push_str(&format!("-A KUBE-EXTERNAL-SERVICES {rule}\n"));
        for (service, proto) in self.each() {
            if self.reaches_none(service) {
                let port = node_port(service.n);
                filter(format!("-p {proto} -m addrtype --dst-type LOCAL -m {proto} --dport {port} -j DROP"));
                let ip = balancer(service.n)[family];
                filter(format!("-p {proto} -d {ip} -m {proto} --dport {PORT} -j DROP"));
            }
        }
        out.push_str(
            "COMMIT\n*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - \
             [0:0]\n",
        );
        let (mut chains, mut rules) = (String::new(), String::new());
        for (service, proto) in self.each() {
            self.iptables_service(service, proto, family, &mut chains, &mut rules);
        }
        out + &chains
            + "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n-A \
               KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A \
               KUBE-POSTROUTING -j MASQUERADE --random-fully\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n"
            + &rules
            + "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
    }

    fn iptables_service(
        &self,
        service: &Service,
        proto: &str,
        family: usize,
        chains: &mut String,
        rules: &mut String,
    ) {
        let id = format!("{proto}-{}", service.name).to_uppercase();
        let mut add = |rule: String| rules.push_str(&format!("-A {rule}\n"));
        let (ip, lb, port) =
            (cluster_ip(service.n)[family], balancer(service.n)[family], node_port(service.n));
        let at = |ip: IpAddr| format!("-d {ip} -p {proto} -m {proto} --dport {PORT}");
        chains.push_str(&format!(":SVC-{id} - [0:0]\n:EXT-{id} - [0:0]\n:SVL-{id} - [0:0]\n"));
        add(format!("KUBE-SERVICES {} -j SVC-{id}", at(ip)));
        add(format!("KUBE-SERVICES {} -j EXT-{id}", at(lb)));
        add(format!("KUBE-NODEPORTS -p {proto} -m {proto} --dport {port} -j EXT-{id}"));
        if service.local {
            if let Some(cluster) = self.cluster {
                add(format!("EXT-{id} -s {} -j SVC-{id}", cluster[family]));
            }
            add(format!("EXT-{id} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"));
            add(format!("EXT-{id} -m addrtype --src-type LOCAL -j SVC-{id}"));
            add(format!("EXT-{id} -j SVL-{id}"));
        } else {
            add(format!("EXT-{id} -j KUBE-MARK-MASQ"));
            add(format!("EXT-{id} -j SVC-{id}"));
        }
        if let Some(cluster) = self.cluster {
            add(format!("SVC-{id} ! -s {} {} -j KUBE-MARK-MASQ", cluster[family], at(ip)));
        }
        let backend = service.backend.addresses[family];
        chains.push_str(&format!(":SEP-{id} - [0:0]\n"));
        add(format!("SEP-{id} -s {backend} -j KUBE-MARK-MASQ"));
        let target = SocketAddr::new(backend, TARGET);
        add(format!("SEP-{id} -p {proto} -m {proto} -j DNAT --to-destination {target}"));
        add(format!("SVC-{id} -j SEP-{id}"));
        if service.serves_on(self.node) {
            add(format!("SVL-{id} -j SEP-{id}"));
        }
    }

    /// Input of `nft -f`, both families.
    pub(crate) fn nftables(&self) -> String {
        (0..2).map(|family| self.nftables_of(family)).collect()
    }

    fn nftables_of(&self, family: usize) -> String {
        let ip = ["ip", "ip6"][family];
        let kind = ["ipv4_addr", "ipv6_addr"][family];
        let mut out = format!(
            "table {ip} kube-proxy {{
  set nodeport-ips {{ type {kind}; elements = {{ {} }}; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict; }}
  map service-ips {{ type {kind} . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  chain mark-for-masquerade {{ meta mark set mark or 0x4000; }}
  chain masquerading {{
    meta mark & 0x4000 == 0 return
    meta mark set mark xor 0x4000
    masquerade fully-random
  }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain endpoints-check {{
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
    {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain filter-input {{ type filter hook input priority 0; ct state new jump endpoints-check; }}
  chain filter-forward {{
    type filter hook forward priority 0
    ct state invalid counter drop
    ct state new jump endpoints-check
  }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
",
            self.addresses[family]
        );
        for (service, proto) in self.each() {
            self.nftables_service(service, proto, family, &mut out);
        }
        out
    }

    fn nftables_service(&self, service: &Service, proto: &str, family: usize, out: &mut String) {
        let ip = ["ip", "ip6"][family];
        let id = format!("{proto}-{}", service.name);
        let table = format!("{ip} kube-proxy");
        let (vip, lb, port) =
            (cluster_ip(service.n)[family], balancer(service.n)[family], node_port(service.n));
        // Writing to a String cannot fail.
        for chain in ["service", "external", "local", "endpoint"] {
            let _ = writeln!(out, "add chain {table} {chain}-{id}");
        }
        let mut rule = |chain: &str, rule: String| {
            let _ = writeln!(out, "add rule {table} {chain}-{id} {rule}");
        };
        if service.local {
            if let Some(cluster) = self.cluster {
                rule("external", format!("{ip} saddr {} goto service-{id}", cluster[family]));
            }
            rule("external", "fib saddr type local jump mark-for-masquerade".to_owned());
            rule("external", format!("fib saddr type local goto service-{id}"));
            rule("external", format!("goto local-{id}"));
        } else {
            rule("external", "jump mark-for-masquerade".to_owned());
            rule("external", format!("goto service-{id}"));
        }
        if let Some(cluster) = self.cluster {
            let at = format!("{ip} daddr {vip} {proto} dport {PORT}");
            rule("service", format!("{at} {ip} saddr != {} jump mark-for-masquerade", cluster[family]));
        }
        rule("service", format!("goto endpoint-{id}"));
        if service.serves_on(self.node) {
            rule("local", format!("goto endpoint-{id}"));
        }
        let backend = service.backend.addresses[family];
        rule("endpoint", format!("{ip} saddr {backend} jump mark-for-masquerade"));
        let target = SocketAddr::new(backend, TARGET);
        rule("endpoint", format!("meta l4proto {proto} dnat to {target}"));
        let mut element = |map: &str, key: String| {
            let _ = writeln!(out, "add element {table} {map} {{ {key} }}");
        };
        element("service-ips", format!("{vip} . {proto} . {PORT} : goto service-{id}"));
        element("service-ips", format!("{lb} . {proto} . {PORT} : goto external-{id}"));
        element("service-nodeports", format!("{proto} . {port} : goto external-{id}"));
        if self.reaches_none(service) {
            element("no-endpoint-nodeports", format!("{proto} . {port} : drop"));
            element("no-endpoint-services", format!("{lb} . {proto} . {PORT} : drop"));
        }
    }

    fn each(&self) -> impl Iterator<Item = (&Service, &'static str)> {
        self.services.iter().flat_map(|service| PROTOCOLS.map(|proto| (service, proto)))
    }

    /// Whether clients outside find no backend on this node, and none elsewhere may serve them.
    fn reaches_none(&self, service: &Service) -> bool {
        service.local && !service.serves_on(self.node)
    }
}
