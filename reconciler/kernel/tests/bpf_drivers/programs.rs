//! Program sets and attachments on this kernel: load, attach, replace under traffic, drift, detach.

use crate::bench::{Dir, Namespace, map_steps, must, run, shape};
use crate::traffic::Traffic;
use cilium_abi::maps;
use cilium_abi::node::{NODE_IPV4, NodeConstants};
use cilium_engine::driver::{Driver, Scope, Step};
use cilium_engine::state::*;
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::{Bpf, dump};
use std::collections::BTreeSet;
use std::time::Instant;

fn constants(ct_any: u32) -> ProgramSetRow {
    ProgramSetRow::Constants(Box::new(NodeConstants { flags: NODE_IPV4, ct_any, ..NodeConstants::default() }))
}

fn set(n: u32) -> SetId {
    SetId(format!("{n:032x}"))
}

fn sets(bpf: &mut Bpf) -> Vec<(SetId, ProgramSetRow)> {
    Driver::<ProgramSet>::observe(bpf, &Scope::All).unwrap()
}

fn load(bpf: &mut Bpf, n: u32) {
    must(bpf, &[Step::<ProgramSet>::Create { key: set(n), row: constants(n) }]);
}

fn key(link: &str, hook: Hook) -> AttachmentKey {
    AttachmentKey { link: link.into(), hook }
}

fn runs(program: &str, n: u32) -> AttachmentRow {
    AttachmentRow { program: program.into(), set: set(n), first: Position::First }
}

fn attached(bpf: &mut Bpf) -> Vec<(AttachmentKey, AttachmentRow)> {
    Driver::<Attachment>::observe(bpf, &Scope::All).unwrap()
}

fn attach(bpf: &mut Bpf, key: &AttachmentKey, row: &AttachmentRow) {
    must(bpf, &[Step::<Attachment>::Create { key: key.clone(), row: row.clone() }]);
}

fn detach(bpf: &mut Bpf, key: &AttachmentKey, row: &AttachmentRow) {
    must(bpf, &[Step::<Attachment>::Remove { key: key.clone(), seen: row.clone() }]);
}

fn veth() {
    run("ip", &["link", "add", "kb-a", "type", "veth", "peer", "name", "kb-b"]);
}

#[test]
fn a_set_is_whole_or_broken() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let mut bpf = dir.bpf(AttachMode::Auto);
    assert_eq!(sets(&mut bpf), vec![]);
    let early = Driver::<ProgramSet>::apply(&mut bpf, &[Step::Create { key: set(1), row: constants(1) }]);
    assert!(early[0].as_ref().unwrap_err().message.contains("is not there"), "{early:?}");
    assert_eq!(sets(&mut bpf), vec![], "a failed load leaves nothing");
    must(&mut bpf, &map_steps());
    let begun = Instant::now();
    load(&mut bpf, 1);
    println!("set loaded and pinned in {:?}", begun.elapsed());
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Complete)]);
    let begun = Instant::now();
    load(&mut bpf, 1);
    println!("set found whole in {:?}", begun.elapsed());

    std::fs::remove_file(dir.0.join("progs").join(set(1).0).join("cil_to_host")).unwrap();
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Broken)]);
    let repair = Step::Update { key: set(1), row: constants(1), seen: ProgramSetRow::Broken };
    must::<ProgramSet>(&mut bpf, std::slice::from_ref(&repair));
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Complete)]);

    // A map of another generation: the set would serve rows that nobody writes.
    let (map, old) = shape(&maps::POLICY, 1024);
    let larger = MapRow { max_entries: 4096, ..old.clone() };
    must(&mut bpf, &[Step::<BpfMap>::Update { key: map, row: larger, seen: old }]);
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Broken)]);
    must::<ProgramSet>(&mut bpf, &[repair]);
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Complete)]);

    // A lost pin of a map that programs use: the same map is pinned again, and the set is whole.
    let before = dump::list(&dir.0).unwrap();
    std::fs::remove_file(dir.map("cilium_ct_tcp_v2")).unwrap();
    std::fs::remove_file(dir.map("cilium_ipcache_prefix_v1")).unwrap();
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Broken)]);
    for spec in [&maps::CT_TCP, &maps::IPCACHE_PREFIX] {
        let (key, row) = shape(spec, 1024);
        must::<BpfMap>(&mut bpf, &[Step::Create { key, row }]);
    }
    assert_eq!(dump::list(&dir.0).unwrap(), before);
    assert_eq!(sets(&mut bpf), vec![(set(1), ProgramSetRow::Complete)]);

    // Left behind by a kill.
    std::fs::create_dir(dir.0.join("progs/new-x")).unwrap();
    let scope = Scope::Keys(BTreeSet::from([SetId("new-x".into()), set(1)]));
    let seen = Driver::<ProgramSet>::observe(&mut bpf, &scope).unwrap();
    assert_eq!(seen.len(), 2);
    for _ in 0..2 {
        for (key, row) in &seen {
            must::<ProgramSet>(&mut bpf, &[Step::Remove { key: key.clone(), seen: row.clone() }]);
        }
    }
    assert_eq!(sets(&mut bpf), vec![]);
}

