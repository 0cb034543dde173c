//! Rules of policy, as the model reads them and [`super::world`] makes rows of them.

use super::world::Pod;
use cilium_abi::{Be16, policy::port_prefix};

/// One policy rule as an operator means it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The policy it belongs to.
    pub policy: u32,
    /// For packets the subject sends, rather than receives.
    pub egress: bool,
    /// The peer; 0: any.
    pub peer: u32,
    /// Protocol; 0: any, and then any port.
    pub proto: u8,
    /// First port of the range.
    pub port: u16,
    /// Length of the port prefix, 0: any port.
    pub len: u8,
    /// Allow or deny.
    pub allow: bool,
    /// Higher wins.
    pub precedence: u32,
    /// Its number.
    pub cookie: u32,
}

impl Rule {
    /// Everything allowed to or from a pod.
    pub fn any(pod: Pod, egress: bool) -> Self {
        Self {
            policy: u32::from(pod.id),
            egress,
            peer: 0,
            proto: 0,
            port: 0,
            len: 0,
            allow: true,
            precedence: 0,
            cookie: 0,
        }
    }
    /// For one peer only.
    pub fn peer(self, peer: u32) -> Self {
        Self { peer, ..self }
    }
    /// For one port only.
    pub fn port(self, proto: u8, port: u16) -> Self {
        Self { proto, port, len: 16, ..self }
    }
    /// For a range of ports.
    pub fn ports(self, proto: u8, port: u16, len: u8) -> Self {
        Self { proto, port, len, ..self }
    }
    /// Denies instead.
    pub fn deny(self) -> Self {
        Self { allow: false, ..self }
    }
    /// With a precedence.
    pub fn precedence(self, precedence: u32) -> Self {
        Self { precedence, ..self }
    }
    /// With a number.
    pub fn cookie(self, cookie: u32) -> Self {
        Self { cookie, ..self }
    }
    /// First port after masking.
    pub fn first(&self) -> u16 {
        port_prefix(Be16::new(self.port), u32::from(self.len)).host()
    }
    /// Whether both decide about the same packets.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let place = |r: &Self| (r.policy, r.egress, r.peer, r.proto, r.first(), r.len);
        place(self) == place(other)
    }
}
