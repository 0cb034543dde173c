//! Random worlds and packets from a seed. Few addresses and ports, so that packets meet: answers,
//! retransmissions, collisions and hijacks all happen by chance. Never: an opinion about them.

use super::frontends::{AFFINITY, MAGLEV_ROWS, MAGLEV_SIZE, backends_outside, places as frontends};
use super::lab::{Hook, Input};
use super::model::{Ends, Parsed};
use super::packet::{self, Build};
use super::world::{
    A, B, C, Family, Links, Mode, NARROW_ID, OUTSIDE_ID, Pod, REMOTE_POD_ID, Rule, World, X, at, ip,
};
use cilium_abi::{
    Address, Mac,
    endpoint::{
        CONFIG_EGRESS_NO_ANY, CONFIG_EGRESS_NO_PEERS, CONFIG_INGRESS_NO_ANY, CONFIG_INGRESS_NO_PEERS,
        CONFIG_OPEN_EGRESS, CONFIG_OPEN_INGRESS,
    },
    identity,
    ipcache::{FLAG_IN_CLUSTER, IpcacheRow, PrefixKey},
    lb::{
        BACKEND_TERMINATING, FRONTEND_DSR, FRONTEND_EXTERNAL, FRONTEND_MAGLEV_BITS, FRONTEND_REJECT,
        FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES, FRONTEND_TWO_SCOPES, FrontendKey, FrontendRow,
        SourceRangeKey, maglev_flags,
    },
    node::mark,
    proto,
};

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const PODS: [Pod; 3] = [A, B, C];
const PORTS: [u16; 6] = [80, 80, 8080, 443, 53, 8472];
const CLIENT_PORTS: [u16; 6] = [4000, 4001, 40_000, 40_003, 80, 30_080];
const FLAGS: [u8; 12] = [2, 2, 2, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0, 0x03];

/// A random world on the default one.
pub fn world(random: &mut Random, links: &Links, mode: Mode) -> World {
    let mut world = World::base(links, mode);
    world.revision = 1 + random.below(5) as u32;
    let peers = [
        0,
        0,
        A.identity,
        B.identity,
        C.identity,
        REMOTE_POD_ID,
        REMOTE_POD_ID + 1,
        identity::HOST,
        identity::REMOTE_NODE,
        identity::WORLD_IPV4,
        identity::WORLD_IPV6,
        OUTSIDE_ID,
        NARROW_ID,
    ];
    let mut cookie = 100;
    for pod in PODS {
        for egress in [false, true] {
            if random.chance(35) {
                continue;
            }
            if random.chance(15)
                && let Some(config) = world.configs.get_mut(&links.lxc[pod.link])
            {
                config.flags |= if egress { CONFIG_OPEN_EGRESS } else { CONFIG_OPEN_INGRESS };
            }
            world.close(pod, egress);
            let (mut peers_seen, mut any_seen) = (false, false);
            for _ in 0..random.below(9) {
                cookie += 1;
                let mut rule = Rule::any(pod, egress).peer(random.pick(&peers)).cookie(cookie);
                match random.below(4) {
                    0 => {}
                    1 => {
                        let number = random.pick(&[proto::ICMP, proto::ICMPV6]);
                        let kinds = [0, 3, 8, 1, 128, 129];
                        rule = if random.chance(50) {
                            rule.port(number, random.pick(&kinds))
                        } else {
                            rule.ports(number, 0, 0)
                        };
                    }
                    _ => {
                        let number = random.pick(&[proto::TCP, proto::TCP, proto::UDP, proto::SCTP]);
                        let port = random.pick(&PORTS) ^ random.below(2) as u16;
                        rule = rule.ports(number, port, random.pick(&[16, 16, 16, 15, 12, 8, 0]));
                    }
                }
                if random.chance(30) {
                    rule = rule.deny();
                }
                (peers_seen, any_seen) = (peers_seen || rule.peer != 0, any_seen || rule.peer == 0);
                world.rule(rule.precedence(random.below(3) as u32));
            }
            if random.chance(50)
                && let Some(config) = world.configs.get_mut(&links.lxc[pod.link])
            {
                let (no_peers, no_any) = if egress {
                    (CONFIG_EGRESS_NO_PEERS, CONFIG_EGRESS_NO_ANY)
                } else {
                    (CONFIG_INGRESS_NO_PEERS, CONFIG_INGRESS_NO_ANY)
                };
                config.flags |= if peers_seen { 0 } else { no_peers } | if any_seen { 0 } else { no_any };
            }
        }
    }
    places(random, &mut world, mode);
    services(random, &mut world);
    backends_outside(random, &mut world, mode);
    if random.chance(10)
        && let Some(config) = world.configs.get_mut(&links.lxc[random.below(3)])
    {
        // A pod of one family.
        if random.chance(50) { config.ipv4 = Address::NONE } else { config.ipv6 = Address::NONE }
    }
    world
}

