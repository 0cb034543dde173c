//! How keys and rows are written out: a line of text and a JSON value each. Field names are those of
//! the layouts; numbers stay numbers, addresses and hardware addresses are text.

use super::counters::Counter;
use super::ifname::Names;
use cilium_abi::{Address, Be16, ct, fragment, ipcache, lb, metrics, node, snat};
use cilium_engine::state::{
    Backend, BackendId, BackendRow, Device, DeviceRow, Digest, Endpoint, EndpointConfig, EndpointConfigRow,
    EndpointKey, EndpointRow, Frontend, FrontendKey, FrontendRow, IdentityDigest, IdentityId, LinkName,
    Policy, PolicyDigest, PolicyId, PolicyKey, PolicyRow, Present, Protocol, Resource, RevNat, RevNatId,
    RevNatRow, Slot, SlotKey, SourceRange, SourceRangeKey,
};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// A key or a row, written out.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) json: Value,
}

/// The fields of a resource as JSON.
pub(super) trait Fields: Resource {
    fn key_fields(key: &Self::Key) -> Value;
    fn row_fields(row: &Self::Row) -> Value;
}

impl Fields for Endpoint {
    fn key_fields(key: &EndpointKey) -> Value {
        json!({ "address": key.0 })
    }
    fn row_fields(row: &EndpointRow) -> Value {
        match row {
            EndpointRow::Host { identity } => json!({ "host": true, "identity": identity }),
            EndpointRow::Pod { link, endpoint, identity, mac, node_mac } => json!({
                "host": false, "interface": link.0, "endpoint": endpoint, "identity": identity,
                "mac": mac.to_string(), "node_mac": node_mac.to_string(),
            }),
        }
    }
}

impl Fields for EndpointConfig {
    fn key_fields(key: &LinkName) -> Value {
        json!({ "interface": key.0 })
    }
    fn row_fields(row: &EndpointConfigRow) -> Value {
        let EndpointConfigRow { endpoint, identity, policy, flags, ipv4, ipv6, mac, node_mac } = row;
        json!({
            "endpoint": endpoint, "identity": identity, "policy": policy,
            "open_ingress": flags & cilium_abi::endpoint::CONFIG_OPEN_INGRESS != 0,
            "open_egress": flags & cilium_abi::endpoint::CONFIG_OPEN_EGRESS != 0,
            "ipv4": ipv4, "ipv6": ipv6, "mac": mac.to_string(), "node_mac": node_mac.to_string(),
        })
    }
}

impl Fields for Device {
    fn key_fields(key: &LinkName) -> Value {
        json!({ "interface": key.0 })
    }
    fn row_fields(row: &DeviceRow) -> Value {
        json!({ "ipv4": row.ipv4, "ipv6": row.ipv6, "mac": row.mac.to_string(), "flags": row.flags })
    }
}

impl Fields for Policy {
    fn key_fields(key: &PolicyKey) -> Value {
        let PolicyKey { policy, direction, identity, proto, port, port_len } = key;
        json!({
            "policy": policy, "direction": direction, "identity": identity, "protocol": proto.0, "port": port,
            "port_prefix": port_len,
        })
    }
    fn row_fields(row: &PolicyRow) -> Value {
        let verdict = match row.verdict {
            cilium_abi::policy::ALLOW => "allow",
            cilium_abi::policy::DENY => "deny",
            _ => "none",
        };
        json!({
            "verdict": verdict, "proxy_port": row.listener, "lengths": row.lengths, "precedence": row.precedence,
            "rule": row.cookie,
        })
    }
}

impl Fields for Frontend {
    fn key_fields(key: &FrontendKey) -> Value {
        json!({ "address": key.addr, "port": key.port, "protocol": key.proto.to_string(), "scope": key.scope })
    }
    fn row_fields(row: &FrontendRow) -> Value {
        json!({ "list": row.list, "count": row.count, "rev_nat": row.rev_nat, "flags": row.flags,
            "maglev": row.maglev, "affinity": row.affinity })
    }
}

impl Fields for Slot {
    fn key_fields(key: &SlotKey) -> Value {
        json!({ "list": key.list, "slot": key.slot })
    }
    fn row_fields(row: &BackendId) -> Value {
        json!({ "backend": row })
    }
}

impl Fields for Backend {
    fn key_fields(key: &BackendId) -> Value {
        json!({ "id": key })
    }
    fn row_fields(row: &BackendRow) -> Value {
        json!({
            "address": row.addr, "port": row.port, "protocol": row.proto.to_string(),
            "terminating": row.flags & cilium_abi::lb::BACKEND_TERMINATING != 0,
        })
    }
}

impl Fields for SourceRange {
    fn key_fields(key: &SourceRangeKey) -> Value {
        json!({ "rev_nat": key.rev_nat, "cidr": key.net.to_string() })
    }
    fn row_fields(_: &Present) -> Value {
        json!({})
    }
}

