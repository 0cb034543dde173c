//! The node itself, its endpoints, the ipcache, files.

use super::*;
use crate::config::{DsrDispatch, RoutingMode, TunnelProtocol};
use crate::diff::diff;
use crate::plan::Verb;
use crate::state::{
    AttachmentKey, EndpointKey, EndpointRow, FileKey, Hook, IpcacheKey, Kind, LinkKind, MapKey,
    ObservedState, Only, ProgramSetRow, RouteKey, SysctlKey,
};
use cilium_abi::Address;
use cilium_abi::node::{NODE_DSR_GENEVE, NODE_DSR_IPIP, NODE_GENEVE};
use std::collections::BTreeSet;

fn route<'c>(compiled: &'c Compiled, dst: &str) -> &'c crate::state::RouteRow {
    compiled.desired.state.routes.find(&RouteKey { table: 254, dst: net(dst) }).expect(dst)
}

#[test]
fn a_node_in_tunnel_mode() {
    let mut world = world();
    add_local(&mut world, 7, "web", &[("app", "web")]);
    add_remote(&mut world, "db", 4000, "10.2.0.5", &[("app", "db")]);
    let compiled = whole(&world, &config());
    assert_eq!(errors(&compiled), Vec::<String>::new());
    let state = &compiled.desired.state;

    let host = &state.links.find(&"cilium_host".into()).unwrap();
    assert_eq!(host.kind, LinkKind::HostVeth { peer: "cilium_net".into() });
    assert_eq!(host.mac.unwrap().0[0] & 3, 2, "locally administered, unicast");
    assert_eq!(state.links.find(&"lxc7".into()).unwrap().mtu, 1450);
    assert_eq!(state.links.find(&"lxc7".into()).unwrap().alias, "cilium:endpoint:7");

    let pod = state.pod_interfaces.find(&"lxc7".into()).unwrap();
    assert_eq!(pod.gateways, [ip("10.1.0.1"), ip("fd00:1::1")]);
    assert_eq!(pod.addresses, [net("10.1.0.7/32"), net("fd00:1::7/128")]);
    assert_eq!((pod.mtu, pod.route_mtu), (1450, 0));

    assert_eq!(route(&compiled, "10.1.0.0/24").src, Some(ip("10.1.0.1")));
    let there = route(&compiled, "10.2.0.0/24");
    assert_eq!((there.link.0.as_str(), there.via, there.mtu), ("cilium_host", None, 1450));

    let cached = |text: &str| *state.ipcache.find(&IpcacheKey(net(text))).expect(text);
    assert_eq!(cached("192.168.0.1/32").identity.0, 1);
    assert_eq!(cached("10.1.0.1/32").identity.0, 1);
    assert_eq!((cached("192.168.0.2/32").identity.0, cached("192.168.0.2/32").tunnel), (6, None));
    assert_eq!(
        (cached("10.2.0.1/32").identity.0, cached("10.2.0.1/32").tunnel),
        (6, Some(ip("192.168.0.2")))
    );
    assert_eq!(
        (cached("10.2.0.5/32").identity.0, cached("10.2.0.5/32").tunnel),
        (4000, Some(ip("192.168.0.2")))
    );
    assert_eq!(
        (cached("10.2.0.0/24").identity.0, cached("10.2.0.0/24").tunnel),
        (3, Some(ip("192.168.0.2")))
    );
    assert!(state.ipcache.iter().all(|(_, e)| e.row.flags == 1));

    match state.endpoints.find(&EndpointKey(ip("10.1.0.1"))).unwrap() {
        EndpointRow::Host { identity } => assert_eq!(identity.0, 1),
        EndpointRow::Pod { .. } => panic!("the router is the host"),
    }
    for (link, hook, program) in [
        ("lxc7", Hook::Ingress, "cil_from_container"),
        ("cilium_host", Hook::Egress, "cil_from_host"),
        ("cilium_host", Hook::Ingress, "cil_to_host"),
        ("cilium_net", Hook::Ingress, "cil_to_host"),
        ("cilium_vxlan", Hook::Ingress, "cil_from_overlay"),
        ("cilium_vxlan", Hook::Egress, "cil_to_overlay"),
        ("eth0", Hook::Ingress, "cil_from_netdev"),
        ("eth0", Hook::Egress, "cil_to_netdev"),
    ] {
        let row = state.attachments.find(&AttachmentKey { link: link.into(), hook }).expect(link);
        assert_eq!(row.program, program);
    }
    assert_eq!(state.sysctls.find(&SysctlKey("net.ipv4.ip_forward".into())).unwrap(), "1");
    let device = state.devices.find(&"eth0".into()).unwrap();
    assert_eq!((device.ipv4, device.ipv6), (Some(ip("192.168.0.1")), Some(ip("fd11::1"))));
    assert_eq!(state.maps.len(), cilium_abi::maps::ALL.len() + 1);
    assert!(state.maps.find(&MapKey("cilium_ipcache_v1".into())).is_some());
}

