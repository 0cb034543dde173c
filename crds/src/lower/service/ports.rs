//! Ports of a Service: numbers and names that tell them apart.

use crate::api::IntOrString;
use crate::api::service as api;
use crate::lower::cursor::{Cursor, Notes};
use crate::lower::values::{is_label, is_port_name, protocol};
use crate::schema::quoted;
use cilium_engine::state::Protocol;
use cilium_engine::world::{ServiceKind, ServicePort, TargetPort, TrafficPolicy};
use std::collections::BTreeSet;

pub(super) fn ports(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    kind: ServiceKind,
    notes: &mut Notes,
) -> Vec<ServicePort> {
    let list = spec.ports.as_deref().unwrap_or_default();
    if list.is_empty() && kind != ServiceKind::Headless {
        notes.invalid(at, "`ports` is missing", "write `ports: [{port: 80}]`");
    }
    let mut seen = Seen::default();
    let mut ports = Vec::new();
    for (port, at) in list.iter().zip(at.at("ports").items()) {
        let proto = protocol(port.protocol.as_deref());
        let name = port.name.clone().unwrap_or_default();
        let Ok(number) = u16::try_from(port.port) else { continue };
        if name.is_empty() && list.len() > 1 {
            notes.invalid(&at, "`name` is missing", "each of several ports needs a name");
        } else if !name.is_empty() && !is_label(&name) {
            let hint = "at most 63 lower-case letters, digits and `-`, which is neither first nor last";
            notes.invalid(&at.at("name"), format!("{} is no name of a port", quoted(&name)), hint);
        } else if !name.is_empty() && !seen.names.insert(name.clone()) {
            notes.invalid(&at, format!("the name {} is given twice", quoted(&name)), "");
        }
        if !seen.numbers.insert((number, proto)) {
            notes.invalid(&at, format!("port {number}/{proto} is given twice"), "");
        }
        let node_port = node_port(&at, port, (kind, proto), &mut seen, notes);
        let Some(target) = target(&at, port.target_port.as_ref(), number, notes) else { continue };
        ports.push(ServicePort { name, port: number, proto, target, node_port });
    }
    ports
}

#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    numbers: BTreeSet<(u16, Protocol)>,
    node_ports: BTreeSet<(u16, Protocol)>,
}

fn node_port(
    at: &Cursor<'_>,
    port: &api::ServicePort,
    (kind, proto): (ServiceKind, Protocol),
    seen: &mut Seen,
    notes: &mut Notes,
) -> Option<u16> {
    let number = port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
    let at = at.at("nodePort");
    match kind {
        ServiceKind::NodePort | ServiceKind::LoadBalancer => {}
        ServiceKind::ClusterIp | ServiceKind::Headless | ServiceKind::ExternalName => {
            let hint = "remove it, or write `type: NodePort`";
            notes.invalid(&at, "a Service of this type has no NodePorts", hint);
        }
    }
    if !seen.node_ports.insert((number, proto)) {
        notes.invalid(&at, format!("NodePort {number}/{proto} is given twice"), "");
    }
    Some(number)
}

fn target(at: &Cursor<'_>, target: Option<&IntOrString>, port: u16, notes: &mut Notes) -> Option<TargetPort> {
    match target {
        None | Some(IntOrString::Int(0)) => Some(TargetPort::Number(port)),
        Some(IntOrString::Int(number)) => match u16::try_from(*number) {
            Ok(number) => Some(TargetPort::Number(number)),
            Err(_) => {
                notes.invalid(&at.at("targetPort"), format!("there is no port `{number}`"), "");
                None
            }
        },
        Some(IntOrString::Text(name)) if name.is_empty() => Some(TargetPort::Number(port)),
        Some(IntOrString::Text(name)) if is_port_name(name) => Some(TargetPort::Name(name.clone())),
        Some(IntOrString::Text(name)) => {
            let hint = match name.parse::<u16>() {
                Ok(_) => "remove the quotes",
                Err(_) => "at most 15 lower-case letters, digits and single `-`, with at least one letter",
            };
            notes.invalid(&at.at("targetPort"), format!("{} is no name of a port", quoted(name)), hint);
            None
        }
    }
}

/// `healthCheckNodePort`.
pub(super) fn health_check(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    kind: ServiceKind,
    external: TrafficPolicy,
    notes: &mut Notes,
) -> Option<u16> {
    let number = spec.health_check_node_port.and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number > 0)?;
    let field = at.at("healthCheckNodePort");
    if kind != ServiceKind::LoadBalancer || external != TrafficPolicy::Local {
        let hint = "it goes with `type: LoadBalancer` and `externalTrafficPolicy: Local`; remove it";
        notes.invalid(&field, "nothing asks for the health of this Service's nodes", hint);
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let tcp = |port: &&api::ServicePort| protocol(port.protocol.as_deref()) == Protocol::TCP;
    if ports.iter().filter(tcp).any(|port| port.node_port == Some(i64::from(number))) {
        notes.invalid(&field, format!("{number}/TCP is a NodePort of this Service"), "choose another");
    }
    Some(number)
}
