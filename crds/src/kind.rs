//! The kinds of objects that are read.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! kinds {
    ($($kind:ident $version:literal $scope:ident),* $(,)?) => {
        /// A kind of object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ObjectKind { $(#[doc = concat!("`", $version, "`.")] $kind,)* }

        impl ObjectKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As `kind` says it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// As `apiVersion` says it.
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$kind => $version,)* }
            }

            /// Whether it lives in namespaces.
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope,)* }
            }
        }
    };
}

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

kinds! {
    Namespace "v1" Cluster,
    Node "v1" Cluster,
    Pod "v1" Namespaced,
    Service "v1" Namespaced,
    EndpointSlice "discovery.k8s.io/v1" Namespaced,
    NetworkPolicy "networking.k8s.io/v1" Namespaced,
    CiliumNetworkPolicy "cilium.io/v2" Namespaced,
    CiliumClusterwideNetworkPolicy "cilium.io/v2" Cluster,
    CiliumNode "cilium.io/v2" Cluster,
    CiliumEndpoint "cilium.io/v2" Namespaced,
    CiliumIdentity "cilium.io/v2" Cluster,
    CiliumCIDRGroup "cilium.io/v2" Cluster,
    ClusterNetworkPolicy "policy.networking.k8s.io/v1alpha2" Cluster,
    AdminNetworkPolicy "policy.networking.k8s.io/v1alpha1" Cluster,
    BaselineAdminNetworkPolicy "policy.networking.k8s.io/v1alpha1" Cluster,
}

impl ObjectKind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.name() == name)
    }

    /// Versions that say the same as [`Self::api_version`], of manifests written before it.
    pub const fn former_versions(self) -> &'static [&'static str] {
        match self {
            Self::CiliumCIDRGroup => &["cilium.io/v2alpha1"],
            _ => &[],
        }
    }

    /// Whether it is a policy.
    pub const fn is_policy(self) -> bool {
        match self {
            Self::NetworkPolicy
            | Self::CiliumNetworkPolicy
            | Self::CiliumClusterwideNetworkPolicy
            | Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy => true,
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::CiliumNode
            | Self::CiliumEndpoint
            | Self::CiliumIdentity
            | Self::CiliumCIDRGroup => false,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
