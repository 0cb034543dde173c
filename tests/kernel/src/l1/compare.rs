//! One world, the programs and the model side by side: where they differ, in words.

use super::lab::{Input, Lab, Seen};
use super::model::{Expected, Model, Parsed, Rows, Verdict, parse};
use super::packet::{IN_IPV4, LINK, checksum_field, checksums, l4_sum, ones};
use super::world::World;
use cilium_abi::{ct::CtRow, event, fragment::FragmentRow, proto};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

/// The programs and the model in the same state.
pub struct Trial<'a> {
    /// The programs.
    pub lab: &'a mut Lab,
    /// The model.
    pub model: Model,
    before: BTreeMap<(u8, u8), u64>,
    /// Each step so far fell into one second of the clock that programs read.
    pub is_sure: bool,
}

/// Seconds of the coarse monotonic clock, as programs read it.
pub fn coarse_seconds() -> u32 {
    u32::try_from(coarse().tv_sec).expect("this machine is not that old")
}

/// Far more than a step takes, and a tick of the coarse clock.
const STEP: Duration = Duration::from_millis(20);

/// Waits out the end of a second, if less than `left` of it remains: what follows falls into one.
pub fn settle(left: Duration) {
    while Duration::from_nanos(coarse().tv_nsec.cast_unsigned()) + left > Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn coarse() -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain system call that fills the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time
}

/// Whether two entries say the same; timers within a second.
pub fn same_entry(a: &CtRow, b: &CtRow) -> bool {
    let facts = |r: &CtRow| (r.flags, r.rev_nat, r.backend, r.seen_forward, r.seen_reply);
    facts(a) == facts(b) && a.expires.abs_diff(b.expires) <= 1
}

impl<'a> Trial<'a> {
    /// Brings the programs into a world, without flows.
    pub fn new(lab: &'a mut Lab, world: World) -> Self {
        lab.enter();
        lab.install(&world);
        lab.forget();
        let world = Rc::new(world);
        let model = Model::new(world, lab.node, lab.links);
        let before = reasons().map(|at| (at, lab.count(at.0, at.1))).collect();
        Self { lab, model, before, is_sure: true }
    }

    /// Changes the world under the flows that are there.
    pub fn change(&mut self, world: World) {
        self.lab.install(&world);
        self.model.world = Rc::new(world);
    }

    /// Loses a row that programs wrote, as an LRU map may at any time: one of many, by number. What drivers noted has
    /// lapsed by then.
    pub fn lose(&mut self, number: usize) {
        self.lab.lapse();
        let entries = self.model.connections.len();
        let both = entries + self.model.translations.len();
        let kept = both + self.model.affinities.len();
        let rows = kept + self.model.fragments.len();
        if rows == 0 {
            return;
        }
        let number = number % rows;
        if let Some(key) = self.model.connections.keys().nth(number).copied() {
            self.model.connections.remove(&key);
            self.lab.remove_connection(&key);
        } else if let Some(key) = self.model.translations.keys().nth(number - entries).copied() {
            self.model.translations.remove(&key);
            self.lab.remove_translation(&key);
        } else if let Some(key) = self.model.affinities.keys().nth(number - both).copied() {
            self.model.affinities.remove(&key);
            self.lab.remove_affinity(&key);
        } else if let Some(key) = self.model.fragments.keys().nth(number - kept).copied() {
            self.model.fragments.remove(&key);
            self.lab.remove_fragment(&key);
        }
    }

    /// Lets so many seconds pass for what a client keeps: one of many, by number.
    pub fn age(&mut self, number: usize, seconds: u32) {
        let clients = self.model.affinities.len();
        if let Some((key, row)) = self.model.affinities.iter_mut().nth(number % clients.max(1)) {
            row.used = row.used.saturating_sub(seconds);
            self.lab.put_affinity(key, row);
        }
    }

    /// Lets so many seconds pass since a first fragment was seen: one of many, by number.
    pub fn delay(&mut self, number: usize, seconds: u32) {
        let datagrams = self.model.fragments.len();
        if let Some((key, row)) = self.model.fragments.iter_mut().nth(number % datagrams.max(1)) {
            row.seen = row.seen.saturating_sub(seconds);
            self.lab.put_fragment(key, row);
        }
    }

