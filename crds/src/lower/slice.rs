//! EndpointSlices.

use super::cursor::{Cursor, Notes};
use super::values::{Reach, check_annotations, is_label, protocol, usable_ip};
use super::{Facts, Header};
use crate::api::service as api;
use crate::schema::quoted;
use cilium_engine::map::Rarely;
use cilium_engine::world::{BackendAddress, EndpointSlice, Hints, IpFamily, SlicePort};
use std::collections::BTreeSet;

/// Label of an EndpointSlice: its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation: weight of its endpoints.
const WEIGHT: &str = "service.cilium.io/weight";

/// Bounds of the API (Kubernetes, `pkg/apis/discovery/validation`).
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
/// Most backends of one slice: endpoints times ports.
const MAX_BACKENDS: usize = 1 << 20;
/// Longest name of a node or zone.
const MAX_NAME: usize = 253;

pub(super) fn slice(header: &Header, root: &Cursor<'_>, notes: &mut Notes) -> Facts {
    let Some(api) = notes.read::<api::EndpointSlice>(root) else { return Facts::Nothing };
    if !check_annotations(root, &api.metadata.annotations, notes) {
        return Facts::Nothing;
    }
    let Some(service) = api.metadata.labels.get(SERVICE_NAME).filter(|name| !name.is_empty()) else {
        let hint = format!("add the label `{SERVICE_NAME}: NAME`");
        notes.warning(&root.at("metadata"), "belongs to no Service, so it does nothing", &hint);
        return Facts::Nothing;
    };
    let family = match api.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        _ => {
            notes.warning(&root.at("addressType"), "names are no addresses: the slice does nothing", "");
            return Facts::Nothing;
        }
    };
    let (listed, given) =
        (api.endpoints.as_deref().unwrap_or_default(), api.ports.as_deref().unwrap_or_default());
    if !within(root, listed.len(), given.len(), notes) {
        return Facts::Nothing;
    }
    let mut endpoints = Vec::with_capacity(listed.len());
    for (listed, at) in listed.iter().zip(root.at("endpoints").items()) {
        endpoints.extend(endpoint(&at, listed, family, notes));
    }
    Facts::Slice(
        EndpointSlice {
            service: service.clone(),
            ports: ports(root, given, notes),
            endpoints,
            weight: weight(root, &api, notes),
            place: header.place.clone(),
        }
        .into(),
    )
}

fn within(root: &Cursor<'_>, endpoints: usize, ports: usize, notes: &mut Notes) -> bool {
    let counts = [("endpoints", endpoints, MAX_ENDPOINTS), ("ports", ports, MAX_PORTS)];
    for (field, count, most) in counts {
        if count > most {
            let message = format!("has {count} entries, more than the {most} possible");
            notes.invalid(&root.at(field), message, "split it into several slices of the same Service");
            return false;
        }
    }
    if endpoints * ports > MAX_BACKENDS {
        let message = format!("{endpoints} endpoints with {ports} ports each are too many");
        notes.invalid(&root.at("endpoints"), message, "split it into several slices of the same Service");
        return false;
    }
    true
}

fn ports(root: &Cursor<'_>, given: &[api::SlicePort], notes: &mut Notes) -> Vec<SlicePort> {
    let mut names = BTreeSet::new();
    let mut ports = Vec::new();
    for (port, at) in given.iter().zip(root.at("ports").items()) {
        let name = port.name.clone().unwrap_or_default();
        if !name.is_empty() && !is_label(&name) {
            let hint = "it is the name of the Service's port";
            notes.invalid(&at.at("name"), format!("{} is no name of a port", quoted(&name)), hint);
        }
        if !names.insert(name.clone()) {
            let message = match name.is_empty() {
                true => "`name` is missing".to_owned(),
                false => format!("the name {} is given twice", quoted(&name)),
            };
            notes.invalid(&at, message, "each of several ports needs a name of its own");
        }
        match port.port.and_then(|number| u16::try_from(number).ok()) {
            Some(number) => {
                ports.push(SlicePort { name, port: number, proto: protocol(port.protocol.as_deref()) });
            }
            None => notes.warning(&at, "a port without a number is not served", "write one as `port`"),
        }
    }
    ports
}

fn endpoint(
    at: &Cursor<'_>,
    listed: &api::SliceEndpoint,
    family: IpFamily,
    notes: &mut Notes,
) -> Option<BackendAddress> {
    let addresses = at.at("addresses");
    if listed.addresses.is_empty() || listed.addresses.len() > MAX_ADDRESSES {
        let message = format!("has {} addresses", listed.addresses.len());
        notes.invalid(
            &addresses,
            message,
            &format!("an endpoint has 1 to {MAX_ADDRESSES}, all leading to it"),
        );
        return None;
    }
    let mut first = None;
    for (text, at) in listed.addresses.iter().zip(addresses.items()) {
        let ip = usable_ip(&at, text, Reach::Beyond, notes)?;
        if IpFamily::of(ip) != family {
            let hint = "a slice holds one family: write another for the other one";
            notes.invalid(&at, format!("{ip} is not of the slice's `addressType`"), hint);
            return None;
        }
        first = first.or(Some(ip));
    }
    let conditions = listed.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = listed.hints.clone().unwrap_or_default();
    let at_hints = at.at("hints");
    Some(BackendAddress {
        ip: first?,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: named(&at.at("nodeName"), listed.node_name.as_deref(), notes),
        zone: named(&at.at("zone"), listed.zone.as_deref(), notes),
        hints: Hints {
            zones: hinted(&at_hints.at("forZones"), hints.for_zones, notes),
            nodes: hinted(&at_hints.at("forNodes"), hints.for_nodes, notes),
        },
    })
}

/// A name of a node or zone; an empty one is none.
fn named(at: &Cursor<'_>, name: Option<&str>, notes: &mut Notes) -> Option<String> {
    let name = name.filter(|name| !name.is_empty())?;
    if name.len() > MAX_NAME {
        notes.invalid(at, format!("{} is too long for a name", quoted(name)), "");
        return None;
    }
    Some(name.to_owned())
}

fn hinted(at: &Cursor<'_>, hints: Option<Vec<api::NamedHint>>, notes: &mut Notes) -> Rarely<String> {
    let hints = hints.unwrap_or_default();
    if hints.len() > MAX_HINTS {
        notes.invalid(at, format!("has {} entries, more than the {MAX_HINTS} possible", hints.len()), "");
        return Rarely::default();
    }
    hints.iter().filter_map(|hint| named(at, Some(&hint.name), notes)).collect()
}

/// The weight, if said and readable. Another text changes nothing: the endpoints have the default.
fn weight(root: &Cursor<'_>, api: &api::EndpointSlice, notes: &mut Notes) -> Option<u16> {
    let text = api.metadata.annotations.get(WEIGHT)?;
    let weight = text.parse().ok();
    if weight.is_none() {
        let at = root.at("metadata").at("annotations").at(WEIGHT);
        notes.unsupported(
            &at,
            format!("{} is no weight: the default counts", quoted(text)),
            "write 0 to 65535",
        );
    }
    weight
}
