//! Which rows to look at in a pass: all, or those whose wish changed. A scope only narrows the looking;
//! what is then done follows from what was seen.

use crate::driver::Scope;
use crate::state::{AttachmentKey, Hook, IdentityId, Kind, LinkName, PolicyKey, Protocol, Resource, State};
use std::collections::BTreeSet;

fn merge<K: Ord>(into: &mut Scope<K>, other: Scope<K>) {
    match (into, other) {
        (Scope::All, _) => {}
        (into, Scope::All) => *into = Scope::All,
        (Scope::Keys(keys), Scope::Keys(more)) => keys.extend(more),
    }
}

fn is_nothing<K>(scope: &Scope<K>) -> bool {
    matches!(scope, Scope::Keys(keys) if keys.is_empty())
}

macro_rules! scopes {
    ($(($field:ident, $resource:ident)),* $(,)?) => {
        /// What to look at, by kind.
        #[derive(Clone, Debug)]
        pub struct Scopes {
            $(#[doc = concat!("Of [`crate::state::", stringify!($resource), "`].")]
            pub $field: Scope<<crate::state::$resource as Resource>::Key>,)*
        }

        impl Scopes {
            /// Everything.
            pub fn all() -> Self {
                Self { $($field: Scope::All,)* }
            }

            /// Nothing.
            pub fn none() -> Self {
                Self { $($field: Scope::Keys(BTreeSet::new()),)* }
            }

            /// The rows whose wish differs between two desired states, and the rows their order depends on.
            pub fn between(before: &State, now: &State) -> Self {
                let mut scopes = Self { $($field: Scope::Keys(before.$field.changed(&now.$field)),)* };
                scopes.whole_ladders(before, now);
                scopes
            }

            /// Looks at a whole kind too, and at the kinds whose rows may need its rows: a row goes only
            /// when those that might need it have been looked at.
            pub fn add(&mut self, kind: Kind) {
                match kind { $(Kind::$resource => self.$field = Scope::All,)* }
                $(if crate::state::$resource::NEEDS.contains(&kind) {
                    self.add(Kind::$resource);
                })*
            }

            /// Looks at what another scope looks at too.
            pub fn merge(&mut self, other: Self) {
                $(merge(&mut self.$field, other.$field);)*
            }

            /// Whether there is nothing to look at.
            pub fn is_empty(&self) -> bool {
                true $(&& is_nothing(&self.$field))*
            }
        }
    };
}
crate::for_each_resource!(scopes);

fn include<K: Ord>(scope: &mut Scope<K>, keys: impl IntoIterator<Item = K>) {
    match scope {
        Scope::All => {}
        Scope::Keys(into) => into.extend(keys),
    }
}

impl Scopes {
    /// Looks at a pod's interface too, with what hangs on it.
    pub fn add_pod_link(&mut self, link: &LinkName) {
        let hooks = [Hook::Ingress, Hook::Egress];
        include(&mut self.links, [link.clone()]);
        include(&mut self.attachments, hooks.map(|hook| AttachmentKey { link: link.clone(), hook }));
        include(&mut self.pod_interfaces, [link.clone()]);
        include(&mut self.endpoint_configs, [link.clone()]);
        include(&mut self.link_ups, [link.clone()]);
    }

    /// Edits of a policy are ordered by what stands beside them: the rows of their ladder, the L3 row for
    /// every peer, and the policy's digest.
    fn whole_ladders(&mut self, before: &State, now: &State) {
        let (Scope::Keys(policies), Scope::Keys(digests)) = (&mut self.policies, &mut self.policy_digests)
        else {
            return;
        };
        let l3 = |key: &PolicyKey| PolicyKey { proto: Protocol(0), port: 0, port_len: 0, ..*key };
        let ladders: BTreeSet<PolicyKey> = policies.iter().map(l3).collect();
        for first in ladders {
            let last = PolicyKey { proto: Protocol(u8::MAX), port: u16::MAX, port_len: u8::MAX, ..first };
            for table in [&before.policies, &now.policies] {
                policies.extend(table.range(first..=last).map(|(key, _)| *key));
            }
            policies.insert(first);
            policies.insert(PolicyKey { identity: IdentityId(0), ..first });
            digests.insert(first.policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{BackendId, BackendRow};

    #[test]
    fn only_rows_whose_wish_changed_are_looked_at() {
        let row = |port| BackendRow { addr: [10, 0, 0, 1].into(), port, proto: Protocol::TCP, flags: 0 };
        let (mut before, mut now) = (State::default(), State::default());
        for id in 1..5 {
            before.backends.insert(BackendId(id), row(80), None);
            now.backends.insert(BackendId(id + 1), row(if id == 2 { 81 } else { 80 }), None);
        }
        let scopes = Scopes::between(&before, &now);
        assert_eq!(scopes.backends, Scope::Keys([BackendId(1), BackendId(3), BackendId(5)].into()));
        assert!(Scopes::between(&now, &now).is_empty());
        let mut scopes = Scopes::none();
        scopes.add_pod_link(&"lxc1".into());
        assert_eq!(scopes.link_ups, Scope::Keys([LinkName::from("lxc1")].into()));
        scopes.add(Kind::Slot);
        assert_eq!((scopes.slots, scopes.frontends), (Scope::All, Scope::All), "frontends may need slots");
    }
}
