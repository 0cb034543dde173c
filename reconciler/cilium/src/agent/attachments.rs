//! CNI requests: they change endpoint records, and are answered when the pass that follows has realised
//! what the records say.

use super::pass::Done;
use super::pool::Pool;
use super::port_mappings;
use super::shared::CniCall;
use cilium_abi::identity::INIT;
use cilium_cni::error::{
    CHECK_FAILED, CniError, INVALID_CONFIG, INVALID_ENVIRONMENT, TRY_AGAIN, UNKNOWN_CONTAINER,
    UNSUPPORTED_FIELD,
};
use cilium_cni::wire::{
    Add, Answer, Attached, AttachedAddress, Attachment, Check, DELETE_QUEUE, MAX_MESSAGE, Request,
};
use cilium_engine::config::Config;
use cilium_engine::ipam::{self, Released};
use cilium_engine::state::Mac;
use cilium_engine::world::{EndpointRecord, ObjectName};
use cilium_sources::kept;
use cilium_sources::records::{RecordError, Records};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot::Sender;

/// How soon the next look must be due for an ADD to wait for it: files that are being written are looked at
/// again within this time.
const SOON: Duration = Duration::from_millis(100);
/// How long an ADD waits for its pod's object at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// An ADD that waits for its pass, or any other request that does.
#[derive(Debug)]
pub(super) struct Waiting {
    what: Awaited,
    reply: Sender<Answer>,
    since: Instant,
}

#[derive(Debug)]
enum Awaited {
    /// The endpoint's rows must stand.
    Attached(u16),
    /// The attachment must be there and its rows stand.
    Checked(Check),
    /// Its rows must be gone, but that is not the runtime's worry.
    Nothing,
    /// The agent must be ready.
    Ready,
}

/// Turns requests into records, and passes into answers.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    pool: Pool,
    released: Released,
    /// Attached, but of pods whose objects may be in a file that is just being written.
    held: Vec<Waiting>,
}

impl Attachments {
    /// Forgets attachments that were deleted while no agent ran.
    pub(super) fn bury(&mut self, records: &mut Records, config: &Config) {
        let queue = config.paths.run_dir.join(DELETE_QUEUE);
        let Ok(entries) = std::fs::read_dir(&queue) else { return };
        for entry in entries.flatten().take(100_000) {
            let path = entry.path();
            let bytes = kept::read(&path, MAX_MESSAGE as u64).ok();
            let attachment = bytes.and_then(|b| serde_json::from_slice::<Attachment>(&b).ok());
            if let Some(attachment) = attachment {
                tracing::info!(container = %attachment.container_id, "deleted while no agent ran");
                if let Err(e) = self.forget(records, &attachment) {
                    // The next start tries again.
                    tracing::warn!("forget {}: {e}", attachment.container_id);
                    continue;
                }
            }
            if let Err(e) = std::fs::remove_file(&path) {
                tracing::warn!("remove tombstone {}: {e}", path.display());
            }
        }
    }

    /// Carries out what can be done at once; the rest waits for the pass.
    pub(super) fn change_records(&mut self, calls: Vec<CniCall>, records: &mut Records) -> Vec<Waiting> {
        let mut waiting = std::mem::take(&mut self.held);
        for CniCall { request, reply } in calls {
            let what = match request {
                Request::Add(add) => match self.add(&add, records) {
                    Ok(id) => Awaited::Attached(id),
                    Err(e) => {
                        send(reply, Answer::Failed(e));
                        continue;
                    }
                },
                Request::Del(attachment) => match self.forget(records, &attachment) {
                    Ok(()) => Awaited::Nothing,
                    Err(e) => {
                        send(reply, Answer::Failed(not_forgotten(&e)));
                        continue;
                    }
                },
                Request::Check(check) => Awaited::Checked(check),
                Request::Gc { network, valid } => {
                    let dead: Vec<Attachment> = records
                        .endpoints()
                        .values()
                        .filter(|r| r.network == network)
                        .map(attachment_of)
                        .filter(|a| !valid.contains(a))
                        .collect();
                    let results: Vec<_> = dead.iter().map(|a| self.forget(records, a)).collect();
                    match results.into_iter().find_map(Result::err) {
                        None => Awaited::Nothing,
                        Some(e) => {
                            send(reply, Answer::Failed(not_forgotten(&e)));
                            continue;
                        }
                    }
                }
                Request::Status => Awaited::Ready,
            };
            waiting.push(Waiting { what, reply, since: Instant::now() });
        }
        waiting
    }

    /// What this node's pods get, as the last pass saw it.
    pub(super) fn learn(&mut self, pool: &Pool) {
        self.pool = pool.clone();
    }

