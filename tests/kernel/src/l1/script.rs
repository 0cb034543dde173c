//! Fixtures: a world, a few packets one after another, and what each must lead to. The model is asked
//! as well, so a fixture fails if any of the three disagrees.

use super::compare::{Trial, coarse_seconds, hex, same_entry};
use super::lab::{Hook, Input, Lab, Seen};
use super::model::{Ends, Kind, Parsed, Rows, Verdict, key, parse};
use super::packet::{checksum_field, checksums, join, l4_sum, ones, split};
use super::world::{Links, Mode, Pod, World};
use cilium_abi::{
    Address, Be16, Mac,
    ct::{CtRow, KIND_CONNECTION},
    event,
    lb::{AffinityKey, AffinityRow},
    proto,
    snat::{SnatKey, SnatRow},
};

/// Where a packet is.
#[derive(Clone, Copy, Debug)]
pub enum Site {
    /// The pod sends it.
    From(Pod),
    /// The host's stack sends it out of `cilium_host`.
    FromHost,
    /// The host's stack sends it on out of `cilium_host`: it came into the node by an interface.
    Forwarded,
    /// It reaches the host through `cilium_host`.
    ToHost,
    /// The device received it.
    FromNet,
    /// The second device received it.
    FromSide,
    /// The device sends it.
    ToNet,
    /// It came out of the tunnel with this number.
    FromTunnel(u32),
    /// It came to the overlay's device without a tunnel.
    FromNoTunnel,
    /// The overlay sends it.
    ToTunnel,
}

/// Makes a frame from the outputs of earlier steps.
type Make = Box<dyn Fn(&[Parsed]) -> Vec<u8>>;

/// A frame, or how to make one from the frames that came out before.
pub enum Frame {
    /// As it is.
    Bytes(Vec<u8>),
    /// From the outputs of earlier steps.
    Made(Make),
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}
impl From<super::packet::Build> for Frame {
    fn from(build: super::packet::Build) -> Self {
        Self::Bytes(build.bytes())
    }
}
impl<F: Fn(&[Parsed]) -> super::packet::Build + 'static> From<F> for Frame {
    fn from(make: F) -> Self {
        Self::Made(Box::new(move |outputs| make(outputs).bytes()))
    }
}

/// Something to look at after a packet.
#[derive(Clone, Debug)]
pub enum Check {
    /// Its source.
    Source(Address, u16),
    /// Its destination.
    Destination(Address, u16),
    /// Its source port lies in a range.
    SourcePort(u16, u16),
    /// Its TTL or hop limit.
    Ttl(u8),
    /// Its hardware addresses, destination first.
    Macs(Mac, Mac),
    /// The mark.
    Mark(u32),
    /// Nothing was changed.
    Untouched,
    /// There is a conntrack entry for what came out, or none.
    Entry(bool),
    /// There is a conntrack entry of these ends, or none.
    Known(Ends, bool),
    /// The ends of the packet inside an ICMP error.
    Inside(Ends),
    /// The client keeps the backend of this number, or none.
    Keeps(AffinityKey, Option<u32>),
    /// How long that entry lives, give or take two seconds.
    Lives(u32),
    /// An event of this kind was given.
    Event(u8),
    /// The identities in a verdict or drop event.
    Identities(u32, u32),
    /// The rule named by a verdict or drop event.
    Rule(u32),
    /// How the verdict was found.
    Matched(u8),
    /// One event told of the drop and of the verdict, found in this way.
    Refused(u8),
    /// How many rows of translations there are.
    Translations(usize),
    /// The length of the frame.
    Length(usize),
    /// The frame is what came in, within an IP header between these ends.
    Within(Address, Address),
    /// The last byte of the frame at an offset.
    Byte(usize, u8),
}

