//! Fragments: which belong together, and which may not go on. That they go the way of whole packets is what every
//! other fixture shows, since each runs in parts, too.

use cilium_abi::{
    Be16, drop,
    fragment::{FRAGMENT_LIFETIME, FragmentKey, FragmentRow, PLACE_SENT},
    proto,
};
use cilium_tests_kernel::l1::{
    compare::coarse_seconds,
    packet::{Build, SYN, icmp, join, ping, pong, sctp, split, tcp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    world::{A, B, C, Family, Mode, Rule, X, at},
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];
const ID: u32 = 0x1234;

fn datagram(family: Family) -> Build {
    udp(A.ip(family), B.ip(family), (4000, 80)).longer(81).from(A)
}

/// A UDP datagram of 96 bytes in three.
fn three(family: Family) -> [Vec<u8>; 3] {
    parts(&datagram(family), ID, &[32, 64])
}

fn parts<const N: usize>(build: &Build, id: u32, ends: &[usize]) -> [Vec<u8>; N] {
    split(&build.bytes(), id, ends).try_into().expect("as many fragments as asked for")
}

fn belonging() -> Vec<Fixture> {
    let unknown = drop::FRAGMENT_NOT_FOUND;
    let mut table = Vec::new();
    for family in BOTH {
        let name = |text: &str| format!("{family:?} {text}");
        let (a, b, outside) = (A.ip(family), B.ip(family), at::outside(family));
        let [first, middle, last] = three(family);
        let [_, other, _] = parts::<3>(&datagram(family), ID + 1, &[32, 64]);
        let [_, of_pong] = parts::<2>(&pong(a, b, 7).longer(80).from(A), ID, &[32]);
        let [_, back] = parts::<2>(&udp(b, a, (4000, 80)).longer(80).from(B), ID, &[32]);
        table.extend([
            fixture(name("in order"))
                .sends(Site::From(A), first.clone())
                .check(Check::Entry(true))
                .sends(Site::From(A), middle.clone())
                .sends(Site::From(A), last.clone()),
            fixture(name("the first one at the end"))
                .drops(Site::From(A), middle.clone(), unknown)
                .drops(Site::From(A), last.clone(), unknown)
                .sends(Site::From(A), first.clone()),
            fixture(name("the last one before the middle, and again"))
                .sends(Site::From(A), first.clone())
                .sends(Site::From(A), last.clone())
                .sends(Site::From(A), middle.clone())
                .sends(Site::From(A), middle.clone()),
            fixture(name("another identification")).sends(Site::From(A), first.clone()).drops(
                Site::From(A),
                other,
                unknown,
            ),
            fixture(name("another protocol")).sends(Site::From(A), first.clone()).drops(
                Site::From(A),
                of_pong,
                unknown,
            ),
            fixture(name("the other way")).sends(Site::From(A), first.clone()).drops(
                Site::From(B),
                back,
                unknown,
            ),
            fixture(name("another pod's claim counts for nobody else"))
                .drops(Site::From(B), with_mac(&first, B.mac().0), drop::INVALID_SOURCE_IP)
                .drops(Site::From(A), middle.clone(), unknown),
            fixture(name("nor does a closed pod's"))
                .drops(Site::From(X), with_mac(&first, X.mac().0), drop::ENDPOINT_NOT_READY)
                .drops(Site::From(A), middle.clone(), unknown),
            fixture(name("nor does the wire's inside the overlay"))
                .mode(Mode::Tunnel)
                .drops(
                    Site::FromNet,
                    parts::<2>(&udp(at::remote_pod(family), a, (1, 80)).longer(80), ID, &[32])[0].clone(),
                    drop::INVALID_SOURCE_IP,
                )
                .drops(
                    Site::FromTunnel(2001),
                    parts::<2>(&udp(at::remote_pod(family), a, (1, 80)).longer(80), ID, &[32])[1].clone(),
                    unknown,
                ),
            fixture(name("to the node they are the stack's, whatever their order"))
                .passes(
                    Site::FromNet,
                    parts::<2>(&udp(outside, at::node(family), (1, 2)).longer(80), 5, &[32])[1].clone(),
                )
                .check(Check::Untouched),
            fixture(name("masqueraded, without the first one")).drops(
                Site::ToNet,
                parts::<2>(&udp(a, outside, (1, 2)).longer(80), 5, &[32])[1].clone(),
                unknown,
            ),
            kept(family, FRAGMENT_LIFETIME - 2).sends(Site::From(A), middle.clone()),
            kept(family, FRAGMENT_LIFETIME + 2).drops(Site::From(A), middle.clone(), unknown),
        ]);
        for (egress, pod) in [(true, A), (false, B)] {
            let rule = Rule::any(pod, egress).port(proto::UDP, 80).deny();
            table.push(
                fixture(name("a denied port is denied to all"))
                    .world(move |world| {
                        world.close(pod, egress);
                        world.rule(Rule::any(pod, egress));
                        world.rule(rule);
                    })
                    .drops(Site::From(A), first.clone(), drop::POLICY_DENIED_BY_DENYLIST)
                    .drops(Site::From(A), middle.clone(), drop::POLICY_DENIED_BY_DENYLIST)
                    .drops(Site::From(A), last.clone(), drop::POLICY_DENIED_BY_DENYLIST),
            );
        }
    }
    table
}

/// With what the first fragment of [`three`] said so many seconds ago.
fn kept(family: Family, seconds: u32) -> Fixture {
    let row = FragmentRow {
        src_port: Be16::new(4000),
        dst_port: Be16::new(80),
        head: 8,
        proto: proto::UDP,
        detail: 0,
        seen: 0,
    };
    let id = if family == Family::V4 { u32::from((ID as u16).to_be()) } else { ID.to_be() };
    let key = FragmentKey {
        src: A.ip(family),
        dst: B.ip(family),
        id,
        endpoint: A.id,
        proto: proto::UDP,
        place: PLACE_SENT,
    };
    fixture(format!("{family:?} {seconds} seconds after the first")).prepare(move |trial| {
        let row = FragmentRow { seen: coarse_seconds() - seconds, ..row };
        trial.lab.put_fragment(&key, &row);
        trial.model.fragments.insert(key, row);
    })
}

fn with_mac(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// Fragments that would change what was judged, or are cut so that nothing can be.
fn hostile() -> Vec<Fixture> {
    let (short, invalid, cut) = (drop::CT_INVALID_HEADER, drop::INVALID_PACKET, drop::FRAGMENT_UNSUPPORTED);
    let mut table = Vec::new();
    for family in BOTH {
        let name = |text: &str| format!("{family:?} {text}");
        let (a, b) = (A.ip(family), B.ip(family));
        let segment = tcp(a, b, (4000, 80), SYN).longer(80).from(A);
        for size in [8, 16] {
            let [tiny, rest] = parts::<2>(&segment, ID, &[size]);
            let mut padded = tiny.clone();
            padded.resize(tiny.len() + 40, 0xff);
            table.extend([
                fixture(name("a first fragment with part of a TCP header"))
                    .drops(Site::From(A), tiny, short)
                    .check(Check::Entry(false))
                    .drops(Site::From(A), rest, drop::FRAGMENT_NOT_FOUND),
                fixture(name("padding is no header")).drops(Site::From(A), padded, short),
            ]);
            let [first, last] = parts::<2>(&segment, ID, &[24]);
            let [_, over] = parts::<2>(&segment, ID, &[size]);
            table.push(
                fixture(name("a fragment over the TCP header"))
                    .sends(Site::From(A), first)
                    .drops(Site::From(A), over, invalid)
                    .sends(Site::From(A), last),
            );
        }
        let [first, over] = parts::<2>(&datagram(family), ID, &[8]);
        table.push(
            fixture(name("right behind a UDP header")).sends(Site::From(A), first).sends(Site::From(A), over),
        );
        let of_link = icmp(a, b, if family == Family::V4 { 13 } else { 135 }, 0, &[0; 60]).ttl(255).from(A);
        let error = unreachable(a, b, &udp(b, a, (80, 4000)).longer(60).bytes()).from(A);
        for (text, build) in [("a message that is no echo", of_link), ("an ICMP error", error)] {
            let [first, last] = parts::<2>(&build, ID, &[32]);
            table.push(fixture(name(text)).drops(Site::From(A), first, cut).drops(
                Site::From(A),
                last,
                drop::FRAGMENT_NOT_FOUND,
            ));
        }
        table.push(
            fixture(name("SCTP"))
                .sends(Site::From(A), sctp(a, b, (4000, 80)).longer(40).from(A).fragment(0x2000)),
        );
    }
    let v6 = |build: Build| build.from(A);
    let (a, b) = (A.ip(Family::V6), B.ip(Family::V6));
    let behind_options = |offset| v6(tcp(a, b, (4000, 80), SYN)).fragment(offset).extra(60, 1);
    table.extend([
        fixture("an atomic fragment is a packet")
            .sends(Site::From(A), v6(udp(a, b, (4000, 80))).fragment(0))
            .check(Check::Destination(b, 80))
            .check(Check::Entry(true)),
        fixture("an atomic echo, too").sends(Site::From(A), v6(ping(a, b, 7)).fragment(0)),
        fixture("an atomic fragment to a service").sends(
            Site::From(C),
            tcp(C.ip(Family::V6), at::service(Family::V6), (4000, 80), SYN).from(C).fragment(0),
        ),
        fixture("options of the datagram stand before its header")
            .sends(Site::From(A), behind_options(0x2000))
            .drops(Site::From(A), behind_options(2), invalid)
            .drops(Site::From(A), behind_options(3), invalid)
            .sends(Site::From(A), behind_options(4)),
        fixture("options of each fragment stand before it")
            .sends(Site::From(A), v6(udp(a, b, (4000, 80))).extra(0, 1).fragment(0x2000))
            .sends(Site::From(A), v6(udp(a, b, (4000, 80))).extra(0, 1).fragment(1)),
        fixture("a fragment of a fragment").drops(
            Site::From(A),
            v6(udp(a, b, (4000, 80))).fragment(0x2000).fragment(0x2000),
            drop::INVALID_EXTENSION_HEADER,
        ),
    ]);
    table
}

#[test]
fn l1_fragments_belong_to_their_datagram() {
    super::run(belonging());
}

#[test]
fn l1_fragments_change_nothing_that_was_judged() {
    super::run(hostile());
}

/// The tests' own hands: what they cut and put together again is what it was.
#[test]
fn l1_parts_of_a_frame_make_up_the_frame() {
    for family in BOTH {
        let mut frame = datagram(family).bytes();
        let mut cut = split(&frame, ID, &[8, 32]);
        assert_eq!(join(&cut[..2]), None, "something is missing");
        cut.reverse();
        if family == Family::V4 {
            // Which `split` gave an identification.
            frame[18..20].copy_from_slice(&(ID as u16).to_be_bytes());
        }
        assert_eq!(join(&cut), Some(frame), "{family:?}");
    }
}