/// More, fewer and other rows of the ipcache.
fn places(random: &mut Random, world: &mut World, mode: Mode) {
    let tunnel = if mode.is_native() { Address::NONE } else { at::remote_node(Family::V4) };
    for family in [Family::V4, Family::V6] {
        if random.chance(20) {
            world.ipcache.remove(&at::remote_pod(family));
        }
        if random.chance(20) {
            let row = IpcacheRow { identity: NARROW_ID, ..IpcacheRow::default() };
            world.ipcache.insert(at::outside(family), row);
        }
        if random.chance(20) {
            let (text, len) = if family == Family::V4 { ("0.0.0.0", 96) } else { ("2000::", 3) };
            let row = IpcacheRow { identity: OUTSIDE_ID + 5, ..IpcacheRow::default() };
            world.prefixes.insert(PrefixKey { prefix_len: len, addr: ip(text) }, row);
        }
        if random.chance(20) {
            let (text, len) = if family == Family::V4 { ("10.2.0.0", 120) } else { ("fd00:2::", 64) };
            let row = IpcacheRow { identity: REMOTE_POD_ID + 9, flags: FLAG_IN_CLUSTER, tunnel };
            world.prefixes.insert(PrefixKey { prefix_len: len, addr: ip(text) }, row);
        }
    }
    if random.chance(5) {
        world.runtime.overlay_ifindex = 0;
    }
    if random.chance(5) {
        world.devices.clear();
    }
    for device in world.devices.values_mut() {
        match random.below(40) {
            0 => device.ipv4 = Address::NONE,
            1 => device.ipv6 = Address::NONE,
            _ => {}
        }
    }
}

/// Services that lost backends, or whose backends are leaving.
fn services(random: &mut Random, world: &mut World) {
    let lists: Vec<_> = world.frontends.keys().copied().collect();
    for key in lists {
        let Some(row) = world.frontends.get_mut(&key) else { continue };
        if row.count == 0 {
            continue;
        }
        if random.chance(20) {
            // Its row stays: connections keep it, new ones do not get it.
            row.count -= 1;
            world.slots.remove(&cilium_abi::lb::SlotKey { list: row.list, slot: u32::from(row.count) });
        } else if random.chance(10) {
            row.count = 0;
        }
    }
    for (key, row) in &mut world.frontends {
        for (flag, percent) in FLAGS_OF_FRONTENDS {
            if random.chance(percent) {
                row.flags ^= flag;
            }
        }
        if random.chance(10) {
            // A table that runs out of the map has places without backend.
            let tables: [u32; 4] = if key.addr.is_v4() { [0, 1, 13, 99] } else { [26, 39, 45, 99] };
            row.maglev = random.pick(&tables);
        }
        row.affinity = if random.chance(35) {
            random.pick(&[0, 1, 2, AFFINITY, AFFINITY, 86_400])
        } else {
            row.affinity
        };
    }
    let scopes: Vec<_> = world.frontends.keys().copied().collect();
    for key in scopes {
        if random.chance(8) {
            let row = world.frontends[&key];
            let count = row.count.min(1);
            world.frontends.insert(FrontendKey { scope: 1 - key.scope, ..key }, FrontendRow { count, ..row });
        }
    }
    for place in 0..MAGLEV_ROWS {
        let is_v4 = place < MAGLEV_ROWS / 2;
        if random.chance(10) {
            let numbers: Vec<u32> = world
                .backends
                .iter()
                .filter(|(_, backend)| backend.addr.is_v4() == is_v4)
                .map(|(number, _)| *number)
                .collect();
            let number = if random.chance(50) { random.pick(&numbers) } else { random.pick(&[0, 7]) };
            world.maglev.insert(place, number);
        }
    }
    ranges(random, world);
    for backend in world.backends.values_mut() {
        if random.chance(5) {
            backend.flags |= BACKEND_TERMINATING;
        }
    }
}

/// Flags of frontends and how often they differ from the base world's.
const FLAGS_OF_FRONTENDS: [(u32, usize); 8] = [
    (FRONTEND_DSR, 30),
    (FRONTEND_REJECT, 60),
    (FRONTEND_EXTERNAL, 8),
    (FRONTEND_TWO_SCOPES, 8),
    (FRONTEND_SOURCE_RANGES, 8),
    (FRONTEND_SOURCE_DENY, 20),
    (maglev_flags(MAGLEV_SIZE), 15),
    (1 << FRONTEND_MAGLEV_BITS, 5),
];