impl Check {
    /// Whether it says of a datagram what it says of a packet.
    const fn is_about_ends(&self) -> bool {
        matches!(
            self,
            Self::Source(..)
                | Self::Destination(..)
                | Self::SourcePort(..)
                | Self::Ttl(_)
                | Self::Macs(..)
                | Self::Mark(_)
                | Self::Entry(_)
                | Self::Known(..)
                | Self::Keeps(..)
                | Self::Translations(_)
        )
    }
}

/// How the packets of a fixture travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As they are.
    Whole,
    /// What has ports or is an echo is longer, and cut in three.
    InParts,
}

/// What fixtures ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Frames that ended in the driver.
    pub driven: usize,
    /// Fragments.
    pub parts: usize,
}

/// Where the length of a packet matters, it stays one.
const LONGEST: usize = 1400;

/// The longer datagram of a plain packet in three fragments; none of one that is not plain.
fn parts(frame: &[u8], id: u32) -> Vec<Vec<u8>> {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let parsed = parse(frame, v6);
    let is_ip = v6 || frame[12..14] == [8, 0];
    let (header, length_at) = if v6 { (54, 18) } else { (14 + usize::from(frame[14] & 15) * 4, 16) };
    let of_length = if v6 { 54 } else { 14 };
    let said = usize::from(u16::from_be_bytes([frame[length_at], frame[length_at + 1]])) + of_length;
    let is_plain = is_ip
        && parsed.fault.is_none()
        && parsed.part.is_none()
        && matches!(parsed.kind, Kind::Ports | Kind::Request | Kind::Reply)
        && parsed.l4 == header
        && said == frame.len()
        && said < LONGEST;
    let number = parsed.ends.proto;
    if !is_plain || checksums(frame, header, number).iter().any(|(_, right)| !right) {
        return Vec::new();
    }
    let mut frame = [frame, &[0xa5; 61]].concat();
    let length = ((frame.len() - of_length) as u16).to_be_bytes();
    frame[length_at..length_at + 2].copy_from_slice(&length);
    if number == proto::UDP {
        let length = ((frame.len() - header) as u16).to_be_bytes();
        frame[header + 4..header + 6].copy_from_slice(&length);
    }
    let has_sum = checksum_field(number)
        .map(|field| header + field)
        .filter(|at| number != proto::UDP || frame[*at..at + 2] != [0, 0]);
    if let Some(at) = has_sum {
        frame[at..at + 2].fill(0);
        let sum = !l4_sum(&parsed.ends.src, &parsed.ends.dst, number, &frame[header..]);
        let sum = if sum == 0 { 0xffff } else { sum };
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    split(&frame, id, &[24, 56])
}

struct Step {
    site: Site,
    mark: u32,
    frame: Frame,
    want: Verdict,
    checks: Vec<Check>,
}

/// Changes what the world holds by default.
type Edit = Box<dyn Fn(&mut World, &Links)>;
/// Writes rows as if packets had made them.
type Prepare = Box<dyn Fn(&mut Trial<'_>)>;

/// Runs some work on the lab of a mode.
pub type WithLab<'a> =
    dyn FnMut(Mode, &mut dyn FnMut(&mut Lab) -> Result<(), String>) -> Result<(), String> + 'a;

/// One fixture.
pub struct Fixture {
    /// Its name.
    pub name: String,
    mode: Mode,
    edit: Vec<Edit>,
    prepare: Vec<Prepare>,
    steps: Vec<Step>,
}

/// Starts a fixture on the default world of a native-routing node.
pub fn fixture(name: impl Into<String>) -> Fixture {
    Fixture {
        name: name.into(),
        mode: Mode::Native,
        edit: Vec::new(),
        prepare: Vec::new(),
        steps: Vec::new(),
    }
}

impl Fixture {
    /// On another kind of node.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
    /// In a changed world.
    pub fn world(mut self, edit: impl Fn(&mut World) + 'static) -> Self {
        self.edit.push(Box::new(move |world, _| edit(world)));
        self
    }
    /// In a changed world, by interface.
    pub fn links(mut self, edit: impl Fn(&mut World, &Links) + 'static) -> Self {
        self.edit.push(Box::new(edit));
        self
    }
    /// With rows that programs write.
    pub fn prepare(mut self, prepare: impl Fn(&mut Trial<'_>) + 'static) -> Self {
        self.prepare.push(Box::new(prepare));
        self
    }
    /// With an entry of conntrack that ends in so many seconds (negative: has ended).
    pub fn entry(self, ends: Ends, row: CtRow, seconds: i64) -> Self {
        self.prepare(move |trial| {
            let (key, _) = key(&ends, KIND_CONNECTION);
            let expires = u32::try_from(i64::from(coarse_seconds()) + seconds).expect("seconds since boot");
            let row = CtRow { expires, ..row };
            trial.lab.put_connection(&key, &row);
            trial.model.connections.insert(key, row);
        })
    }
    /// With a translation that was used so many seconds ago.
    pub fn translation(self, key: SnatKey, to: (Address, u16), flags: u16, seconds: u32) -> Self {
        self.prepare(move |trial| {
            let then = coarse_seconds() - seconds;
            let row = SnatRow { addr: to.0, port: Be16::new(to.1), flags, created: then, used: then };
            trial.lab.put_translation(&key, &row);
            trial.model.translations.insert(key, row);
        })
    }
    /// With a client that has kept a backend for so many seconds.
    pub fn affinity(self, key: AffinityKey, backend: u32, seconds: u32) -> Self {
        self.prepare(move |trial| {
            let row = AffinityRow { backend, used: coarse_seconds() - seconds };
            trial.lab.put_affinity(&key, &row);
            trial.model.affinities.insert(key, row);
        })
    }
    fn step(mut self, site: Site, frame: impl Into<Frame>, want: Verdict) -> Self {
        self.steps.push(Step { site, mark: 0, frame: frame.into(), want, checks: Vec::new() });
        self
    }
    /// A packet that must be sent on.
    pub fn sends(self, site: Site, frame: impl Into<Frame>) -> Self {
        self.step(site, frame, Verdict::Redirect)
    }
    /// A packet that must be left to the stack.
    pub fn passes(self, site: Site, frame: impl Into<Frame>) -> Self {
        self.step(site, frame, Verdict::Pass)
    }
    /// A packet that must be dropped, and why.
    pub fn drops(self, site: Site, frame: impl Into<Frame>, reason: u8) -> Self {
        self.step(site, frame, Verdict::Drop(reason))
    }
    /// A packet that must be dropped for a reason, and answered.
    pub fn refuses(self, site: Site, frame: impl Into<Frame>, reason: u8) -> Self {
        self.step(site, frame, Verdict::Answer(reason))
    }
    /// The last packet carries a mark.
    pub fn marked(mut self, mark: u32) -> Self {
        if let Some(step) = self.steps.last_mut() {
            step.mark = mark;
        }
        self
    }
    /// Something that must hold after the last packet.
    pub fn check(mut self, check: Check) -> Self {
        if let Some(step) = self.steps.last_mut() {
            step.checks.push(check);
        }
        self
    }

    fn input(links: &Links, step: &Step, outputs: &[Parsed]) -> Input {
        let (hook, ifindex, wire) = match step.site {
            Site::From(pod) => (Hook::FromContainer, links.lxc[pod.link], None),
            Site::FromHost => (Hook::FromHost, links.host, None),
            Site::Forwarded => (Hook::FromHost, links.host, Some(0)),
            Site::ToHost => (Hook::ToHost, links.host, None),
            Site::FromNet => (Hook::FromNetdev, links.eth0, None),
            Site::FromSide => (Hook::FromNetdev, links.side, None),
            Site::ToNet => (Hook::ToNetdev, links.eth0, None),
            Site::FromTunnel(number) => (Hook::FromOverlay, links.overlay, Some(number)),
            Site::FromNoTunnel => (Hook::FromOverlay, links.overlay, None),
            Site::ToTunnel => (Hook::ToOverlay, links.overlay, None),
        };
        let data = match &step.frame {
            Frame::Bytes(bytes) => bytes.clone(),
            Frame::Made(make) => make(outputs),
        };
        Input { hook, ifindex, mark: step.mark, wire, data }
    }

    /// Runs it; where devices serve frontends also with drivers that do, which must come to the same, and once more
    /// in fragments, likewise.
    ///
    /// # Errors
    /// What went otherwise.
    pub fn run(&self, labs: &mut WithLab<'_>) -> Result<Tally, String> {
        let mut tally = Tally::default();
        self.run_in(self.mode, Manner::Whole, labs, &mut tally)?;
        self.run_in(self.mode, Manner::InParts, labs, &mut tally)
            .map_err(|why| format!("in parts: {why}"))?;
        if let Some(mode) = self.mode.accelerated() {
            for manner in [Manner::Whole, Manner::InParts] {
                self.run_in(mode, manner, labs, &mut tally)
                    .map_err(|why| format!("{mode:?} {manner:?}: {why}"))?;
            }
        }
        Ok(tally)
    }

    fn run_in(
        &self,
        mode: Mode,
        manner: Manner,
        labs: &mut WithLab<'_>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        labs(mode, &mut |lab| {
            let links = lab.links;
            let mut world = World::base(&links, mode);
            for edit in &self.edit {
                edit(&mut world, &links);
            }
            let mut trial = Trial::new(lab, world);
            for prepare in &self.prepare {
                prepare(&mut trial);
            }
            let mut outputs = Vec::new();
            for (number, step) in self.steps.iter().enumerate() {
                let place = format!("packet {} at {:?}", number + 1, step.site);
                let input = Self::input(&links, step, &outputs);
                let mut frames = match (manner, step.want) {
                    // Who is told that there is nobody is told by the first fragment alone.
                    (Manner::Whole, _) | (_, Verdict::Answer(_)) => Vec::new(),
                    (Manner::InParts, _) => parts(&input.data, 0x4000 + number as u32),
                };
                tally.parts += frames.len();
                let is_cut = !frames.is_empty();
                if !is_cut {
                    frames.push(input.data.clone());
                }
                let mut seen_all = Vec::new();
                for data in frames {
                    let input = Input { data, ..input.clone() };
                    let (seen, expected) = trial
                        .step(&input)
                        .map_err(|wrong| format!("{place}: against the model: {wrong}"))?
                        .ok_or_else(|| format!("{place}: the kernel does not build this packet"))?;
                    if expected.verdict != step.want {
                        return Err(format!(
                            "{place}: {:?}, the fixture wants {:?}",
                            expected.verdict, step.want
                        ));
                    }
                    tally.driven += usize::from(seen.by_driver);
                    seen_all.push(seen);
                }
                let mut seen = seen_all.pop().ok_or("no packet")?;
                if is_cut {
                    let frames: Vec<_> = seen_all.into_iter().chain([seen.clone()]).map(|s| s.data).collect();
                    let frames: Vec<_> = frames.iter().map(|frame| unwrap(frame)).collect();
                    seen.data = join(&frames).ok_or_else(|| format!("{place}: the fragments do not fit"))?;
                }
                let out = parse(&seen.data, seen.data[12..14] == [0x86, 0xdd]);
                if is_cut
                    && let Some((at, _)) =
                        checksums(&seen.data, out.l4, out.ends.proto).into_iter().find(|(_, right)| !right)
                {
                    return Err(format!("{place}: checksum at {at} is wrong: {}", hex(&seen.data)));
                }
                for check in step.checks.iter().filter(|check| !is_cut || check.is_about_ends()) {
                    look(&trial, &input, &seen, &out, check).map_err(|why| format!("{place}: {why}"))?;
                }
                outputs.push(out);
            }
            match trial.audit() {
                wrong if wrong.is_empty() => Ok(()),
                wrong => Err(format!("afterwards: {}", wrong.join("\n  "))),
            }
        })
    }
}

/// The header of IP in IP around a packet, by RFC 2003 and RFC 2473.
fn outer(src: &Address, dst: &Address, packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u16;
    if !dst.is_v4() {
        let fixed = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[41, 64]].concat();
        return [&fixed[..], &src.bytes(), &dst.bytes()].concat();
    }
    let fixed = [&[0x45, 0][..], &(length + 20).to_be_bytes(), &[0, 0, 0x40, 0, 64, 4, 0, 0]].concat();
    let mut header = [&fixed[..], &src.bytes()[12..], &dst.bytes()[12..]].concat();
    let sum = !ones(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// A frame without the outer header of IP in IP, if it has one.
fn unwrap(frame: &[u8]) -> Vec<u8> {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let (number, size) = if v6 { (frame[20], 40) } else { (frame[23], 20) };
    let is_within = number == if v6 { 41 } else { 4 };
    if is_within { [&frame[..14], &frame[14 + size..]].concat() } else { frame.to_vec() }
}

fn look(trial: &Trial<'_>, input: &Input, seen: &Seen, out: &Parsed, check: &Check) -> Result<(), String> {
    let about = seen.events.iter().find(|e| matches!(e.kind, event::DROP | event::POLICY_VERDICT));
    let verdict = || seen.events.iter().find(|e| e.kind == event::POLICY_VERDICT).or(about);
    let last = || seen.events.iter().rev().find(|e| matches!(e.kind, event::DROP | event::POLICY_VERDICT));
    let entry = || trial.lab.connection(&key(&out.ends, KIND_CONNECTION).0);
    let holds = match check {
        Check::Source(addr, port) => out.ends.src == *addr && out.ends.sport == *port,
        Check::Destination(addr, port) => out.ends.dst == *addr && out.ends.dport == *port,
        Check::SourcePort(first, last) => (*first..=*last).contains(&out.ends.sport),
        Check::Ttl(ttl) => out.ttl == *ttl,
        Check::Macs(dst, src) => seen.data[..6] == dst.0 && seen.data[6..12] == src.0,
        // A frame in the driver has none yet.
        Check::Mark(mark) => seen.mark == *mark || seen.by_driver,
        Check::Untouched => seen.data == input.data,
        Check::Entry(wanted) => entry().is_some() == *wanted,
        Check::Known(ends, wanted) => {
            trial.lab.connection(&key(ends, KIND_CONNECTION).0).is_some() == *wanted
        }
        Check::Inside(ends) => out.inner.is_some_and(|(inner, _)| inner == *ends),
        Check::Keeps(client, backend) => {
            trial.lab.affinities().get(client).map(|row| row.backend) == *backend
        }
        Check::Lives(seconds) => {
            entry().is_some_and(|row| row.expires.abs_diff(coarse_seconds() + seconds) <= 2)
        }
        Check::Event(kind) => seen.events.iter().any(|e| e.kind == *kind),
        Check::Identities(source, destination) => {
            last().is_some_and(|e| e.src_identity == *source && e.dst_identity == *destination)
        }
        Check::Rule(cookie) => last().is_some_and(|e| e.cookie == *cookie),
        Check::Matched(matched) => verdict().is_some_and(|e| e.reason == *matched),
        Check::Refused(matched) => matches!(seen.events.as_slice(), [e]
            if e.kind == event::DROP && e.flags & event::EVENT_VERDICT != 0 && e.reason == *matched),
        Check::Translations(rows) => trial.lab.translations().len() == *rows,
        Check::Length(bytes) => seen.data.len() == *bytes,
        Check::Within(src, dst) => {
            seen.data[14..] == [&outer(src, dst, &input.data[14..]), &input.data[14..]].concat()
        }
        Check::Byte(at, value) => seen.data.get(*at) == Some(value),
    };
    if holds {
        return Ok(());
    }
    let row = entry().filter(|row| !same_entry(row, &CtRow::default()));
    Err(format!(
        "{check:?} does not hold: {:?} ttl {} mark {:#x} entry {row:?} {:?}",
        out.ends, out.ttl, seen.mark, seen.events
    ))
}
