//! Programs of sockets: whether, and on which cgroup.

use super::rows::{Rows, because, config_origin};
use crate::config::Config;
use crate::state::{SetId, SocketHook, SocketProgram, SocketRow};
use crate::world::{Cgroup, HostFacts};

/// Key of the configuration that asks for them.
const KEY: &str = "load_balancer.socket";

/// Programs of the node's cgroup.
pub(super) fn compile(host: &HostFacts, config: &Config, set: &SetId, rows: &mut Rows) {
    if !config.load_balancer.at_sockets() {
        return;
    }
    match &host.cgroup {
        Cgroup::Unknown => {}
        Cgroup::At(cgroup) => {
            let why = because(&config_origin(KEY));
            let protects = config.load_balancer.node_port_bind_protection;
            let asked = |hook: &SocketHook| protects || !hook.is_after_bind();
            for hook in SocketHook::ALL.into_iter().filter(asked) {
                let row = SocketRow { cgroup: cgroup.clone(), set: set.clone() };
                rows.put::<SocketProgram>(hook, row, &why);
            }
        }
        Cgroup::Missing(reason) => rows.warning(
            &config_origin(KEY),
            format!(
                "Services are not met at sockets: {reason}; packets of pods are translated, processes of the node \
                 itself do not reach Services"
            ),
            "mount -t cgroup2 none /sys/fs/cgroup, name a cgroup by paths.cgroup_root, or turn load_balancer.socket off",
        ),
    }
}