    fn add(&self, add: &Add, records: &mut Records) -> Result<u16, CniError> {
        let netns = Path::new(&add.netns);
        let found = |r: &&EndpointRecord| attachment_of(r) == add.attachment;
        if let Some(known) = records.endpoints().values().find(found) {
            if known.netns == netns {
                return Ok(known.id);
            }
            // The same container id with another namespace: the old sandbox is gone.
            let id = known.id;
            records
                .remove(id)
                .map_err(|e| CniError::new(TRY_AGAIN, "forget the old sandbox").details(e.to_string()))?;
        }
        check_netns(netns)?;
        if !add.port_mappings.is_empty() && !self.pool.host_ports {
            return Err(CniError::new(UNSUPPORTED_FIELD, "runtimeConfig.portMappings are not served")
                .details(
                    "set load_balancer.kube_proxy_replacement, or chain the portmap plugin after this one",
                ));
        }
        if self.pool.cidrs.is_empty() {
            return Err(CniError::new(TRY_AGAIN, "this node has no pod CIDR yet")
                .details("give node.pod_cidrs, or spec.ipam.podCIDRs of its CiliumNode object"));
        }
        let pod = add.pod_name.as_ref().map(|name| {
            ObjectName::new(
                add.pod_namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("default"),
                name,
            )
        });
        let has = |family: fn(&IpAddr) -> bool| self.pool.cidrs.iter().any(|cidr| family(&cidr.addr()));
        let wanted =
            ipam::Request { ipv4: has(IpAddr::is_ipv4), ipv6: has(IpAddr::is_ipv6), wanted: add.ips.clone() };
        let allocated = ipam::allocate(
            records.endpoints(),
            &self.pool.cidrs,
            &self.pool.routers.iter().copied().collect(),
            &self.released,
            &wanted,
        )
        .map_err(|e| CniError::new(TRY_AGAIN, "no address for the pod").details(e.to_string()))?;
        let id = allocated.id;
        let record = EndpointRecord {
            id,
            container_id: add.attachment.container_id.clone(),
            network: add.network.clone(),
            ifname: add.attachment.ifname.clone(),
            netns: netns.to_path_buf(),
            pod,
            pod_uid: add.pod_uid.clone(),
            labels: add.labels.clone(),
            link: format!("lxc{:04x}{:08x}", id, mix(&add.attachment) as u32),
            mac: mac(&add.attachment, id, 1),
            node_mac: mac(&add.attachment, id, 2),
            ipv4: allocated.ipv4,
            ipv6: allocated.ipv6,
            port_mappings: port_mappings::asked(&add.port_mappings, SystemTime::now()),
        };
        records
            .put(record)
            .map_err(|e| CniError::new(TRY_AGAIN, "write the endpoint record").details(e.to_string()))?;
        Ok(id)
    }

    /// Answers what waited for the pass, but ADDs of pods whose object is likely to be read in the next one,
    /// if a file is to be looked at again within `scan_again`: until then their connections would fail. Returns whether records were
    /// taken back, so that another pass is due.
    pub(super) fn answer(
        &mut self,
        waiting: Vec<Waiting>,
        done: &Done,
        scan_again: Option<Duration>,
        records: &mut Records,
    ) -> bool {
        let mut took_back = false;
        for Waiting { what, reply, since } in waiting {
            if let Awaited::Attached(id) = what
                && scan_again.is_some_and(|again| again <= SOON)
                && since.elapsed() < PATIENCE
                && lacks_object(id, done)
            {
                self.held.push(Waiting { what, reply, since });
                continue;
            }
            let answer = match what {
                Awaited::Nothing => Answer::Done,
                Awaited::Ready if done.synced && !self.pool.cidrs.is_empty() => Answer::Done,
                Awaited::Ready => Answer::Failed(
                    CniError::new(cilium_cni::error::NOT_AVAILABLE, "the agent is not ready")
                        .details("its sources have not synced, or this node has no pod CIDR"),
                ),
                Awaited::Attached(id) => match self.realised(id, done, records) {
                    Ok(attached) => Answer::Attached(attached),
                    Err(e) => {
                        // An ADD that fails must leave nothing: the runtime may never call DEL for it.
                        let _ = records.remove(id);
                        took_back = true;
                        Answer::Failed(e)
                    }
                },
                Awaited::Checked(Check { attachment, port_mappings }) => {
                    match records.endpoints().values().find(|r| attachment_of(r) == attachment) {
                        None => Answer::Failed(CniError::new(UNKNOWN_CONTAINER, "no such attachment")),
                        Some(record) => match self
                            .realised(record.id, done, records)
                            .and_then(|_| port_mappings::check(record, &port_mappings, &done.view))
                        {
                            Ok(()) => Answer::Done,
                            Err(e) => Answer::Failed(CniError { code: CHECK_FAILED, ..e }),
                        },
                    }
                }
            };
            send(reply, answer);
        }
        took_back
    }

