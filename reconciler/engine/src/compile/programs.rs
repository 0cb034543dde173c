//! The program set, its constants, the maps it needs, and where its programs are attached.

use super::number::ContentHash;
use super::rows::{Rows, because, config_origin};
use super::site::{Family, Site};
use crate::config::{Acceleration, Aggregation, Config, DsrDispatch};
use crate::state::{
    Attachment, AttachmentKey, AttachmentRow, BpfMap, GENEVE_LINK, HOST_LINK, Hook, LinkName, MapKey, MapRow,
    NET_LINK, Position, ProgramSet, ProgramSetRow, SetId, Why,
};
use crate::world::{HostDevice, World};
use cilium_abi::maps::{self, MapSpec};
use cilium_abi::node::{self, NodeConstants};
use cilium_abi::{Address, Be16};
use std::net::IpAddr;
use zerocopy::IntoBytes as _;

/// Ports masquerading chooses from when a flow cannot keep its own: above every NodePort.
const SNAT_PORTS: (u16, u16) = (32_768, 65_535);
/// Slots per frontend that `bpf.lb_max` makes room for.
const SLOTS_PER_FRONTEND: u32 = 8;

/// The program of a device's driver.
const DRIVER: &str = "cil_xdp_entry";

/// Which programs an interface carries.
pub(super) struct Hooked {
    ingress: Option<&'static str>,
    egress: Option<&'static str>,
}

impl Hooked {
    /// The host side of a pod's link.
    pub(super) const POD: Self = Self { ingress: Some("cil_from_container"), egress: None };
    const HOST: Self = Self { ingress: Some("cil_to_host"), egress: Some("cil_from_host") };
    const NET: Self = Self { ingress: Some("cil_to_host"), egress: None };
    const OVERLAY: Self = Self { ingress: Some("cil_from_overlay"), egress: Some("cil_to_overlay") };
    const DEVICE: Self = Self { ingress: Some("cil_from_netdev"), egress: Some("cil_to_netdev") };
}

/// Rows for an interface's programs.
pub(super) fn attach(link: &LinkName, hooked: &Hooked, set: &SetId, why: &Why, rows: &mut Rows) {
    for (hook, program) in [(Hook::Ingress, hooked.ingress), (Hook::Egress, hooked.egress)] {
        if let Some(program) = program {
            let key = AttachmentKey { link: link.clone(), hook };
            let row = AttachmentRow { program: program.to_owned(), set: set.clone(), first: Position::First };
            rows.put::<Attachment>(key, row, why);
        }
    }
}

/// Programs of the node's own interfaces and devices, and their set.
pub(super) fn compile(
    site: &Site,
    set: &SetId,
    constants: NodeConstants,
    acceleration: Acceleration,
    rows: &mut Rows,
) {
    let why = because(&config_origin("datapath"));
    rows.put::<ProgramSet>(set.clone(), ProgramSetRow::Constants(Box::new(constants)), &why);
    attach(&HOST_LINK.into(), &Hooked::HOST, set, &why, rows);
    attach(&NET_LINK.into(), &Hooked::NET, set, &why, rows);
    if let Some(overlay) = &site.overlay {
        attach(&overlay.link.into(), &Hooked::OVERLAY, set, &why, rows);
    }
    let why = because(&config_origin("routing.devices"));
    for device in &site.devices {
        attach(&device.name, &Hooked::DEVICE, set, &why, rows);
    }
    let (first, with_veth) = match acceleration {
        Acceleration::Disabled => return,
        Acceleration::Native => (Position::First, true),
        Acceleration::BestEffort => (Position::IfAble, false),
    };
    let why = because(&config_origin("load_balancer.acceleration"));
    let able = |device: &&HostDevice| device.mac.is_some() && (with_veth || !device.is_veth);
    for device in site.devices.iter().filter(able) {
        let key = AttachmentKey { link: device.name.clone(), hook: Hook::Xdp };
        let row = AttachmentRow { program: DRIVER.to_owned(), set: set.clone(), first };
        rows.put::<Attachment>(key, row, &why);
    }
}

/// Every pinned map.
pub(super) fn maps(config: &Config, rows: &mut Rows) {
    let why = because(&config_origin("bpf"));
    for spec in all_maps() {
        rows.put::<BpfMap>(map_key(spec), map_row(spec, config), &why);
    }
}

fn all_maps() -> impl Iterator<Item = &'static MapSpec> {
    maps::ALL.iter().chain([&maps::EVENTS])
}

fn map_key(spec: &MapSpec) -> MapKey {
    MapKey(format!("{}_v{}", spec.name, spec.version))
}