#[test]
fn programs_are_attached_replaced_and_taken_off() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let _netns = Namespace::enter();
    veth();
    let mut bpf = dir.bpf(AttachMode::Auto);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let (ingress, egress, xdp) =
        (key("kb-a", Hook::Ingress), key("kb-a", Hook::Egress), key("kb-b", Hook::Xdp));
    let absent = Driver::<Attachment>::apply(
        &mut bpf,
        &[Step::Create { key: key("kb-none", Hook::Ingress), row: runs("cil_to_host", 1) }],
    );
    assert!(absent[0].is_err());
    for n in [1, 1, 2] {
        let want = vec![
            (ingress.clone(), runs("cil_from_container", n)),
            (egress.clone(), runs("cil_from_host", n)),
            (xdp.clone(), runs("cil_xdp_entry", n)),
        ];
        for (key, row) in &want {
            attach(&mut bpf, key, row);
        }
        let begun = Instant::now();
        assert_eq!(attached(&mut bpf), want);
        println!("attachments read in {:?}", begun.elapsed());
    }
    // The old set may go: nothing runs it.
    must::<ProgramSet>(&mut bpf, &[Step::Remove { key: set(1), seen: ProgramSetRow::Complete }]);
    // A set taken away under its attachment: the program runs on, of no known set.
    let scope = Scope::Keys(BTreeSet::from([ingress.clone()]));
    must::<ProgramSet>(&mut bpf, &[Step::Remove { key: set(2), seen: ProgramSetRow::Complete }]);
    let seen = Driver::<Attachment>::observe(&mut bpf, &scope).unwrap();
    assert_eq!(seen[0].1, AttachmentRow { set: SetId(String::new()), ..runs("cil_from_container", 2) });
    load(&mut bpf, 3);
    for _ in 0..2 {
        detach(&mut bpf, &ingress, &runs("cil_from_container", 2));
        detach(&mut bpf, &egress, &runs("cil_from_host", 2));
        detach(&mut bpf, &xdp, &runs("cil_xdp_entry", 2));
    }
    assert_eq!(attached(&mut bpf), vec![]);
    assert!(!run("ip", &["-d", "link", "show", "kb-b"]).contains("xdp"), "the XDP program is off");
}

#[test]
fn a_driver_that_cannot_is_noted_where_all_see_it() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let _netns = Namespace::enter();
    run("ip", &["link", "add", "kb-br", "type", "bridge"]);
    let mut bpf = dir.bpf(AttachMode::Auto);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let hook = key("kb-br", Hook::Xdp);
    let row = |first, n| AttachmentRow { first, ..runs("cil_xdp_entry", n) };
    let refused = Driver::<Attachment>::apply(
        &mut bpf,
        &[Step::Create { key: hook.clone(), row: row(Position::First, 1) }],
    );
    assert!(refused[0].as_ref().unwrap_err().hint.contains("best-effort"), "{refused:?}");
    assert_eq!(attached(&mut bpf), vec![]);

    for n in [1, 1, 2] {
        attach(&mut bpf, &hook, &row(Position::IfAble, n));
        // Whoever looks for the first time sees it too.
        for bpf in [&mut bpf, &mut dir.bpf(AttachMode::Auto)] {
            assert_eq!(attached(bpf), vec![(hook.clone(), row(Position::Unable, n))]);
            assert!(!bpf.is_in_driver(&hook));
            assert!(bpf.why_not_in_driver(&hook).unwrap().contains("os error 95"));
        }
    }
    bpf.start().unwrap();
    assert_eq!(attached(&mut bpf), vec![], "an agent that starts asks again");

    // It says nothing of another device of that name, nor once there is none.
    attach(&mut bpf, &hook, &row(Position::IfAble, 2));
    run("ip", &["link", "del", "kb-br"]);
    let gone = attached(&mut bpf);
    assert_eq!((gone.len(), gone[0].1.first, &gone[0].1.set.0[..]), (1, Position::Behind, ""), "{gone:?}");
    run("ip", &["link", "add", "kb-br", "type", "veth", "peer", "name", "kb-b"]);
    assert_eq!(attached(&mut bpf), gone);
    attach(&mut bpf, &hook, &row(Position::IfAble, 2));
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row(Position::First, 2))]);
    assert_eq!((bpf.is_in_driver(&hook), bpf.why_not_in_driver(&hook)), (true, None));
    for _ in 0..2 {
        detach(&mut bpf, &hook, &row(Position::First, 2));
        assert_eq!(attached(&mut bpf), vec![]);
    }
}