#[test]
fn node_ports_are_kept_from_the_nodes_own_connections() {
    let key = SysctlKey(crate::state::RESERVED_PORTS.to_owned());
    let reserved = |config: &Config| whole(&world(), config).desired.state.sysctls.find(&key).cloned();
    let mut config = config();
    assert_eq!(reserved(&config).as_deref(), Some("30000-32767"));
    config.load_balancer.node_port_range = [31_000, 31_000];
    assert_eq!(reserved(&config).as_deref(), Some("31000"));
    config.load_balancer.kube_proxy_replacement = false;
    assert_eq!(reserved(&config), None);
}

#[test]
fn a_node_for_no_pods_needs_no_pod_cidrs() {
    let mut world = world();
    world.nodes.insert("n1", node(&["192.168.0.1", "fd11::1"], &[]));
    let warned = |config: &Config| {
        let compiled = whole(&world, config);
        compiled.problems.iter().any(|problem| problem.to_string().contains("no pod CIDRs"))
    };
    let mut config = config();
    assert!(warned(&config), "runtimes are told to attach pods");
    config.paths.cni_conf_dir = None;
    assert!(!warned(&config));
}

#[test]
fn constants_say_what_the_configuration_says() {
    let mut config = config();
    config.routing.ipv4_native_cidr = Some("10.0.0.0/8".parse().unwrap());
    let compiled = whole(&world(), &config);
    let (set, entry) = compiled.desired.state.program_sets.iter().next().unwrap();
    let ProgramSetRow::Constants(node) = &entry.row else { panic!("wanted with constants") };
    assert_eq!((node.world_ipv4, node.world_ipv6), (9, 10));
    assert_eq!(node.router_ipv4, Address::from(ip("10.1.0.1")));
    assert_eq!((node.native_ipv4_len, node.native_ipv6_len), (104, 0));
    assert_eq!(node.tunnel_port.host(), 8472);
    config.monitor.trace = false;
    let other = whole(&world(), &config);
    assert_ne!(other.desired.state.program_sets.keys().next(), Some(set));
}

#[test]
fn geneve_is_an_overlay_like_vxlan_under_its_own_name_and_port() {
    let mut config = config();
    let vxlan = whole(&world(), &config);
    config.routing.tunnel_protocol = TunnelProtocol::Geneve;
    for (tunnel_port, port) in [(0, 6081), (8472, 8472), (7000, 7000)] {
        config.routing.tunnel_port = tunnel_port;
        let compiled = whole(&world(), &config);
        let state = &compiled.desired.state;
        let link = state.links.find(&"cilium_geneve".into()).expect("wanted");
        assert_eq!(link.kind, LinkKind::Geneve { port });
        assert_eq!((link.mtu, link.alias.as_str()), (1500, "cilium:cilium_geneve"));
        assert!(state.link_ups.find(&"cilium_geneve".into()).is_some());
        assert!(state.links.find(&"cilium_vxlan".into()).is_none());
        for (hook, program) in [(Hook::Ingress, "cil_from_overlay"), (Hook::Egress, "cil_to_overlay")] {
            let row = state.attachments.find(&AttachmentKey { link: "cilium_geneve".into(), hook });
            assert_eq!(row.expect("wanted").program, program);
        }
        assert_eq!(state.runtimes.find(&Only).expect("wanted").overlay, Some("cilium_geneve".into()));
        let (_, entry) = state.program_sets.iter().next().expect("one set");
        let ProgramSetRow::Constants(node) = &entry.row else { panic!("wanted with constants") };
        assert_eq!(node.tunnel_port.host(), port);
        // Without options both protocols add the same.
        assert_eq!(route(&compiled, "10.2.0.0/24"), route(&vxlan, "10.2.0.0/24"));
    }
}

