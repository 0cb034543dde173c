//! The settings that change what policies mean.

/// Settings; the defaults are Cilium's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// When endpoints drop what nothing allows.
    pub enforcement: Enforcement,
    /// Whether CIDR rules match nodes other than the subject's own (`policy-cidr-match-mode: nodes`).
    pub cidr_matches_nodes: bool,
    /// Whether CIDR rules match pods.
    pub cidr_matches_pods: bool,
    /// Whether the node reaches its own pods whatever their policies allow.
    pub allow_localhost: AllowLocalhost,
    /// The name of this cluster.
    pub cluster: String,
    /// Whether a selector that names no cluster means this one (`policy-default-local-cluster`).
    pub default_local_cluster: bool,
    /// Whether what would be dropped is forwarded and only told of.
    pub audit: bool,
    /// Whether nodes themselves are subjects.
    pub host_firewall: bool,
    /// What an invalid policy does.
    pub invalid: Invalid,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enforcement: Enforcement::Default,
            cidr_matches_nodes: false,
            cidr_matches_pods: false,
            allow_localhost: AllowLocalhost::Auto,
            cluster: "default".to_owned(),
            default_local_cluster: true,
            audit: false,
            host_firewall: false,
            invalid: Invalid::IsolateObject,
        }
    }
}

/// `enable-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// Where a policy selects the endpoint, in the directions it has rules for.
    Default,
    /// Everywhere, both directions.
    Always,
    /// Nowhere, deny rules included.
    Never,
}

/// `allow-localhost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowLocalhost {
    /// As always.
    Auto,
    /// Let through unless a rule denies it.
    Always,
    /// Only what a policy allows.
    Policy,
}

/// What an object with something invalid in it does; [`crate`] has the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// None of its allow rules grants anything; its denies and its default deny hold.
    IsolateObject,
    /// As above, but its allow rules that are themselves sound grant what they say.
    IsolateRule,
    /// It does nothing.
    Ignore,
}
