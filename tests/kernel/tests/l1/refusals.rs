//! A flood of refused packets: so many are told of in each window, the others are counted.

use cilium_abi::{
    drop,
    event::DROP,
    metrics::{DIRECTION_EGRESS, EVENT_WITHHELD},
    node::NodeConstants,
};
use cilium_tests_kernel::l1::{
    lab::{Hook, Input, Lab},
    packet::{SYN, tcp},
    world::{A, B, Family, Mode, World, constants},
};
use std::{thread, time::Duration};

/// Refused packets told of in a window.
const LIMIT: u32 = 5;
/// Packets of one flood.
const FLOOD: u32 = 200;

#[test]
fn l1_floods_of_refused_packets_are_counted_rather_than_told() {
    let mut lab = Lab::with(Mode::Native, NodeConstants { refusals: LIMIT, ..constants(Mode::Native) });
    lab.enter();
    let mut world = World::base(&lab.links, lab.mode);
    world.close(A, true);
    lab.install(&world);
    let (ifindex, family) = (lab.links.lxc[A.link], Family::V4);
    let data = tcp(A.ip(family), B.ip(family), (4000, 80), SYN).from(A).bytes();
    let packet = Input { hook: Hook::FromContainer, ifindex, mark: 0, wire: None, data };
    for _ in 0..3 {
        // A window of its own, or two if it ends meanwhile.
        thread::sleep(Duration::from_millis(25));
        let before = [EVENT_WITHHELD, drop::POLICY_DENIED].map(|reason| lab.count(reason, DIRECTION_EGRESS));
        let (seen, _) = lab.run_with(&packet, FLOOD, 0).expect("the packets run");
        let after = [EVENT_WITHHELD, drop::POLICY_DENIED].map(|reason| lab.count(reason, DIRECTION_EGRESS));
        let told = u64::try_from(seen.events.len()).expect("a count");
        assert!(seen.events.iter().all(|event| event.kind == DROP && event.subtype == drop::POLICY_DENIED));
        assert!((u64::from(LIMIT)..=2 * u64::from(LIMIT)).contains(&told), "{told} were told of");
        assert_eq!(after[0] - before[0], u64::from(FLOOD) - told, "told, or counted as not told");
        assert_eq!(after[1] - before[1], u64::from(FLOOD), "every one counts as dropped");
    }
}