#[test]
fn anothers_program_is_passed_and_left_alone() {
    crate::tcx_or_skip!();
    let (dir, other) = (Dir::new(), Dir::new());
    let _netns = Namespace::enter();
    veth();
    let (mut bpf, mut foreign) = (dir.bpf(AttachMode::Tcx), other.bpf(AttachMode::Tcx));
    for bpf in [&mut bpf, &mut foreign] {
        must(bpf, &map_steps());
        load(bpf, 1);
    }
    let hook = key("kb-a", Hook::Ingress);
    let row = runs("cil_to_host", 1);
    attach(&mut bpf, &hook, &row);
    attach(&mut foreign, &hook, &row);
    let behind = AttachmentRow { first: Position::Behind, ..row.clone() };
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), behind.clone())]);
    must::<Attachment>(
        &mut bpf,
        &[Step::Update { key: hook.clone(), row: row.clone(), seen: behind.clone() }],
    );
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row.clone())]);
    assert_eq!(attached(&mut foreign), vec![(hook.clone(), behind.clone())]);
    detach(&mut bpf, &hook, &row);
    assert_eq!(attached(&mut bpf), vec![]);
    assert_eq!(attached(&mut foreign), vec![(hook, row)]);
}

#[test]
fn a_lost_pin_a_lost_interface_and_a_new_name_are_put_right() {
    crate::tcx_or_skip!();
    let dir = Dir::new();
    let _netns = Namespace::enter();
    veth();
    let mut bpf = dir.bpf(AttachMode::Tcx);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    let hook = key("kb-a", Hook::Ingress);
    let row = runs("cil_to_host", 1);
    attach(&mut bpf, &hook, &row);
    let pin = dir.0.join("links/kb-a_ingress");

    // Somebody holds the link while its pin goes: the program runs, but not by our hand.
    let held = aya::programs::links::PinnedLink::from_pin(&pin).unwrap();
    std::fs::remove_file(&pin).unwrap();
    let seen = attached(&mut bpf);
    assert_eq!(seen[0].1.set, SetId(String::new()), "{seen:?}");
    must::<Attachment>(
        &mut bpf,
        &[Step::Update { key: hook.clone(), row: row.clone(), seen: seen[0].1.clone() }],
    );
    drop(held);
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row.clone())]);

    // Detached behind our back.
    run("ip", &["link", "set", "kb-a", "name", "kb-c"]);
    let renamed = key("kb-c", Hook::Ingress);
    let seen = attached(&mut bpf);
    assert_eq!(seen.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>(), vec![hook.clone(), renamed.clone()]);
    attach(&mut bpf, &renamed, &row);
    detach(&mut bpf, &hook, &seen[0].1);
    assert_eq!(attached(&mut bpf), vec![(renamed.clone(), row.clone())]);

    run("ip", &["link", "del", "kb-c"]);
    let seen = attached(&mut bpf);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((&seen[0].0, &seen[0].1.set), (&renamed, &SetId(String::new())));
    detach(&mut bpf, &renamed, &seen[0].1);
    assert_eq!(attached(&mut bpf), vec![]);

    // A device of the same name again: a pin of the old one is no attachment of the new one.
    veth();
    attach(&mut bpf, &hook, &row);
    run("ip", &["link", "del", "kb-a"]);
    veth();
    let seen = attached(&mut bpf);
    assert_eq!(seen[0].1.set, SetId(String::new()), "{seen:?}");
    attach(&mut bpf, &hook, &row);
    assert_eq!(attached(&mut bpf), vec![(hook, row)]);
}