impl Fields for RevNat {
    fn key_fields(key: &RevNatId) -> Value {
        json!({ "id": key })
    }
    fn row_fields(row: &RevNatRow) -> Value {
        json!({ "address": row.addr, "port": row.port })
    }
}

impl Fields for IdentityDigest {
    fn key_fields(key: &IdentityId) -> Value {
        json!({ "identity": key })
    }
    fn row_fields(row: &Digest) -> Value {
        json!({ "digest": row.to_string() })
    }
}

impl Fields for PolicyDigest {
    fn key_fields(key: &PolicyId) -> Value {
        json!({ "policy": key })
    }
    fn row_fields(row: &Digest) -> Value {
        json!({ "digest": row.to_string() })
    }
}

pub(super) fn number(n: &u32, _: &mut Names) -> Shown {
    Shown { text: n.to_string(), json: json!(n) }
}

pub(super) fn host(addr: &Address, _: &mut Names) -> Shown {
    let addr = IpAddr::from(*addr);
    let cidr = format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 });
    Shown { json: json!({ "cidr": cidr }), text: cidr }
}

pub(super) fn prefix(key: &ipcache::PrefixKey, _: &mut Names) -> Shown {
    let cidr = super::rows::prefix_in(key).to_string();
    Shown { json: json!({ "cidr": cidr }), text: cidr }
}

pub(super) fn known(row: &ipcache::IpcacheRow, _: &mut Names) -> Shown {
    let tunnel = (!row.tunnel.is_none()).then(|| IpAddr::from(row.tunnel));
    let mut text = format!("identity={}", row.identity);
    if let Some(tunnel) = tunnel {
        text.push_str(&format!(" tunnelendpoint={tunnel}"));
    }
    text.push_str(&format!(" flags={:#x}", row.flags));
    Shown { text, json: json!({ "identity": row.identity, "tunnelendpoint": tunnel, "flags": row.flags }) }
}

pub(super) fn runtime(row: &node::RuntimeRow, names: &mut Names) -> Shown {
    let name = |index: u32, names: &mut Names| (index != 0).then(|| names.name(index).0);
    let (host, overlay) = (name(row.host_ifindex, names), name(row.overlay_ifindex, names));
    let mac = cilium_engine::state::Mac(row.host_mac.0).to_string();
    let shown = |link: &Option<String>| link.clone().unwrap_or_else(|| "none".into());
    Shown {
        text: format!("host {} overlay {} mac {mac}", shown(&host), shown(&overlay)),
        json: json!({ "host": host, "overlay": overlay, "host_mac": mac }),
    }
}

fn end(addr: Address, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.into(), port.host())
}

pub(super) fn connection(key: &ct::CtKey, _: &mut Names) -> Shown {
    let (low, high) = (end(key.low, key.low_port), end(key.high, key.high_port));
    let service = key.kind == ct::KIND_SERVICE;
    let proto = Protocol(key.proto);
    Shown {
        text: format!("{proto} {} {low} - {high}", if service { "SVC" } else { "CT" }),
        json: json!({
            "protocol": proto.to_string(), "service": service, "low": low.to_string(), "high": high.to_string(),
        }),
    }
}

pub(super) fn tracked(row: &ct::CtRow, _: &mut Names) -> Shown {
    const FLAGS: [(u16, &str); 9] = [
        (ct::CT_INITIATOR_HIGH, "initiator-high"),
        (ct::CT_SEEN_REPLY, "seen-reply"),
        (ct::CT_CLOSING_FORWARD, "closing-forward"),
        (ct::CT_CLOSING_REPLY, "closing-reply"),
        (ct::CT_RESET, "reset"),
        (ct::CT_LOOPBACK, "loopback"),
        (ct::CT_STACK, "host-stack"),
        (ct::CT_ONE_WAY, "one-way"),
        (ct::CT_DSR, "dsr"),
    ];
    let flags: Vec<&str> =
        FLAGS.into_iter().filter(|(bit, _)| row.flags & bit != 0).map(|(_, name)| name).collect();
    Shown {
        text: format!(
            "expires={} [{}] revnat={} backend={} identity={}",
            row.expires,
            flags.join(" "),
            row.rev_nat,
            row.backend,
            row.identity
        ),
        json: json!({
            "expires": row.expires, "flags": flags, "rev_nat": row.rev_nat, "backend": row.backend,
            "identity": row.identity, "revision": row.revision, "seen_forward": row.seen_forward,
            "seen_reply": row.seen_reply,
        }),
    }
}

