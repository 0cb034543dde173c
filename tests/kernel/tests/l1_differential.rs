//! Random packets through the production programs and the model: they must agree on every one.
//!
//! `CILIUM_TEST_LONG=1` runs a million packets; `CILIUM_TEST_SEED` repeats one world.

use cilium_abi::fragment::FRAGMENT_LIFETIME;
use cilium_tests_kernel::l1::{
    compare::{Trial, hex},
    frontends::AFFINITY,
    lab::Lab,
    model::{Verdict, parse},
    random::{Random, Traffic, world},
    world::{Mode, World},
};
use std::collections::BTreeMap;
use std::time::Instant;

/// Packets per world.
const WORLD: usize = 500;

fn packets() -> usize {
    if std::env::var_os("CILIUM_TEST_LONG").is_some() { 1_000_000 } else { 50_000 }
}

/// Runs one world; what differs, and how packets ended.
fn one(lab: &mut Lab, seed: u64, ended: &mut BTreeMap<String, usize>) -> Vec<String> {
    let mut random = Random::new(seed);
    let state = world(&mut random, &lab.links, lab.mode);
    let (links, mode) = (lab.links, lab.mode);
    let mut chance = Random::new(seed ^ 0x5bd1);
    let mut trial = Trial::new(lab, state);
    let mut traffic = Traffic::new(random.clone(), links);
    for number in 0..WORLD {
        if number == WORLD / 2 {
            let revision = trial.model.world.revision + 1;
            trial.change(World { revision, ..world(&mut random, &links, mode) });
        }
        if chance.chance(2) {
            trial.lose(chance.below(1 << 20));
        }
        if chance.chance(8) {
            // Mostly to the very end of what is kept, or just beyond.
            let seconds = chance.pick(&[1, 2, 3, AFFINITY, AFFINITY, AFFINITY + 1]);
            trial.age(chance.below(1 << 20), seconds);
        }
        if chance.chance(4) {
            let seconds = chance.pick(&[FRAGMENT_LIFETIME - 2, FRAGMENT_LIFETIME + 1]);
            trial.delay(chance.below(1 << 20), seconds);
        }
        let input = traffic.packet();
        let step = trial.step(&input);
        if !trial.is_sure {
            *ended
                .entry("a second ended within a step: the rest of the world is left".to_owned())
                .or_default() += 1;
            return Vec::new();
        }
        match step {
            Ok(None) => {}
            Ok(Some((seen, expected))) => {
                let place =
                    if seen.by_driver { "the driver".to_owned() } else { format!("{:?}", input.hook) };
                let is_within =
                    matches!(expected.l4, Some((_, 4 | 41))) && seen.data.len() > input.data.len();
                let how = if is_within { " within another header" } else { "" };
                *ended.entry(format!("{place} {:?}{how}", expected.verdict)).or_default() += 1;
                let v6 = seen.data[12..14] == [0x86, 0xdd];
                if (v6 || seen.data[12..14] == [8, 0]) && !matches!(expected.verdict, Verdict::Drop(_)) {
                    let out = parse(&seen.data, v6);
                    if out.fault.is_none() {
                        traffic.saw(&out, &seen.data);
                    }
                    // What was translated is met again as it was, too.
                    let was = parse(&input.data, v6);
                    if was.fault.is_none() && was.ends != out.ends {
                        traffic.saw(&was, &input.data);
                    }
                }
            }
            Err(why) => {
                return vec![format!(
                    "seed {seed} {mode:?} packet {number} at {:?} ifindex {} mark {:#x} wire {:?} {}\n  {why}",
                    input.hook,
                    input.ifindex,
                    input.mark,
                    input.wire,
                    hex(&input.data)
                )];
            }
        }
    }
    trial.audit().into_iter().map(|why| format!("seed {seed} {mode:?} afterwards: {why}")).collect()
}

#[test]
fn l1_programs_agree_with_the_model() {
    let started = Instant::now();
    let modes = Mode::ALL;
    let fixed = std::env::var("CILIUM_TEST_SEED").ok().map(|text| text.parse::<u64>().expect("a number"));
    let worlds = if fixed.is_some() { 1 } else { packets().div_ceil(WORLD * modes.len() * 49 / 50) };
    let first = fixed.unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        time.as_secs() << 20
    });
    let (mut wrong, mut ended) = (Vec::new(), BTreeMap::new());
    for mode in modes {
        let mut lab = Lab::new(mode);
        for seed in first..first + worlds as u64 {
            wrong.extend(one(&mut lab, seed, &mut ended));
            if wrong.len() >= 5 {
                break;
            }
        }
    }
    let total: usize = ended.values().sum();
    println!("{total} packets in {:.1} s, seeds from {first}", started.elapsed().as_secs_f64());
    for (way, count) in &ended {
        println!("  {count:7} {way}");
    }
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}
