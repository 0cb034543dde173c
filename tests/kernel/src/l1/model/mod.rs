//! The decisions of the datapath, written a second time from its design: plain, slow, in the order
//! an operator would explain them. Where the programs are free (a backend, a port), the model takes
//! what they chose, if it was one of the choices.

mod answer;
mod balance;
mod dsr;
mod flows;
mod fragments;
mod hooks;
mod nat;
mod north_south;
mod parse;

pub use fragments::Part;
pub use parse::{Ends, Kind, Parsed, parse};

use super::lab::{Hook, Input, Seen};
use super::world::{Links, World};
use cilium_abi::{
    Address, Be16,
    ct::{CtKey, CtRow, Tuple},
    drop, event,
    fragment::{FragmentKey, FragmentRow},
    identity,
    lb::{AffinityKey, AffinityRow},
    node::NodeConstants,
    snat::{SnatKey, SnatRow},
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stack has it.
    Pass,
    /// It is sent on from here.
    Redirect,
    /// It ends, for this reason.
    Drop(u8),
    /// It ends, for this reason, and goes back as an answer that says so.
    Answer(u8),
}

/// Whom a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The endpoint that refused.
    pub endpoint: u16,
    /// Source identity.
    pub source: u32,
    /// Destination identity.
    pub destination: u32,
    /// The rule.
    pub cookie: u32,
}

/// What the model expects.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame afterwards; its checksums are not kept up.
    pub data: Vec<u8>,
    /// The mark afterwards.
    pub mark: u32,
    /// For refusals by policy.
    pub refusal: Option<Refusal>,
    /// Offset and protocol of layer 4, if the packet could be read; 0 and 0: another fragment has it.
    pub l4: Option<(usize, u8)>,
    /// Keys of the entries the packet is about.
    pub keys: Vec<CtKey>,
    /// The frame's checksum was computed anew: it must be right whatever it was before.
    pub made: bool,
}

/// The model and what it remembers of packets.
#[derive(Debug)]
pub struct Model {
    /// The state of the node.
    pub world: Rc<World>,
    /// Its constants.
    pub node: NodeConstants,
    /// Its interfaces.
    pub links: Links,
    /// Connections.
    pub connections: BTreeMap<CtKey, CtRow>,
    /// Translations.
    pub translations: BTreeMap<SnatKey, SnatRow>,
    /// Which backends clients keep.
    pub affinities: BTreeMap<AffinityKey, AffinityRow>,
    /// What first fragments said.
    pub fragments: BTreeMap<FragmentKey, FragmentRow>,
    /// Drops by reason and direction.
    pub drops: BTreeMap<(u8, u8), u64>,
}

/// What the programs left behind: where they may choose, it says what they chose, of packets too that do not show it.
pub trait Rows {
    /// An entry of conntrack.
    fn connection(&self, key: &CtKey) -> Option<CtRow>;
    /// A translation.
    fn translation(&self, key: &SnatKey) -> Option<SnatRow>;
}

/// One packet's way.
struct Way<'a> {
    input: &'a Input,
    seen: &'a Seen,
    rows: &'a dyn Rows,
    now: u32,
    parsed: Parsed,
    data: Vec<u8>,
    mark: u32,
    refusal: Option<Refusal>,
    keys: Vec<CtKey>,
    made: bool,
    /// The packet became an answer: offset and protocol of its layer 4.
    answer: Option<(usize, u8)>,
    /// Set by a service.
    rev_nat: u16,
    direction: u8,
    /// The pod reaches itself through a service.
    loopback: bool,
    /// The packet itself says who sent it.
    told: bool,
    /// The host's stack sent it, which answers go back through.
    from_stack: bool,
    /// What it makes of a connection that it opens, beyond.
    marks: u16,
    /// The frontend that it names.
    frontend: (Address, u16),
    /// A backend elsewhere answers its client itself.
    one_way: bool,
}