/// Other ranges of sources: wider, narrower, of every length.
fn ranges(random: &mut Random, world: &mut World) {
    let frontends: Vec<(Address, u16)> =
        world.frontends.iter().map(|(key, row)| (key.addr, row.rev_nat)).collect();
    world.source_ranges.retain(|_, _| random.chance(70));
    for _ in 0..random.below(12) {
        let (addr, rev_nat) = random.pick(&frontends);
        let (family, first) = if addr.is_v4() { (Family::V4, 96) } else { (Family::V6, 0) };
        let within = random.pick(&[at::outside(family), at::outside_narrow(family), at::world(family)]);
        let len = (first + random.below(129 - first) * usize::from(!random.chance(10))) as u32;
        let bits = u128::from_be_bytes(within.bytes());
        let kept = if len == 0 { 0 } else { bits >> (128 - len) << (128 - len) };
        let words = kept.to_be_bytes();
        let word = |at: usize| u32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let addr = Address { words: [word(0), word(4), word(8), word(12)] };
        let key = SourceRangeKey { prefix_len: 32 + len, rev_nat, reserved: 0, addr };
        world.source_ranges.insert(key, 1);
    }
}

/// Random packets, which remember what came out before.
#[derive(Clone, Debug)]
pub struct Traffic {
    random: Random,
    links: Links,
    past: Vec<(Ends, bool)>,
    frames: Vec<Vec<u8>>,
    /// Fragments that are still to come, the next one last.
    waiting: Vec<Input>,
}

impl Traffic {
    /// Traffic from a seed.
    pub const fn new(random: Random, links: Links) -> Self {
        Self { random, links, past: Vec::new(), frames: Vec::new(), waiting: Vec::new() }
    }

    /// Tells what came out of a hook; answers to it will follow.
    pub fn saw(&mut self, out: &Parsed, frame: &[u8]) {
        let slot = self.random.below(24);
        let ends = (out.ends, out.v6);
        if self.past.len() < 24 {
            self.past.push(ends);
            self.frames.push(frame.to_vec());
        } else {
            self.past[slot] = ends;
            self.frames[slot] = frame.to_vec();
        }
    }

    /// The next packet and its hook.
    pub fn packet(&mut self) -> Input {
        if !self.waiting.is_empty() && self.random.chance(60) {
            let next = self.waiting.len() - 1;
            let at = if self.random.chance(85) { next } else { self.random.below(next + 1) };
            let mut input = self.waiting.remove(at);
            self.spoil(&mut input.data);
            return input;
        }
        let answer = !self.past.is_empty() && self.random.chance(45);
        let build = if answer { self.answer() } else { self.fresh() };
        let (mut build, src, dst) = build;
        let is_long = self.random.chance(12);
        if is_long {
            build = build.longer(1 + self.random.below(60));
        }
        let mut input = self.place(build, src, dst);
        if is_long {
            self.cut(&mut input);
        }
        self.spoil(&mut input.data);
        input
    }

    /// Sends a datagram in fragments, of which few differ in their identification.
    fn cut(&mut self, input: &mut Input) {
        let header = 14 + if input.data[12] == 8 { usize::from(input.data[14] & 15) * 4 } else { 40 };
        let plain = [proto::TCP, proto::UDP, proto::ICMP, proto::ICMPV6, proto::SCTP];
        let number = input.data[if input.data[12] == 8 { 23 } else { 20 }];
        let units = input.data.len().saturating_sub(header) / 8;
        if units < 2 || !plain.contains(&number) {
            return;
        }
        let first = 1 + self.random.below(units.min(5) - 1);
        let mut ends = vec![first * 8];
        if first + 1 < units && self.random.chance(60) {
            ends.push((first + 1 + self.random.below(units - first - 1)) * 8);
        }
        let id = self.random.pick(&[7, 7, 7, 0x1_0007]);
        let mut parts = packet::split(&input.data, id, &ends);
        if self.random.chance(15) {
            let at = self.random.below(parts.len());
            parts.swap(0, at);
        }
        self.waiting.truncate(8);
        for part in parts.drain(1..).rev() {
            self.waiting.push(Input { data: part, ..input.clone() });
        }
        input.data.clone_from(&parts[0]);
    }

