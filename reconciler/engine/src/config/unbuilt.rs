//! Keys and values that users of Cilium know and that this build does not act on yet.
//!
//! They get an error of their own, "not built yet", so that nobody takes a planned key for a typing
//! mistake, and none is accepted without effect. A key written with the value that turns its feature
//! off asks for nothing and is let through. Whoever builds a feature deletes its line here.

use serde_json::Value;

/// Keys, each with the values that switch the feature off.
const KEYS: &[(&str, &[Off])] = &[
    ("cluster.id", &[Off::Number(0)]),
    ("source.kubernetes", &[]),
    ("ipam.ipv4_cidrs", &[]),
    ("ipam.ipv4_mask_size", &[]),
    ("ipam.ipv6_cidrs", &[]),
    ("ipam.ipv6_mask_size", &[]),
    ("routing.endpoint_routes", &[Off::Flag(false)]),
    ("policy.audit", &[Off::Flag(false)]),
    ("policy.cidr_match_mode", &[Off::Nothing]),
    ("encryption.type", &[Off::Word("none")]),
    ("encryption.node_encryption", &[Off::Flag(false)]),
    ("encryption.strict", &[Off::Flag(false)]),
    ("encryption", &[]),
    ("hubble.enabled", &[Off::Flag(false)]),
    ("hubble", &[]),
    ("dns_proxy.enabled", &[Off::Flag(false)]),
    ("dns_proxy", &[]),
    ("bandwidth_manager.enabled", &[Off::Flag(false)]),
    ("bandwidth_manager", &[]),
    ("egress_gateway.enabled", &[Off::Flag(false)]),
    ("egress_gateway", &[]),
    ("cluster_mesh", &[]),
    ("bgp.enabled", &[Off::Flag(false)]),
    ("bgp", &[]),
    ("gateway_api.enabled", &[Off::Flag(false)]),
    ("gateway_api", &[]),
    ("ingress.enabled", &[Off::Flag(false)]),
    ("ingress", &[]),
    ("host_firewall.enabled", &[Off::Flag(false)]),
    ("host_firewall", &[]),
];

/// Values of keys that exist.
const VALUES: &[(&str, &str)] =
    &[("source.kind", "kubernetes"), ("ipam.mode", "cluster-pool"), ("ipam.mode", "multi-pool")];

/// A value that asks for nothing.
#[derive(Clone, Copy)]
enum Off {
    Flag(bool),
    Number(i64),
    Word(&'static str),
    /// An empty list.
    Nothing,
}

/// What is to be done with a key that is not in [`keys`](super::keys).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// It turns off what is not there: let it through.
    Off,
    /// It asks for what is not there; the clause follows the key's name.
    Refused(String),
}

/// Whether this path, or a table it stands in, is a known key that is not built yet.
pub fn key(path: &str, value: &Value) -> Option<Planned> {
    let exact = KEYS.iter().find(|(known, _)| *known == path);
    let within = || {
        KEYS.iter().find(|(known, off)| {
            off.is_empty() && path.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let (_, off) = exact.or_else(within)?;
    let asks_nothing = off.iter().any(|off| match off {
        Off::Flag(flag) => value.as_bool() == Some(*flag),
        Off::Number(number) => value.as_i64() == Some(*number),
        Off::Word(word) => value.as_str() == Some(word),
        Off::Nothing => value.as_array().is_some_and(Vec::is_empty),
    });
    Some(if asks_nothing {
        Planned::Off
    } else {
        Planned::Refused("is not built yet in this version".into())
    })
}

/// Whether this path is a table that, as a whole, is not built yet: its keys are judged one by one.
pub fn is_table(path: &str) -> bool {
    KEYS.iter().any(|(known, off)| off.is_empty() && *known == path)
}

/// Whether this value of an existing key is known but not built yet: the clause that follows its name.
pub fn value(path: &str, value: &Value) -> Option<String> {
    let text = value.as_str()?;
    VALUES.contains(&(path, text)).then(|| format!("= {text:?} is not built yet in this version"))
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_built_key_is_not_listed_as_missing() {
        for (path, _) in KEYS {
            assert!(keys::find(path).is_none(), "{path} exists; delete its line");
            assert!(keys::tables().iter().all(|table| table.path != *path), "{path} exists; delete its line");
        }
        for (path, word) in VALUES {
            let key = keys::find(path).unwrap_or_else(|| panic!("{path} is no key"));
            let keys::Form::Choice(choices) = &key.form else { panic!("{path} is no choice") };
            assert!(
                choices.iter().all(|choice| choice.word != *word),
                "{path} = {word} exists; delete its line"
            );
        }
    }

    #[test]
    fn planned_keys_are_told_from_unknown_ones() {
        let refused = Some(Planned::Refused("is not built yet in this version".into()));
        assert_eq!(key("hubble.listen", &json!(":4244")), refused);
        assert_eq!(key("encryption.type", &json!("wireguard")), refused);
        assert_eq!(key("encryption.type", &json!("none")), Some(Planned::Off));
        assert_eq!(key("policy.audit", &json!(false)), Some(Planned::Off));
        assert_eq!(key("policy.cidr_match_mode", &json!([])), Some(Planned::Off));
        assert_eq!(key("policy.cidr_match_mode", &json!(["nodes"])), refused);
        assert_eq!(key("hubbles", &json!(true)), None);
        assert_eq!(value("ipam.mode", &json!("kubernetes")), None);
        assert!(value("ipam.mode", &json!("multi-pool")).is_some());
    }
}
