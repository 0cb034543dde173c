//! Beside a kube-proxy: what is left to it, and the way pods' traffic takes.

use super::north_south::{key, put, row, service};
use super::*;
use crate::config::Algorithm;
use crate::state::{ProgramSetRow, Protocol};
use crate::world::{HostPort, Service, TrafficPolicy};
use cilium_abi::lb::FRONTEND_CLUSTER_IP;
use cilium_abi::node::{NODE_HOST_STACK, NODE_LB, NODE_SOCK, NODE_XDP};

fn beside() -> Config {
    let mut config = config();
    config.load_balancer.kube_proxy_replacement = false;
    config
}

fn flags(compiled: &Compiled) -> u32 {
    let (_, entry) = compiled.desired.state.program_sets.iter().next().expect("a set");
    let ProgramSetRow::Constants(constants) = &entry.row else { panic!("a wish has constants") };
    constants.flags & (NODE_HOST_STACK | NODE_LB | NODE_SOCK | NODE_XDP)
}

#[test]
fn only_cluster_ips_are_served_and_only_to_pods() {
    let mut world = world();
    add_local(&mut world, 7, "a", &[]);
    let port = HostPort { ip: None, port: 8081, proto: Protocol::TCP, target: 9000 };
    world.pods.get_mut(&ObjectName::new("shop", "a")).expect("it was added").host_ports = vec![port];
    let web =
        Service { external_policy: TrafficPolicy::Local, health_check_node_port: Some(32_000), ..service() };
    put(&mut world, "web", web);
    let mut config = beside();
    config.load_balancer.external_cluster_ip = true;
    config.load_balancer.algorithm = Algorithm::Maglev;
    // Not served, so none of our concern.
    config.load_balancer.node_port_range = [31_000, 32_000];
    let compiled = whole(&world, &config);
    assert_eq!(compiled.desired.state.frontends.len(), 1);
    assert_eq!(row(&compiled, &key("10.96.0.10", 80)).flags, FRONTEND_CLUSTER_IP);
    assert!(compiled.view.health_checks.is_empty(), "kube-proxy answers them");
    assert!(errors(&compiled).is_empty(), "{:?}", errors(&compiled));
}

#[test]
fn pods_traffic_goes_through_the_stack_there_or_where_it_is_asked_for() {
    assert_eq!(flags(&whole(&world(), &config())), NODE_LB | NODE_SOCK);
    assert_eq!(flags(&whole(&world(), &beside())), NODE_HOST_STACK);
    let mut asked = config();
    asked.routing.host_stack = true;
    assert_eq!(flags(&whole(&world(), &asked)), NODE_HOST_STACK | NODE_LB | NODE_SOCK);
}
