//! ARP from pods: any address a pod asks for is at the pod's gateway, which is the host side.

use crate::{
    cause,
    deliver::{PASS, address_frame},
    flow::{Flow, Step},
    packet::{Skb, at},
    parse::{L2, Link},
};
use aya_ebpf::helpers::generated::bpf_redirect;
use cilium_abi::{Address, endpoint::EndpointConfigRow};

/// An ARP message for Ethernet and IPv4 (RFC 826), in two-byte units as it is aligned.
#[repr(C)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: u16,
    operation: u16,
    sender_mac: [u16; 3],
    sender_ip: [u16; 2],
    target_mac: [u16; 3],
    target_ip: [u16; 2],
}

#[inline(always)]
fn word(halves: [u16; 2]) -> u32 {
    halves[0] as u32 | (halves[1] as u32) << 16
}

/// Answers a pod's request; passes what is not one. Senders other than the pod end here.
#[inline(always)]
pub fn answer(skb: Skb, flow: &mut Flow, config: &EndpointConfigRow) -> Step<i32> {
    flow.forget();
    let arp = at::<Arp, Skb>(skb, L2::HEADER).ok_or(cause!(INVALID_PACKET))?;
    // SAFETY: `at` proved the message lies inside the packet; the row's fields are two-byte aligned.
    let (arp, mac, node_mac) = unsafe {
        (
            &mut *arp,
            *(&raw const config.mac.0).cast::<[u16; 3]>(),
            *(&raw const config.node_mac.0).cast::<[u16; 3]>(),
        )
    };
    if arp.hardware != 1u16.to_be() || arp.protocol != 0x0800u16.to_be() || arp.lengths != 0x0604u16.to_be() {
        return Err(cause!(INVALID_PACKET));
    }
    let (sender, target) = (word(arp.sender_ip), word(arp.target_ip));
    flow.tuple.src = Address::v4(sender);
    flow.tuple.dst = Address::v4(target);
    let asked = arp.sender_mac;
    if ((asked[0] ^ mac[0]) | (asked[1] ^ mac[1]) | (asked[2] ^ mac[2])) != 0 {
        return Err(cause!(INVALID_SOURCE_MAC));
    }
    let own = config.ipv4.v4_word();
    // A probe for a duplicate has no sender yet, and must not be told of one.
    if sender == 0 || target == own {
        return Ok(PASS);
    }
    if sender != own {
        return Err(cause!(INVALID_SOURCE_IP));
    }
    if arp.operation != 1u16.to_be() {
        return Ok(PASS);
    }
    let wanted = arp.target_ip;
    arp.operation = 2u16.to_be();
    arp.target_mac = asked;
    arp.target_ip = arp.sender_ip;
    arp.sender_mac = node_mac;
    arp.sender_ip = wanted;
    address_frame(skb, &config.mac, &config.node_mac)?;
    // SAFETY: a helper with scalar arguments.
    Ok(unsafe { bpf_redirect(flow.ifindex, 0) } as i32)
}
