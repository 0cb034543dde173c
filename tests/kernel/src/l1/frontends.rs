//! Frontends of the test node beyond a ClusterIP: one of each kind, for TCP and UDP of both families.
//! Plain rows, as the rest of [`super::world`]. Never: a decision about a packet.

use super::random::Random;
use super::world::{A, B, BACKEND_PORT, Family, Mode, SERVICE_PORT, World, at, constants, ip};
use cilium_abi::{
    Address, Be16,
    lb::{
        BackendRow, FRONTEND_DSR, FRONTEND_EXTERNAL, FRONTEND_EXTERNAL_IP, FRONTEND_HOST_PORT,
        FRONTEND_LOAD_BALANCER, FRONTEND_NODE_PORT, FRONTEND_SOURCE_DENY, FRONTEND_SOURCE_RANGES,
        FRONTEND_TWO_SCOPES, FrontendKey, FrontendRow, RevNatRow, SCOPE_EXTERNAL, SCOPE_INTERNAL, SlotKey,
        SourceRangeKey, maglev_flags,
    },
    node::NODE_DSR_IPIP,
};

/// Places of a Maglev table: a prime, and small.
pub const MAGLEV_SIZE: u32 = 13;
/// Places of all tables of the test node.
pub const MAGLEV_ROWS: u32 = MAGLEV_SIZE * 4;
/// What a process of this node listens on.
pub const HOST_BACKEND_PORT: u16 = 10_250;
/// A NodePort with the same backends as the ClusterIP.
pub const NODE_PORT: u16 = 30_080;
/// A NodePort that gives clients outside only what is on this node, and pods everything.
pub const LOCAL_PORT: u16 = 30_081;
/// A NodePort of a process of this node.
pub const PROCESS_PORT: u16 = 30_082;
/// A NodePort of backends that are all elsewhere.
pub const FAR_PORT: u16 = 30_083;
/// A hostPort of pod A.
pub const HOST_PORT: u16 = 8081;
/// At [`at::balancer`]: only [`at::outside`] and its prefix may use it.
pub const LISTED_PORT: u16 = SERVICE_PORT;
/// At [`at::balancer`]: everyone but those may.
pub const REFUSED_PORT: u16 = 443;
/// At [`at::external`]: chosen by a Maglev table.
pub const MAGLEV_PORT: u16 = SERVICE_PORT;
/// At [`at::external`]: clients keep their backend.
pub const AFFINITY_PORT: u16 = 443;
/// Seconds for which they do.
pub const AFFINITY: u32 = 100;

/// Which backends a frontend has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Those of the ClusterIP.
    All,
    /// Pod B.
    Here,
    /// Pod A.
    PodA,
    /// A process of this node.
    Process,
    /// Another node's pod, and addresses outside: routed, on the second wire, not resolved, not reachable.
    Far,
}

struct Role {
    addr: fn(Family) -> Address,
    port: u16,
    flags: u32,
    behind: Behind,
    affinity: u32,
}

const ROLES: [Role; 9] = {
    const fn role(addr: fn(Family) -> Address, port: u16, flags: u32, behind: Behind) -> Role {
        Role { addr, port, flags: flags | FRONTEND_EXTERNAL, behind, affinity: 0 }
    }
    [
        role(at::node, NODE_PORT, FRONTEND_NODE_PORT, Behind::All),
        role(at::node, LOCAL_PORT, FRONTEND_NODE_PORT | FRONTEND_TWO_SCOPES, Behind::Here),
        role(at::node, PROCESS_PORT, FRONTEND_NODE_PORT, Behind::Process),
        role(at::node, FAR_PORT, FRONTEND_NODE_PORT, Behind::Far),
        role(at::node, HOST_PORT, FRONTEND_HOST_PORT, Behind::PodA),
        role(at::balancer, LISTED_PORT, FRONTEND_LOAD_BALANCER | FRONTEND_SOURCE_RANGES, Behind::All),
        role(
            at::balancer,
            REFUSED_PORT,
            FRONTEND_LOAD_BALANCER | FRONTEND_SOURCE_RANGES | FRONTEND_SOURCE_DENY,
            Behind::All,
        ),
        role(at::external, MAGLEV_PORT, FRONTEND_EXTERNAL_IP | maglev_flags(MAGLEV_SIZE), Behind::All),
        Role { affinity: AFFINITY, ..role(at::external, AFFINITY_PORT, FRONTEND_EXTERNAL_IP, Behind::Far) },
    ]
};