pub(super) fn translation(key: &snat::SnatKey, _: &mut Names) -> Shown {
    let (src, dst) = (end(key.src, key.src_port), end(key.dst, key.dst_port));
    let proto = Protocol(key.proto);
    let direction = match key.dir {
        snat::OUT => "out",
        snat::FRONTEND => "frontend",
        _ => "in",
    };
    Shown {
        text: format!("{proto} {} {src} -> {dst}", direction.to_uppercase()),
        json: json!({
            "protocol": proto.to_string(), "direction": direction, "source": src.to_string(),
            "destination": dst.to_string(),
        }),
    }
}

pub(super) fn translated(row: &snat::SnatRow, _: &mut Names) -> Shown {
    let to = end(row.addr, row.port);
    let host = row.flags & snat::SNAT_HOST != 0;
    Shown {
        text: format!("{}{to} created={} used={}", if host { "host " } else { "" }, row.created, row.used),
        json: json!({ "to": to.to_string(), "host": host, "created": row.created, "used": row.used }),
    }
}

pub(super) fn datagram(key: &fragment::FragmentKey, _: &mut Names) -> Shown {
    let (src, dst) = (IpAddr::from(key.src), IpAddr::from(key.dst));
    // An identification is a number in network order, of IPv4 in the first two bytes.
    let id = if src.is_ipv4() { u32::from(u16::from_be(key.id as u16)) } else { u32::from_be(key.id) };
    let proto = Protocol(key.proto);
    let place = match (key.endpoint, key.place) {
        (0, fragment::PLACE_RECEIVED) => "received".to_owned(),
        (0, fragment::PLACE_OVERLAY) => "overlay".to_owned(),
        (0, _) => "sent".to_owned(),
        (endpoint, _) => format!("endpoint {endpoint}"),
    };
    Shown {
        text: format!("{proto} {src} -> {dst} id {id} {place}"),
        json: json!({
            "protocol": proto.to_string(), "source": src.to_string(), "destination": dst.to_string(), "id": id,
            "place": place,
        }),
    }
}

pub(super) fn first_fragment(row: &fragment::FragmentRow, _: &mut Names) -> Shown {
    let proto = Protocol(row.proto);
    let (src, dst) = (row.src_port.host(), row.dst_port.host());
    let detail = if row.proto == cilium_abi::proto::TCP { "tcp_flags" } else { "icmp_type" };
    Shown {
        text: format!("{proto} {src} -> {dst} seen={}", row.seen),
        json: json!({
            "protocol": proto.to_string(), "source_port": src, "destination_port": dst, "head": row.head,
            detail: row.detail, "seen": row.seen,
        }),
    }
}

pub(super) fn client(key: &lb::AffinityKey, _: &mut Names) -> Shown {
    let [low, high, ..] = key.client.words;
    let client = if key.is_cookie == 0 {
        IpAddr::from(key.client).to_string()
    } else {
        format!("netns {}", u64::from(high) << 32 | u64::from(low))
    };
    Shown {
        text: format!("{client} revnat {}", key.rev_nat),
        json: json!({ "client": client, "rev_nat": key.rev_nat }),
    }
}

pub(super) fn kept(row: &lb::AffinityRow, _: &mut Names) -> Shown {
    Shown {
        text: format!("backend {} used={}", row.backend, row.used),
        json: json!({ "backend": row.backend, "used": row.used }),
    }
}

pub(super) fn socket(key: &lb::SockRevKey, _: &mut Names) -> Shown {
    let at = end(key.addr, key.port);
    let kind = if key.kind == lb::SOCK_FORWARD { "forward" } else { "reverse" };
    Shown {
        text: format!("socket {} {kind} {at}", key.cookie),
        json: json!({ "cookie": key.cookie, "kind": kind, "address": at.to_string() }),
    }
}

pub(super) fn rewritten(row: &lb::SockRevRow, _: &mut Names) -> Shown {
    let at = end(row.addr, row.port);
    Shown {
        text: format!("{at} revnat {} backend {}", row.rev_nat, row.backend),
        json: json!({ "address": at.to_string(), "rev_nat": row.rev_nat, "backend": row.backend }),
    }
}

pub(super) fn counter(counter: &Counter) -> (Shown, Shown) {
    let Counter { reason, direction, packets, bytes } = *counter;
    let words = metrics::text(reason).map_or_else(|| format!("reason {reason}"), str::to_owned);
    let way = match direction {
        metrics::DIRECTION_INGRESS => "INGRESS",
        metrics::DIRECTION_EGRESS => "EGRESS",
        metrics::DIRECTION_SERVICE => "SERVICE",
        _ => "UNKNOWN",
    };
    (
        Shown {
            text: format!("{words} {way}"),
            json: json!({ "reason": words, "code": reason, "direction": way }),
        },
        Shown {
            text: format!("packets={packets} bytes={bytes}"),
            json: json!({ "packets": packets, "bytes": bytes }),
        },
    )
}