    fn anyone(&mut self, family: Family) -> Address {
        let r = self.random.below(24);
        match r {
            0..=5 => self.random.pick(&PODS).ip(family),
            6 => X.ip(family),
            7 => at::router(family),
            8 | 9 => at::node(family),
            10 | 11 => at::remote_pod(family),
            12 => at::remote_pod_2(family),
            13 => at::remote_node(family),
            14 | 15 => at::outside(family),
            16 => at::outside_narrow(family),
            17 => at::world(family),
            18 => self.random.pick(&[
                at::stranger(family),
                at::gateway(family),
                at::side(family),
                at::side_node(family),
            ]),
            19 => at::blackhole(family),
            20 => self.random.pick(&[
                at::nobody(family),
                at::empty_service(family),
                at::remote_router(family),
                at::balancer(family),
                at::external(family),
            ]),
            _ => at::service(family),
        }
    }

    fn fresh(&mut self) -> (Build, Address, Address) {
        let family = self.random.pick(&[Family::V4, Family::V6]);
        if self.random.chance(30) {
            return self.asking(family);
        }
        let src =
            if self.random.chance(55) { self.random.pick(&PODS).ip(family) } else { self.anyone(family) };
        let dst = self.anyone(family);
        let mut ports = (self.random.pick(&CLIENT_PORTS), self.random.pick(&PORTS));
        if self.random.chance(15) {
            ports = (ports.1, ports.0);
        }
        (self.body(src, dst, ports), src, dst)
    }

    /// To a frontend, mostly from outside.
    fn asking(&mut self, family: Family) -> (Build, Address, Address) {
        let all: Vec<_> = frontends(family).collect();
        let (dst, port) = self.random.pick(&all);
        let src = match self.random.below(10) {
            0..=6 => self.random.pick(&[
                at::outside(family),
                at::outside_narrow(family),
                at::world(family),
                at::gateway(family),
            ]),
            7 | 8 => self.random.pick(&PODS).ip(family),
            _ => self.anyone(family),
        };
        let ports = (self.random.pick(&CLIENT_PORTS), port);
        let build = if self.random.chance(65) {
            packet::tcp(src, dst, ports, self.random.pick(&FLAGS))
        } else {
            packet::udp(src, dst, ports)
        };
        (build, src, dst)
    }

    fn body(&mut self, src: Address, dst: Address, ports: (u16, u16)) -> Build {
        let id = self.random.pick(&[0, 1, 4000, 40_003]);
        match self.random.below(20) {
            0..=8 => packet::tcp(src, dst, ports, self.random.pick(&FLAGS)),
            9..=12 => {
                let build = packet::udp(src, dst, ports);
                if self.random.chance(15) && dst.is_v4() { build.without_checksum() } else { build }
            }
            13 | 14 => packet::ping(src, dst, id),
            15 => packet::pong(src, dst, id),
            16 if !self.frames.is_empty() => {
                let about = self.random.below(self.frames.len());
                let about = self.frames[about].clone();
                packet::unreachable(src, dst, &about)
            }
            16 | 17 => {
                let kind = self.random.pick(&[3, 5, 13, 2, 130, 133, 134, 135, 136, 137, 143, 144, 1, 4]);
                let mut rest = vec![0; 4];
                rest.extend(at::router(Family::V6).bytes());
                rest.extend([1, 1, 2, 0, 0, 0, 0xaa, 11]);
                packet::icmp(src, dst, kind, 0, &rest).ttl(self.random.pick(&[255, 255, 64, 1]))
            }
            18 => packet::sctp(src, dst, ports),
            _ => packet::other(src, dst, self.random.pick(&[0, 2, 47, 50, 59, 132, 255])),
        }
    }

    /// A packet the other way, an error about one, or the same again.
    fn answer(&mut self) -> (Build, Address, Address) {
        let at = self.random.below(self.past.len());
        let (ends, v6) = self.past[at];
        let (src, dst, ports) = if self.random.chance(75) {
            (ends.dst, ends.src, (ends.dport, ends.sport))
        } else {
            (ends.src, ends.dst, (ends.sport, ends.dport))
        };
        if src.is_v4() == v6 || dst.is_v4() == v6 {
            return self.fresh();
        }
        if self.random.chance(12) {
            let about = self.frames[at].clone();
            let from = if self.random.chance(40) {
                self.anyone(if v6 { Family::V6 } else { Family::V4 })
            } else {
                src
            };
            let to = if self.random.chance(90) { ends.src } else { dst };
            return (packet::unreachable(from, to, &about), from, to);
        }
        let build = match ends.proto {
            proto::TCP => packet::tcp(src, dst, ports, self.random.pick(&FLAGS)),
            proto::UDP => packet::udp(src, dst, ports),
            proto::ICMP | proto::ICMPV6 if src == ends.dst => packet::pong(src, dst, ends.sport),
            proto::ICMP | proto::ICMPV6 => packet::ping(src, dst, ends.sport),
            _ => self.body(src, dst, ports),
        };
        (build, src, dst)
    }

