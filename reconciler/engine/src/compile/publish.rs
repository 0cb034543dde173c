//! Files this agent writes for others: its own objects, if it publishes, and the CNI configuration.
//! The text depends on nothing but the values, so that an unchanged object is an unchanged file.

use super::Pass;
use super::identity::Identities;
use super::rows::{Edits, Rows, because, config_origin};
use super::site::Site;
use crate::config::Config;
use crate::shared::Shared;
use crate::state::{File, FileKey, FileRow, IdentityId, Why};
use crate::world::{EndpointRecord, Labels, Pod, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Name of the CNI configuration: before those of most others, which runtimes take in order.
const CNI_FILE: &str = "05-cilium.conflist";

/// The files of the node itself.
pub(super) fn node(config: &Config, site: &Site, rows: &mut Rows) {
    if let Some(dir) = &config.paths.cni_conf_dir {
        let why = because(&config_origin("paths.cni_conf_dir"));
        put(dir.join(CNI_FILE).as_path(), cni(config), &why, rows);
    }
    let Some(dir) = &config.source.manifests.publish else { return };
    let why = because(&site.origin);
    put(&dir.join(published_prefix(&site.name) + "ciliumnode.yaml"), node_text(site), &why, rows);
}

/// The file of an endpoint.
pub(super) fn endpoint(
    config: &Config,
    site: &Site,
    record: &EndpointRecord,
    pod: Option<&Pod>,
    (identity, labels): (IdentityId, &Labels),
    rows: &mut Rows,
) {
    let Some(dir) = &config.source.manifests.publish else { return };
    let why = because(&record.origin());
    let (namespace, name) = object_name(record);
    let file = format!(
        "{}ciliumendpoint.{}.{}.yaml",
        published_prefix(&site.name),
        file_part(&namespace),
        file_part(&name)
    );
    put(&dir.join(file), endpoint_text(site, record, pod, identity, labels), &why, rows);
}

/// Of endpoints that are published under one name (attachments of one pod to several networks), the last.
pub(super) fn last_of_each_name(world: &World) -> BTreeSet<u16> {
    let named = world.endpoints.values().map(|record| {
        let (namespace, name) = object_name(record);
        (format!("{}.{}", file_part(&namespace), file_part(&name)), record.id)
    });
    named.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The files of identities: what is claimed for endpoints of this node. A number in dispute is claimed all
/// the same.
#[derive(Debug, Default)]
pub(super) struct Claims {
    rows: BTreeMap<IdentityId, (Shared<Labels>, Why, Rows)>,
}

impl Claims {
    /// Writes those that are others than before; all of them, if the place is.
    pub(super) fn update(&mut self, pass: &Pass<'_>, identities: &Identities, edits: &mut Edits) {
        let Pass { config, site, moved, .. } = *pass;
        let Some(dir) = &config.source.manifests.publish else { return };
        let mut used: BTreeMap<IdentityId, &Shared<Labels>> = BTreeMap::new();
        for (id, labels) in identities.endpoints.values() {
            used.entry(*id).or_insert(labels);
        }
        used.retain(|id, _| identities.own.contains_key(id));
        for (id, (.., rows)) in &mut self.rows {
            if !used.contains_key(id) {
                edits.replace(rows, Rows::default());
            }
        }
        self.rows.retain(|id, _| used.contains_key(id));
        for (id, labels) in used {
            let why = &identities.own[&id].1;
            let same = |(l, w, _): &(Shared<Labels>, Why, Rows)| l == labels && w == why;
            if !moved && self.rows.get(&id).is_some_and(same) {
                continue;
            }
            let mut rows = Rows::default();
            let file = format!("{}ciliumidentity.{id}.yaml", published_prefix(&site.name));
            put(&dir.join(file), claim_text(site, id, labels), why, &mut rows);
            let before = self.rows.remove(&id).map(|(.., rows)| rows);
            let mut kept = before.unwrap_or_default();
            edits.replace(&mut kept, rows);
            self.rows.insert(id, (labels.clone(), why.clone(), kept));
        }
    }
}

fn put(path: &Path, content: String, why: &Why, rows: &mut Rows) {
    rows.put::<File>(FileKey(path.to_owned()), FileRow { content, mode: 0o644 }, why);
}

/// How the names of all files that the node of this name publishes begin. Those of a node whose name goes on
/// after a dot may begin so too.
pub fn published_prefix(node: &str) -> String {
    file_part(node) + "."
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

fn node_text(site: &Site) -> String {
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
        Some(pod) => (pod.namespace.to_string(), pod.name.to_string()),
        None => {
            let network = record.network.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            ("default".to_owned(), format!("container-{:.12}-{network}", record.container_id.to_lowercase()))
        }
    }
}

fn endpoint_text(
    site: &Site,
    record: &EndpointRecord,
    pod: Option<&Pod>,
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
    if let Some(pod) = pod.filter(|pod| !pod.ports.is_empty()) {
        text.push_str("  named-ports:\n");
        for port in &pod.ports {
            line(&mut text, format_args!("  - name: {}\n    port: {}", quote(&port.name), port.port));
            line(&mut text, format_args!("    protocol: {}", quote(&port.proto.to_string())));
        }
    }
    text
}

fn claim_text(site: &Site, id: IdentityId, labels: &Labels) -> String {
    let mut text = head("CiliumIdentity", &id.to_string(), None, site);
    text.push_str("security-labels:\n");
    for (label, value) in &labels.0 {
        line(&mut text, format_args!("  {}: {}", quote(&label.to_string()), quote(value)));
    }
    text
}

/// The CNI configuration: the oldest version in `cniVersion` for old runtimes, all of them for those
/// that choose (CNI 1.1). Runtimes hand port mappings only to plugins that say they take them.
fn cni(config: &Config) -> String {
    let mut plugin =
        serde_json::json!({ "type": "cilium-cni", "run_dir": config.paths.run_dir.display().to_string() });
    if config.load_balancer.kube_proxy_replacement {
        plugin["capabilities"] = serde_json::json!({ "portMappings": true });
    }
    let value = serde_json::json!({
        "cniVersion": "0.3.1",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "cilium",
        "plugins": [plugin],
    });
    format!("{value:#}\n")
}