    /// Answers that the pass could not be made at all.
    pub(super) fn answer_failed(&mut self, waiting: Vec<Waiting>, why: &str, records: &mut Records) {
        for Waiting { what, reply, .. } in waiting {
            if let Awaited::Attached(id) = what {
                let _ = records.remove(id);
            }
            let answer = match what {
                Awaited::Nothing => Answer::Done,
                _ => Answer::Failed(CniError::new(TRY_AGAIN, "the pass failed").details(why)),
            };
            send(reply, answer);
        }
    }

    /// One that is not there is forgotten.
    fn forget(&mut self, records: &mut Records, attachment: &Attachment) -> Result<(), RecordError> {
        let id = records.endpoints().values().find(|r| attachment_of(r) == *attachment).map(|r| r.id);
        if let Some(record) = id.map(|id| records.remove(id)).transpose()?.flatten() {
            self.released.add(&record);
        }
        Ok(())
    }

    fn realised(&self, id: u16, done: &Done, records: &Records) -> Result<Attached, CniError> {
        let record = records
            .endpoints()
            .values()
            .find(|r| r.id == id)
            .ok_or_else(|| CniError::new(UNKNOWN_CONTAINER, "no such attachment"))?;
        let refuse =
            |details: String| Err(CniError::new(TRY_AGAIN, "the pod could not be attached").details(details));
        if !done.view.endpoints.contains_key(&id) {
            let problems: Vec<String> = done.problems.iter().map(ToString::to_string).take(5).collect();
            return refuse(format!("its rows could not be compiled: {}", problems.join("; ")));
        }
        let addresses: Vec<String> =
            record.ipv4.iter().chain(&record.ipv6).map(ToString::to_string).collect();
        let concerns = |key: &str| {
            key.split([' ', '/', '.']).any(|word| word == record.link) || addresses.iter().any(|a| a == key)
        };
        if let Some((row, reason)) = done.failures.iter().find(|(row, _)| concerns(&row.key)) {
            return refuse(format!("{row}: {reason}"));
        }
        if let Some(unread) = done.unread.first() {
            return refuse(format!("{}: {}", unread.row, unread.reason));
        }
        let gateway = |ip: &IpAddr| self.pool.routers.iter().find(|r| r.is_ipv4() == ip.is_ipv4()).copied();
        Ok(Attached {
            link: record.link.clone(),
            link_mac: record.node_mac.to_string(),
            mac: record.mac.to_string(),
            mtu: done.pod_mtu(&record.link).unwrap_or(0),
            addresses: record
                .ipv4
                .iter()
                .chain(&record.ipv6)
                .filter_map(|ip| Some(AttachedAddress { ip: *ip, gateway: gateway(ip)? }))
                .collect(),
        })
    }
}

/// Whether an endpoint is a pod of which no object has been read.
fn lacks_object(id: u16, done: &Done) -> bool {
    let endpoint = done.view.endpoints.get(&id);
    endpoint.is_some_and(|endpoint| endpoint.pod.is_some() && endpoint.identity.0 == INIT)
}

/// The runtime asks again: till then the pod keeps what it has.
fn not_forgotten(error: &RecordError) -> CniError {
    CniError::new(TRY_AGAIN, "forget the pod").details(error.to_string())
}

fn send(reply: Sender<Answer>, answer: Answer) {
    // A runtime that went away asks again, or deletes.
    let _ = reply.send(answer);
}

fn attachment_of(record: &EndpointRecord) -> Attachment {
    Attachment { container_id: record.container_id.clone(), ifname: record.ifname.clone() }
}

/// The namespace must be there, and not the host's: a pod's interface would replace the host's.
fn check_netns(netns: &Path) -> Result<(), CniError> {
    let invalid = |why: String| CniError::new(INVALID_ENVIRONMENT, "CNI_NETNS is not usable").details(why);
    if !netns.is_absolute() {
        return Err(invalid(format!("{} is not an absolute path", netns.display())));
    }
    let there = std::fs::metadata(netns).map_err(|e| invalid(format!("{}: {e}", netns.display())))?;
    let own = std::fs::metadata("/proc/thread-self/ns/net")
        .map_err(|e| CniError::new(INVALID_CONFIG, "the host's own namespace").details(e.to_string()))?;
    if (there.dev(), there.ino()) == (own.dev(), own.ino()) {
        return Err(invalid(format!("{} is the host's own namespace", netns.display())));
    }
    Ok(())
}

/// 64 bits that differ between attachments (FNV-1a): names and hardware addresses need to be unique on
/// one host, and the endpoint number in them already is.
fn mix(attachment: &Attachment) -> u64 {
    let bytes = attachment.container_id.bytes().chain([0]).chain(attachment.ifname.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// A locally administered unicast address (IEEE 802: bit 1 of the first byte set, bit 0 clear).
fn mac(attachment: &Attachment, id: u16, side: u8) -> Mac {
    let [a, b, ..] = mix(attachment).to_be_bytes();
    let [high, low] = id.to_be_bytes();
    Mac([0x0a | (side << 4), a, b, side, high, low])
}
