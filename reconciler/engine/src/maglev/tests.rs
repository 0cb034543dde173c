use super::{FREE, Member, Seed, TableSize, table};
use crate::state::Protocol;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn members(count: u32) -> Vec<Member> {
    (0..count).map(|n| member(n, 1)).collect()
}

fn member(n: u32, weight: u16) -> Member {
    let addr = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + n));
    Member { addr, port: 8080, proto: Protocol::TCP, weight }
}

fn size(slots: u32) -> TableSize {
    slots.try_into().expect("a size of the list")
}

/// Slots by who has them, as addresses.
fn owners(members: &[Member], table: &[u32]) -> Vec<IpAddr> {
    table.iter().map(|place| members[*place as usize].addr).collect()
}

fn shares(table: &[u32]) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for place in table {
        *shares.entry(*place).or_default() += 1;
    }
    shares
}

/// The published pseudocode, word for word: whole permutations, turns in order.
fn published(members: &[Member], size: TableSize, seed: &Seed) -> Vec<u32> {
    let slots = size.get();
    let permutations: Vec<Vec<u32>> = members
        .iter()
        .map(|member| {
            let walk = super::Walk::new(member, size, seed);
            (0..slots)
                .map(|j| {
                    ((u64::from(walk.at) + u64::from(j) * u64::from(walk.skip)) % u64::from(slots)) as u32
                })
                .collect()
        })
        .collect();
    let mut next = vec![0; members.len()];
    let mut entry = vec![FREE; slots as usize];
    let mut filled = 0;
    loop {
        for i in 0..members.len() {
            let mut c = permutations[i][next[i]] as usize;
            while entry[c] != FREE {
                next[i] += 1;
                c = permutations[i][next[i]] as usize;
            }
            entry[c] = i as u32;
            next[i] += 1;
            filled += 1;
            if filled == slots {
                return entry;
            }
        }
    }
}

#[test]
fn it_is_the_published_algorithm() {
    for (count, slots) in [(1, 251), (3, 251), (7, 509), (100, 1021), (251, 251)] {
        let members = members(count);
        assert_eq!(
            table(&members, size(slots), &Seed::default()),
            published(&members, size(slots), &Seed::default()),
            "{count} of {slots}"
        );
    }
}

#[test]
fn every_size_is_a_prime() {
    for size in TableSize::ALL {
        let n = size.get();
        assert!((2..).take_while(|d| d * d <= n).all(|d| n % d != 0), "{n}");
        assert_eq!(TableSize::try_from(n), Ok(size));
    }
    assert!(TableSize::try_from(1024).is_err_and(|error| error.to_string().contains("16381")));
    assert_eq!(TableSize::default().get(), 16_381);
}

#[test]
fn a_seed_reads_as_base64() {
    let seed: Seed = "JLfvgnHc2kaSUFaI".parse().expect("upstream's default");
    assert_eq!(seed, Seed::default());
    assert_eq!(seed.to_string(), "JLfvgnHc2kaSUFaI");
    assert_eq!("AAAAAAAAAAAAAAAA".parse::<Seed>().map(|s| s.0), Ok([0; 12]));
    assert_eq!("////////////////".parse::<Seed>().map(|s| s.0), Ok([255; 12]));
    for bad in
        ["", "JLfvgnHc2kaSUFa", "JLfvgnHc2kaSUFaI=", "JLfvgnHc2kaSUFa=", "JLfvgnHc2kaSUF-_", "ÄÄÄÄÄÄÄÄ"]
    {
        assert!(bad.parse::<Seed>().is_err(), "{bad}");
    }
}

/// The tables of a release must be those of the next: nodes are upgraded one after another.
#[test]
fn tables_stay_as_they_are() {
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    let mut some = members(3);
    some.push(Member { addr: v6, port: 53, proto: Protocol::UDP, weight: 3 });
    let table = table(&some, size(251), &Seed::default());
    assert_eq!(table[..24], FIRST_SLOTS);
}

/// Worked out apart, with the definition and another SHA-256.
const FIRST_SLOTS: [u32; 24] = [3, 3, 0, 3, 3, 1, 1, 2, 1, 2, 3, 3, 0, 3, 3, 1, 3, 3, 0, 3, 3, 3, 2, 3];

#[test]
fn no_backend_no_table() {
    assert!(table(&[], TableSize::default(), &Seed::default()).is_empty());
    assert!(table(&[member(1, 0)], TableSize::default(), &Seed::default()).is_empty());
}

#[test]
fn one_without_weight_gets_nothing_and_changes_nothing() {
    let few = members(9);
    let mut more = few.clone();
    more.insert(4, member(77, 0));
    let seed = Seed::default();
    assert_eq!(
        owners(&few, &table(&few, size(1021), &seed)),
        owners(&more, &table(&more, size(1021), &seed))
    );
}

#[test]
fn more_backends_than_slots_fill_the_table() {
    let table = table(&members(1000), size(251), &Seed::default());
    assert_eq!(shares(&table).len(), 251);
}

/// A backend of the same address and port for another protocol is another backend.
#[test]
fn all_of_the_key_counts() {
    let tcp = members(5);
    let seed = Seed::default();
    let first = table(&tcp, size(251), &seed);
    let udp: Vec<_> = tcp.iter().map(|m| Member { proto: Protocol::UDP, ..*m }).collect();
    let port: Vec<_> = tcp.iter().map(|m| Member { port: 9090, ..*m }).collect();
    for other in [table(&udp, size(251), &seed), table(&port, size(251), &seed)] {
        assert_ne!(first, other);
    }
    assert_ne!(first, table(&tcp, size(251), &"AAAAAAAAAAAAAAAA".parse().expect("a seed")));
}

