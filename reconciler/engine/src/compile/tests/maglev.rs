//! Maglev tables: which frontends have one, that frontends with the same backends share it, and where it is.

use super::*;
use crate::compile::Compiler;
use crate::config::Algorithm;
use crate::maglev::{Member, TableSize, table};
use crate::state::{BackendId, FrontendKey, FrontendRow, Protocol, TableId};
use crate::world::{
    BackendAddress, EndpointSlice, LbAlgorithm, LoadBalancerAddresses, Service, ServiceKind, ServicePort,
    SlicePort, TargetPort, TrafficPolicy,
};
use cilium_abi::lb::{FRONTEND_MAGLEV, FRONTEND_MAGLEV_BITS, SCOPE_EXTERNAL, SCOPE_INTERNAL, maglev_flags};
use std::collections::BTreeSet;

const STRIDE: u32 = 252;

/// Maglev by configuration, with the smallest tables.
fn maglev() -> Config {
    let mut config = config();
    config.load_balancer.algorithm = Algorithm::Maglev;
    config.load_balancer.maglev.table_size = TableSize::ALL[0];
    config
}

/// A Service with a NodePort and an address of a load balancer, and these backends on node `n2`.
fn put(world: &mut World, name: &str, n: u8, backends: &[u8], algorithm: Option<LbAlgorithm>) {
    let service = Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
        load_balancer: LoadBalancerAddresses {
            assigned: Some(vec![ip(&format!("203.0.113.{n}"))]),
            ..LoadBalancerAddresses::default()
        },
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            proto: Protocol::TCP,
            target: TargetPort::Number(8080),
            node_port: Some(30_000 + u16::from(n)),
        }],
        algorithm,
        ..Service::default()
    };
    let address = |n: &u8| BackendAddress {
        node: Some("n2".into()),
        ..BackendAddress::ready(ip(&format!("10.2.0.{n}")))
    };
    let slice = EndpointSlice {
        service: name.into(),
        ports: vec![SlicePort { name: "http".into(), port: 8080, proto: Protocol::TCP }],
        endpoints: backends.iter().map(address).collect(),
        ..EndpointSlice::default()
    };
    world.slices.insert(ObjectName::new("shop", name), slice);
    world.services.insert(ObjectName::new("shop", name), service);
}

fn key(addr: &str, port: u16) -> FrontendKey {
    FrontendKey { addr: ip(addr), port, proto: Protocol::TCP, scope: SCOPE_EXTERNAL }
}

fn front<'c>(compiled: &'c Compiled, addr: &str, port: u16) -> &'c FrontendRow {
    compiled
        .desired
        .state
        .frontends
        .find(&key(addr, port))
        .unwrap_or_else(|| panic!("{addr}:{port} is there"))
}

/// The table that a frontend chooses by.
fn at(compiled: &Compiled, addr: &str, port: u16) -> Option<TableId> {
    let row = front(compiled, addr, port);
    (row.flags & FRONTEND_MAGLEV != 0).then_some(row.maglev)
}

/// Addresses by place.
fn places(compiled: &Compiled, at: TableId) -> Vec<IpAddr> {
    let state = &compiled.desired.state;
    let row = state.maglev_tables.find(&at).expect("the table is there");
    row.0.iter().map(|id| state.backends.find(id).expect("a backend").addr).collect()
}

fn tables(compiled: &Compiled) -> Vec<TableId> {
    compiled.desired.state.maglev_tables.keys().copied().collect()
}

fn messages(compiled: &Compiled) -> Vec<String> {
    compiled.problems.iter().map(|problem| problem.to_string()).collect()
}

#[test]
fn what_clients_outside_reach_has_the_table_of_its_backends() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6, 7], None);
    let compiled = compile(&world, &maglev(), &IdBook::default());
    let shared = at(&compiled, "203.0.113.1", 80).expect("a load balancer's address has a table");
    assert_eq!(at(&compiled, "192.168.0.1", 30_001), Some(shared));
    assert_eq!(at(&compiled, "10.96.0.1", 80), None, "nobody outside reaches it");
    assert_eq!(at(&compiled, "0.0.0.0", 30_001), None, "sockets ask no table");
    assert_eq!(tables(&compiled), [shared]);
    assert_eq!(shared.0 % STRIDE, 0);
    let about_tables = FRONTEND_MAGLEV | u32::MAX << FRONTEND_MAGLEV_BITS;
    assert_eq!(front(&compiled, "203.0.113.1", 80).flags & about_tables, maglev_flags(251));
    let member = |n: u8| Member {
        addr: IpAddr::from([10, 2, 0, n]),
        port: 8080,
        proto: Protocol::TCP,
        weight: crate::eligible::DEFAULT_WEIGHT,
    };
    let members = [member(5), member(6), member(7)];
    let made = table(&members, TableSize::ALL[0], &Default::default());
    let made: Vec<IpAddr> = made.iter().map(|place| members[*place as usize].addr).collect();
    assert_eq!(places(&compiled, shared), made);
    let mut open = maglev();
    open.load_balancer.external_cluster_ip = true;
    let compiled = compile(&world, &open, &IdBook::default());
    assert_eq!(at(&compiled, "10.96.0.1", 80), Some(shared));
}

#[test]
fn an_annotation_comes_before_the_configuration() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6], Some(LbAlgorithm::Maglev));
    put(&mut world, "api", 2, &[7, 8], Some(LbAlgorithm::Random));
    for algorithm in [Algorithm::Random, Algorithm::Maglev] {
        let mut config = maglev();
        config.load_balancer.algorithm = algorithm;
        let compiled = compile(&world, &config, &IdBook::default());
        assert!(at(&compiled, "203.0.113.1", 80).is_some());
        assert_eq!(at(&compiled, "203.0.113.2", 80), None);
    }
}

