//! A generator for every resource: keys from small pools, so that two tables overlap, and any rows.
//!
//! A resource without one does not compile: [`any_state`] asks for [`Generate`] of each.

use cilium_abi::lb::{FRONTEND_MAGLEV, FRONTEND_SOURCE_RANGES};
use cilium_abi::maps::MapType;
use cilium_abi::node::NodeConstants;
use cilium_engine::state::*;
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

/// Rows of one resource by chance.
pub(crate) trait Generate: Resource {
    fn keys() -> BoxedStrategy<Self::Key>;
    fn rows() -> BoxedStrategy<Self::Row>;
}

pub(crate) const PODS: [&str; 3] = ["lxc1", "lxc2", "lxc3"];
pub(crate) const IDENTITIES: [u32; 5] = [0, 2, 256, 257, 258];
pub(crate) const PORTS: [(u16, u8); 5] = [(0, 0), (80, 16), (81, 16), (80, 15), (443, 16)];

fn pod() -> BoxedStrategy<LinkName> {
    prop::sample::select(&PODS[..]).prop_map(LinkName::from).boxed()
}

fn link() -> BoxedStrategy<LinkName> {
    prop_oneof![2 => pod(), 1 => prop::sample::select(&[HOST_LINK, VXLAN_LINK][..]).prop_map(LinkName::from)]
        .boxed()
}

fn addr() -> BoxedStrategy<IpAddr> {
    (1u8..6).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))).boxed()
}

