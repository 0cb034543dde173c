//! What is read without an agent: dumps, counters, programs, events; and the sweep of dead rows.

use crate::bench::{Dir, Namespace, map_steps, must, run, shape};
use aya::maps::{HashMap, Map, MapData};
use cilium_abi::ct::{CtRow, KIND_CONNECTION, Tuple};
use cilium_abi::node::{NODE_EVENT_DROP, NODE_IPV4, NodeConstants};
use cilium_abi::snat::{IN, OUT, SNAT_HOST, SnatKey, SnatRow};
use cilium_abi::{Address, Be16, drop as reason, event, maps, metrics, proto};
use cilium_engine::driver::Step;
use cilium_engine::state::*;
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::events::Events;
use cilium_kernel::bpf::{Bpf, counters, dump, gc, programs};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use zerocopy::{Immutable, IntoBytes};

fn bytes<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    value.as_bytes().try_into().unwrap()
}

/// Writes a row as the programs would.
fn put<const K: usize, const V: usize>(
    dir: &Dir,
    pin: &str,
    key: &(impl IntoBytes + Immutable),
    row: &(impl IntoBytes + Immutable),
) {
    let map = Map::LruHashMap(MapData::from_pin(dir.map(pin)).unwrap());
    let mut map: HashMap<MapData, [u8; K], [u8; V]> = map.try_into().unwrap();
    map.insert(bytes::<K>(key), bytes::<V>(row), 0).unwrap();
}

fn tuple(src: &str, dst: &str, src_port: u16, proto: u8) -> Tuple {
    let ip = |s: &str| Address::from(s.parse::<IpAddr>().unwrap());
    Tuple { src: ip(src), dst: ip(dst), src_port: Be16::new(src_port), dst_port: Be16::new(80), proto }
}