fn map_row(spec: &MapSpec, config: &Config) -> MapRow {
    let bpf = &config.bpf;
    let max_entries = match *spec {
        maps::CT_TCP => bpf.ct_tcp_max,
        maps::CT_ANY => bpf.ct_any_max,
        maps::SNAT => bpf.nat_max,
        maps::FRAGMENTS => bpf.fragments_max,
        maps::FRONTEND | maps::BACKEND | maps::REVNAT | maps::SOURCE_RANGE => bpf.lb_max,
        maps::SLOT => bpf.lb_max.saturating_mul(SLOTS_PER_FRONTEND),
        // Nobody writes it; the kernel makes no map without room.
        maps::SOCK_REV if !config.load_balancer.at_sockets() => 1,
        maps::MAGLEV if config.load_balancer.kube_proxy_replacement => {
            bpf.maglev_max.saturating_mul(config.load_balancer.maglev.stride())
        }
        maps::POLICY => bpf.policy_max,
        maps::IPCACHE => bpf.ipcache_max,
        maps::IPCACHE_PREFIX => bpf.ipcache_prefix_max,
        maps::EVENTS => bpf.events_bytes,
        _ => spec.max_entries,
    };
    MapRow {
        kind: spec.kind,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries,
        flags: spec.flags,
    }
}

/// The set's name: what it is made of.
pub(super) fn set_id(world: &World, constants: &NodeConstants, config: &Config) -> SetId {
    let mut parts = vec![world.host.object_digest.as_bytes().to_vec(), constants.as_bytes().to_vec()];
    for spec in all_maps() {
        parts.push(format!("{} {}", map_key(spec), map_row(spec, config)).into_bytes());
    }
    SetId(ContentHash::of(parts).digest().to_string())
}

/// Refused packets that each CPU may tell of in one window, given those in a second.
fn refusals(per_second: u32) -> u32 {
    let share = u64::from(per_second) << node::WINDOW;
    u32::try_from(share.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

/// The programs' constants.
pub(super) fn constants(world: &World, site: &Site, config: &Config) -> NodeConstants {
    let at_sockets = config.load_balancer.at_sockets();
    let mut flags = 0;
    for (flag, on) in [
        (node::NODE_IPV4, site.ipv4),
        (node::NODE_IPV6, site.ipv6),
        (node::NODE_TUNNEL, site.tunnel),
        (node::NODE_MASQUERADE_IPV4, site.ipv4 && config.masquerade.ipv4),
        (node::NODE_MASQUERADE_IPV6, site.ipv6 && config.masquerade.ipv6),
        (node::NODE_ALLOW_LOCALHOST, config.policy.localhost_always_allowed()),
        (node::NODE_LB, config.load_balancer.kube_proxy_replacement),
        (node::NODE_XDP, config.load_balancer.at_drivers() != Acceleration::Disabled),
        (node::NODE_HOST_STACK, config.through_host_stack()),
        (node::NODE_SOCK, at_sockets),
        (node::NODE_SOCK_HOST_ONLY, at_sockets && config.load_balancer.socket_host_namespace_only),
        (node::NODE_GENEVE, site.overlay.as_ref().is_some_and(|overlay| overlay.link == GENEVE_LINK)),
        (node::NODE_DSR_GENEVE, config.load_balancer.dsr_dispatch == DsrDispatch::Geneve),
        (node::NODE_DSR_IPIP, config.load_balancer.dsr_dispatch == DsrDispatch::Ipip),
        (node::NODE_EVENT_VERDICT, config.monitor.policy_verdict),
        (node::NODE_EVENT_TRACE, config.monitor.trace),
        (node::NODE_EVENT_DROP, config.monitor.drop),
    ] {
        if on {
            flags |= flag;
        }
    }
    let address = |addr: Option<IpAddr>| addr.map_or(Address::NONE, Address::from);
    let native_ipv4 = config.routing.ipv4_native_cidr.map(|net| net.trunc());
    let native_ipv6 = config.routing.ipv6_native_cidr.map(|net| net.trunc());
    NodeConstants {
        flags,
        world_ipv4: site.world(Family::V4).0,
        world_ipv6: site.world(Family::V6).0,
        router_ipv4: address(site.router_ipv4),
        router_ipv6: address(site.router_ipv6),
        native_ipv4: address(native_ipv4.map(|net| net.network().into())),
        native_ipv6: address(native_ipv6.map(|net| net.network().into())),
        native_ipv4_len: native_ipv4.map_or(0, |net| 96 + u32::from(net.prefix_len())),
        native_ipv6_len: native_ipv6.map_or(0, |net| u32::from(net.prefix_len())),
        ct_tcp: config.bpf.ct_timeout_regular_tcp.seconds(),
        ct_syn: config.bpf.ct_timeout_regular_tcp_syn.seconds(),
        ct_fin: config.bpf.ct_timeout_regular_tcp_fin.seconds(),
        ct_any: config.bpf.ct_timeout_regular_any.seconds(),
        snat_port_min: SNAT_PORTS.0,
        snat_port_max: SNAT_PORTS.1,
        maglev_size: config.load_balancer.maglev.table_size.get(),
        trace_interval: config.monitor.interval.seconds(),
        refusals: refusals(config.monitor.refusals_per_second),
        trace_aggregation: match config.monitor.aggregation {
            Aggregation::None => node::AGGREGATE_NONE,
            Aggregation::Low => node::AGGREGATE_LOW,
            Aggregation::Medium => node::AGGREGATE_MEDIUM,
            Aggregation::Maximum => node::AGGREGATE_MAXIMUM,
        },
        reserved: 0,
        tunnel_port: Be16::new(config.routing.overlay_port()),
        host_netns: if at_sockets { halves(world.host.netns_cookie) } else { [0; 2] },
    }
}

/// The low half, then the high one.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}