#[test]
fn programs_are_told_how_backends_elsewhere_are_reached() {
    let mut config = config();
    let flags = |config: &Config| {
        let compiled = whole(&world(), config);
        let (_, entry) = compiled.desired.state.program_sets.iter().next().expect("one set");
        let ProgramSetRow::Constants(node) = &entry.row else { panic!("wanted with constants") };
        node.flags & (NODE_GENEVE | NODE_DSR_GENEVE | NODE_DSR_IPIP)
    };
    assert_eq!(flags(&config), 0);
    config.routing.tunnel_protocol = TunnelProtocol::Geneve;
    assert_eq!(flags(&config), NODE_GENEVE);
    config.load_balancer.dsr_dispatch = DsrDispatch::Geneve;
    assert_eq!(flags(&config), NODE_GENEVE | NODE_DSR_GENEVE);
    config.load_balancer.dsr_dispatch = DsrDispatch::Opt;
    config.routing.mode = RoutingMode::Native;
    assert_eq!(flags(&config), 0);
    config.load_balancer.dsr_dispatch = DsrDispatch::Ipip;
    assert_eq!(flags(&config), NODE_DSR_IPIP);
}

#[test]
fn the_overlay_of_the_other_protocol_goes() {
    let mut config = config();
    let vxlan = whole(&world(), &config);
    config.routing.tunnel_protocol = TunnelProtocol::Geneve;
    let geneve = whole(&world(), &config);
    for (before, now, gone, new) in [
        (&vxlan, &geneve, "cilium_vxlan", "cilium_geneve"),
        (&geneve, &vxlan, "cilium_geneve", "cilium_vxlan"),
    ] {
        let seen = ObservedState::whole(before.desired.state.clone());
        let plan = diff(&now.desired, &seen);
        let lines = plan.lines();
        let links = lines.iter().filter(|line| line.kind == Kind::Link);
        let links: BTreeSet<(Verb, &str)> = links.map(|line| (line.verb, line.key.as_str())).collect();
        assert_eq!(links, BTreeSet::from([(Verb::Create, new), (Verb::Remove, gone)]));
    }
}

#[test]
fn native_routes_go_through_the_nodes() {
    let mut config = config();
    config.routing.mode = RoutingMode::Native;
    config.routing.auto_direct_node_routes = true;
    let mut world = world();
    world.nodes.insert("n3", node(&["172.16.0.3"], &["10.3.0.0/24"]));
    add_remote(&mut world, "db", 4000, "10.2.0.5", &[]);
    let compiled = whole(&world, &config);
    let there = route(&compiled, "10.2.0.0/24");
    assert_eq!((there.link.0.as_str(), there.via), ("eth0", Some(ip("192.168.0.2"))));
    assert_eq!(route(&compiled, "fd00:2::/64").via, Some(ip("fd11::2")));
    let state = &compiled.desired.state;
    assert!(state.links.find(&"cilium_vxlan".into()).is_none());
    assert_eq!(state.ipcache.find(&IpcacheKey(net("10.2.0.5/32"))).unwrap().tunnel, None);
    assert_eq!(state.links.find(&"cilium_host".into()).unwrap().mtu, 1500);
    let errors = errors(&compiled);
    assert!(errors.len() == 1 && errors[0].contains("10.3.0.0/24"), "{errors:?}");
}

#[test]
fn an_ipv6_underlay_costs_more() {
    let mut world = world();
    world.host.devices[0].addresses.remove(0);
    each(&mut world.nodes, |node| {
        node.addresses.remove(0);
    });
    let compiled = whole(&world, &config());
    let row = compiled.desired.state.ipcache.find(&IpcacheKey(net("10.2.0.0/24"))).unwrap();
    assert_eq!(row.tunnel, Some(ip("fd11::2")));
    assert_eq!(route(&compiled, "10.2.0.0/24").mtu, 1430);
}

#[test]
fn the_router_given_wins() {
    let mut world = world();
    let router = NodeAddress { kind: NodeAddressKind::CiliumInternalIp, ip: ip("10.1.0.99") };
    world.nodes.get_mut("n1").unwrap().addresses.push(router);
    let compiled = whole(&world, &config());
    assert_eq!(route(&compiled, "10.1.0.0/24").src, Some(ip("10.1.0.99")));
    assert_eq!(crate::compile::router_addresses(&world, &config()), [ip("10.1.0.99"), ip("fd00:1::1")]);
}

