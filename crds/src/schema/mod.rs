//! The schema of each kind, made from the types in [`crate::api`], and the check of a document against it:
//! whole, with all findings, each at its place. Values (addresses, selectors, ports) are `lower`'s matter.

mod check;
mod forms;

pub use check::check;
pub(crate) use check::{MAX_FINDINGS, nearest, quoted};

use crate::api::{cilium, core, network_policy, policy, service, tiers};
use crate::kind::ObjectKind;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::sync::LazyLock;

static SCHEMAS: LazyLock<Vec<Value>> =
    LazyLock::new(|| ObjectKind::ALL.iter().map(|kind| generate(*kind)).collect());

/// The schema of a kind, with nothing left to be looked up elsewhere.
pub fn of(kind: ObjectKind) -> &'static Value {
    &SCHEMAS[kind as usize]
}

fn generate(kind: ObjectKind) -> Value {
    match kind {
        ObjectKind::Namespace => schema::<core::Namespace>(),
        ObjectKind::Node => schema::<core::Node>(),
        ObjectKind::Pod => schema::<core::Pod>(),
        ObjectKind::Service => schema::<service::Service>(),
        ObjectKind::EndpointSlice => schema::<service::EndpointSlice>(),
        ObjectKind::NetworkPolicy => schema::<network_policy::NetworkPolicy>(),
        ObjectKind::CiliumNetworkPolicy | ObjectKind::CiliumClusterwideNetworkPolicy => {
            schema::<policy::CiliumNetworkPolicy>()
        }
        ObjectKind::CiliumNode => schema::<cilium::CiliumNode>(),
        ObjectKind::CiliumEndpoint => schema::<cilium::CiliumEndpoint>(),
        ObjectKind::CiliumIdentity => schema::<cilium::CiliumIdentity>(),
        ObjectKind::CiliumCIDRGroup => schema::<cilium::CiliumCIDRGroup>(),
        ObjectKind::ClusterNetworkPolicy => schema::<tiers::ClusterNetworkPolicy>(),
        ObjectKind::AdminNetworkPolicy => schema::<tiers::AdminNetworkPolicy>(),
        ObjectKind::BaselineAdminNetworkPolicy => schema::<tiers::BaselineAdminNetworkPolicy>(),
    }
}

fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
