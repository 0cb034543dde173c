//! Every pinned map: name, layout version, type, sizes. The pin is `maps/<name>_v<version>`.
//!
//! Raise a version whenever the layout of its key or row changes; a test holds the digest of each.

use crate::{Address, ct, endpoint, event, fragment, ipcache, lb, metrics, node, policy, snat};
use core::mem::size_of;

/// `BPF_MAP_TYPE_` numbers used here (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum MapType {
    /// Hash.
    Hash = 1,
    /// Array.
    Array = 2,
    /// Per-CPU array.
    PerCpuArray = 6,
    /// Hash that evicts the least recently used.
    LruHash = 9,
    /// Longest-prefix-match trie.
    LpmTrie = 11,
    /// Ring buffer.
    RingBuf = 27,
}

/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
pub const MMAPABLE: u32 = 1 << 10;

/// Shape of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name without version, as users see it. Also the name of the static in the programs.
    pub name: &'static str,
    /// Layout version.
    pub version: u32,
    /// Map type.
    pub kind: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Row size in bytes.
    pub value_size: u32,
    /// Entries unless configured otherwise (ring buffer: bytes).
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
    /// Names under which users of Cilium know the map.
    pub aliases: &'static [&'static str],
}

macro_rules! maps {
    ($($(#[$doc:meta])* $ident:ident = $name:literal v $version:literal, $kind:ident <$key:ty, $row:ty> $max:expr, $flags:expr, $aliases:expr;)*) => {
        $($(#[$doc])* pub const $ident: MapSpec = MapSpec {
            name: $name,
            version: $version,
            kind: MapType::$kind,
            key_size: size_of::<$key>() as u32,
            value_size: size_of::<$row>() as u32,
            max_entries: $max,
            flags: $flags,
            aliases: $aliases,
        };)*
        /// All maps.
        pub const ALL: &[MapSpec] = &[$($ident),*];
    };
}

maps! {
    /// Address → endpoint.
    ENDPOINT = "cilium_endpoint" v 1, Hash<Address, endpoint::EndpointRow> 65_536, NO_PREALLOC, &["cilium_lxc"];
    /// Interface → endpoint configuration.
    EP_CONFIG = "cilium_ep_config" v 1, Hash<u32, endpoint::EndpointConfigRow> 4_096, NO_PREALLOC, &[];
    /// Interface → device.
    DEVICE = "cilium_device" v 1, Hash<u32, node::DeviceRow> 512, NO_PREALLOC, &["cilium_devices"];
    /// Exact address → identity.
    IPCACHE = "cilium_ipcache" v 1, Hash<Address, ipcache::IpcacheRow> 512_000, NO_PREALLOC, &["cilium_ipcache_v2"];
    /// Prefix → identity.
    IPCACHE_PREFIX = "cilium_ipcache_prefix" v 1, LpmTrie<ipcache::PrefixKey, ipcache::IpcacheRow> 128_000, NO_PREALLOC, &[];
    /// Policy rows of all subjects.
    POLICY = "cilium_policy" v 1, Hash<policy::PolicyKey, policy::PolicyRow> 524_288, NO_PREALLOC, &["cilium_policy_v2", "cilium_policy_v3"];
    /// Conntrack, TCP.
    CT_TCP = "cilium_ct_tcp" v 2, LruHash<ct::CtKey, ct::CtRow> 524_288, 0, &["cilium_ct4_global", "cilium_ct6_global"];
    /// Conntrack, everything else.
    CT_ANY = "cilium_ct_any" v 2, LruHash<ct::CtKey, ct::CtRow> 262_144, 0, &["cilium_ct_any4_global", "cilium_ct_any6_global"];
    /// Masquerading.
    SNAT = "cilium_snat" v 1, LruHash<snat::SnatKey, snat::SnatRow> 524_288, 0, &["cilium_snat_v4_external", "cilium_snat_v6_external"];
    /// What the first fragments of datagrams said.
    FRAGMENTS = "cilium_fragments" v 1, LruHash<fragment::FragmentKey, fragment::FragmentRow> 8_192, 0, &["cilium_ipv4_frag_datagrams", "cilium_ipv6_frag_datagrams"];
    /// Frontends.
    FRONTEND = "cilium_frontend" v 2, Hash<lb::FrontendKey, lb::FrontendRow> 65_536, NO_PREALLOC, &["cilium_lb4_services_v2", "cilium_lb6_services_v2"];
    /// Lists of backends.
    SLOT = "cilium_slot" v 1, Hash<lb::SlotKey, lb::SlotRow> 524_288, NO_PREALLOC, &[];
    /// Backends.
    BACKEND = "cilium_backend" v 1, Hash<u32, lb::BackendRow> 65_536, NO_PREALLOC, &["cilium_lb4_backends_v3", "cilium_lb6_backends_v3"];
    /// The way back for replies.
    REVNAT = "cilium_revnat" v 1, Hash<u32, lb::RevNatRow> 65_536, NO_PREALLOC, &["cilium_lb4_reverse_nat", "cilium_lb6_reverse_nat"];
    /// Who keeps which backend.
    AFFINITY = "cilium_affinity" v 1, LruHash<lb::AffinityKey, lb::AffinityRow> 65_536, 0, &["cilium_lb4_affinity", "cilium_lb6_affinity"];
    /// Who may use which frontend.
    SOURCE_RANGE = "cilium_source_range" v 1, LpmTrie<lb::SourceRangeKey, lb::SourceRangeRow> 65_536, NO_PREALLOC, &["cilium_lb4_source_range", "cilium_lb6_source_range"];
    /// Maglev tables: a place → a backend's number. After each table comes a place with 0, as in free room.
    MAGLEV = "cilium_maglev" v 1, Array<u32, u32> 1, MMAPABLE, &["cilium_lb4_maglev", "cilium_lb6_maglev"];
    /// What sockets of this node were connected to.
    SOCK_REV = "cilium_sock_rev" v 1, LruHash<lb::SockRevKey, lb::SockRevRow> 262_144, 0, &["cilium_lb4_reverse_sk", "cilium_lb6_reverse_sk"];
    /// Runtime facts.
    RUNTIME = "cilium_runtime" v 1, Array<u32, node::RuntimeRow> 1, 0, &["cilium_runtime_config"];
    /// Revisions.
    REVISION = "cilium_revision" v 1, Array<u32, u32> 1, 0, &[];
    /// Identity number → 128-bit digest of its sorted labels: what a start with an empty memory adopts.
    IDENTITY_DIGEST = "cilium_identity_digest" v 1, Hash<u32, [u8; 16]> 131_072, NO_PREALLOC, &[];
    /// Policy number → 128-bit digest of its subject and rules, likewise.
    POLICY_DIGEST = "cilium_policy_digest" v 1, Hash<u32, [u8; 16]> 65_536, NO_PREALLOC, &[];
    /// Packet counters.
    METRICS = "cilium_metrics" v 1, PerCpuArray<u32, metrics::MetricsRow> metrics::ROWS, 0, &[];
}

/// The ring buffer of events: no keys; `max_entries` is its size in bytes.
pub const EVENTS: MapSpec = MapSpec {
    name: "cilium_events",
    version: 1,
    kind: MapType::RingBuf,
    key_size: 0,
    value_size: 0,
    max_entries: 1 << 20,
    flags: 0,
    aliases: &[],
};

/// Size of one event in the ring.
pub const EVENT_SIZE: usize = size_of::<event::Event>();

/// The map with this name or alias.
pub fn find(name: &str) -> Option<MapSpec> {
    ALL.iter().chain([&EVENTS]).find(|m| m.name == name || m.aliases.contains(&name)).copied()
}