type Step<T> = Result<T, u8>;

/// The key of a connection.
pub fn key(ends: &Ends, kind: u8) -> (CtKey, bool) {
    Tuple {
        src: ends.src,
        dst: ends.dst,
        src_port: Be16::new(ends.sport),
        dst_port: Be16::new(ends.dport),
        proto: ends.proto,
    }
    .key(kind)
}

/// Whether an identity is a node's.
fn is_node(number: u32) -> bool {
    [identity::HOST, identity::REMOTE_NODE, identity::KUBE_APISERVER].contains(&number)
        || number & identity::REMOTE_NODE_SCOPE != 0
}

impl Model {
    /// A model that has seen no packet yet.
    pub fn new(world: Rc<World>, node: NodeConstants, links: Links) -> Self {
        Self {
            world,
            node,
            links,
            connections: BTreeMap::new(),
            translations: BTreeMap::new(),
            affinities: BTreeMap::new(),
            fragments: BTreeMap::new(),
            drops: BTreeMap::new(),
        }
    }

    /// What a packet at a hook should lead to; remembers its consequences. `now` is in coarse seconds,
    /// and `seen` and `rows` say what the programs did.
    pub fn run(&mut self, input: &Input, seen: &Seen, rows: &dyn Rows, now: u32) -> Expected {
        let protocol = u16::from_be_bytes([input.data[12], input.data[13]]);
        let is_ip = matches!(protocol, 0x0800 | 0x86dd);
        let mut parsed = parse(&input.data, protocol == 0x86dd);
        if is_ip {
            self.fragment(input, &mut parsed, now);
        }
        let mut way = Way {
            input,
            seen,
            rows,
            now,
            parsed,
            data: input.data.clone(),
            mark: input.mark,
            refusal: None,
            keys: Vec::new(),
            made: false,
            answer: None,
            rev_nat: 0,
            direction: match input.hook {
                Hook::FromContainer | Hook::FromHost | Hook::ToNetdev | Hook::ToOverlay => 2,
                _ => 1,
            },
            loopback: false,
            told: false,
            from_stack: false,
            marks: 0,
            frontend: (Address::NONE, 0),
            one_way: false,
        };
        let step = self.hook(&mut way, protocol, is_ip);
        let ends = if way.answer.is_some() { Verdict::Answer } else { Verdict::Drop };
        let verdict = step.unwrap_or_else(ends);
        if let Verdict::Drop(reason) | Verdict::Answer(reason) = verdict {
            *self.drops.entry((reason, way.direction)).or_default() += 1;
        }
        let readable = is_ip && way.parsed.fault.is_none();
        Expected {
            verdict,
            data: way.data,
            mark: way.mark,
            refusal: way.refusal.filter(|_| {
                matches!(verdict, Verdict::Drop(drop::POLICY_DENIED | drop::POLICY_DENIED_BY_DENYLIST))
            }),
            l4: way.answer.or(readable.then_some(match way.parsed.l4 {
                0 => (0, 0),
                l4 => (l4, way.parsed.ends.proto),
            })),
            keys: way.keys,
            made: way.made,
        }
    }
}

impl Way<'_> {
    /// Whether the programs dropped the packet for this reason: where they may, by chance.
    fn saw_drop(&self, reason: u8) -> bool {
        self.seen.events.iter().any(|e| e.kind == event::DROP && e.subtype == reason)
    }

    fn dst_mac(&mut self, mac: &[u8; 6]) {
        self.data[..6].copy_from_slice(mac);
    }

    fn src_mac(&mut self, mac: &[u8; 6]) {
        self.data[6..12].copy_from_slice(mac);
    }

    fn hop(&mut self) -> Step<()> {
        if self.parsed.ttl <= 1 {
            return Err(drop::TTL_EXCEEDED);
        }
        let at = if self.parsed.v6 { 21 } else { 22 };
        self.data[at] -= 1;
        Ok(())
    }
}
