//! Packets that no stack sends: cut at every length, header chains, lies about lengths.
//! None may pass as something else.

use cilium_abi::{drop, proto};
use cilium_tests_kernel::l1::{
    compare::{Trial, hex},
    lab::{Hook, Input, Lab},
    model::Verdict,
    packet::{Build, SYN, ping, solicitation, tcp, udp, unreachable},
    script::{Check, Fixture, Site, fixture},
    sys,
    world::{A, B, Family, Links, Mode, World, at},
};

fn build(family: Family, number: u8) -> Build {
    let (a, b) = (A.ip(family), B.ip(family));
    match number {
        proto::TCP => tcp(a, b, (4000, 80), SYN),
        proto::UDP => udp(a, b, (4000, 80)),
        _ => ping(a, b, 5),
    }
    .from(A)
}

/// Sets bytes of a frame.
fn with(build: Build, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = build.bytes();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn headers() -> Vec<Fixture> {
    let v4 = |number| build(Family::V4, number);
    let v6 = |number| build(Family::V6, number);
    let drops = |name: &str, frame: Vec<u8>, reason| {
        fixture(name).drops(Site::From(A), frame, reason).check(Check::Entry(false))
    };
    let (invalid, unknown) = (drop::INVALID_PACKET, drop::CT_UNKNOWN_PROTOCOL);
    let mut table = vec![
        drops("v4 that says version 6", with(v4(6), 14, &[0x65]), invalid),
        drops("v4 header of 16 bytes", with(v4(6), 14, &[0x44]), invalid),
        drops("v4 total length longer than the frame", with(v4(6), 16, &[0xff, 0xff]), invalid),
        drops("v4 total length shorter than its header", with(v4(6), 16, &[0, 19]), invalid),
        drops("v4 options beyond the frame", with(v4(17), 14, &[0x4f]), invalid),
        fixture("v4 do not fragment is no fragment").sends(Site::From(A), v4(17).fragment(0x4000)),
        drops("v6 that says version 4", with(v6(6), 14, &[0x40]), invalid),
        drops("v6 payload longer than the frame", with(v6(6), 18, &[0xff, 0xff]), invalid),
        drops(
            "v6 with a mapped source",
            with(v6(6), 22, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 11]),
            invalid,
        ),
        drops(
            "v6 with a mapped destination",
            with(v6(6), 38, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 12]),
            invalid,
        ),
        drops("v6 no next header", with(v6(17), 20, &[59]), unknown),
        drops("v6 ESP", with(v6(17), 20, &[50]), unknown),
        drops("v6 with ICMP of v4", with(v6(17), 20, &[1]), unknown),
        drops("v4 with ICMP of v6", with(v4(17), 23, &[58]), unknown),
        drops("v4 GRE", with(v4(17), 23, &[47]), unknown),
        drops("v4 protocol 0", with(v4(17), 23, &[0]), unknown),
        drops("v4 IGMP", with(v4(17), 23, &[2]), unknown),
        drops("TCP header of 16 bytes", with(v4(6), 46, &[0x40]), drop::CT_INVALID_HEADER),
        drops("VLAN tag", with(v4(6), 12, &[0x81, 0]), drop::UNSUPPORTED_L3_PROTOCOL),
        drops("service VLAN tag", with(v4(6), 12, &[0x88, 0xa8]), drop::UNSUPPORTED_L3_PROTOCOL),
        drops("MPLS", with(v4(6), 12, &[0x88, 0x47]), drop::UNSUPPORTED_L3_PROTOCOL),
        drops("802.3 length instead of a type", with(v4(6), 12, &[0, 60]), drop::UNSUPPORTED_L3_PROTOCOL),
        drops("IPv6 type, IPv4 inside", with(v4(6).longer(20), 12, &[0x86, 0xdd]), invalid),
        drops("IPv4 type, IPv6 inside", with(v6(6), 12, &[8, 0]), invalid),
        fixture("a VLAN tag at a device is the stack's")
            .passes(Site::FromNet, with(v4(6), 12, &[0x81, 0]))
            .check(Check::Untouched),
        fixture("padding behind the packet").sends(Site::From(A), {
            let mut frame = v4(17).bytes();
            frame.resize(frame.len() + 18, 0xee);
            frame
        }),
        fixture("options of forty bytes").sends(Site::From(A), v4(6).extra(0, 10)),
    ];
    for (name, number) in [("hop-by-hop", 0), ("routing", 43), ("destination", 60), ("authentication", 51)] {
        table.push(fixture(format!("v6 {name} header")).sends(Site::From(A), v6(6).extra(number, 2)));
    }
    let chain = |count: usize| (0..count).fold(v6(6), |packet, _| packet.extra(60, 1));
    table.extend([
        fixture("v6 five headers").sends(Site::From(A), chain(5)),
        drops("v6 six headers", chain(6).bytes(), drop::INVALID_EXTENSION_HEADER),
        drops(
            "v6 header that ends behind the packet",
            with(v6(6).extra(60, 1), 55, &[20]),
            drop::CT_INVALID_HEADER,
        )
        .check(Check::Entry(false)),
        drops("v6 header too long to follow", v6(6).extra(60, 60).bytes(), drop::INVALID_EXTENSION_HEADER),
    ]);
    table
}

