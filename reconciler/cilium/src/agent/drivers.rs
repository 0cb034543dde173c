//! Drivers of devices, as the status shows them: which serve clients outside, and why others do not.

use cilium_engine::state::{AttachmentKey, Hook, LinkName, State};
use cilium_engine::world::HostDevice;
use cilium_kernel::bpf::Bpf;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The hooks of the drivers of all devices, and whether they are to serve clients outside.
pub(super) fn hooks(state: &State) -> Vec<(AttachmentKey, bool)> {
    let hook = |link: &LinkName| {
        let key = AttachmentKey { link: link.clone(), hook: Hook::Xdp };
        let is_wanted = state.attachments.find(&key).is_some();
        (key, is_wanted)
    };
    state.devices.keys().map(hook).collect()
}

/// A device of the node, where `load_balancer.acceleration` is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct DriverStatus {
    /// The device.
    pub device: String,
    /// Whether its driver serves clients outside.
    pub active: bool,
    /// Why not, unless a row that failed says it; or what is to be known of one that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

impl fmt::Display for DriverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, if self.active { "active" } else { "inactive" })?;
        match &self.remark {
            Some(remark) => write!(f, " ({remark})"),
            None => Ok(()),
        }
    }
}

impl DriverStatus {
    /// Looks at a device. `is_wanted`: its driver is to serve clients.
    pub(super) fn of(bpf: &Bpf, key: &AttachmentKey, is_wanted: bool, device: Option<&HostDevice>) -> Self {
        let active = bpf.is_in_driver(key);
        let has_mac = device.is_none_or(|device| device.mac.is_some());
        let is_veth = device.is_some_and(|device| device.is_veth);
        let remark = match (active, is_wanted) {
            (true, _) if is_veth => Some(
                "veth: frames it sends back arrive only if the driver of its other end runs a program too"
                    .into(),
            ),
            (false, true) => bpf.why_not_in_driver(key),
            (false, false) if !has_mac => Some("no hardware address".into()),
            (false, false) if is_veth => Some("veth: frames it sends back may not arrive".into()),
            _ => None,
        };
        Self { device: key.link.0.clone(), active, remark }
    }
}