/// Imbalance: the largest distance of a backend's share from the mean, over the mean. As every turn claims
/// one slot, equal weights differ by at most one slot, whatever the hashes.
#[test]
fn shares_differ_by_one_slot_at_most() {
    let seed = Seed::default();
    for (count, slots) in [(100, 16_381), (3, 251), (250, 251), (1000, 131_071), (7, 4093)] {
        let table = table(&members(count), size(slots), &seed);
        let shares = shares(&table);
        let (least, most) = (shares.values().min().copied(), shares.values().max().copied());
        assert_eq!(shares.len(), count as usize);
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{count} of {slots}");
    }
    let shares = shares(&table(&members(100), size(16_381), &seed));
    let mean = 163.81;
    let worst = shares.values().map(|share| (*share as f64 - mean).abs() / mean).fold(0.0, f64::max);
    println!("imbalance of 100 backends in 16381 slots: {:.3} %", worst * 100.0);
    assert!(worst <= 0.005, "{worst}");
}

/// The share of the other backends' slots that changes hands when one of 100 goes, each in turn, for
/// several seeds and address plans.
#[test]
fn removing_one_moves_few_others() {
    // Neighbours in one subnet, and one address in each of a hundred.
    for (seed, step) in [("JLfvgnHc2kaSUFaI", 1), ("c2VlZG51bWJlcjIh", 256)] {
        let seed: Seed = seed.parse().expect("a seed");
        let all: Vec<Member> = (0..100).map(|n| member(n * step, 1)).collect();
        let whole = table(&all, size(16_381), &seed);
        let before = owners(&all, &whole);
        let (mut sum, mut worst) = (0.0_f64, 0.0_f64);
        for gone in 0..all.len() {
            let mut rest = all.clone();
            let removed = rest.remove(gone).addr;
            let after = owners(&rest, &table(&rest, size(16_381), &seed));
            let others = before.iter().filter(|owner| **owner != removed).count();
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != removed && a != b).count();
            let part = moved as f64 / others as f64;
            sum += part;
            worst = worst.max(part);
        }
        let mean = sum / 100.0;
        println!("seed {seed}: others moved: mean {:.3} %, worst {:.3} %", mean * 100.0, worst * 100.0);
        assert!(mean < 0.016, "{mean}");
        assert!(worst < 0.03, "{worst}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_backends_does_not_matter(
        weights in prop::collection::vec(0u16..20, 1..40),
        shuffle in any::<prop::sample::Index>(),
        seed in any::<[u8; 12]>(),
    ) {
        let seed = Seed(seed);
        let sorted: Vec<Member> = (0..).zip(&weights).map(|(n, weight)| member(n, *weight)).collect();
        let mut other = sorted.clone();
        other.rotate_left(shuffle.index(sorted.len()));
        other.reverse();
        let (a, b) = (table(&sorted, size(509), &seed), table(&other, size(509), &seed));
        prop_assert_eq!(owners(&sorted, &a), owners(&other, &b));
        prop_assert_eq!(a.is_empty(), weights.iter().all(|weight| *weight == 0));
    }

    #[test]
    fn every_slot_is_filled_by_one_with_weight(weights in prop::collection::vec(0u16.., 1..300)) {
        let all: Vec<Member> = (0..).zip(&weights).map(|(n, weight)| member(n, *weight)).collect();
        let table = table(&all, size(251), &Seed::default());
        prop_assume!(!table.is_empty());
        prop_assert_eq!(table.len(), 251);
        prop_assert!(table.iter().all(|place| all[*place as usize].weight > 0));
        let weighted = weights.iter().filter(|weight| **weight > 0).count();
        prop_assert_eq!(shares(&table).len(), weighted.min(251));
    }

    /// Shares follow weights to within two slots, but for those that get the one slot nobody is denied.
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(1u16..1000, 1..30)) {
        let all: Vec<Member> = (0..).zip(&weights).map(|(n, weight)| member(n, *weight)).collect();
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let shares = shares(&table(&all, size(16_381), &Seed::default()));
        for (place, weight) in (0..).zip(&weights) {
            let fair = 16_381.0 * f64::from(*weight) / sum;
            let share = shares[&place] as f64;
            prop_assert!((share - fair).abs() <= 2.0, "{share} of {fair}");
        }
    }

    #[test]
    fn one_named_twice_counts_once(count in 1u32..20, twice in any::<prop::sample::Index>()) {
        let all = members(count);
        let mut more = all.clone();
        more.push(all[twice.index(all.len())]);
        let seed = Seed::default();
        prop_assert_eq!(
            owners(&all, &table(&all, size(251), &seed)),
            owners(&more, &table(&more, size(251), &seed))
        );
    }

    /// Nothing is remembered: the table after a backend left and came back is the first again.
    #[test]
    fn one_that_comes_back_gets_its_slots_back(count in 2u32..60, gone in any::<prop::sample::Index>()) {
        let all = members(count);
        let seed = Seed::default();
        let first = table(&all, size(1021), &seed);
        let mut rest = all.clone();
        let back = rest.remove(gone.index(all.len()));
        let without = table(&rest, size(1021), &seed);
        prop_assert!(!owners(&rest, &without).contains(&back.addr));
        rest.push(back);
        prop_assert_eq!(owners(&all, &first), owners(&rest, &table(&rest, size(1021), &seed)));
    }
}
