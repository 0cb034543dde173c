//! Programs of drivers: at which devices they are wanted, and what satisfies the wish.

use super::*;
use crate::config::Acceleration;
use crate::state::{Attachment, AttachmentKey, AttachmentRow, Hook, Position, ProgramSetRow, Resource};
use cilium_abi::node::NODE_XDP;

/// The rows at drivers, and whether the programs know.
fn drivers(acceleration: Acceleration, replaces: bool) -> (Vec<(AttachmentKey, AttachmentRow)>, bool) {
    drivers_of(&world(), acceleration, replaces)
}

fn drivers_of(
    world: &World,
    acceleration: Acceleration,
    replaces: bool,
) -> (Vec<(AttachmentKey, AttachmentRow)>, bool) {
    let mut config = config();
    config.load_balancer.acceleration = acceleration;
    config.load_balancer.kube_proxy_replacement = replaces;
    let compiled = compile(world, &config, &IdBook::default());
    let state = &compiled.desired.state;
    let (_, set) = state.program_sets.iter().next().unwrap();
    let ProgramSetRow::Constants(constants) = &set.row else { panic!("a wish has constants") };
    let rows = state.attachments.iter().filter(|(key, _)| key.hook == Hook::Xdp);
    (rows.map(|(key, entry)| (key.clone(), entry.row.clone())).collect(), constants.flags & NODE_XDP != 0)
}

#[test]
fn drivers_of_devices_are_wanted_when_asked_for() {
    assert_eq!(drivers(Acceleration::Disabled, true), (vec![], false));
    assert_eq!(drivers(Acceleration::Native, false), (vec![], false));
    for (acceleration, first) in
        [(Acceleration::Native, Position::First), (Acceleration::BestEffort, Position::IfAble)]
    {
        let (rows, told) = drivers(acceleration, true);
        assert!(told && !rows.is_empty());
        assert!(rows.iter().all(|(_, row)| row.program == "cil_xdp_entry" && row.first == first));
    }
}

#[test]
fn devices_that_may_lose_frames_are_left_out() {
    for (is_veth, mac, native, best_effort) in
        [(true, true, 1, 0), (false, true, 1, 1), (false, false, 0, 0), (true, false, 0, 0)]
    {
        let mut world = world();
        let device = &mut world.host.devices[0];
        device.is_veth = is_veth;
        device.mac = device.mac.filter(|_| mac);
        assert_eq!(drivers_of(&world, Acceleration::Native, true).0.len(), native);
        assert_eq!(drivers_of(&world, Acceleration::BestEffort, true).0.len(), best_effort);
    }
}

#[test]
fn only_best_effort_is_satisfied_by_a_driver_that_cannot() {
    let row = |first| AttachmentRow { program: "p".into(), set: crate::state::SetId("s".into()), first };
    let holds = |want, seen| Attachment::satisfied(&row(want), &row(seen));
    assert!(holds(Position::IfAble, Position::First) && holds(Position::IfAble, Position::Unable));
    assert!(!holds(Position::First, Position::Unable) && !holds(Position::IfAble, Position::Behind));
    let newer = AttachmentRow { set: crate::state::SetId("t".into()), ..row(Position::IfAble) };
    assert!(!Attachment::satisfied(&newer, &row(Position::Unable)), "a new set is tried anew");
}
