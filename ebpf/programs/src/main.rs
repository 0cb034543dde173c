//! The entry points: one function per hook, under the names users of Cilium know.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use cilium_programs::{
    entry,
    packet::{Skb, Xdp},
};

macro_rules! classifiers {
    ($($(#[$doc:meta])* $name:ident => $entry:ident;)*) => {
        $($(#[$doc])* #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            entry::$entry(Skb(ctx.skb.skb))
        })*
    };
}

classifiers! {
    /// A pod's interface, ingress: what the pod sends.
    cil_from_container => from_container;
    /// `cilium_host`, egress: what the host's stack sends to pods.
    cil_from_host => from_host;
    /// `cilium_host` and `cilium_net`, ingress.
    cil_to_host => to_host;
    /// Devices, ingress.
    cil_from_netdev => from_netdev;
    /// Devices, egress.
    cil_to_netdev => to_netdev;
    /// `cilium_vxlan`, ingress.
    cil_from_overlay => from_overlay;
    /// `cilium_vxlan`, egress.
    cil_to_overlay => to_overlay;
}

/// Devices, before the stack sees a frame.
#[xdp]
pub fn cil_xdp_entry(ctx: XdpContext) -> u32 {
    entry::xdp(Xdp(ctx.ctx))
}

/// The kernel grants GPL-only helpers by this section.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