    /// A hook where a packet between these would be seen, mostly.
    fn place(&mut self, build: Build, src: Address, dst: Address) -> Input {
        let is = |pod: &Pod, addr: Address| pod.ip(Family::V4) == addr || pod.ip(Family::V6) == addr;
        let sender = PODS.into_iter().find(|pod| is(pod, src));
        let receiver = PODS.into_iter().find(|pod| is(pod, dst));
        let hook = match (sender, receiver) {
            (Some(_), _) if self.random.chance(75) => Hook::FromContainer,
            (Some(_), _) if self.random.chance(70) => Hook::ToNetdev,
            (None, Some(_)) => self.random.pick(&[
                Hook::FromNetdev,
                Hook::FromNetdev,
                Hook::FromOverlay,
                Hook::FromHost,
                Hook::FromHost,
                Hook::FromHost,
            ]),
            (None, None) if self.random.chance(80) => self.random.pick(&[
                Hook::FromNetdev,
                Hook::FromNetdev,
                Hook::FromNetdev,
                Hook::ToNetdev,
                Hook::FromOverlay,
            ]),
            _ => self.random.pick(&Hook::ALL),
        };
        let pod = match hook {
            Hook::FromContainer => sender,
            _ => receiver,
        };
        let lxc = pod.map_or_else(|| self.random.pick(&self.links.lxc), |pod| self.links.lxc[pod.link]);
        let ifindex = match hook {
            Hook::FromContainer => lxc,
            Hook::FromHost | Hook::ToHost => self.links.host,
            Hook::FromNetdev | Hook::ToNetdev if self.random.chance(25) => self.links.side,
            Hook::FromNetdev | Hook::ToNetdev => self.links.eth0,
            Hook::FromOverlay | Hook::ToOverlay => self.links.overlay,
        };
        let mut build = match sender {
            Some(pod) if hook == Hook::FromContainer => build.from(pod),
            _ => build,
        };
        if self.random.chance(2) {
            build = build.macs(Mac([2, 9, 9, 9, 9, 9]), Mac([2, 9, 9, 9, 9, 8]));
        }
        if self.random.chance(3) {
            build = build.ttl(self.random.pick(&[0, 1, 2]));
        }
        if self.random.chance(4) {
            build = build.extra(self.random.pick(&[0, 43, 60, 51]), 1 + self.random.below(3));
        }
        if self.random.chance(4) {
            let family = self.random.pick(&[Family::V4, Family::V6]);
            let (addr, port) = self.random.pick(&frontends(family).collect::<Vec<_>>());
            build = build.naming(addr, port);
        }
        if self.random.chance(2) {
            build = build.longer(self.random.pick(&[1, 100, 1400, 1500]));
        }
        let mark = match self.random.below(20) {
            0 => mark::HOST,
            1 => mark::SNAT_DONE,
            2 => mark::IDENTITY | REMOTE_POD_ID << 16,
            3 => mark::IDENTITY | 1 | 7 << 16,
            4 => mark::OVERLAY,
            5 => mark::IDENTITY | 0xc000 | 1 << 12 | 3 << 16,
            _ => 0,
        };
        let wire = (!self.random.chance(3)).then(|| {
            self.random.pick(&[
                0,
                1,
                2,
                6,
                9,
                10,
                REMOTE_POD_ID,
                REMOTE_POD_ID + 1,
                OUTSIDE_ID & 0xff_ffff,
                0xff_ffff,
            ])
        });
        Input { hook, ifindex, mark, wire, data: build.bytes() }
    }

    /// Now and then something that no stack sends.
    fn spoil(&mut self, data: &mut Vec<u8>) {
        match self.random.below(100) {
            0..=3 => {
                for _ in 0..=self.random.below(3) {
                    let at = 12 + self.random.below(data.len().min(100) - 12);
                    data[at] ^= 1 << self.random.below(8);
                }
            }
            4 | 5 => {
                let len = 14 + self.random.below(data.len() - 13);
                data.truncate(len);
            }
            6 => {
                let more = 1 + self.random.below(20);
                data.resize(data.len() + more, 0x5a);
            }
            7 => {
                let at = 14 + self.random.below((data.len() - 14).min(60));
                data[at] = self.random.number() as u8;
            }
            8 if data[12..14] == [8, 0] && data.len() > 22 => {
                data[20] = self.random.pick(&[0x20, 0x40, 0x80, 0, 0x1f]);
                data[21] = self.random.pick(&[0, 0, 1]);
            }
            _ => {}
        }
    }
}
