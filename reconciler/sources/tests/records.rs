//! Endpoint records and the world made of all sources.

use cilium_engine::config::Config;
use cilium_engine::state::{Mac, Protocol, Source, SourceSet};
use cilium_engine::world::{EndpointRecord, HostFacts, HostPort, NodeAddressKind, ObjectName, PortMappings};
use cilium_sources::folder::{ManifestFolder, Now, Snapshot};
use cilium_sources::records::{Records, RouterAddresses};
use cilium_sources::world::assemble;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

fn record(id: u16) -> EndpointRecord {
    EndpointRecord {
        id,
        container_id: format!("container-{id}"),
        network: "cilium".into(),
        ifname: "eth0".into(),
        netns: "/var/run/netns/x".into(),
        pod: (id.is_multiple_of(2)).then(|| ObjectName::new("shop", "web-0")),
        pod_uid: Some("1-2-3".into()),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        link: format!("lxc{id}"),
        mac: Mac([2, 0, 0, 0, 0, 0xab]),
        node_mac: Mac([2, 0, 0, 0, 1, 0xcd]),
        ipv4: Some("10.1.0.5".parse().unwrap()),
        ipv6: (id.is_multiple_of(2)).then(|| "fd00::5".parse().unwrap()),
        port_mappings: Default::default(),
    }
}

fn router() -> RouterAddresses {
    RouterAddresses { ipv4: Some("10.1.0.77".parse().unwrap()), ipv6: Some("fd00::77".parse().unwrap()) }
}

#[test]
fn records_survive_a_restart_and_only_the_router_survives_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let (run, state) = (dir.path().join("run"), dir.path().join("state"));
    let mut records = Records::load(&run, &state, "boot-1");
    for id in [1, 2, 65535] {
        records.put(record(id)).unwrap();
    }
    records.keep_router(router()).unwrap();
    let again = Records::load(&run, &state, "boot-1");
    assert_eq!(again.endpoints(), records.endpoints());
    assert_eq!(again.endpoints()[&2], record(2));
    assert_eq!(again.router(), router());
    assert_eq!(again.find("container-2", "eth0").map(|r| r.id), Some(2));
    assert!(again.find("container-2", "eth1").is_none());
    let rebooted = Records::load(&run, &state, "boot-2");
    assert!(rebooted.endpoints().is_empty());
    assert_eq!(rebooted.router(), router());
    assert!(rebooted.problems().is_empty());
    assert_eq!(fs::read_dir(run.join("state/endpoints")).unwrap().count(), 0);
}

#[test]
fn port_mappings_are_kept_and_records_without_are_as_older_agents_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.put(record(1)).unwrap();
    let port = |ip: Option<&str>, proto| HostPort {
        ip: ip.map(|ip| ip.parse().unwrap()),
        port: 8080,
        proto,
        target: 80,
    };
    let ports = vec![port(None, Protocol::TCP), port(Some("fd00::1"), Protocol::UDP)];
    let many: Vec<HostPort> = (1..=1024)
        .map(|n| HostPort { port: n, ..port(Some("fd00:1:2:3:4:5:6:7"), Protocol::SCTP) })
        .collect();
    for (id, ports) in [(2, ports), (3, many)] {
        let port_mappings = PortMappings { ports, since: 1_800_000_000_000 };
        records.put(EndpointRecord { port_mappings, ..record(id) }).unwrap();
    }
    let again = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(again.endpoints(), records.endpoints());
    assert!(again.problems().is_empty(), "{:?}", again.problems());

    let folder = dir.path().join("state/endpoints");
    let text = fs::read_to_string(folder.join("1.json")).unwrap();
    assert!(!text.contains("port_mappings"), "{text}");
    let text = fs::read_to_string(folder.join("2.json")).unwrap();
    let other = text.replace("\"host_port\": 8080", "\"host_port\": 8081");
    assert_ne!(other, text);
    // The copy would stand in for the record.
    for folder in [folder, dir.path().join("state/copies")] {
        fs::write(folder.join("2.json"), &other).unwrap();
    }
    let spoiled = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(spoiled.endpoints().keys().copied().collect::<Vec<_>>(), [1, 3]);
    assert!(spoiled.problems().iter().any(|problem| problem.message.contains("digest")));
}

#[test]
fn removing_twice_is_a_success() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.put(record(7)).unwrap();
    assert_eq!(records.remove(7).unwrap(), Some(record(7)));
    assert_eq!(records.remove(7).unwrap(), None);
    assert!(Records::load(dir.path(), dir.path(), "b").endpoints().is_empty());
}

