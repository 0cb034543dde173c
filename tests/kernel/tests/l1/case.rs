//! What the fixtures of frontends share: a family and a protocol, a client outside, one frontend.

use cilium_abi::{
    Address, Be16,
    ct::CT_INITIATOR_HIGH,
    lb::{
        AffinityKey, BackendRow, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, FrontendRow, RevNatRow,
        SCOPE_EXTERNAL, SlotKey,
    },
    proto,
};
use cilium_tests_kernel::l1::{
    model::{Ends, Parsed, key},
    packet::{Build, tcp, udp},
    script::{Fixture, fixture},
    world::{A, B, BACKEND_PORT, C, Family, Mode, World, at},
};

pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];
/// The client's port.
pub(crate) const CLIENT: u16 = 4000;
/// The frontend's port.
pub(crate) const PORT: u16 = 30_500;
/// The frontend's number.
pub(crate) const REV_NAT: u16 = 77;
/// The frontend's list.
pub(crate) const LIST: u32 = 770;

/// The number of the backend in a slot of the fixture's list.
pub(crate) const fn number(slot: u32) -> u32 {
    LIST * 10 + slot
}

/// Gives a frontend a list of backends; they exist beside the list, too.
pub(crate) fn serve(world: &mut World, place: FrontendKey, row: FrontendRow, backends: &[(Address, u16)]) {
    for (slot, (addr, port)) in (0..).zip(backends) {
        let number = row.list * 10 + slot;
        world.slots.insert(SlotKey { list: row.list, slot }, number);
        let backend = BackendRow { addr: *addr, port: Be16::new(*port), proto: place.proto, flags: 0 };
        world.backends.insert(number, backend);
    }
    world.frontends.insert(place, FrontendRow { count: backends.len() as u16, ..row });
    let back = RevNatRow { addr: place.addr, port: place.port, reserved: 0 };
    world.revnats.insert(u32::from(row.rev_nat), back);
}

/// A family, a protocol, and a frontend at one of the node's addresses or elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) family: Family,
    pub(crate) is_tcp: bool,
    /// Who asks.
    pub(crate) client: Address,
    /// Whom.
    pub(crate) frontend: Address,
}

impl Case {
    /// Every family and protocol: [`at::outside`] asks the node's address.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        BOTH.into_iter().flat_map(|family| {
            [true, false].map(|is_tcp| Self {
                family,
                is_tcp,
                client: at::outside(family),
                frontend: at::node(family),
            })
        })
    }

    pub(crate) fn name(self, text: &str) -> String {
        format!("{:?} {} {text}", self.family, if self.is_tcp { "TCP" } else { "UDP" })
    }

    pub(crate) const fn proto(self) -> u8 {
        if self.is_tcp { proto::TCP } else { proto::UDP }
    }

    pub(crate) fn packet(self, src: (Address, u16), dst: (Address, u16), flags: u8) -> Build {
        let ports = (src.1, dst.1);
        if self.is_tcp { tcp(src.0, dst.0, ports, flags) } else { udp(src.0, dst.0, ports) }
    }

    /// The client's packet to the frontend.
    pub(crate) fn request(self, flags: u8) -> Build {
        self.packet((self.client, CLIENT), (self.frontend, PORT), flags)
    }

    /// The answer to the packet that came out of an earlier step.
    pub(crate) fn answer_to(self, step: usize, flags: u8) -> impl Fn(&[Parsed]) -> Build + 'static {
        move |outputs| {
            let ends = outputs[step].ends;
            let build = self.packet((ends.dst, ends.dport), (ends.src, ends.sport), flags);
            let is = |pod: &cilium_tests_kernel::l1::world::Pod| pod.ip(self.family) == ends.dst;
            match [A, B, C].into_iter().find(is) {
                Some(pod) => build.from(pod),
                None => build,
            }
        }
    }

    /// The answer to the first step.
    pub(crate) fn answer(self, flags: u8) -> impl Fn(&[Parsed]) -> Build + 'static {
        self.answer_to(0, flags)
    }

    pub(crate) const fn ends(self, src: (Address, u16), dst: (Address, u16)) -> Ends {
        Ends { src: src.0, sport: src.1, dst: dst.0, dport: dst.1, proto: self.proto() }
    }

    /// The client's connection with a backend.
    pub(crate) const fn with(self, backend: Address, port: u16) -> Ends {
        self.ends((self.client, CLIENT), (backend, port))
    }

    /// What the client sent.
    pub(crate) const fn asked(self) -> Ends {
        self.ends((self.client, CLIENT), (self.frontend, PORT))
    }

    pub(crate) const fn place(self, scope: u8) -> FrontendKey {
        FrontendKey { addr: self.frontend, port: Be16::new(PORT), proto: self.proto(), scope }
    }

    /// The client of the frontend.
    pub(crate) const fn keeps(self) -> AffinityKey {
        AffinityKey { client: self.client, rev_nat: REV_NAT, is_cookie: 0 }
    }

    /// A node that serves the frontend, to everyone, with these backends.
    pub(crate) fn serving(self, text: &str, backends: &[(Address, u16)]) -> Fixture {
        let backends = backends.to_vec();
        fixture(self.name(text)).mode(Mode::Balancer).world(move |world| {
            let row = FrontendRow {
                list: LIST,
                rev_nat: REV_NAT,
                flags: FRONTEND_NODE_PORT | FRONTEND_EXTERNAL,
                ..FrontendRow::default()
            };
            serve(world, self.place(SCOPE_EXTERNAL), row, &backends);
        })
    }

    /// The same with one pod of this node.
    pub(crate) fn serving_b(self, text: &str) -> Fixture {
        self.serving(text, &[(B.ip(self.family), BACKEND_PORT)])
    }

    /// The frontend's row changed.
    pub(crate) fn row(self, fixture: Fixture, edit: impl Fn(&mut FrontendRow) + 'static) -> Fixture {
        fixture.world(move |world| {
            edit(world.frontends.get_mut(&self.place(SCOPE_EXTERNAL)).expect("the fixture serves it"));
        })
    }
}

/// The flag of an entry that its first end opened.
pub(crate) fn opened(ends: &Ends) -> u16 {
    if key(ends, 0).1 { CT_INITIATOR_HIGH } else { 0 }
}