#[test]
fn pod_cidrs_that_lead_astray_are_not_routed() {
    for (cidr, why) in [
        ("10.1.0.128/25", "overlaps 10.1.0.0/24 of node n1"),
        ("192.168.0.0/16", "the address of a node"),
        ("0.0.0.0/0", "overlaps"),
    ] {
        let mut world = world();
        world.nodes.insert("n3", node(&["192.168.0.3"], &[cidr]));
        let compiled = whole(&world, &config());
        let errors = errors(&compiled);
        assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
        assert!(compiled.desired.state.routes.find(&RouteKey { table: 254, dst: net(cidr) }).is_none());
    }
}

#[test]
fn an_address_claimed_twice_keeps_its_first_owner() {
    let mut world = world();
    add_local(&mut world, 7, "web", &[("app", "web")]);
    add_remote(&mut world, "thief", 4000, "10.1.0.7", &[("app", "thief")]);
    add_remote(&mut world, "router-thief", 4001, "10.1.0.1", &[("app", "thief2")]);
    let compiled = whole(&world, &config());
    let owner = |text: &str| compiled.desired.state.ipcache.find(&IpcacheKey(net(text))).unwrap().identity;
    assert_eq!(owner("10.1.0.7/32"), compiled.view.endpoints[&7].identity);
    assert_eq!(owner("10.1.0.1/32").0, 1);
    assert_eq!(errors(&compiled).len(), 2);

    let mut other = record(8, None);
    other.ipv4 = Some(ip("10.1.0.7"));
    world.endpoints.insert(8u16, other);
    let compiled = whole(&world, &config());
    assert!(errors(&compiled).iter().any(|e| e.contains("already belongs to Pod shop/web")));
    match compiled.desired.state.endpoints.find(&EndpointKey(ip("10.1.0.7"))).unwrap() {
        EndpointRow::Pod { endpoint, .. } => assert_eq!(endpoint.0, 7),
        EndpointRow::Host { .. } => panic!("a pod's"),
    }
}

#[test]
fn an_endpoint_elsewhere_cannot_be_the_host() {
    for number in [1, 2, 6, 100, 1 << 24] {
        let mut world = world();
        add_remote(&mut world, "db", 4000, "10.2.0.5", &[]);
        each(&mut world.remote_endpoints, |e| e.identity.0 = number);
        let compiled = compile(&world, &config(), &IdBook::default());
        let row = compiled.desired.state.ipcache.find(&IpcacheKey(net("10.2.0.5/32"))).unwrap();
        assert_eq!(row.identity.0, 3, "{number}");
        assert_eq!(errors(&compiled).len(), 1);
    }
}

#[test]
fn what_is_published_is_yaml_and_names_its_node() {
    let mut config = config();
    config.source.manifests.publish = Some("/shared/n1".parse().unwrap());
    let mut world = world();
    add_local(&mut world, 7, "web", &[("app", "web"), ("odd", "a\"b: c\nd")]);
    world.endpoints.insert(8u16, record(8, None));
    let compiled = whole(&world, &config);
    let files = &compiled.desired.state.files;
    let read = |name: &str| &files.find(&FileKey(format!("/shared/n1/{name}").into())).expect(name).content;
    for (key, entry) in files.iter().filter(|(key, _)| key.0.extension().is_some_and(|e| e == "yaml")) {
        assert!(entry.row.content.contains("cilium.io/published-by: \"n1\""), "{key}");
    }
    assert!(read("n1.ciliumnode.yaml").contains("- type: CiliumInternalIP\n    ip: \"10.1.0.1\""));
    let endpoint = read("n1.ciliumendpoint.shop.web.yaml");
    let identity = compiled.view.endpoints[&7].identity;
    assert!(endpoint.contains(&format!("    id: {identity}\n")), "{endpoint}");
    assert!(endpoint.contains(r#"- "k8s:odd=a\"b: c\nd""#), "{endpoint}");
    assert!(endpoint.contains("    - ipv4: \"10.1.0.7\"\n      ipv6: \"fd00:1::7\"\n"), "{endpoint}");
    assert!(read(&format!("n1.ciliumidentity.{identity}.yaml")).contains("  \"k8s:app\": \"web\"\n"));
    read("n1.ciliumendpoint.default.container-container8-cilium.yaml");
    let conflist = &files.find(&FileKey("/etc/cni/net.d/05-cilium.conflist".into())).unwrap().content;
    let conflist: serde_json::Value = serde_json::from_str(conflist).unwrap();
    assert_eq!(conflist["plugins"][0]["run_dir"], "/var/run/cilium");
    assert_eq!(conflist["plugins"][0]["capabilities"], serde_json::json!({"portMappings": true}));
}