#[test]
fn what_cannot_be_read_is_put_aside_and_told_and_the_others_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    for id in 1..=4 {
        records.put(record(id)).unwrap();
    }
    records.keep_router(router()).unwrap();
    let folder = dir.path().join("state/endpoints");
    fs::write(folder.join("1.json"), "{\"half").unwrap();
    let text = fs::read_to_string(folder.join("2.json")).unwrap();
    fs::write(folder.join("2.json"), text.replace("02:00:00:00:00:ab", "02:00:00:00:00")).unwrap();
    fs::rename(folder.join("3.json"), folder.join("9.json")).unwrap();
    fs::write(folder.join("5.tmp"), "left by a crash").unwrap();
    fs::write(folder.join("6.json"), vec![b' '; 100_000]).unwrap();
    fs::create_dir(folder.join("8.json")).unwrap();
    fs::write(dir.path().join("router.json"), "[]").unwrap();
    let look = Records::to_look(dir.path(), dir.path(), "b");
    assert_eq!(look.endpoints().keys().copied().collect::<Vec<_>>(), [4]);
    assert!(Records::to_look(dir.path(), dir.path(), "other").endpoints().is_empty());
    assert!(
        folder.join("5.tmp").exists() && folder.join("4.json").exists() && !folder.join("1.bad").exists()
    );
    let again = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(again.endpoints().keys().copied().collect::<Vec<_>>(), [4]);
    assert_eq!(again.problems().len(), 6, "{:?}", again.problems());
    assert_eq!(again.router(), RouterAddresses::default());
    assert!(!folder.join("5.tmp").exists() && folder.join("1.bad").exists());
    assert!(Records::load(dir.path(), dir.path(), "b").problems().is_empty());
}

#[test]
fn a_record_put_by_an_agent_that_died_before_the_copy_gets_its_copy_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.put(record(1)).unwrap();
    records.put(record(2)).unwrap();
    records.remove(2).unwrap();
    assert!(!dir.path().join("state/copies/1.json").exists());
    let again = Records::load(dir.path(), dir.path(), "b");
    assert_eq!((again.endpoints(), again.problems()), (records.endpoints(), &[][..]));
    fs::remove_file(dir.path().join("state/endpoints/1.json")).unwrap();
    let mended = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(mended.endpoints(), again.endpoints());
    // The agent that lives goes on: what it removed meanwhile gets no copy.
    records.copy();
    assert!(!dir.path().join("state/copies/2.json").exists());
}

#[test]
fn a_damaged_or_lost_record_is_mended_from_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    for id in 1..=4 {
        records.put(record(id)).unwrap();
    }
    records.copy();
    let folder = dir.path().join("state/endpoints");
    fs::write(folder.join("1.json"), "").unwrap();
    // Still a record, but of another address.
    let text = fs::read_to_string(folder.join("2.json")).unwrap();
    fs::write(folder.join("2.json"), text.replace("10.1.0.5", "10.1.0.7")).unwrap();
    fs::remove_file(folder.join("3.json")).unwrap();
    fs::write(dir.path().join("state/copies/4.json"), [0xff; 9]).unwrap();
    assert_eq!(Records::to_look(dir.path(), dir.path(), "b").endpoints(), records.endpoints());
    let again = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(again.endpoints(), records.endpoints());
    assert_eq!(again.problems().len(), 5, "{:?}", again.problems());
    let mut mended = Records::load(dir.path(), dir.path(), "b");
    assert!(mended.problems().is_empty(), "{:?}", mended.problems());
    assert_eq!(mended.endpoints(), records.endpoints());
    // The copy that was bad was made anew: it can stand in.
    fs::remove_file(folder.join("4.json")).unwrap();
    assert_eq!(Records::load(dir.path(), dir.path(), "b").endpoints(), records.endpoints());
    // Even for all of them.
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(Records::load(dir.path(), dir.path(), "b").endpoints(), records.endpoints());
    fs::remove_dir_all(dir.path().join("state/copies")).unwrap();
    fs::write(dir.path().join("state/copies"), "no folder").unwrap();
    Records::load(dir.path(), dir.path(), "b");
    assert_eq!(fs::read_dir(dir.path().join("state/copies")).unwrap().count(), 4);
    mended.remove(1).unwrap();
    assert!(!Records::load(dir.path(), dir.path(), "b").endpoints().contains_key(&1));
    assert!(Records::load(dir.path(), dir.path(), "rebooted").endpoints().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("state/copies")).unwrap().count(), 0);
}

#[test]
fn a_router_with_a_flipped_digit_is_no_router() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.keep_router(router()).unwrap();
    let path = dir.path().join("router.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("fd00::77", "fd00::75")).unwrap();
    let again = Records::load(dir.path(), dir.path(), "b");
    assert_eq!(again.router(), RouterAddresses::default());
    assert_eq!(again.problems().len(), 1, "{:?}", again.problems());
    // Of a build that wrote no digest.
    fs::write(&path, r#"{"version": 1, "ipv4": "10.1.0.77", "ipv6": "fd00::77"}"#).unwrap();
    assert_eq!(Records::load(dir.path(), dir.path(), "b").router(), router());
}

#[test]
fn the_router_never_takes_an_address_of_a_pod() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.put(record(2)).unwrap();
    let mut config = Config::default();
    config.node.name = "n1".into();
    config.node.pod_cidrs = vec!["10.1.0.0/24".parse().unwrap()];
    let mut kept_as = |address: &str| {
        let ipv4 = Some(address.parse().unwrap());
        records.keep_router(RouterAddresses { ipv4, ipv6: None }).unwrap();
        let world = assemble(&Snapshot::default(), &records, HostFacts::default(), &config);
        world.nodes.get("n1").map(|node| node.addresses.iter().map(|a| a.ip).collect::<Vec<_>>())
    };
    assert_eq!(kept_as("10.1.0.77"), Some(vec!["10.1.0.77".parse().unwrap()]));
    assert_eq!(kept_as("10.1.0.5"), None);
}