/// Address and port of every frontend of a family.
pub fn places(family: Family) -> impl Iterator<Item = (Address, u16)> {
    let cluster = [(at::service(family), SERVICE_PORT), (at::empty_service(family), SERVICE_PORT)];
    ROLES.iter().map(move |role| ((role.addr)(family), role.port)).chain(cluster)
}

/// The range of addresses that [`LISTED_PORT`] and [`REFUSED_PORT`] are about, of one frontend.
pub fn range(family: Family, rev_nat: u16) -> SourceRangeKey {
    let (addr, len) = match family {
        Family::V4 => ("198.51.100.0", 120),
        Family::V6 => ("2001:db8:51::", 48),
    };
    SourceRangeKey { prefix_len: 32 + len, rev_nat, reserved: 0, addr: ip(addr) }
}

/// First place of the Maglev table of the `number`th family and protocol.
pub(super) const fn table(number: u32) -> u32 {
    (number - 1) * MAGLEV_SIZE
}

/// Adds the frontends of a family and protocol. `number` counts these from 1, and `list` holds the
/// ClusterIP's backends: `count` of them from the number `first`.
pub(super) fn add(world: &mut World, family: Family, proto: u8, number: u32, all: (u32, u16, u32)) {
    let (list, count, first) = all;
    let table = table(number);
    for place in 0..MAGLEV_SIZE {
        world.maglev.insert(table + place, first + place % u32::from(count));
    }
    for (index, role) in ROLES.iter().enumerate() {
        let rev_nat = 200 + (index as u32 * 4 + number - 1) as u16;
        let everything =
            FrontendRow { list, count, rev_nat, flags: role.flags, maglev: table, affinity: role.affinity };
        let at_place =
            |scope| FrontendKey { addr: (role.addr)(family), port: Be16::new(role.port), proto, scope };
        let row = match backends(role.behind, family) {
            None => everything,
            Some(ends) => {
                let list = 1000 + index as u32 * 10 + number;
                for (slot, (addr, port)) in ends.iter().enumerate() {
                    let backend = list * 10 + slot as u32;
                    world.slots.insert(SlotKey { list, slot: slot as u32 }, backend);
                    let row = BackendRow { addr: *addr, port: Be16::new(*port), proto, flags: 0 };
                    world.backends.insert(backend, row);
                }
                FrontendRow { list, count: ends.len() as u16, ..everything }
            }
        };
        world.frontends.insert(at_place(SCOPE_EXTERNAL), row);
        if role.flags & FRONTEND_TWO_SCOPES != 0 {
            world.frontends.insert(at_place(SCOPE_INTERNAL), everything);
        }
        let back = RevNatRow { addr: (role.addr)(family), port: Be16::new(role.port), reserved: 0 };
        world.revnats.insert(u32::from(rev_nat), back);
        if role.flags & FRONTEND_SOURCE_RANGES != 0 {
            world.source_ranges.insert(range(family, rev_nat), 1);
        }
    }
}

/// `None`: the ClusterIP's.
fn backends(behind: Behind, family: Family) -> Option<Vec<(Address, u16)>> {
    Some(match behind {
        Behind::All => return None,
        Behind::Here => vec![(B.ip(family), BACKEND_PORT)],
        Behind::PodA => vec![(A.ip(family), BACKEND_PORT)],
        Behind::Process => vec![(at::node(family), HOST_BACKEND_PORT)],
        Behind::Far => [at::remote_pod, at::outside, at::side, at::stranger, at::blackhole]
            .map(|addr| (addr(family), BACKEND_PORT))
            .to_vec(),
    })
}

/// Backends beyond the cluster, at ports of frontends, where they are to answer clients themselves.
pub fn backends_outside(random: &mut Random, world: &mut World, mode: Mode) {
    if constants(mode).flags & NODE_DSR_IPIP == 0 {
        return;
    }
    let ports: Vec<_> = world.frontends.keys().map(|key| key.port).collect();
    for backend in world.backends.values_mut() {
        if random.chance(40) {
            let family = if backend.addr.is_v4() { Family::V4 } else { Family::V6 };
            let somewhere: [fn(Family) -> Address; 6] =
                [at::outside, at::world, at::stranger, at::side, at::gateway, at::blackhole];
            backend.addr = random.pick(&somewhere)(family);
            backend.port = random.pick(&ports);
        }
    }
    for row in world.frontends.values_mut() {
        row.flags |= FRONTEND_DSR;
        // What ends on its way, or goes within another header, does not say which of several was chosen.
        row.count = row.count.min(1);
    }
}
