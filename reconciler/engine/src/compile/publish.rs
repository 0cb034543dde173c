//! Files this agent writes for others: its own objects, if it publishes, and the CNI configuration.
//! The text depends on nothing but the values, so that an unchanged object is an unchanged file.

use super::identity::{Identities, Sort};
use super::rows::{Rows, config_origin};
use super::site::Site;
use crate::config::Config;
use crate::state::{File, FileKey, FileRow, IdentityId};
use crate::world::{EndpointRecord, Labels, World};
use std::fmt::Write as _;
use std::path::Path;

/// Name of the CNI configuration: before those of most others, which runtimes take in order.
const CNI_FILE: &str = "05-cilium.conflist";

/// Writes the rows.
pub(super) fn compile(world: &World, config: &Config, site: &Site, identities: &Identities, rows: &mut Rows) {
    if let Some(dir) = &config.paths.cni_conf_dir {
        let why = rows.why(&config_origin("paths.cni_conf_dir"));
        put(dir.join(CNI_FILE).as_path(), cni(&config.paths.run_dir), why, rows);
    }
    let Some(dir) = &config.source.manifests.publish else { return };
    let why = rows.why(&site.origin);
    put(&dir.join(format!("{}.ciliumnode.yaml", file_part(&site.name))), node(site), why, rows);
    for record in world.endpoints.values() {
        let (identity, labels) = &identities.endpoints[&record.id];
        let why = rows.why(&record.origin());
        let (namespace, name) = object_name(record);
        let file = format!(
            "{}.ciliumendpoint.{}.{}.yaml",
            file_part(&site.name),
            file_part(&namespace),
            file_part(&name)
        );
        put(&dir.join(file), endpoint(world, site, record, *identity, labels), why, rows);
    }
    for (id, (_, origin)) in &identities.own {
        let known = identities.known.get(id).filter(|i| i.sort == Sort::Endpoints).map(|i| &i.labels);
        let own = || identities.endpoints.values().find(|(n, _)| n == id).map(|(_, labels)| labels);
        // Only what is claimed for endpoints of this node; a number in dispute is claimed all the same.
        if let Some(labels) = own().or(known).filter(|_| own().is_some()) {
            let why = rows.why(origin);
            let file = format!("{}.ciliumidentity.{id}.yaml", file_part(&site.name));
            put(&dir.join(file), claim(site, *id, labels), why, rows);
        }
    }
}

fn put(path: &Path, content: String, why: crate::state::OriginId, rows: &mut Rows) {
    rows.put::<File>(FileKey(path.to_owned()), FileRow { content, mode: 0o644 }, why);
}

/// A name as part of a file name: never a path.
fn file_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// YAML takes JSON strings as they are.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn head(kind: &str, name: &str, namespace: Option<&str>, site: &Site) -> String {
    let mut text = format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata:\n  name: {}\n", quote(name));
    if let Some(namespace) = namespace {
        line(&mut text, format_args!("  namespace: {}", quote(namespace)));
    }
    line(&mut text, format_args!("  annotations:\n    cilium.io/published-by: {}", quote(&site.name)));
    text
}

fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    writeln!(text, "{args}").expect("writing to a String cannot fail");
}

fn node(site: &Site) -> String {
    let mut text = head("CiliumNode", &site.name, None, site);
    let addresses = site.addresses.iter().map(|a| ("InternalIP", *a));
    let routers = site.routers().map(|a| ("CiliumInternalIP", a));
    let all: Vec<_> = addresses.chain(routers).collect();
    text.push_str(if all.is_empty() { "spec: {}\n" } else { "spec:\n  addresses:\n" });
    for (kind, addr) in all {
        line(&mut text, format_args!("  - type: {kind}\n    ip: {}", quote(&addr.to_string())));
    }
    text
}

/// A pod's own name; a container without one is named by its attachment.
fn object_name(record: &EndpointRecord) -> (String, String) {
    match &record.pod {
        Some(pod) => (pod.namespace.clone(), pod.name.clone()),
        None => {
            let network = record.network.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            ("default".to_owned(), format!("container-{:.12}-{network}", record.container_id.to_lowercase()))
        }
    }
}

fn endpoint(
    world: &World,
    site: &Site,
    record: &EndpointRecord,
    identity: IdentityId,
    labels: &Labels,
) -> String {
    let (namespace, name) = object_name(record);
    let mut text = head("CiliumEndpoint", &name, Some(&namespace), site);
    line(&mut text, format_args!("status:\n  id: {}\n  state: ready", record.id));
    line(&mut text, format_args!("  identity:\n    id: {identity}\n    labels:"));
    for label in labels.sorted_lines() {
        // A label without a value is written so everywhere else, too.
        line(&mut text, format_args!("    - {}", quote(label.strip_suffix('=').unwrap_or(&label))));
    }
    text.push_str("  networking:\n");
    if let Some(node) = site.addresses.first() {
        line(&mut text, format_args!("    node: {}", quote(&node.to_string())));
    }
    text.push_str("    addressing:\n");
    let mut lead = "    - ";
    for (family, addr) in [("ipv4", record.ipv4), ("ipv6", record.ipv6)] {
        if let Some(addr) = addr {
            line(&mut text, format_args!("{lead}{family}: {}", quote(&addr.to_string())));
            lead = "      ";
        }
    }
    let pod = record.pod.as_ref().and_then(|name| world.pods.get(name));
    if let Some(pod) = pod.filter(|pod| !pod.ports.is_empty()) {
        text.push_str("  named-ports:\n");
        for port in &pod.ports {
            line(&mut text, format_args!("  - name: {}\n    port: {}", quote(&port.name), port.port));
            line(&mut text, format_args!("    protocol: {}", quote(&port.proto.to_string())));
        }
    }
    text
}

fn claim(site: &Site, id: IdentityId, labels: &Labels) -> String {
    let mut text = head("CiliumIdentity", &id.to_string(), None, site);
    text.push_str("security-labels:\n");
    for (label, value) in &labels.0 {
        line(&mut text, format_args!("  {}: {}", quote(&label.to_string()), quote(value)));
    }
    text
}

/// The CNI configuration: the oldest version in `cniVersion` for old runtimes, all of them for those
/// that choose (CNI 1.1).
fn cni(run_dir: &Path) -> String {
    let value = serde_json::json!({
        "cniVersion": "0.3.1",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "cilium",
        "plugins": [{ "type": "cilium-cni", "run_dir": run_dir.display().to_string() }],
    });
    format!("{value:#}\n")
}