#[test]
fn filters_are_attached_replaced_and_removed() {
    crate::root_or_skip!();
    let dir = Dir::new();
    let _netns = Namespace::enter();
    veth();
    let mut bpf = dir.bpf(AttachMode::Clsact);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let hook = key("kb-a", Hook::Ingress);
    for n in [1, 1, 2] {
        let row = runs("cil_from_netdev", n);
        attach(&mut bpf, &hook, &row);
        assert_eq!(attached(&mut bpf), vec![(hook.clone(), row)]);
    }
    let row = runs("cil_from_netdev", 2);
    let foreign = |prio: &str, classifier: &[&str]| {
        let head = ["filter", "add", "dev", "kb-a", "ingress", "prio", prio, "protocol", "all"];
        run("tc", &[&head, classifier].concat())
    };
    foreign("2", &["u32", "match", "u32", "0", "0"]);
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row.clone())]);
    // One that went before ours: ours is made anew in front of it.
    foreign("1", &["bpf", "bytecode", "1,6 0 0 0"]);
    let behind = AttachmentRow { first: Position::Behind, ..row.clone() };
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), behind)]);
    attach(&mut bpf, &hook, &row);
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row.clone())]);
    for _ in 0..2 {
        detach(&mut bpf, &hook, &row);
    }
    assert_eq!(attached(&mut bpf), vec![]);
    let left = run("tc", &["filter", "show", "dev", "kb-a", "ingress"]);
    assert!(left.contains("u32") && left.contains("bytecode"), "others' filters stay: {left}");
    // Priority 1 is of another kind: nothing of ours could come before it, and that is said.
    run("tc", &["filter", "del", "dev", "kb-a", "ingress"]);
    foreign("1", &["u32", "match", "u32", "0", "0"]);
    let refused = Driver::<Attachment>::apply(&mut bpf, &[Step::Create { key: hook, row }]);
    assert!(refused[0].as_ref().unwrap_err().hint.contains("priority 1"), "{refused:?}");
}

#[test]
fn clsact_and_tcx_follow_each_other_without_a_gap() {
    crate::tcx_or_skip!();
    let dir = Dir::new();
    let _netns = Namespace::enter();
    veth();
    let mut tcx = dir.bpf(AttachMode::Tcx);
    let mut clsact = dir.bpf(AttachMode::Clsact);
    must(&mut tcx, &map_steps());
    load(&mut tcx, 1);
    load(&mut tcx, 2);
    for hook in [Hook::Ingress, Hook::Egress] {
        let hook = key("kb-a", hook);
        let row = runs("cil_from_netdev", 1);
        for n in [1, 1, 2, 1] {
            let row = runs("cil_from_netdev", n);
            attach(&mut clsact, &hook, &row);
            assert_eq!(attached(&mut clsact), vec![(hook.clone(), row)]);
        }
        let wrong_way = attached(&mut tcx);
        assert!(wrong_way[0].1 != row, "{wrong_way:?}");
        attach(&mut tcx, &hook, &row);
        assert_eq!(attached(&mut tcx), vec![(hook.clone(), row.clone())]);
        assert!(attached(&mut clsact)[0].1 != row);
        attach(&mut clsact, &hook, &row);
        assert_eq!(attached(&mut clsact), vec![(hook.clone(), row.clone())]);
        let parent = if hook.hook == Hook::Ingress { "ingress" } else { "egress" };
        let shown = run("tc", &["filter", "show", "dev", "kb-a", parent]);
        assert!(shown.contains("cil_from_netdev") && shown.contains("direct-action"), "{shown}");
        for _ in 0..2 {
            detach(&mut clsact, &hook, &row);
        }
        assert_eq!(attached(&mut clsact), vec![]);
        assert_eq!(run("tc", &["filter", "show", "dev", "kb-a", parent]), "");
    }
}

