//! The entry points: one function per hook, under the names users of Cilium know.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, SockContext, TcContext, XdpContext},
};
use cilium_programs::{
    accelerate, entry,
    packet::{Skb, Xdp},
    parse::{V4, V6},
    sock::{self, Call, Socket, Verb},
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
    /// `cilium_vxlan` or `cilium_geneve`, ingress.
    cil_from_overlay => from_overlay;
    /// `cilium_vxlan` or `cilium_geneve`, egress.
    cil_to_overlay => to_overlay;
}

/// Devices, before the stack sees a frame.
#[xdp]
pub fn cil_xdp_entry(ctx: XdpContext) -> u32 {
    accelerate::receive(Xdp(ctx.ctx))
}

macro_rules! socket_calls {
    ($($(#[$doc:meta])* $name:ident at $hook:ident => |$call:ident| $body:expr;)*) => {
        $($(#[$doc])* #[cgroup_sock_addr($hook)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            let $call = Call(ctx.sock_addr);
            $body
        })*
    };
}

socket_calls! {
    /// A cgroup: IPv4 sockets connect.
    cil_sock4_connect at connect4 => |call| sock::forward::<V4>(call, Verb::Connect);
    /// IPv6 sockets connect.
    cil_sock6_connect at connect6 => |call| sock::forward::<V6>(call, Verb::Connect);
    /// Unconnected UDP sockets send to IPv4 addresses.
    cil_sock4_sendmsg at sendmsg4 => |call| sock::forward::<V4>(call, Verb::Send);
    /// Unconnected UDP sockets send to IPv6 addresses.
    cil_sock6_sendmsg at sendmsg6 => |call| sock::forward::<V6>(call, Verb::Send);
    /// IPv4 UDP sockets are told who sent a datagram.
    cil_sock4_recvmsg at recvmsg4 => |call| sock::reverse::<V4>(call);
    /// IPv6 UDP sockets are told who sent a datagram.
    cil_sock6_recvmsg at recvmsg6 => |call| sock::reverse::<V6>(call);
    /// IPv4 sockets are told who they are connected to.
    cil_sock4_getpeername at getpeername4 => |call| sock::reverse::<V4>(call);
    /// IPv6 sockets are told who they are connected to.
    cil_sock6_getpeername at getpeername6 => |call| sock::reverse::<V6>(call);
}

/// IPv4 sockets were bound.
#[cgroup_sock(post_bind4)]
pub fn cil_sock4_post_bind(ctx: SockContext) -> i32 {
    sock::bound::<V4>(Socket(ctx.sock))
}

/// IPv6 sockets were bound.
#[cgroup_sock(post_bind6)]
pub fn cil_sock6_post_bind(ctx: SockContext) -> i32 {
    sock::bound::<V6>(Socket(ctx.sock))
}

/// The kernel grants GPL-only helpers by this section.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
