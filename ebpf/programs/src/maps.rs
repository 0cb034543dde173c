//! Every map, under the names and shapes of [`cilium_abi::maps`].
//!
//! The loader sets the sizes of the pinned maps; those here are the defaults.

use crate::{
    answer::Desk,
    flow::{Clock, Flow},
};
use aya_ebpf::{
    Global,
    bindings::bpf_fib_lookup,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use cilium_abi::{
    Address, ct, endpoint, event, fragment, ipcache, lb, maps as shape, metrics,
    node::{DeviceRow, NodeConstants, RuntimeRow},
    policy, snat,
};

const NO_PREALLOC: usize = shape::NO_PREALLOC as usize;

macro_rules! size {
    ($name:ident) => {{ shape::$name.max_entries as usize }};
}

/// Address → endpoint.
#[btf_map(name = "cilium_endpoint")]
pub static ENDPOINT: HashMap<Address, endpoint::EndpointRow, { size!(ENDPOINT) }, NO_PREALLOC> =
    HashMap::new();
/// Interface → endpoint configuration.
#[btf_map(name = "cilium_ep_config")]
pub static EP_CONFIG: HashMap<u32, endpoint::EndpointConfigRow, { size!(EP_CONFIG) }, NO_PREALLOC> =
    HashMap::new();
/// Interface → device.
#[btf_map(name = "cilium_device")]
pub static DEVICE: HashMap<u32, DeviceRow, { size!(DEVICE) }, NO_PREALLOC> = HashMap::new();
/// Exact address → identity.
#[btf_map(name = "cilium_ipcache")]
pub static IPCACHE: HashMap<Address, ipcache::IpcacheRow, { size!(IPCACHE) }, NO_PREALLOC> = HashMap::new();
/// Prefix → identity.
#[btf_map(name = "cilium_ipcache_prefix")]
pub static IPCACHE_PREFIX: LpmTrie<Address, ipcache::IpcacheRow, { size!(IPCACHE_PREFIX) }, NO_PREALLOC> =
    LpmTrie::new();
/// Policy rows of all subjects.
#[btf_map(name = "cilium_policy")]
pub static POLICY: HashMap<policy::PolicyKey, policy::PolicyRow, { size!(POLICY) }, NO_PREALLOC> =
    HashMap::new();
/// Conntrack, TCP.
#[btf_map(name = "cilium_ct_tcp")]
pub static CT_TCP: LruHashMap<ct::CtKey, ct::CtRow, { size!(CT_TCP) }> = LruHashMap::new();
/// Conntrack, everything else.
#[btf_map(name = "cilium_ct_any")]
pub static CT_ANY: LruHashMap<ct::CtKey, ct::CtRow, { size!(CT_ANY) }> = LruHashMap::new();
/// Masquerading.
#[btf_map(name = "cilium_snat")]
pub static SNAT: LruHashMap<snat::SnatKey, snat::SnatRow, { size!(SNAT) }> = LruHashMap::new();
/// What the first fragments of datagrams said.
#[btf_map(name = "cilium_fragments")]
pub static FRAGMENTS: LruHashMap<fragment::FragmentKey, fragment::FragmentRow, { size!(FRAGMENTS) }> =
    LruHashMap::new();
/// Frontends.
#[btf_map(name = "cilium_frontend")]
pub static FRONTEND: HashMap<lb::FrontendKey, lb::FrontendRow, { size!(FRONTEND) }, NO_PREALLOC> =
    HashMap::new();
/// Lists of backends.
#[btf_map(name = "cilium_slot")]
pub static SLOT: HashMap<lb::SlotKey, lb::SlotRow, { size!(SLOT) }, NO_PREALLOC> = HashMap::new();
/// Backends.
#[btf_map(name = "cilium_backend")]
pub static BACKEND: HashMap<u32, lb::BackendRow, { size!(BACKEND) }, NO_PREALLOC> = HashMap::new();
/// The way back for replies.
#[btf_map(name = "cilium_revnat")]
pub static REVNAT: HashMap<u32, lb::RevNatRow, { size!(REVNAT) }, NO_PREALLOC> = HashMap::new();
/// Who keeps which backend.
#[btf_map(name = "cilium_affinity")]
pub static AFFINITY: LruHashMap<lb::AffinityKey, lb::AffinityRow, { size!(AFFINITY) }> = LruHashMap::new();
/// Who may use which frontend.
#[btf_map(name = "cilium_source_range")]
pub static SOURCE_RANGE: LpmTrie<SourceRange, lb::SourceRangeRow, { size!(SOURCE_RANGE) }, NO_PREALLOC> =
    LpmTrie::new();
/// Maglev tables.
#[btf_map(name = "cilium_maglev")]
pub static MAGLEV: Array<u32, { size!(MAGLEV) }> = Array::new();
/// What sockets of this node were connected to.
#[btf_map(name = "cilium_sock_rev")]
pub static SOCK_REV: LruHashMap<lb::SockRevKey, lb::SockRevRow, { size!(SOCK_REV) }> = LruHashMap::new();
/// Runtime facts.
#[btf_map(name = "cilium_runtime")]
pub static RUNTIME: Array<RuntimeRow, { size!(RUNTIME) }> = Array::new();
/// Revisions.
#[btf_map(name = "cilium_revision")]
pub static REVISION: Array<u32, { size!(REVISION) }> = Array::new();
/// Packet counters.
#[btf_map(name = "cilium_metrics")]
pub static METRICS: PerCpuArray<metrics::MetricsRow, { size!(METRICS) }> = PerCpuArray::new();
/// Events.
#[btf_map(name = "cilium_events")]
pub static EVENTS: RingBuf<event::Event, { size!(EVENTS) }> = RingBuf::new();
/// The packet at hand. Not pinned: nothing in it outlives a program's run.
#[btf_map(name = "cilium_scratch")]
pub static SCRATCH: PerCpuArray<Flow, 1> = PerCpuArray::new();
/// What time it is. Not pinned either.
#[btf_map(name = "cilium_clock")]
pub static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

/// Answers to clients of frontends without backend. Not pinned either.
#[btf_map(name = "cilium_answer")]
pub static DESK: PerCpuArray<Desk, 1> = PerCpuArray::new();

/// The next hop of the frame at hand. Not pinned either.
#[btf_map(name = "cilium_way")]
pub static WAY: PerCpuArray<bpf_fib_lookup, 1> = PerCpuArray::new();

/// [`lb::SourceRangeKey`] behind its length.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SourceRange {
    /// The frontend's revNAT number.
    pub rev_nat: u16,
    /// Zero.
    pub reserved: u16,
    /// The source.
    pub addr: Address,
}

