//! Pods' traffic through the host's stack: what goes there, what comes back, and as whose.

use cilium_abi::{drop, identity, node::mark};
use cilium_tests_kernel::l1::{
    packet::{ACK, Build, RST, SYN, tcp, udp},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, Family, Mode, OUTSIDE_ID, REMOTE_POD_ID, Rule, at},
};

const OUTSIDE_MARK: u32 = mark::IDENTITY | 0x1000 | (OUTSIDE_ID & 0xffff) << 16;

fn pods_mark(number: u32) -> u32 {
    mark::IDENTITY | number << 16
}

fn both_ways(family: Family) -> Vec<Fixture> {
    let (a, b, outside, node) = (A.ip(family), B.ip(family), at::outside(family), at::node(family));
    let named = |text: &str| fixture(format!("{family:?} {text}")).mode(Mode::Stack);
    let syn = |src, dst| tcp(src, dst, (4000, 80), SYN);
    let answer = |src, dst| tcp(src, dst, (80, 4000), SYN | ACK);
    vec![
        named("a pod to the outside and back")
            .passes(Site::From(A), syn(a, outside).from(A))
            .check(Check::Mark(pods_mark(A.identity)))
            .check(Check::Ttl(64))
            .check(Check::Entry(true))
            .passes(Site::FromNet, answer(outside, a))
            .check(Check::Mark(OUTSIDE_MARK))
            .check(Check::Untouched)
            .sends(Site::Forwarded, answer(outside, a))
            .marked(OUTSIDE_MARK),
        named("to a pod of this node past the stack")
            .sends(Site::From(A), syn(a, b).from(A))
            .check(Check::Ttl(63)),
        named("a pod behind its node's NodePort answers where it was asked from")
            .sends(Site::Forwarded, syn(a, b))
            .marked(pods_mark(A.identity) | 0x8000)
            .passes(Site::From(B), answer(b, a).from(B))
            .check(Check::Mark(pods_mark(B.identity))),
        named("a new connection by the short way answers by it")
            .sends(Site::Forwarded, syn(a, b))
            .marked(pods_mark(A.identity))
            .sends(Site::FromHost, tcp(a, b, (4000, 80), RST))
            .sends(Site::From(A), syn(a, b).from(A))
            .sends(Site::From(B), answer(b, a).from(B)),
        named("what is for the node carries its sender, too")
            .passes(Site::FromNet, syn(outside, node))
            .check(Check::Mark(OUTSIDE_MARK)),
        named("nobody outside has a pod's address")
            .passes(Site::FromNet, syn(a, node))
            .check(Check::Mark(match family {
                Family::V4 => mark::IDENTITY | identity::WORLD_IPV4 << 16,
                Family::V6 => mark::IDENTITY | identity::WORLD_IPV6 << 16,
            }))
            .drops(Site::FromNet, syn(b, a), drop::INVALID_SOURCE_IP),
    ]
}

fn policy(family: Family) -> Vec<Fixture> {
    let (a, node) = (A.ip(family), at::node(family));
    let world_id = if family == Family::V4 { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 };
    let syn = || tcp(node, a, (4000, 80), SYN);
    let closed = |text: &str| {
        fixture(format!("{family:?} masqueraded {text}")).mode(Mode::Stack).world(|world| {
            world.close(A, false);
            world.rule(Rule::any(A, false).peer(OUTSIDE_ID));
        })
    };
    vec![
        closed("by nobody: the node itself").sends(Site::FromHost, syn()),
        closed("for whom nobody knows: the world")
            .drops(Site::Forwarded, syn(), drop::POLICY_DENIED)
            .check(Check::Identities(world_id, A.identity)),
        closed("for whom is allowed").sends(Site::Forwarded, syn()).marked(OUTSIDE_MARK | 0x4000),
        closed("for whom is not")
            .drops(Site::Forwarded, syn(), drop::POLICY_DENIED)
            .marked(pods_mark(B.identity) | 0x4000)
            .check(Check::Identities(B.identity, A.identity)),
    ]
}

fn overlay(family: Family) -> Vec<Fixture> {
    let (a, remote) = (A.ip(family), at::remote_pod(family));
    let named = |text: &str| fixture(format!("{family:?} overlay: {text}")).mode(Mode::StackTunnel);
    let asked = |src| tcp(src, remote, (4000, 80), SYN);
    let answer = |dst| tcp(remote, dst, (80, 4000), SYN | ACK);
    vec![
        named("asked by a pod itself")
            .sends(Site::From(A), asked(a).from(A))
            .sends(Site::FromTunnel(REMOTE_POD_ID), answer(a)),
        named("asked by way of the stack")
            .sends(Site::Forwarded, asked(a))
            .marked(pods_mark(A.identity))
            .check(Check::Entry(true))
            .passes(Site::FromTunnel(REMOTE_POD_ID), answer(a))
            .check(Check::Mark(pods_mark(REMOTE_POD_ID))),
        named("asked by the node, which borrows the router's address")
            .sends(Site::FromHost, asked(at::node(family)))
            .check(Check::Source(at::router(family), 4000))
            .check(Check::Translations(2))
            .passes(Site::FromTunnel(REMOTE_POD_ID), answer(at::router(family)))
            .check(Check::Destination(at::node(family), 4000)),
        named("asked by the router's address, which holds its port")
            .sends(Site::FromHost, asked(at::router(family)))
            .check(Check::Source(at::router(family), 4000))
            .check(Check::Translations(1))
            .sends(Site::FromHost, asked(at::node(family)))
            .check(Check::SourcePort(40_000, 40_007)),
        named("a packet that is cut behind its ports is the stack's as it is if they are the overlay's")
            .passes(Site::FromNet, cut(udp(at::outside(family), at::node(family), (4000, 8472))))
            .check(Check::Untouched)
            .check(Check::Mark(0))
            .passes(Site::FromNet, cut(udp(at::outside(family), at::node(family), (4000, 8473))))
            .check(Check::Mark(OUTSIDE_MARK)),
    ]
}

/// A datagram that ends in the middle of its header.
fn cut(build: Build) -> Vec<u8> {
    let mut frame = build.bytes();
    let is_v6 = frame[12] == 0x86;
    frame.truncate(if is_v6 { 54 } else { 34 } + 5);
    frame
}

#[test]
fn l1_pods_by_the_hosts_stack() {
    for family in [Family::V4, Family::V6] {
        super::run(both_ways(family));
        super::run(policy(family));
        super::run(overlay(family));
    }
}
