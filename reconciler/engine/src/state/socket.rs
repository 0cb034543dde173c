//! Programs of sockets: what runs where processes connect, send and bind.

use super::{Kind, ProgramSet, Resource, RowId, SetId, Source, SourceSet};
use std::fmt;
use std::path::PathBuf;

/// A program of a set is attached to the cgroup whose processes' sockets meet Services.
#[derive(Clone, Debug)]
pub struct SocketProgram;

/// Which of them. In the order of writes: answers are attached before what they answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketHook {
    /// `getpeername` of IPv4 sockets.
    Getpeername4,
    /// `getpeername` of IPv6 sockets.
    Getpeername6,
    /// `recvmsg` of IPv4 UDP sockets.
    Recvmsg4,
    /// `recvmsg` of IPv6 UDP sockets.
    Recvmsg6,
    /// After `bind` of IPv4 sockets.
    PostBind4,
    /// After `bind` of IPv6 sockets.
    PostBind6,
    /// `connect` of IPv4 sockets.
    Connect4,
    /// `connect` of IPv6 sockets.
    Connect6,
    /// `sendmsg` of IPv4 UDP sockets.
    Sendmsg4,
    /// `sendmsg` of IPv6 UDP sockets.
    Sendmsg6,
}

impl SocketHook {
    /// All, in the order of writes.
    pub const ALL: [Self; 10] = [
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::PostBind4,
        Self::PostBind6,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
    ];

    /// Whether it keeps processes from binding what belongs to a frontend.
    pub const fn is_after_bind(self) -> bool {
        matches!(self, Self::PostBind4 | Self::PostBind6)
    }

    /// The program that runs there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Getpeername4 => "cil_sock4_getpeername",
            Self::Getpeername6 => "cil_sock6_getpeername",
            Self::Recvmsg4 => "cil_sock4_recvmsg",
            Self::Recvmsg6 => "cil_sock6_recvmsg",
            Self::PostBind4 => "cil_sock4_post_bind",
            Self::PostBind6 => "cil_sock6_post_bind",
            Self::Connect4 => "cil_sock4_connect",
            Self::Connect6 => "cil_sock6_connect",
            Self::Sendmsg4 => "cil_sock4_sendmsg",
            Self::Sendmsg6 => "cil_sock6_sendmsg",
        }
    }
}

impl fmt::Display for SocketHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.program())
    }
}

/// Where a program of sockets is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketRow {
    /// Directory of the cgroup. When read: empty if the node has none.
    pub cgroup: PathBuf,
    /// The set it belongs to. When read: empty if the program is of no known set, or not attached as it
    /// should be (twice, by a link that is not pinned, to another cgroup).
    pub set: SetId,
}

impl fmt::Display for SocketRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of set {:.12} at {}", self.set, self.cgroup.display())
    }
}

impl Resource for SocketProgram {
    const KIND: Kind = Kind::SocketProgram;
    const NEEDS: &'static [Kind] = &[Kind::ProgramSet];
    type Key = SocketHook;
    type Row = SocketRow;
    fn requires(_: &SocketHook, row: &SocketRow) -> Vec<RowId> {
        vec![ProgramSet::id(&row.set)]
    }
    fn settled_by(_: &SocketHook, _: &SocketRow) -> SourceSet {
        SourceSet::of(&[Source::Nodes])
    }
    fn sources(_: &SocketHook, _: &SocketRow) -> SourceSet {
        SourceSet::of(&[Source::Config, Source::Nodes])
    }
}