/// Cuts a packet at every length, with honest and with lying length fields; only what is whole enough
/// to be told apart may go on.
fn cut(lab: &mut Lab, hook: Hook, ifindex: u32, frame: &[u8], whole: usize) -> Vec<String> {
    let world = World::base(&lab.links, lab.mode);
    let mut trial = Trial::new(lab, world);
    let mut wrong = Vec::new();
    for len in 14..frame.len() {
        for honest in [false, true] {
            let mut data = frame[..len].to_vec();
            if honest && data[12] == 8 && len >= 34 {
                data[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
            } else if honest && data[12] == 0x86 && len >= 54 {
                data[18..20].copy_from_slice(&((len - 54) as u16).to_be_bytes());
            }
            let input = Input { hook, ifindex, mark: 0, wire: Some(2001), data };
            match trial.step(&input) {
                Ok(None) => {}
                Ok(Some((_, expected))) => {
                    let goes_on = !matches!(expected.verdict, Verdict::Drop(_));
                    if goes_on && len < whole {
                        wrong.push(format!("{len} bytes of {} go on: {}", frame.len(), hex(&input.data)));
                    }
                }
                Err(why) => wrong.push(format!("{len} bytes of {}: {why}", hex(frame))),
            }
        }
    }
    wrong
}

#[test]
fn l1_headers_that_lie_are_dropped() {
    super::run(headers());
}

#[test]
fn l1_cut_packets_pass_as_nothing_else() {
    let mut wrong = Vec::new();
    super::with_lab(Mode::Tunnel, &mut |lab| {
        let Links { lxc, overlay, eth0, host, .. } = lab.links;
        for family in [Family::V4, Family::V6] {
            let l4 = if family == Family::V4 { 34 } else { 54 };
            let (a, outside) = (A.ip(family), at::outside(family));
            for (number, header) in [(proto::TCP, 20), (proto::UDP, 8), (proto::ICMP, 8)] {
                let frame = build(family, number).bytes();
                wrong.extend(cut(lab, Hook::FromContainer, lxc[0], &frame, l4 + header));
                let inward = match number {
                    proto::TCP => tcp(outside, a, (4000, 80), SYN),
                    proto::UDP => udp(outside, a, (4000, 80)),
                    _ => ping(outside, a, 5),
                }
                .bytes();
                wrong.extend(cut(lab, Hook::FromHost, host, &inward, l4 + header));
                wrong.extend(cut(lab, Hook::FromOverlay, overlay, &inward, l4 + header));
                // A device passes what is not for a pod, and that is known from 20 or 40 bytes on.
                let to_pod = cut(lab, Hook::FromNetdev, eth0, &inward, 0);
                wrong.extend(to_pod);
                wrong.extend(cut(lab, Hook::ToNetdev, eth0, &frame, 0));
            }
            let error = unreachable(B.ip(family), a, &build(family, proto::TCP).bytes()).from(B).bytes();
            wrong.extend(cut(lab, Hook::FromContainer, lxc[1], &error, l4 + 8));
        }
        let chain = build(Family::V6, proto::TCP).extra(0, 1).extra(43, 3).extra(60, 2).bytes();
        wrong.extend(cut(lab, Hook::FromContainer, lxc[0], &chain, 54 + 48 + 20));
        let ask = solicitation(A, at::router(Family::V6)).bytes();
        wrong.extend(cut(lab, Hook::FromContainer, lxc[0], &ask, 78));
        Ok(())
    })
    .expect("the lab is there");
    assert!(wrong.is_empty(), "{} go wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The pass-through at the driver hands every frame on as it is, whatever it holds.
#[test]
fn l1_xdp_passes_every_frame_untouched() {
    super::with_lab(Mode::Native, &mut |lab| {
        lab.enter();
        let program = lab.program("cil_xdp_entry");
        let frames = [Family::V4, Family::V6].into_iter().flat_map(|family| {
            [proto::TCP, proto::UDP, proto::ICMP].map(|number| build(family, number).bytes())
        });
        for frame in frames {
            for len in 14..=frame.len() {
                match sys::test_run_xdp(program, lab.links.eth0, &frame[..len], 1) {
                    // XDP_PASS
                    Ok(ran) if ran.verdict == 2 && ran.data == frame[..len] => {}
                    Ok(ran) => {
                        let (out, frame) = (hex(&ran.data), hex(&frame[..len]));
                        return Err(format!("verdict {}, {out} from {frame}", ran.verdict));
                    }
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                    Err(e) => return Err(e.to_string()),
                }
            }
        }
        Ok(())
    })
    .expect("every frame passes");
}
