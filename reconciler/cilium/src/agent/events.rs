//! The reader of the ring buffer: names every event with the view and hands it to the monitors.

use super::shared::Shared;
use super::view::Shown;
use cilium_engine::compile::View;
use cilium_engine::config::Config;
use cilium_engine::state::{Cookie, IdentityId, IpcacheKey, Reason};
use cilium_flows::Names;
use cilium_kernel::bpf::events::Events;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long to wait for the ring buffer to appear.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often to take events while somebody watches: the ring holds far more than comes in this time. The
/// programs wake nobody, since that would cost the packet.
const WATCHED: Duration = Duration::from_millis(20);
/// How often to take and drop events while nobody watches.
const UNWATCHED: Duration = Duration::from_millis(250);
/// How often to look whether the pinned ring buffer is still the same.
const LOOK: Duration = Duration::from_secs(10);

/// Starts the reader; it ends with the process.
pub(super) fn start(config: &Config, shared: &Arc<Shared>) {
    let (bpf_dir, shared) = (config.paths.bpf_dir.to_path_buf(), shared.clone());
    let started = std::thread::Builder::new().name("events".into()).spawn(move || read(&bpf_dir, &shared));
    if let Err(e) = started {
        tracing::error!("no events will be shown: {e}");
    }
}

fn read(bpf_dir: &Path, shared: &Shared) {
    let mut names = Named::new(shared.shown());
    loop {
        match Events::open(bpf_dir) {
            Ok(Some(mut events)) => follow(&mut events, shared, &mut names),
            Ok(None) => std::thread::sleep(PATIENCE),
            Err(e) => {
                tracing::warn!("{e}");
                std::thread::sleep(10 * PATIENCE);
            }
        }
    }
}

/// Takes events until the pinned ring buffer is another.
fn follow(events: &mut Events, shared: &Shared, names: &mut Named) {
    let mut look = Instant::now();
    while look.elapsed() < LOOK || events.is_current().unwrap_or(false) {
        if look.elapsed() >= LOOK {
            look = Instant::now();
        }
        std::thread::sleep(if shared.events.receiver_count() > 0 { WATCHED } else { UNWATCHED });
        names.follow(shared.shown());
        let boot = boot_time();
        while let Some(event) = events.next_event() {
            if shared.events.receiver_count() == 0 {
                continue;
            }
            for event in cilium_flows::told(event) {
                if let Some(named) = cilium_flows::name(&event, names, boot)
                    && let Ok(json) = serde_json::to_string(&named)
                {
                    // No receiver any more: that is nobody's loss.
                    let _ = shared.events.send((json + "\n").into());
                }
            }
        }
    }
}

/// When this host booted, nanoseconds since the epoch: what monotonic event times count from.
fn boot_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut up = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the one struct that the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut up) };
    let up = Duration::new(u64::try_from(up.tv_sec).unwrap_or(0), u32::try_from(up.tv_nsec).unwrap_or(0));
    u64::try_from(now.saturating_sub(up).as_nanos()).unwrap_or(u64::MAX)
}

/// The view, with an index of what there is little of. Everyone else is looked up in the view itself.
struct Named {
    shown: Arc<Shown>,
    endpoints: HashMap<IpAddr, String>,
    nodes: HashMap<IpAddr, String>,
}

impl Named {
    fn new(shown: Arc<Shown>) -> Self {
        Self { endpoints: endpoints(&shown.view), nodes: nodes(&shown.view), shown }
    }

    /// Takes over what is shown now.
    fn follow(&mut self, shown: Arc<Shown>) {
        let before = std::mem::replace(&mut self.shown, shown);
        if !before.view.endpoints.shares(&self.shown.view.endpoints) {
            self.endpoints = endpoints(&self.shown.view);
        }
        if !before.view.nodes.is(&self.shown.view.nodes) {
            self.nodes = nodes(&self.shown.view);
        }
    }
}

fn endpoints(view: &View) -> HashMap<IpAddr, String> {
    let mut by_address = HashMap::new();
    for endpoint in view.endpoints.values() {
        let name = endpoint.pod.as_ref().map_or_else(|| endpoint.container_id.clone(), ToString::to_string);
        for ip in endpoint.ipv4.iter().chain(&endpoint.ipv6) {
            by_address.insert(*ip, name.clone());
        }
    }
    by_address
}

fn nodes(view: &View) -> HashMap<IpAddr, String> {
    let mut by_address = HashMap::new();
    for node in view.nodes.iter() {
        for ip in node.addresses.iter().chain(&node.routers) {
            by_address.entry(*ip).or_insert_with(|| node.name.clone());
        }
    }
    by_address
}

/// The pod elsewhere that has an address.
fn elsewhere(view: &View, addr: IpAddr) -> Option<String> {
    match view.addresses.entry(&IpcacheKey(addr.into()))?.why.as_ref()? {
        Reason::Endpoint(name, _) => Some(name.to_string()),
        Reason::Origin(origin) => match origin.object.split_once(' ')? {
            ("Pod" | "CiliumEndpoint", name) => Some(name.to_owned()),
            _ => None,
        },
        Reason::Service(..) => None,
    }
}

impl Names for Named {
    fn name_of(&self, addr: IpAddr) -> Option<String> {
        let here = self.endpoints.get(&addr).cloned();
        let name = here.or_else(|| elsewhere(&self.shown.view, addr));
        name.or_else(|| self.nodes.get(&addr).cloned())
    }

    fn labels_of(&self, identity: u32) -> Option<String> {
        self.shown.view.identities.get(&IdentityId(identity)).map(|i| i.labels.to_string())
    }

    fn rule_of(&self, cookie: u32) -> Option<String> {
        self.shown.view.rules.get(&Cookie(cookie)).map(|rule| rule.origin.to_string())
    }

    fn interface_of(&self, ifindex: u32) -> Option<String> {
        let mut name = [0; libc::IF_NAMESIZE];
        // SAFETY: the buffer has the size the call demands.
        let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
        if found.is_null() {
            return None;
        }
        let bytes: Vec<u8> = name.iter().take_while(|b| **b != 0).map(|b| *b as u8).collect();
        String::from_utf8(bytes).ok()
    }
}