#[test]
fn every_map_can_be_listed_by_name_and_alias() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    assert!(dump::rows(&dir.0, "cilium_ipcache").unwrap_err().message.contains("not pinned"));
    assert!(dump::list(&dir.0).unwrap().iter().all(|map| map.id.is_none()));
    must(&mut bpf, &map_steps());
    assert!(dump::list(&dir.0).unwrap().iter().all(|map| map.id.is_some()));
    for spec in maps::ALL {
        for name in [spec.name].iter().chain(spec.aliases) {
            dump::rows(&dir.0, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    assert!(dump::rows(&dir.0, "cilium_events").is_err());
    assert!(dump::rows(&dir.0, "nonsense").unwrap_err().hint.contains("map list"));

    let row =
        IpcacheRow { identity: IdentityId(300), tunnel: Some("192.168.0.2".parse().unwrap()), flags: 1 };
    for cidr in ["10.1.0.5/32", "10.2.0.0/16", "::/0"] {
        must::<Ipcache>(&mut bpf, &[Step::Create { key: IpcacheKey(cidr.parse().unwrap()), row }]);
    }
    let exact = dump::rows(&dir.0, "cilium_ipcache_v2").unwrap();
    assert_eq!(exact[0].key, "10.1.0.5/32");
    assert_eq!(exact[0].row, "identity=300 tunnelendpoint=192.168.0.2 flags=0x1");
    assert_eq!(exact[0].row_json["identity"], 300);
    let mut prefixes: Vec<String> =
        dump::rows(&dir.0, "cilium_ipcache_prefix").unwrap().into_iter().map(|row| row.key).collect();
    prefixes.sort();
    assert_eq!(prefixes, ["10.2.0.0/16", "::/0"]);
    let revision = || dump::rows(&dir.0, "cilium_revision").unwrap()[0].row.parse::<u32>().unwrap();
    let before = revision();
    assert!(before > 0, "applies that wrote ipcache rows raised it");
    bpf.start().unwrap();
    assert!(revision() > before, "a start raises it");
}

#[test]
fn the_sweep_removes_the_dead_and_only_them() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    assert_eq!(gc::conntrack(&dir.0, 1).unwrap(), vec![]);
    assert_eq!(gc::snat(&dir.0, 1, gc::Idle { host_tcp: 1, any: 1 }).unwrap(), None);
    must(&mut bpf, &map_steps());
    let now = 10_000;
    let row = |expires| CtRow { expires, ..CtRow::default() };
    for n in 0..500u16 {
        let key = tuple("10.1.0.5", "10.2.0.1", 1000 + n, proto::TCP).key(KIND_CONNECTION).0;
        put::<40, 40>(&dir, "cilium_ct_tcp_v2", &key, &row(if n % 5 == 0 { now - 1 } else { now }));
    }
    let reports = gc::conntrack(&dir.0, now).unwrap();
    assert_eq!(
        reports[0],
        ("cilium_ct_tcp", gc::GcReport { scanned: 500, deleted: 100, alive: 400, revived: 0 })
    );
    assert_eq!(reports[1], ("cilium_ct_any", gc::GcReport::default()));
    assert_eq!(gc::conntrack(&dir.0, now).unwrap()[0].1.deleted, 0);
    assert_eq!(dump::rows(&dir.0, "cilium_ct4_global").unwrap().len(), 400);

    // Translations: of a live connection, of a dead one (both halves), and the node's own.
    let (live, dead) = (tuple("10.1.0.5", "10.2.0.1", 1001, 6), tuple("10.1.0.5", "10.2.0.1", 1000, 6));
    let node = tuple("192.168.0.1", "10.2.0.1", 0, 6).src;
    let idle = gc::Idle { host_tcp: 600, any: 60 };
    let at = |used, flags| SnatRow { addr: node, port: Be16::new(50_000), flags, created: 0, used };
    for (tuple, used) in [(live, 0), (dead, 0), (tuple("10.1.0.6", "10.2.0.1", 7, 17), now - 10)] {
        let Tuple { src, dst, src_port, dst_port, proto } = tuple;
        let out = SnatKey { src, dst, src_port, dst_port, proto, dir: OUT, reserved: 0 };
        let back = SnatKey {
            src: dst,
            dst: node,
            src_port: dst_port,
            dst_port: src_port,
            proto,
            dir: IN,
            reserved: 0,
        };
        put::<40, 28>(&dir, "cilium_snat_v1", &out, &at(used, 0));
        let back_row = SnatRow { addr: src, port: src_port, ..at(used, 0) };
        put::<40, 28>(&dir, "cilium_snat_v1", &back, &back_row);
    }
    for (port, used) in [(1, now - 500), (2, now - 700)] {
        let Tuple { src, dst, .. } = tuple("10.2.0.1", "192.168.0.1", 0, 6);
        let (src_port, dst_port) = (Be16::new(80), Be16::new(port));
        let key = SnatKey { src, dst, src_port, dst_port, proto: 6, dir: IN, reserved: 0 };
        put::<40, 28>(&dir, "cilium_snat_v1", &key, &at(used, SNAT_HOST));
    }
    let report = gc::snat(&dir.0, now, idle).unwrap().unwrap();
    assert_eq!(report, gc::GcReport { scanned: 8, deleted: 3, alive: 5, revived: 0 });
    assert!(gc::now_seconds() > 0);
}

#[test]
fn a_drop_is_counted_and_told() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let far = Namespace::enter();
    let _near = Namespace::enter();
    run("ip", &["link", "add", "kb-a", "type", "veth", "peer", "name", "kb-b", "netns", &far.name]);
    run("ip", &["link", "set", "kb-a", "up"]);
    run("ip", &["netns", "exec", &far.name, "ip", "addr", "add", "10.99.0.2/24", "dev", "kb-b"]);
    run("ip", &["netns", "exec", &far.name, "ip", "link", "set", "kb-b", "up"]);
    run(
        "ip",
        &[
            "netns",
            "exec",
            &far.name,
            "ip",
            "neigh",
            "add",
            "10.99.0.1",
            "lladdr",
            "02:00:00:00:00:01",
            "dev",
            "kb-b",
        ],
    );
    let mut bpf: Bpf = dir.bpf(AttachMode::Auto);
    assert!(Events::open(&dir.0).unwrap().is_none());
    must(&mut bpf, &map_steps());
    let mut events = Events::open(&dir.0).unwrap().unwrap();
    assert!(events.next_event().is_none());
    let constants = NodeConstants { flags: NODE_IPV4 | NODE_EVENT_DROP, ..NodeConstants::default() };
    let set = SetId("0".repeat(32));
    let row = ProgramSetRow::Constants(Box::new(constants));
    must::<ProgramSet>(&mut bpf, &[Step::Create { key: set.clone(), row }]);
    let hook = AttachmentKey { link: "kb-a".into(), hook: Hook::Ingress };
    let row = AttachmentRow { program: "cil_from_container".into(), set, first: Position::First };
    must::<Attachment>(&mut bpf, &[Step::Create { key: hook, row }]);

    let ping = ["netns", "exec", &far.name, "ping", "-c", "3", "-i", "0.01", "-W", "1", "10.99.0.1"];
    let out = std::process::Command::new("ip").args(ping).output().unwrap();
    assert!(!out.status.success(), "the pod is closed");
    let mut poll = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    #[expect(unsafe_code, reason = "poll(2) has no safe form in std")]
    // SAFETY: one live structure, as announced.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 5000) };
    assert_eq!(ready, 1, "the ring buffer becomes readable");
    let seen: Vec<event::Event> = std::iter::from_fn(|| events.next_event()).collect();
    let pings: Vec<_> = seen.iter().filter(|e| e.proto == proto::ICMP).collect();
    assert_eq!(pings.len(), 3, "{seen:?}");
    assert!(pings.iter().all(|e| e.kind == event::DROP && e.subtype == reason::ENDPOINT_NOT_READY));
    let source: IpAddr = pings[0].src.into();
    assert_eq!(source.to_string(), "10.99.0.2");
    let counted = counters::read(&dir.0).unwrap();
    let dropped = counted.iter().find(|c| c.reason == reason::ENDPOINT_NOT_READY).expect("counted");
    assert_eq!(dropped.direction, metrics::DIRECTION_EGRESS);
    assert!(dropped.packets >= 3, "{counted:?}");
    assert!(
        dump::rows(&dir.0, "cilium_metrics").unwrap().iter().any(|r| r.key.starts_with("Endpoint policy"))
    );

    let list = programs::list(&dir.0).unwrap();
    for program in &list {
        println!(
            "{:<20} {:>7} verified {:>6} jited",
            program.name, program.verified_insns, program.jited_bytes
        );
        assert!(program.verified_insns > 0 && program.verified_insns < 150_000, "{program:?}");
        assert!(program.map_ids.len() < 64);
    }
    assert!(list.len() >= 8);

    assert!(events.is_current().unwrap());
    let (key, old) = shape(&maps::EVENTS, 65_536);
    let larger = MapRow { max_entries: 131_072, ..old.clone() };
    must::<BpfMap>(&mut bpf, &[Step::Update { key, row: larger, seen: old }]);
    assert!(!events.is_current().unwrap());
}