#[test]
fn a_pods_program_begins_as_a_filter_and_moves_to_tcx() {
    crate::tcx_or_skip!();
    let (dir, other) = (Dir::new(), Dir::new());
    let _netns = Namespace::enter();
    for link in ["lxc-a", "lxc-b"] {
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", &format!("{link}p")]);
    }
    let filters = |link: &str| run("tc", &["filter", "show", "dev", link, "ingress"]);
    let mut bpf = dir.bpf(AttachMode::Auto);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let hook = key("lxc-a", Hook::Ingress);
    for n in [1, 1, 2] {
        let row = runs("cil_from_container", n);
        attach(&mut bpf, &hook, &row);
        assert_eq!(attached(&mut bpf), vec![(hook.clone(), row)]);
        assert!(filters("lxc-a").contains("cil_from_container") && bpf.has_to_move());
    }
    let row = runs("cil_from_container", 2);
    // After a restart it is found by looking, and is no drift.
    drop(bpf);
    let mut bpf = dir.bpf(AttachMode::Auto);
    assert!(!bpf.has_to_move());
    assert_eq!(attached(&mut bpf), vec![(hook.clone(), row.clone())]);
    assert!(bpf.has_to_move());
    // Who asks for TCX only has it at once.
    let mut strict = dir.bpf(AttachMode::Tcx);
    assert!(attached(&mut strict)[0].1 != row);
    bpf.move_one().unwrap();
    assert!(!bpf.has_to_move() && filters("lxc-a").is_empty());
    for bpf in [&mut bpf, &mut strict] {
        assert_eq!(attached(bpf), vec![(hook.clone(), row.clone())]);
    }
    // From then on it is replaced where it is.
    attach(&mut bpf, &hook, &runs("cil_from_container", 1));
    assert!(!bpf.has_to_move() && filters("lxc-a").is_empty());

    // A program at TCX comes before every filter: where one is, ours is attached there at once.
    let mut foreign = other.bpf(AttachMode::Tcx);
    must(&mut foreign, &map_steps());
    load(&mut foreign, 3);
    let hook = key("lxc-b", Hook::Ingress);
    attach(&mut foreign, &hook, &runs("cil_to_host", 3));
    attach(&mut bpf, &hook, &row);
    assert!(attached(&mut bpf).contains(&(hook.clone(), row)) && filters("lxc-b").is_empty());

    // A pod that goes meanwhile takes its program along.
    run("ip", &["link", "add", "lxc-c", "type", "veth", "peer", "name", "lxc-cp"]);
    attach(&mut bpf, &key("lxc-c", Hook::Ingress), &runs("cil_from_container", 1));
    run("ip", &["link", "del", "lxc-c"]);
    while bpf.has_to_move() {
        bpf.move_one().unwrap();
    }
    assert!(attached(&mut bpf).iter().all(|(key, _)| key.link.0 != "lxc-c"));
}

/// With TCX where the kernel has it.
#[test]
fn no_packet_is_lost_while_programs_are_replaced() {
    crate::root_or_skip!();
    replaced_under_traffic(AttachMode::Auto);
}

#[test]
fn no_packet_is_lost_while_filters_are_replaced() {
    crate::root_or_skip!();
    replaced_under_traffic(AttachMode::Clsact);
}

#[test]
fn no_packet_is_lost_while_programs_move_from_filter_to_tcx() {
    crate::tcx_or_skip!();
    let dir = Dir::new();
    let traffic = Traffic::start("lxc-a");
    let mut bpf = dir.bpf(AttachMode::Auto);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    let hooks = [key("lxc-a", Hook::Ingress), key("lxc-a", Hook::Egress)];
    let row = runs("cil_to_host", 1);
    // While the kernel makes a clsact qdisc, what is sent out of a link that is up is lost (net/sched/sch_api.c:
    // `qdisc_graft`). A pod's link has its first program before it is up, and the qdisc stays.
    attach(&mut bpf, &hooks[0], &row);
    traffic.while_talking(3, |_| {
        for hook in &hooks {
            attach(&mut bpf, hook, &row);
            while bpf.has_to_move() {
                bpf.move_one().unwrap();
            }
            detach(&mut bpf, hook, &row);
        }
    });
}

fn replaced_under_traffic(mode: AttachMode) {
    let dir = Dir::new();
    let traffic = Traffic::start("kb-a");
    let mut bpf = dir.bpf(mode);
    must(&mut bpf, &map_steps());
    load(&mut bpf, 1);
    load(&mut bpf, 2);
    let hooks = [key("kb-a", Hook::Ingress), key("kb-a", Hook::Egress)];
    let swap = |bpf: &mut Bpf, n: u32| {
        for hook in &hooks {
            attach(bpf, hook, &runs("cil_to_host", n));
        }
    };
    swap(&mut bpf, 1);
    traffic.while_talking(6, |times| swap(&mut bpf, 1 + times % 2));
}