    /// Runs one packet through both. `None`: the kernel would not build it.
    ///
    /// # Errors
    /// What differs.
    pub fn step(&mut self, input: &Input) -> Result<Option<(Seen, Expected)>, String> {
        // The packet and what the model thinks of it.
        settle(STEP);
        let second = coarse_seconds();
        let ran = if self.model.may_answer(input) { self.lab.run_bare(input) } else { self.lab.run(input) };
        let seen = match ran {
            Ok(seen) => seen,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(e) => return Err(format!("test run: {e}")),
        };
        // On a busy machine the thread may have stood still for longer: then nobody knows what the programs read.
        self.is_sure &= coarse_seconds() == second;
        let expected = self.model.run(input, &seen, &*self.lab, second);
        let mut wrong = compare(input, &seen, &expected);
        for key in &expected.keys {
            let (got, want) = (self.lab.connection(key), self.model.connections.get(key));
            let same = match (&got, want) {
                (Some(got), Some(want)) => same_entry(got, want),
                (None, None) => true,
                _ => false,
            };
            if !same {
                wrong.push(format!("entry {key:?}:\n    is     {got:?}\n    should {want:?}"));
            }
        }
        if wrong.is_empty() { Ok(Some((seen, expected))) } else { Err(wrong.join("\n  ")) }
    }

    /// Compares all entries, translations, affinities and drop counters.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let entries = self.lab.connections();
        for key in entries.keys().chain(self.model.connections.keys()).collect::<BTreeSet<_>>() {
            let same = match (entries.get(key), self.model.connections.get(key)) {
                (Some(got), Some(want)) => same_entry(got, want),
                _ => false,
            };
            if !same {
                let (got, want) = (entries.get(key), self.model.connections.get(key));
                wrong.push(format!("entry {key:?}: is {got:?}, should be {want:?}"));
            }
        }
        let rows = self.lab.translations();
        for key in rows.keys().chain(self.model.translations.keys()).collect::<BTreeSet<_>>() {
            let facts = |r: &cilium_abi::snat::SnatRow| (r.addr, r.port, r.flags);
            let (got, want) = (rows.get(key), self.model.translations.get(key));
            if got.map(facts) != want.map(facts) {
                wrong.push(format!("translation {key:?}: is {got:?}, should be {want:?}"));
            }
        }
        let rows = self.lab.affinities();
        for key in rows.keys().chain(self.model.affinities.keys()).collect::<BTreeSet<_>>() {
            let same = match (rows.get(key), self.model.affinities.get(key)) {
                (Some(got), Some(want)) => got.backend == want.backend && got.used.abs_diff(want.used) <= 1,
                _ => false,
            };
            if !same {
                let (got, want) = (rows.get(key), self.model.affinities.get(key));
                wrong.push(format!("affinity {key:?}: is {got:?}, should be {want:?}"));
            }
        }
        let rows = self.lab.fragments();
        for key in rows.keys().chain(self.model.fragments.keys()).collect::<BTreeSet<_>>() {
            let facts = |r: &FragmentRow| (r.src_port, r.dst_port, r.head, r.proto, r.detail);
            let (got, want) = (rows.get(key), self.model.fragments.get(key));
            let same = match (got, want) {
                (Some(got), Some(want)) => facts(got) == facts(want) && got.seen.abs_diff(want.seen) <= 1,
                _ => false,
            };
            if !same {
                wrong.push(format!("fragments {key:?}: is {got:?}, should be {want:?}"));
            }
        }
        for (at, before) in &self.before {
            let got = self.lab.count(at.0, at.1) - before;
            let want = self.model.drops.get(at).copied().unwrap_or(0);
            if got != want {
                wrong.push(format!("counter of reason {} direction {}: {got}, should be {want}", at.0, at.1));
            }
        }
        wrong
    }
}

fn reasons() -> impl Iterator<Item = (u8, u8)> {
    cilium_abi::drop::ALL.iter().flat_map(|(reason, _)| [(*reason, 1), (*reason, 2)])
}

/// The verdict a test run showed; a drop's reason is in its event.
fn verdict(seen: &Seen) -> Result<Verdict, String> {
    let drops: Vec<u8> = seen.events.iter().filter(|e| e.kind == event::DROP).map(|e| e.subtype).collect();
    match (seen.verdict, drops.as_slice()) {
        (-1, []) => Ok(Verdict::Pass),
        (7, []) => Ok(Verdict::Redirect),
        (7, [reason]) => Ok(Verdict::Answer(*reason)),
        (2, [reason]) => Ok(Verdict::Drop(*reason)),
        (value, drops) => Err(format!("verdict {value} with drop events {drops:?}")),
    }
}