#[test]
fn a_folder_of_records_that_cannot_be_read_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::write(dir.path().join("state/endpoints"), "no folder").unwrap();
    let records = Records::load(dir.path(), dir.path(), "b");
    assert!(!records.readable());
    assert_eq!(records.problems().len(), 1);
}

#[test]
fn the_world_holds_what_all_sources_say() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("m");
    fs::create_dir(&manifests).unwrap();
    fs::write(
        manifests.join("all.yaml"),
        r#"
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {zone: a}}
spec: {podCIDRs: [10.9.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n2}
spec: {addresses: [{type: InternalIP, ip: 192.0.2.2}], ipam: {podCIDRs: [10.2.0.0/24]}}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n2, annotations: {cilium.io/published-by: n2}}
spec: {addresses: [{type: CiliumInternalIP, ip: 10.2.0.1}], ipam: {podCIDRs: [0.0.0.0/0]}}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n2, annotations: {cilium.io/published-by: thief}}
spec: {addresses: [{type: InternalIP, ip: 203.0.113.6}]}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1}
spec: {ipam: {podCIDRs: [10.1.0.0/24, "fd01::/64"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: here}
spec: {nodeName: n1}
status: {podIP: 10.1.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: there}
spec: {nodeName: n2}
status: {podIP: 10.2.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: ended}
spec: {nodeName: n2}
status: {phase: Succeeded, podIP: 10.2.0.8}
---
apiVersion: v1
kind: Pod
metadata: {name: anywhere}
status: {podIP: 10.2.0.7}
"#,
    )
    .unwrap();
    let mut folder = ManifestFolder::new(&manifests, "n1", dir.path());
    let wall = SystemTime::now() + Duration::from_secs(60);
    let snapshot = folder.scan(Now { uptime: Duration::from_secs(1), wall });
    let mut records = Records::load(dir.path(), dir.path(), "b");
    records.put(record(1)).unwrap();
    // The IPv6 one is not of this node's prefix any more.
    records.keep_router(router()).unwrap();
    let mut config = Config::default();
    config.node.name = "n1".into();
    config.ipv6.enabled = true;
    let world = assemble(&snapshot, &records, HostFacts::default(), &config);

    assert_eq!(world.synced, SourceSet::ALL);
    let n2 = &world.nodes["n2"];
    let shown: Vec<String> = n2.addresses.iter().map(|a| format!("{:?} {}", a.kind, a.ip)).collect();
    assert_eq!(shown, ["InternalIp 192.0.2.2", "CiliumInternalIp 10.2.0.1"]);
    assert_eq!(n2.pod_cidrs, ["10.2.0.0/24".parse().unwrap()]);
    assert_eq!(n2.labels["zone"], "a");
    let n1 = &world.nodes["n1"];
    assert_eq!(n1.addresses.len(), 1);
    assert_eq!(
        (n1.addresses[0].kind, n1.addresses[0].ip),
        (NodeAddressKind::CiliumInternalIp, router().ipv4.unwrap())
    );
    let ips = |name: &str| world.pods[&ObjectName::new("default", name)].ips.len();
    assert_eq!([ips("here"), ips("there"), ips("ended"), ips("anywhere")], [0, 1, 0, 0]);
    assert_eq!(world.endpoints.keys().copied().collect::<Vec<_>>(), [1]);
    let told: Vec<String> = world.problems.iter().map(ToString::to_string).collect();
    // The second published document of one node is one too many.
    assert!(told.iter().any(|t| t.contains("does not count")), "{told:?}");

    let missing = ManifestFolder::new(&dir.path().join("nowhere"), "n1", &dir.path().join("other"))
        .scan(Now { uptime: Duration::ZERO, wall });
    let world = assemble(&missing, &records, HostFacts::default(), &config);
    assert_eq!(world.synced, SourceSet::of(&[Source::Config, Source::Endpoints]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_a_record_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::load(dir.path(), dir.path(), "b");
        records.put(record(1)).unwrap();
        let folder = dir.path().join("state/endpoints");
        let mut text = fs::read(folder.join("1.json")).unwrap();
        fs::write(folder.join("2.json"), &bytes).unwrap();
        let at = cut.index(text.len());
        text[at] = bytes.first().copied().unwrap_or(b'x');
        fs::write(folder.join("1.json"), text).unwrap();
        fs::write(dir.path().join("router.json"), &bytes).unwrap();
        Records::load(dir.path(), dir.path(), "b");
    }
}