/// The node's constants, set by the loader.
#[unsafe(no_mangle)]
pub static NODE: Global<NodeConstants> = Global::new(ZERO);

const ZERO: NodeConstants = NodeConstants {
    flags: 0,
    world_ipv4: 0,
    world_ipv6: 0,
    router_ipv4: Address::NONE,
    router_ipv6: Address::NONE,
    native_ipv4: Address::NONE,
    native_ipv6: Address::NONE,
    native_ipv4_len: 0,
    native_ipv6_len: 0,
    ct_tcp: 0,
    ct_syn: 0,
    ct_fin: 0,
    ct_any: 0,
    snat_port_min: 0,
    snat_port_max: 0,
    maglev_size: 0,
    trace_interval: 0,
    refusals: 0,
    trace_aggregation: 0,
    reserved: 0,
    tunnel_port: cilium_abi::Be16(0),
    host_netns: [0; 2],
};

/// Reads one field of [`NODE`]: loading all of it would copy 140 bytes per packet.
#[macro_export]
macro_rules! node {
    ($field:ident) => {{
        let node = (&raw const $crate::maps::NODE).cast::<cilium_abi::node::NodeConstants>();
        // SAFETY: a read-only global of this type; volatile since the loader writes it after compilation.
        unsafe { core::ptr::read_volatile(&raw const (*node).$field) }
    }};
}

/// Row 0 of the runtime array.
#[inline(always)]
pub fn runtime() -> Option<&'static RuntimeRow> {
    RUNTIME.get(0)
}
