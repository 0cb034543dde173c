//! What making Maglev tables costs: figures by `cargo test --release -p cilium-engine --test maglev_speed
//! -- --nocapture`.

use cilium_engine::maglev::{Member, Seed, TableSize, table};
use cilium_engine::state::Protocol;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

fn members(count: u32, weight: impl Fn(u32) -> u16) -> Vec<Member> {
    let member = |n| Member {
        addr: IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + n)),
        port: 8080,
        proto: Protocol::TCP,
        weight: weight(n),
    };
    (0..count).map(member).collect()
}

fn fastest(members: &[Member], size: TableSize) -> Duration {
    let time = || {
        let start = Instant::now();
        assert_eq!(table(members, size, &Seed::default()).len(), size.get() as usize);
        start.elapsed()
    };
    (0..5).map(|_| time()).min().expect("five runs")
}

#[test]
fn a_table_is_made_in_milliseconds() {
    for (slots, count) in [(251, 3), (16_381, 3), (16_381, 100), (16_381, 1000), (131_071, 1000)] {
        let size = TableSize::try_from(slots).expect("a size of the list");
        let alike = fastest(&members(count, |_| 100), size);
        let weighted =
            fastest(&members(count, |n| u16::try_from(1 + n * 7919 % 65_521).expect("below 2^16")), size);
        println!("{slots} slots, {count} backends: alike {alike:?}, weighted {weighted:?}");
        // Unoptimised code is some twenty times slower; a machine that does other work some three times.
        let limit = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 15 });
        if slots == 16_381 && count == 100 {
            assert!(alike < limit && weighted < limit, "alike {alike:?}, weighted {weighted:?}");
        }
    }
    // One of great weight beside many of little: rounds of one slot each.
    let skewed = members(10_000, |n| if n == 0 { u16::MAX } else { 1 });
    let size = TableSize::try_from(131_071).expect("a size of the list");
    println!("131071 slots, 10000 backends, one with nearly all weight: {:?}", fastest(&skewed, size));
}