fn host_net(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

fn mac() -> BoxedStrategy<Mac> {
    (0u8..3).prop_map(|n| Mac([2, 0, 0, 0, 0, n])).boxed()
}

fn identity() -> BoxedStrategy<IdentityId> {
    prop::sample::select(&IDENTITIES[..]).prop_map(IdentityId).boxed()
}

fn digest() -> BoxedStrategy<Digest> {
    (0u8..3).prop_map(|n| Digest([n; 16])).boxed()
}

fn set() -> BoxedStrategy<SetId> {
    prop::sample::select(&["aaaa", "bbbb"][..]).prop_map(|s| SetId(s.to_owned())).boxed()
}

macro_rules! generate {
    ($($resource:ident: $keys:expr, $rows:expr;)*) => {
        $(impl Generate for $resource {
            fn keys() -> BoxedStrategy<Self::Key> { ($keys).boxed() }
            fn rows() -> BoxedStrategy<Self::Row> { ($rows).boxed() }
        })*
    };
}

generate! {
    Sysctl: (0u8..4).prop_map(|n| SysctlKey(format!("net.ipv4.conf.lxc{n}.rp_filter"))),
        prop::sample::select(&["0", "1", "2"][..]).prop_map(str::to_owned);
    BpfMap: (0u8..4).prop_map(|n| MapKey(format!("cilium_map{n}_v1"))), (1u32..3).prop_map(|n| MapRow {
        kind: MapType::Hash, key_size: 4, value_size: 8, max_entries: 1024 * n, flags: 0,
    });
    Link: link(), (prop::option::of(mac()), 1400u32..1402, any::<bool>()).prop_map(|(mac, mtu, own)| LinkRow {
        kind: if own { LinkKind::PodVeth } else { LinkKind::Foreign { kind: "dummy".to_owned() } },
        mac, mtu, alias: format!("{LINK_ALIAS_PREFIX}x"),
    });
    ProgramSet: set(), prop_oneof![
        Just(ProgramSetRow::Constants(Box::<NodeConstants>::default())),
        Just(ProgramSetRow::Complete),
        Just(ProgramSetRow::Broken),
    ];
    Runtime: Just(Only), (mac(), any::<bool>()).prop_map(|(host_mac, overlay)| RuntimeRow {
        host: HOST_LINK.into(), overlay: overlay.then(|| VXLAN_LINK.into()), host_mac,
    });
    Device: (0u8..3).prop_map(|n| LinkName(format!("eth{n}"))), (mac(), 0u32..2).prop_map(|(mac, flags)| DeviceRow {
        ipv4: None, ipv6: None, mac, flags,
    });
    Attachment: (link(), prop::sample::select(&[Hook::Ingress, Hook::Egress][..]))
            .prop_map(|(link, hook)| AttachmentKey { link, hook }),
        (set(), 0u8..3).prop_map(|(set, what)| AttachmentRow {
            program: if what == 0 { "other".to_owned() } else { "cil_from_container".to_owned() },
            set,
            first: if what == 1 { Position::Behind } else { Position::First },
        });
    PodInterface: pod(), (mac(), addr()).prop_map(|(mac, addr)| PodInterfaceRow {
        netns: "/run/netns/p".into(), ifname: "eth0".into(), mac, mtu: 1450,
        addresses: vec![host_net(addr)], gateways: vec![], route_mtu: 0,
    });
    Address: (link(), addr()).prop_map(|(link, addr)| AddressKey { link, addr: host_net(addr) }), Just(Present);
    Route: (0u8..4).prop_map(|n| RouteKey {
            dst: format!("10.{n}.0.0/16").parse().expect("a prefix"), table: 254,
        }),
        (link(), prop::option::of(addr())).prop_map(|(link, via)| RouteRow { link, via, src: None, mtu: 0 });
    Backend: (1u32..6).prop_map(BackendId), (addr(), 80u16..82).prop_map(|(addr, port)| BackendRow {
        addr, port, proto: Protocol::TCP, flags: 0,
    });
    RevNat: (1u16..5).prop_map(RevNatId), (addr(), 80u16..82).prop_map(|(addr, port)| RevNatRow { addr, port });
    Slot: (1u32..5, 0u32..3).prop_map(|(list, slot)| SlotKey { list: ListId(list), slot }),
        (1u32..6).prop_map(BackendId);
    Frontend: (addr(), 80u16..82, 0u8..2).prop_map(|(addr, port, scope)| FrontendKey {
            addr, port, proto: Protocol::TCP, scope,
        }),
        (1u32..5, 0u16..3, 1u16..5, 0u8..4, 0u32..2, 0u32..3).prop_map(
            |(list, count, rev_nat, flags, affinity, table)| FrontendRow {
                list: ListId(list), count, rev_nat: RevNatId(rev_nat), maglev: TableId(table), affinity,
                flags: [0, FRONTEND_SOURCE_RANGES, FRONTEND_MAGLEV, FRONTEND_SOURCE_RANGES | FRONTEND_MAGLEV]
                    [usize::from(flags)],
            });
    MaglevTable: (0u32..3).prop_map(TableId), prop::collection::vec((1u32..6).prop_map(BackendId), 1..4)
        .prop_map(|places| MaglevRow(places.into()));
    SocketProgram: prop::sample::select(&SocketHook::ALL[..]),
        (set(), 0u8..2).prop_map(|(set, n)| SocketRow { cgroup: format!("/cgroup{n}").into(), set });
    SourceRange: (1u16..5, 0u8..3).prop_map(|(rev_nat, n)| SourceRangeKey {
            rev_nat: RevNatId(rev_nat), net: format!("10.{n}.0.0/16").parse().expect("a prefix"),
        }),
        Just(Present);
    IdentityDigest: identity(), digest();
    Policy: (
            (1u32..4).prop_map(PolicyId), any::<bool>(), identity(), any::<bool>(), prop::sample::select(&PORTS[..]),
        ).prop_map(|(policy, ingress, identity, l3, (port, port_len))| PolicyKey {
            policy,
            direction: if ingress { Direction::Ingress } else { Direction::Egress },
            identity,
            proto: if l3 { Protocol(0) } else { Protocol::TCP },
            port: if l3 { 0 } else { port },
            port_len: if l3 { 0 } else { port_len },
        }),
        (0u8..3, prop::sample::select(&[0u32, 1, 1 << 16, 1 << 15 | 1 << 16, 1 | 1 << 16][..])).prop_map(
            |(verdict, lengths)| PolicyRow { verdict, listener: 0, lengths, precedence: 0, cookie: Cookie(1) });
    PolicyDigest: (1u32..4).prop_map(PolicyId), digest();
    Ipcache: prop_oneof![
            addr().prop_map(|addr| IpcacheKey(host_net(addr))),
            Just(IpcacheKey("10.9.0.0/16".parse().expect("a prefix"))),
        ],
        (identity(), prop::option::of(addr())).prop_map(|(identity, tunnel)| IpcacheRow { identity, tunnel, flags: 0 });
    Endpoint: addr().prop_map(EndpointKey), prop_oneof![
        identity().prop_map(|identity| EndpointRow::Host { identity }),
        (pod(), identity(), mac()).prop_map(|(link, identity, mac)| EndpointRow::Pod {
            link, endpoint: EndpointId(1), identity, mac, node_mac: mac,
        }),
    ];
    EndpointConfig: pod(), (identity(), 0u32..4, 0u16..4, mac()).prop_map(|(identity, policy, flags, mac)| {
        EndpointConfigRow {
            endpoint: EndpointId(1), identity, policy: PolicyId(policy), flags,
            ipv4: None, ipv6: None, mac, node_mac: mac,
        }
    });
    LinkUp: link(), Just(Present);
    File: (0u8..3).prop_map(|n| FileKey(format!("/etc/cni/{n}").into())),
        (0u8..2).prop_map(|n| FileRow { content: format!("{n}"), mode: 0o644 });
}

fn table<R: Generate>() -> BoxedStrategy<Table<R>> {
    prop::collection::vec((R::keys(), R::rows()), 0..6).prop_map(|rows| rows.into_iter().collect()).boxed()
}

fn with<R: Generate>(state: BoxedStrategy<State>) -> BoxedStrategy<State>
where
    State: TableOf<R>,
    Table<R>: std::fmt::Debug,
{
    (state, table::<R>())
        .prop_map(|(mut state, table)| {
            *TableOf::<R>::table_mut(&mut state) = table;
            state
        })
        .boxed()
}

macro_rules! any_state {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// Any rows, of every kind.
        pub(crate) fn any_state() -> BoxedStrategy<State> {
            let state = Just(State::default()).boxed();
            $(let state = with::<$resource>(state);)*
            state
        }

        /// Some keys of every kind, some kinds whole, some not read at all.
        pub(crate) fn any_coverage() -> BoxedStrategy<Coverage> {
            let coverage = Just(Coverage::default()).boxed();
            $(let coverage = (coverage, any::<u8>(), prop::collection::btree_set(<$resource as Generate>::keys(), 0..6))
                .prop_map(|(mut coverage, choice, keys)| {
                    coverage.$field = match choice % 4 {
                        0 => Covered::default(),
                        1 => Covered::Keys(keys),
                        _ => Covered::All,
                    };
                    coverage
                })
                .boxed();)*
            coverage
        }

        /// What a driver would show of a state with this coverage.
        pub(crate) fn seen_of(state: &State, coverage: &Coverage) -> ObservedState {
            let mut seen = State::default();
            $(for (key, entry) in state.$field.iter().filter(|(key, _)| coverage.$field.knows(key)) {
                seen.$field.insert(key.clone(), entry.row.clone(), None);
            })*
            ObservedState { state: seen, coverage: coverage.clone() }
        }

        /// Whether a row is read with this coverage.
        pub(crate) fn knows(coverage: &Coverage, id: &RowId) -> bool {
            match id.kind {
                $(Kind::$resource => match &coverage.$field {
                    Covered::All => true,
                    Covered::Unread(_) => false,
                    Covered::Keys(keys) => keys.iter().any(|key| $resource::id(key) == *id),
                },)*
            }
        }

        /// The row with this name, as text.
        pub(crate) fn row_of(state: &State, id: &RowId) -> Option<String> {
            match id.kind {
                $(Kind::$resource => state.$field.iter()
                    .find(|(key, _)| $resource::id(key) == *id)
                    .map(|(_, entry)| entry.row.to_string()),)*
            }
        }

        /// The sources of the row with this name.
        pub(crate) fn sources_of(state: &State, id: &RowId) -> Option<SourceSet> {
            match id.kind {
                $(Kind::$resource => state.$field.iter()
                    .find(|(key, _)| $resource::id(key) == *id)
                    .map(|(key, entry)| $resource::sources(key, &entry.row)),)*
            }
        }

        /// Whether one state is as good as another: rows satisfied, none too many.
        pub(crate) fn as_good(want: &State, seen: &State) -> Result<(), String> {
            $(
                if let Some(key) = seen.$field.keys().find(|key| want.$field.find(key).is_none()) {
                    return Err(format!("{} should not be there", $resource::id(key)));
                }
                for (key, entry) in want.$field.iter() {
                    match seen.$field.find(key) {
                        Some(row) if $resource::satisfied(&entry.row, row) => {}
                        Some(row) => return Err(format!("{} is {row}, not {}", $resource::id(key), entry.row)),
                        None => return Err(format!("{} is missing", $resource::id(key))),
                    }
                }
            )*
            Ok(())
        }

        /// Every kind of requirement a row may name, checked against what its resource declares.
        pub(crate) fn undeclared_needs(state: &State) -> Vec<String> {
            let mut out = Vec::new();
            $(for (key, entry) in state.$field.iter() {
                for need in $resource::requires(key, &entry.row) {
                    if !$resource::NEEDS.contains(&need.kind) || need.kind >= $resource::KIND {
                        out.push(format!("{} requires {need}", $resource::id(key)));
                    }
                }
            })*
            out
        }
    };
}
cilium_engine::for_each_resource!(any_state);
