//! Rows of policy, and the digests by which numbers are adopted after a start with an empty memory.

use super::{Cookie, IdentityId, Kind, PolicyId, Protocol, Resource, RowId, Source, SourceSet};
use std::fmt;

/// 128 bits that stand for labels, or for a policy's subject and rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What an identity number stands for, for a start with an empty memory.
#[derive(Clone, Debug)]
pub struct IdentityDigest;

impl Resource for IdentityDigest {
    const KIND: Kind = Kind::IdentityDigest;
    type Key = IdentityId;
    type Row = Digest;
    fn sources(_: &IdentityId, _: &Digest) -> SourceSet {
        SourceSet::of(&[Source::Endpoints, Source::Policies, Source::Identities])
    }
}

/// What a policy number stands for, for a start with an empty memory.
#[derive(Clone, Debug)]
pub struct PolicyDigest;

impl Resource for PolicyDigest {
    const KIND: Kind = Kind::PolicyDigest;
    const NEEDS: &'static [Kind] = &[Kind::Policy];
    type Key = PolicyId;
    type Row = Digest;
    /// It says "complete": every row of the policy stands.
    fn requires(key: &PolicyId, _: &Digest) -> Vec<RowId> {
        vec![Policy::rows_of(*key)]
    }
    fn settled_by(_: &PolicyId, _: &Digest) -> SourceSet {
        POLICY_SOURCES
    }
    fn sources(_: &PolicyId, _: &Digest) -> SourceSet {
        POLICY_SOURCES
    }
}

pub(super) const POLICY_SOURCES: SourceSet = SourceSet::of(&[
    Source::Endpoints,
    Source::Policies,
    Source::Identities,
    Source::Nodes,
    Source::Services,
]);

/// One row of a policy.
#[derive(Clone, Debug)]
pub struct Policy;

/// Direction of traffic as an endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a policy row matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The policy.
    pub policy: PolicyId,
    /// Direction.
    pub direction: Direction,
    /// The peer; 0: any.
    pub identity: IdentityId,
    /// Protocol; 0: the L3 row.
    pub proto: Protocol,
    /// First port of the prefix (ICMP: the type).
    pub port: u16,
    /// Length of the port prefix, 0 to 16.
    pub port_len: u8,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        write!(f, "{} {way} ", self.policy)?;
        if self.identity.0 == 0 {
            f.write_str("any")?
        } else {
            write!(f, "{}", self.identity)?
        }
        if self.proto.0 != 0 {
            write!(f, " {}", self.proto)?;
            if self.port_len > 0 {
                write!(f, " {}", self.port)?;
            }
            if self.port_len > 0 && self.port_len < 16 {
                write!(f, "/{}", self.port_len)?;
            }
        }
        Ok(())
    }
}

/// What a policy row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// `cilium_abi::policy::{NONE, ALLOW, DENY}`.
    pub verdict: u8,
    /// Proxy port to redirect to; 0: none.
    pub listener: u16,
    /// L3 row only: bit n = a row with port prefix length n exists below.
    pub lengths: u32,
    /// Higher wins.
    pub precedence: u32,
    /// The rule that is the reason.
    pub cookie: Cookie,
}

impl fmt::Display for PolicyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            cilium_abi::policy::ALLOW => "allow",
            cilium_abi::policy::DENY => "deny",
            _ => "ports",
        })?;
        if self.lengths != 0 {
            write!(f, " lengths {:#x}", self.lengths)?;
        }
        write!(f, " rule {}", self.cookie)
    }
}

impl Policy {
    /// The group of all rows of a policy.
    pub fn rows_of(policy: PolicyId) -> RowId {
        RowId { kind: Kind::Policy, key: format!("{policy} rows") }
    }

    /// The group of all rows about a peer, in all policies.
    pub fn rows_about(identity: IdentityId) -> RowId {
        RowId { kind: Kind::Policy, key: format!("rows about {identity}") }
    }
}

impl Resource for Policy {
    const KIND: Kind = Kind::Policy;
    type Key = PolicyKey;
    type Row = PolicyRow;
    /// Its ladder (policy, direction, peer), its policy, its peer.
    fn groups(key: &PolicyKey) -> Vec<RowId> {
        let l3 = PolicyKey { proto: Protocol(0), port: 0, port_len: 0, ..*key };
        vec![
            RowId { kind: Kind::Policy, key: format!("{l3} ladder") },
            Self::rows_of(key.policy),
            Self::rows_about(key.identity),
        ]
    }
    fn sources(_: &PolicyKey, _: &PolicyRow) -> SourceSet {
        POLICY_SOURCES
    }
}