/// Everything about one packet but map rows.
pub fn compare(input: &Input, seen: &Seen, expected: &Expected) -> Vec<String> {
    let mut wrong = Vec::new();
    match verdict(seen) {
        Ok(got) if got == expected.verdict => {}
        Ok(got) => wrong.push(format!("verdict {got:?}, should be {:?}", expected.verdict)),
        Err(why) => wrong.push(why),
    }
    if let Some(refusal) = expected.refusal
        && let Some(event) = seen.events.iter().find(|e| e.kind == event::DROP)
    {
        let got = (event.endpoint_id, event.src_identity, event.dst_identity, event.cookie);
        let want = (refusal.endpoint, refusal.source, refusal.destination, refusal.cookie);
        if got != want {
            wrong.push(format!(
                "drop event (endpoint, source, destination, rule) {got:?}, should be {want:?}"
            ));
        }
    }
    if !wrong.is_empty() || matches!(expected.verdict, Verdict::Drop(_)) {
        return wrong;
    }
    // A frame has none yet.
    if seen.mark != expected.mark && !seen.by_driver {
        wrong.push(format!("mark {:#x}, should be {:#x}", seen.mark, expected.mark));
    }
    let fields = expected.l4.map_or_else(Vec::new, |(l4, number)| sum_fields(&expected.data, l4, number));
    let without = |data: &[u8]| {
        let mut data = data.to_vec();
        for at in &fields {
            if let Some(field) = data.get_mut(*at..at + 2) {
                field.fill(0);
            }
        }
        data
    };
    let unchanged = expected.data == input.data;
    let same =
        if unchanged { seen.data == input.data } else { without(&seen.data) == without(&expected.data) };
    if !same {
        wrong.push(format!(
            "packet\n    is     {}\n    should {}\n    was    {}",
            hex(&seen.data),
            hex(&expected.data),
            hex(&input.data)
        ));
    } else if let Some((l4, number)) = expected.l4 {
        if !is_same_sum(input, seen, l4, number) {
            wrong.push(format!(
                "the part's share of the checksum is another: {}\n    was {}",
                hex(&seen.data),
                hex(&input.data)
            ));
        }
        // What an answer quotes is as it came.
        let is_answer = matches!(expected.verdict, Verdict::Answer(_));
        let sums = if is_answer { checksums } else { all_sums };
        let before = sums(&input.data, if is_answer { l4 } else { before(input, seen, l4, number) }, number);
        for (place, (at, right)) in sums(&seen.data, l4, number).into_iter().enumerate() {
            let was_right = before.get(place).is_none_or(|(_, right)| *right);
            if !right && (was_right || expected.made) {
                wrong.push(format!(
                    "checksum at {at} is wrong: {}\n    was {}",
                    hex(&seen.data),
                    hex(&input.data)
                ));
            }
        }
    }
    wrong
}

/// Where layer 4 began in a packet, given where it does: an option that names a frontend may have come or gone, and
/// what was put into another header is that one's layer 4.
fn before(input: &Input, seen: &Seen, l4: usize, number: u8) -> usize {
    if number == IN_IPV4 && seen.data.len() > input.data.len() {
        return LINK;
    }
    if l4 == 0 { 0 } else { (l4 + input.data.len()).saturating_sub(seen.data.len()) }
}

/// Whether a first fragment adds up to what it did, pseudo header included, so that the whole datagram does.
fn is_same_sum(input: &Input, seen: &Seen, l4: usize, number: u8) -> bool {
    let is_v6 = input.data[12..14] == [0x86, 0xdd];
    let (was, is) = (parse(&input.data, is_v6), parse(&seen.data, is_v6));
    let Some(field) = checksum_field(number) else { return true };
    if was.part.is_none() || is.part.is_none() || l4 == 0 {
        return true;
    }
    let from = before(input, seen, l4, number);
    if number == proto::UDP && !is_v6 && input.data[from + field..from + field + 2] == [0, 0] {
        return seen.data[l4 + field..l4 + field + 2] == [0, 0];
    }
    let sum =
        |parsed: &Parsed, data: &[u8]| l4_sum(&parsed.ends.src, &parsed.ends.dst, number, data) % 0xffff;
    sum(&was, &input.data[from..]) == sum(&is, &seen.data[l4..])
}

/// Where an IPv4 header lies inside an ICMP error, or inside another header.
fn embedded_header(data: &[u8], l4: usize, number: u8) -> Option<std::ops::Range<usize>> {
    let kind = *data.get(l4)?;
    let start = match number {
        IN_IPV4 => l4,
        proto::ICMP if [3, 4, 5, 11, 12].contains(&kind) => l4 + 8,
        _ => return None,
    };
    let len = usize::from(data.get(start)? & 15) * 4;
    (len >= 20 && start + len <= data.len()).then_some(start..start + len)
}

fn sum_fields(data: &[u8], l4: usize, number: u8) -> Vec<usize> {
    let mut fields = Vec::new();
    if data[12..14] == [8, 0] {
        fields.push(LINK + 10);
    }
    fields.extend(checksum_field(number).map(|field| l4 + field));
    fields.extend(embedded_header(data, l4, number).map(|header| header.start + 10));
    fields
}

fn all_sums(data: &[u8], l4: usize, number: u8) -> Vec<(usize, bool)> {
    let mut found = checksums(data, l4, number);
    if let Some(header) = embedded_header(data, l4, number) {
        found.push((header.start + 10, ones(&data[header]) == 0xffff));
    }
    found
}

/// Bytes as text.
pub fn hex(data: &[u8]) -> String {
    let mut text = String::with_capacity(data.len() * 2);
    for (at, byte) in data.iter().enumerate() {
        if [6, 12, 14].contains(&at) {
            text.push(' ');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}
