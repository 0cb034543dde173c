//! Texts out of a fixed set, inside lists.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

macro_rules! one_of {
    ($(#[$doc:meta])* $name:ident, $known:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": $known })
            }
            fn inline_schema() -> bool {
                true
            }
        }
    };
}

one_of!(
    /// Name of an entity.
    EntityName,
    super::policy::ENTITIES
);
one_of!(
    /// A direction of a NetworkPolicy.
    PolicyType,
    ["Ingress", "Egress"]
);
