//! What runs in the driver of a device.

#![forbid(unsafe_code)]

use super::message::ask_link;
use super::socket::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkXdp};

/// The number of the XDP program of an interface, if the kernel names one.
pub(crate) fn program_of_driver(ifindex: u32) -> Option<u32> {
    let mut question = ask_link(Vec::new());
    question.header.index = ifindex;
    let answer = Netlink::open().ok()?.read(RouteNetlinkMessage::GetLink(question)).ok()??;
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let all = message.attributes.into_iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(said) => Some(said),
        _ => None,
    });
    all.flatten().find_map(|said| match said {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(id)
        }
        _ => None,
    })
}
