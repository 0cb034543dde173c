//! Programs of sockets: where they are wanted, and what they are told.

use super::*;
use crate::compile::Compiler;
use crate::state::{MapKey, ProgramSetRow, SetId, SocketHook};
use crate::world::Cgroup;
use cilium_abi::maps;
use cilium_abi::node::{NODE_SOCK, NODE_SOCK_HOST_ONLY};

fn placed() -> World {
    let mut world = world();
    world.host.cgroup = Cgroup::At("/sys/fs/cgroup".into());
    world.host.netns_cookie = 7 << 32 | 5;
    world
}

/// The set, its flags of sockets, and the cookie it knows the node by.
fn set(compiled: &Compiled) -> (SetId, u32, [u32; 2]) {
    let (id, entry) = compiled.desired.state.program_sets.iter().next().unwrap();
    let ProgramSetRow::Constants(constants) = &entry.row else { panic!("a wish has constants") };
    (id.clone(), constants.flags & (NODE_SOCK | NODE_SOCK_HOST_ONLY), constants.host_netns)
}

/// Entries of the map of sockets.
fn room(compiled: &Compiled) -> u32 {
    let key = MapKey(format!("{}_v{}", maps::SOCK_REV.name, maps::SOCK_REV.version));
    compiled.desired.state.maps.find(&key).unwrap().max_entries
}

fn whole(world: &World, config: &Config) -> Compiled {
    compile(world, config, &IdBook::default())
}

#[test]
fn every_program_is_wanted_at_the_nodes_cgroup() {
    let on = whole(&placed(), &config());
    let (id, flags, cookie) = set(&on);
    assert_eq!((flags, cookie, room(&on)), (NODE_SOCK, [5, 7], maps::SOCK_REV.max_entries));
    let rows: Vec<SocketHook> = on.desired.state.socket_programs.keys().copied().collect();
    assert_eq!(rows, SocketHook::ALL);
    for (_, entry) in on.desired.state.socket_programs.iter() {
        assert_eq!((entry.row.cgroup.to_str(), &entry.row.set), (Some("/sys/fs/cgroup"), &id));
    }
    assert!(on.problems.is_empty());

    let mut only = config();
    only.load_balancer.socket_host_namespace_only = true;
    assert_eq!(set(&whole(&placed(), &only)).1, NODE_SOCK | NODE_SOCK_HOST_ONLY);
}

#[test]
fn where_they_are_off_nothing_is_kept_for_them() {
    let mut plain = config();
    plain.load_balancer.socket = false;
    plain.load_balancer.socket_host_namespace_only = true;
    let mut beside = config();
    beside.load_balancer.kube_proxy_replacement = false;
    for config in [plain, beside] {
        let off = whole(&placed(), &config);
        assert_eq!((set(&off).1, set(&off).2, room(&off)), (0, [0; 2], 1));
        assert!(off.desired.state.socket_programs.is_empty());
        assert!(off.problems.is_empty());
        // Nor is it asked where they could be.
        let mut nowhere = placed();
        nowhere.host.cgroup = Cgroup::Missing("no cgroup2 is mounted".into());
        assert!(whole(&nowhere, &config).problems.is_empty());
    }
}

#[test]
fn without_a_cgroup_there_is_a_problem_and_the_rest_stands() {
    let (mut world, config) = (placed(), config());
    let mut compiler = Compiler::default();
    let before = compiler.compile(&world, &config, &IdBook::default());
    world.host.cgroup = Cgroup::Missing("no cgroup2 is mounted".into());
    let without = compiler.compile(&world, &config, &before.book);
    assert!(without.desired.state.socket_programs.is_empty());
    assert_eq!(set(&without), set(&before), "the programs stay as they are");
    let problem = without.problems.iter().next().expect("a problem");
    assert_eq!(problem.severity, Severity::Warning);
    assert!(problem.message.contains("no cgroup2 is mounted"), "{problem}");
    assert_eq!(without, whole(&world, &config));
    // It is mounted.
    world.host.cgroup = Cgroup::At("/sys/fs/cgroup".into());
    assert_eq!(compiler.compile(&world, &config, &without.book), before);
}
