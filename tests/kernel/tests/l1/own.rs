//! The node's own connections to pods elsewhere, from the address that clients outside are lent towards the same pods.

use super::case::{CLIENT, Case};
use cilium_tests_kernel::l1::{
    packet::{ACK, SYN},
    script::{Check, Fixture, Site},
    world::{BACKEND_PORT, Mode, REMOTE_POD_ID, at},
};

/// Ports lent where the one asked for is taken.
const LENT: Check = Check::SourcePort(40_000, 40_007);

fn beside(case: Case) -> Vec<Fixture> {
    let case = Case { client: at::world(case.family), ..case };
    let (router, backend) = (at::router(case.family), at::remote_pod(case.family));
    let serving = |text: &str| case.serving(text, &[(backend, BACKEND_PORT)]).mode(Mode::BalancerTunnel);
    let own = |flags| case.packet((router, CLIENT), (backend, BACKEND_PORT), flags);
    let back = Site::FromTunnel(REMOTE_POD_ID);
    vec![
        serving("what the node has opened keeps its port")
            .sends(Site::FromHost, own(SYN))
            .check(Check::Source(router, CLIENT))
            .sends(Site::FromNet, case.request(SYN))
            .check(LENT)
            .passes(back, case.answer_to(0, SYN | ACK))
            .check(Check::Destination(router, CLIENT))
            .sends(back, case.answer_to(1, SYN | ACK))
            .check(Check::Destination(case.client, CLIENT))
            .sends(Site::FromHost, own(ACK))
            .check(Check::Source(router, CLIENT)),
        serving("where its port is lent it gets another")
            .sends(Site::FromNet, case.request(SYN))
            .check(Check::Source(router, CLIENT))
            .sends(Site::FromHost, own(SYN))
            .check(LENT)
            .passes(back, case.answer_to(1, SYN | ACK))
            .check(Check::Destination(router, CLIENT))
            .sends(back, case.answer_to(0, SYN | ACK))
            .check(Check::Destination(case.client, CLIENT))
            .sends(Site::FromHost, own(ACK))
            .check(LENT),
    ]
}

#[test]
fn l1_the_node_and_clients_share_an_address() {
    super::run(Case::all().flat_map(beside).collect());
}
