//! Which interfaces are ours, told from the interface alone.
//!
//! A name of ours, and an alias that begins with [`LINK_ALIAS_PREFIX`]. The kernel takes no alias in the
//! request that creates a link, so a crash between creation and alias would leave a link that is nobody's:
//! the group number, which it does take, says "ours" until the alias is there.

#![forbid(unsafe_code)]

use super::message::SeenLink;
use cilium_engine::driver::DriverError;
use cilium_engine::state::{
    GENEVE_LINK, HOST_LINK, LINK_ALIAS_PREFIX, LinkName, NET_LINK, POD_LINK_PREFIX, VXLAN_LINK,
};

/// `IFLA_GROUP` of every link created here: "cili" in ASCII.
pub(super) const LINK_GROUP: u32 = 0x6369_6c69;

/// What the pod's end is called until it is in the pod.
const TEMPORARY_PREFIX: &str = "tmp";

/// Whose name a link has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameOf {
    /// One of the node's own links.
    Node,
    /// A pod's link.
    Pod,
    /// None of ours.
    Stranger,
}

/// Whose name it is.
pub(super) fn name_of(name: &LinkName) -> NameOf {
    match name.0.as_str() {
        HOST_LINK | NET_LINK | VXLAN_LINK | GENEVE_LINK => NameOf::Node,
        other if other.starts_with(POD_LINK_PREFIX) => NameOf::Pod,
        _ => NameOf::Stranger,
    }
}

/// Whether the link is ours.
pub(super) fn is_ours(link: &SeenLink) -> bool {
    name_of(&link.name) != NameOf::Stranger
        && (link.alias.starts_with(LINK_ALIAS_PREFIX) || link.group == LINK_GROUP)
}

/// A link under a name of ours that is not ours is never touched.
pub(super) fn must_be_ours(link: &SeenLink) -> Result<(), DriverError> {
    if is_ours(link) {
        return Ok(());
    }
    let kind = if link.kind.is_empty() { "device" } else { &link.kind };
    let error = DriverError::new(format!(
        "interface {} exists and is not ours: a {kind} whose alias does not begin with `{LINK_ALIAS_PREFIX}`",
        link.name
    ));
    Err(error.hint(format!("find out who made it; if nobody needs it: ip link delete {}", link.name)))
}

/// Name of the pod's end of a link until it is moved into the pod.
pub(super) fn temporary_name(link: &LinkName) -> String {
    let rest = link.0.strip_prefix(POD_LINK_PREFIX).unwrap_or(&link.0);
    let mut name = format!("{TEMPORARY_PREFIX}{rest}");
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}