#[test]
fn one_backend_needs_no_table() {
    let mut world = world();
    put(&mut world, "web", 1, &[5], None);
    put(&mut world, "api", 2, &[], None);
    assert_eq!(tables(&compile(&world, &maglev(), &IdBook::default())), []);
}

/// A policy of the node's own backends: clients inside have another list, and no table.
#[test]
fn clients_inside_ask_no_table_of_their_own() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6], None);
    let mut service = (**world.services.get(&ObjectName::new("shop", "web")).expect("it is there")).clone();
    service.external_policy = TrafficPolicy::Local;
    world.services.insert(ObjectName::new("shop", "web"), service);
    let mut config = maglev();
    config.node.name = "n2".into();
    let compiled = compile(&world, &config, &IdBook::default());
    assert!(at(&compiled, "203.0.113.1", 80).is_some());
    let inside = FrontendKey { scope: SCOPE_INTERNAL, ..key("203.0.113.1", 80) };
    let row = compiled.desired.state.frontends.find(&inside).expect("clients inside have their own");
    assert_eq!(row.flags & FRONTEND_MAGLEV, 0);
}

/// Numbers of backends are each node's own matter: what counts is who is in which place.
#[test]
fn nodes_agree_whatever_numbers_they_gave() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6, 7, 8], None);
    let first = compile(&world, &maglev(), &IdBook::default());
    // The other node held these numbers already.
    let mut book = IdBook::default();
    for ((_, entry), n) in first.desired.state.backends.iter().zip(100..) {
        book.backends.insert(BackendId(n), entry.row.clone(), None);
    }
    let mut config = maglev();
    config.node.name = "n2".into();
    let second = compile(&world, &config, &book);
    let numbers = |compiled: &Compiled| -> BTreeSet<u32> {
        compiled.desired.state.backends.keys().map(|id| id.0).collect()
    };
    assert_ne!(numbers(&first), numbers(&second));
    let place =
        |compiled: &Compiled, addr: &str, port| places(compiled, at(compiled, addr, port).expect("a table"));
    let here = place(&first, "203.0.113.1", 80);
    assert_eq!(here, place(&second, "203.0.113.1", 80));
    assert_eq!(here, place(&second, "192.168.0.2", 30_001));
}

#[test]
fn other_backends_are_another_table_beside_the_old_one() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6, 7], None);
    let mut compiler = Compiler::default();
    let first = compiler.compile(&world, &maglev(), &IdBook::default());
    put(&mut world, "web", 1, &[5, 6], None);
    let second = compiler.compile(&world, &maglev(), &first.book);
    let (old, new) = (at(&first, "203.0.113.1", 80), at(&second, "203.0.113.1", 80));
    assert!(new.is_some() && new != old);
    assert_eq!(tables(&second), [new.expect("it has one")]);
    // And where another stands at the new one's own place, it goes elsewhere.
    let mut book = first.book.clone();
    book.maglev_tables.insert(
        new.expect("it has one"),
        first.desired.state.maglev_tables.find(&old.expect("it has one")).expect("it is there").clone(),
        None,
    );
    let third = compile(&world, &maglev(), &book);
    let elsewhere = at(&third, "203.0.113.1", 80);
    assert!(elsewhere.is_some() && elsewhere != new && elsewhere != old);
}

#[test]
fn without_room_the_choice_is_random_and_told() {
    let mut world = world();
    put(&mut world, "web", 1, &[5, 6], None);
    put(&mut world, "api", 2, &[7, 8], None);
    let mut config = maglev();
    config.bpf.maglev_max = 1;
    let mut compiler = Compiler::default();
    let full = compiler.compile(&world, &config, &IdBook::default());
    let has = |compiled: &Compiled| [1, 2].map(|n| at(compiled, &format!("203.0.113.{n}"), 80).is_some());
    let lucky = has(&full).iter().position(|has| *has).expect("one of them");
    assert_eq!(has(&full).iter().filter(|has| **has).count(), 1);
    let (winner, loser) = if lucky == 0 { ("web", "api") } else { ("api", "web") };
    let told = messages(&full);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains(&format!("Service shop/{loser}")) && told[0].contains("bpf.maglev_max"),
        "{told:?}"
    );
    // Its frontends are served nevertheless.
    let served = if lucky == 0 { "203.0.113.2" } else { "203.0.113.1" };
    assert_eq!(front(&full, served, 80).count, 2);
    // When the other goes there is room, once its table is gone.
    world.services.remove(&ObjectName::new("shop", winner));
    let gone = compiler.compile(&world, &config, &full.book);
    assert_eq!((tables(&gone).len(), messages(&gone).len()), (0, 1));
    let placed = compiler.compile(&world, &config, &gone.book);
    assert!(at(&placed, served, 80).is_some());
    assert_eq!(messages(&placed), Vec::<String>::new());
}

#[test]
fn weights_of_slices_are_shares() {
    let mut world = world();
    put(&mut world, "web", 1, &[5], None);
    let mut heavy = (**world.slices.get(&ObjectName::new("shop", "web")).expect("it is there")).clone();
    heavy.weight = Some(300);
    heavy.endpoints[0].ip = ip("10.2.0.6");
    world.slices.insert(ObjectName::new("shop", "web-heavy"), heavy);
    let compiled = compile(&world, &maglev(), &IdBook::default());
    let places = places(&compiled, at(&compiled, "203.0.113.1", 80).expect("a table"));
    let light = places.iter().filter(|addr| **addr == ip("10.2.0.5")).count();
    assert!(light.abs_diff(251 / 4) <= 1, "100 to 300: {light} of 251");
}
