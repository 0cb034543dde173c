//! Rows of policies.

use super::Mapped;
use crate::bpf::ifname::Names;
use cilium_abi::Be16;
use cilium_abi::maps::{self, MapSpec};
use cilium_abi::policy::{self as abi, EGRESS};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{Cookie, Direction, IdentityId, Policy, PolicyId, PolicyKey, PolicyRow, Protocol};

impl Mapped for Policy {
    const MAP: MapSpec = maps::POLICY;
    const REVISED: bool = true;
    type AbiKey = abi::PolicyKey;
    type AbiRow = abi::PolicyRow;

    fn key_out(key: &PolicyKey, _: &mut Names) -> Option<abi::PolicyKey> {
        let PolicyKey { policy, direction, identity, proto, port, port_len } = *key;
        let direction = match direction {
            Direction::Ingress => 0,
            Direction::Egress => EGRESS,
        };
        Some(abi::PolicyKey {
            policy_id: policy.0,
            identity: identity.0,
            port: Be16::new(port),
            proto: proto.0,
            dir_len: direction | (port_len & !EGRESS),
        })
    }
    fn row_out(_: &PolicyKey, row: &PolicyRow, _: &mut Names) -> Result<abi::PolicyRow, DriverError> {
        let PolicyRow { verdict, listener, lengths, precedence, cookie } = *row;
        Ok(abi::PolicyRow {
            verdict,
            reserved: 0,
            listener: Be16::new(listener),
            lengths,
            precedence,
            cookie: cookie.0,
        })
    }
    fn key_in(key: &abi::PolicyKey, _: &mut Names) -> Option<PolicyKey> {
        let abi::PolicyKey { policy_id, identity, port, proto, dir_len } = *key;
        Some(PolicyKey {
            policy: PolicyId(policy_id),
            direction: if dir_len & EGRESS == 0 { Direction::Ingress } else { Direction::Egress },
            identity: IdentityId(identity),
            proto: Protocol(proto),
            port: port.host(),
            port_len: dir_len & !EGRESS,
        })
    }
    fn row_in(row: &abi::PolicyRow, _: &mut Names) -> PolicyRow {
        let abi::PolicyRow { verdict, reserved: _, listener, lengths, precedence, cookie } = *row;
        PolicyRow { verdict, listener: listener.host(), lengths, precedence, cookie: Cookie(cookie) }
    }
}
