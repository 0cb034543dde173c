//! Direct server return by IP in IP: packets to backends outside go as they came, within another header.

use super::case::{CLIENT, Case, PORT};
use cilium_abi::{Address, drop, lb::FRONTEND_DSR, node::mark};
use cilium_tests_kernel::l1::{
    model::Parsed,
    packet::{ACK, FIN, RST, SYN, unreachable},
    script::{Check, Fixture, Site},
    world::{BACKEND_PORT, ETH0_MAC, Family, GATEWAY_MAC, Mode, SERVER_MAC, SIDE_MAC, at},
};

fn asking(case: Case) -> Case {
    Case { client: at::world(case.family), ..case }
}

/// A frontend with one backend.
fn direct(case: Case, text: &str, backend: (Address, u16)) -> Fixture {
    let fixture = case.serving(text, &[backend]).mode(Mode::BalancerIpip);
    case.row(fixture, |row| row.flags |= FRONTEND_DSR)
}

fn fixtures(case: Case) -> Vec<Fixture> {
    let case = asking(case);
    let (family, frontend, client) = (case.family, case.frontend, case.client);
    let (own, far) = (at::node(family), at::outside(family));
    let ends = case.with(far, PORT);
    let outer = if family == Family::V4 { 20 } else { 40 };
    // Bytes that a request has without more.
    let least = outer + if case.is_tcp { 20 } else { 8 } + 7;
    let fits = 1500 - outer - least;
    let mut all = vec![
        direct(case, "as it came", (far, PORT))
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Within(own, far))
            .check(Check::Macs(GATEWAY_MAC, ETH0_MAC))
            .check(Check::Mark(mark::SNAT_DONE))
            .check(Check::Known(ends, true))
            .check(Check::Translations(0))
            .sends(Site::FromNet, case.request(ACK))
            .check(Check::Within(own, far))
            .sends(Site::FromNet, case.request(ACK | FIN))
            .check(Check::Within(own, far))
            .sends(Site::FromNet, case.request(RST))
            .check(Check::Within(own, far)),
        direct(case, "behind another device", (at::side(family), PORT))
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Within(at::side_node(family), at::side(family)))
            .check(Check::Macs(SERVER_MAC, SIDE_MAC)),
        direct(case, "to a neighbour that is not known", (at::stranger(family), PORT))
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Within(own, at::stranger(family))),
        direct(case, "whose device has no address of its own", (at::side(family), PORT))
            .links(move |world, links| {
                if let Some(device) = world.devices.get_mut(&links.side) {
                    (device.ipv4, device.ipv6) = (Address::NONE, Address::NONE);
                }
            })
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Within(own, at::side(family))),
        direct(case, "nowhere", (at::blackhole(family), PORT))
            .drops(Site::FromNet, case.request(SYN), drop::FIB_LOOKUP_FAILED)
            .check(Check::Known(case.with(at::blackhole(family), PORT), false)),
        direct(case, "as long as the way takes it", (far, PORT))
            .sends(Site::FromNet, case.request(ACK).longer(fits))
            .check(Check::Length(14 + 1500)),
        direct(case, "too long", (far, PORT))
            .refuses(Site::FromNet, case.request(ACK).longer(fits + 1), drop::FRAGMENTATION_NEEDED)
            .check(Check::Source(frontend, 0))
            .check(Check::Destination(client, 0))
            .check(Check::Inside(case.asked()))
            .check(Check::Known(ends, false)),
        direct(case, "named by another node, it goes on without the name", (far, PORT))
            .sends(Site::FromNet, case.request(SYN).naming(frontend, PORT))
            .check(Check::Length(14 + outer + least))
            .check(Check::Macs(GATEWAY_MAC, ETH0_MAC)),
        direct(case, "another port needs a translation", (far, BACKEND_PORT))
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Source(own, CLIENT))
            .check(Check::Destination(far, BACKEND_PORT))
            .check(Check::Translations(2)),
        direct(case, "pods have no tunnel's end", (at::remote_pod(family), PORT))
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Source(own, CLIENT))
            .check(Check::Destination(at::remote_pod(family), PORT))
            .check(Check::Translations(2)),
        case.serving("who does not ask for it", &[(far, PORT)])
            .mode(Mode::BalancerIpip)
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Source(own, CLIENT))
            .check(Check::Translations(2)),
    ];
    let error = move |more| {
        move |_: &[Parsed]| {
            let about = case.packet((frontend, PORT), (client, CLIENT), ACK).bytes();
            unreachable(at::gateway(family), frontend, &about).longer(more)
        }
    };
    // IP and ICMP, and the answer that is quoted.
    let quoted = 1500 - outer - (outer + 8 + least);
    all.extend([
        direct(case, "a router's error about an answer", (far, PORT))
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::FromNet, error(0))
            .check(Check::Within(own, far)),
        direct(case, "as long as the way takes it, even that", (far, PORT))
            .sends(Site::FromNet, case.request(SYN))
            .sends(Site::FromNet, error(quoted))
            .check(Check::Within(own, far))
            .check(Check::Length(14 + 1500)),
        direct(case, "an error that is too long is told nobody", (far, PORT))
            .sends(Site::FromNet, case.request(SYN))
            .drops(Site::FromNet, error(quoted + 1), drop::FRAGMENTATION_NEEDED),
    ]);
    all
}

#[test]
fn backends_outside_get_packets_as_they_came() {
    let driven = super::run(Case::all().flat_map(fixtures).collect());
    assert!(driven > 0, "drivers sent some");
}
