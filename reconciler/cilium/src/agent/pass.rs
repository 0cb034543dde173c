//! One pass: read the sources, compile, read the host, compare, write, look again.
//!
//! Used by the agent's loop and, once, by `apply`, `plan` and `destroy`. Owned by one thread; no lock is
//! held across a pass. Everything in [`Memo`] may be dropped between two passes: it only says where to look.

mod destroy;

use super::drivers;
use super::history::History;
use super::offline::folder_to_look;
use super::pool::Pool;
use super::refusals::{self, Refusals};
use super::sockets::Ground;
use super::status::{FailedRow, PassSummary, StageTimes};
use anyhow::{Context, Result};
use cilium_engine::compile::{Compiled, Compiler, IdBook, View};
use cilium_engine::config::{Attach, Config};
use cilium_engine::diff::diff;
use cilium_engine::driver::Scope;
use cilium_engine::history::{Circumstances, Record};
use cilium_engine::pace::Pace;
use cilium_engine::plan::{Phase, Plan};
use cilium_engine::problem::Problems;
use cilium_engine::realise::{Outcome, Report, observe, realise};
use cilium_engine::scope::Scopes;
use cilium_engine::state::{
    AttachmentKey, Backend, DesiredState, Kind, LinkName, PodInterface, RESERVED_PORTS, RowId, SourceSet,
    State, SysctlKey, Table,
};
use cilium_engine::world::{HostDevice, HostFacts, World};
use cilium_kernel::bpf::object_digest;
use cilium_kernel::{AttachMode, Kernel, KernelPaths};
use cilium_sources::config::Loaded;
use cilium_sources::folder::{ManifestFolder, Now, Watch, WatchError};
use cilium_sources::records::{Records, RouterAddresses};
use cilium_sources::world::Assembler;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How much of the host a pass reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looking {
    /// All rows of all kinds.
    AtEverything,
    /// Rows whose wish changed, rows that failed, and these kinds. None of them: nothing was heard of, and the
    /// host's devices are as they were.
    AtChanges(BTreeSet<Kind>),
}

/// What the last pass left for the next: hints only.
#[derive(Default)]
struct Memo {
    wanted: Option<State>,
    book: Option<IdBook>,
    /// The pass ended with nothing left to do: the book says what the kernel held then. A number that
    /// others have taken away or changed since is given back, not given up for another.
    in_sync: bool,
    /// The host as it was read when something was last heard of it.
    facts: Option<HostFacts>,
}

/// What a pass would do.
pub(crate) struct Thought {
    /// The rows wanted.
    pub desired: DesiredState,
    /// The difference.
    pub plan: Plan,
    /// What is wrong with objects.
    pub problems: Problems,
    book: IdBook,
    view: View,
    rows_read: usize,
    micros: StageTimes,
    cpu: Duration,
}

/// What a pass did.
pub(crate) struct Done {
    /// What was to be done.
    pub plan: Plan,
    /// Steps carried out. As all that tells of outcomes, without the last files until [`Reconciler::settle`].
    pub done: usize,
    /// Rows not as wanted, with the reason.
    pub failures: Vec<(RowId, String)>,
    /// The same of kinds that a node does without.
    pub refused: Vec<(RowId, String)>,
    /// What is wrong with objects.
    pub problems: Problems,
    /// Kinds that could not be read.
    pub unread: Vec<FailedRow>,
    /// What people are shown.
    pub view: View,
    /// Rows wanted, by kind.
    pub wanted: Vec<(Kind, usize)>,
    /// Steps that repaired what others had changed: found and repaired, by kind.
    pub drift: BTreeMap<Kind, (u64, u64)>,
    /// All sources have synced.
    pub synced: bool,
    /// Nothing was left to do when [`Reconciler::settle`] looked again; until then false.
    pub in_sync: bool,
    /// Processor time of everything but writing.
    pub looked: Duration,
    /// In short.
    pub summary: PassSummary,
    /// Every step with its outcome.
    pub report: Report,
    drifted: Vec<RowId>,
    /// Not carried out yet, and not in the plan till then.
    files: Vec<Phase>,
    pod_interfaces: Table<PodInterface>,
    backends: Table<Backend>,
    sockets_at: Option<PathBuf>,
    drivers: Vec<(AttachmentKey, bool)>,
    desired: DesiredState,
    book: IdBook,
}

impl Done {
    /// Where programs of sockets are wanted; none: nowhere.
    pub(crate) fn sockets_at(&self) -> Option<&Path> {
        self.sockets_at.as_deref()
    }

    /// The hooks of drivers of all devices, and whether they are to serve clients outside.
    pub(crate) fn drivers(&self) -> &[(AttachmentKey, bool)] {
        &self.drivers
    }

    /// MTU inside the pod behind an interface, bytes.
    pub(crate) fn pod_mtu(&self, link: &str) -> Option<u32> {
        self.pod_interfaces.find(&link.into()).map(|row| row.mtu)
    }
}

/// Sources and host of one node.
pub(crate) struct Reconciler {
    /// The configuration in force.
    pub loaded: Loaded,
    /// The host.
    pub kernel: Kernel,
    /// This node's CNI attachments.
    pub records: Records,
    folder: ManifestFolder,
    boot_id: String,
    history: History,
    memo: Memo,
    assembler: Assembler,
    compiler: Compiler,
    pace: Pace,
    refusals: Refusals,
    pool: Pool,
    began: Instant,
    scan_again: Option<Duration>,
}

impl Reconciler {
    /// Opens sources and host; changes nothing.
    ///
    /// # Errors
    /// The host cannot be read at all, or the records cannot.
    pub(crate) fn open(loaded: Loaded) -> Result<Self> {
        let config = loaded.config.clone();
        let paths = &config.paths;
        let folder = ManifestFolder::new(&config.source.manifests.path, &config.node.name, &paths.state_dir);
        let mut owner = Self::open_host(loaded, folder)?;
        owner.records = Records::load(&paths.run_dir, &paths.state_dir, &owner.boot_id);
        Ok(owner)
    }

    /// Has the manifest folder watched from the next pass on, so that passes look only where something was
    /// heard of, but for those that read everything.
    ///
    /// # Errors
    /// The kernel has no more watches to give.
    pub(crate) fn watch_folder(&mut self) -> Result<Watch, WatchError> {
        self.folder.watch()
    }

    /// The same for looking only: neither sources nor host are changed, and no lock is needed.
    /// `manifests` may be another folder than the configured one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_to_look(loaded: Loaded, manifests: Option<&Path>) -> Result<Self> {
        let config = loaded.config.clone();
        let mut looking = Self::open_host(loaded, folder_to_look(&config, manifests))?;
        let paths = &config.paths;
        looking.records = Records::to_look(&paths.run_dir, &paths.state_dir, &looking.boot_id);
        Ok(looking)
    }

    fn open_host(loaded: Loaded, folder: ManifestFolder) -> Result<Self> {
        let config = &loaded.config;
        let mut kernel = Kernel::open(
            KernelPaths {
                bpf_dir: config.paths.bpf_dir.to_path_buf(),
                publish_dir: config.source.manifests.publish.as_ref().map(|p| p.to_path_buf()),
                cgroup_root: config.paths.cgroup_root.as_ref().map(|p| p.to_path_buf()),
                cni_conf_dir: config.paths.cni_conf_dir.as_ref().map(|p| p.to_path_buf()),
                node_name: config.node.name.clone(),
            },
            match config.datapath.attach {
                Attach::Auto => AttachMode::Auto,
                Attach::Tcx => AttachMode::Tcx,
                Attach::Clsact => AttachMode::Clsact,
            },
        )
        .context("open the host's drivers")?;
        let boot_id = kernel.net.facts().context("read the host's devices")?.boot_id;
        let records = Records::to_look(Path::new("/nonexistent"), Path::new("/nonexistent"), &boot_id);
        Ok(Self {
            history: History::open(&config.paths.state_dir),
            memo: Memo::default(),
            assembler: Assembler::default(),
            compiler: Compiler::default(),
            pace: Pace::default(),
            refusals: Refusals::default(),
            pool: Pool::default(),
            began: Instant::now(),
            scan_again: None,
            boot_id,
            folder,
            records,
            kernel,
            loaded,
        })
    }

    /// What the next pass would do, reading everything.
    ///
    /// # Errors
    /// The host's facts cannot be read.
    pub(crate) fn think(&mut self) -> Result<Thought> {
        self.look(&Looking::AtEverything)
    }

    fn look(&mut self, looking: &Looking) -> Result<Thought> {
        let mut micros = StageTimes::default();
        let (mut clock, began) = (Stopwatch::start(), cpu_time());
        let world = self.world(looking)?;
        micros.sources = clock.lap();
        let whole =
            *looking == Looking::AtEverything || self.memo.wanted.is_none() || self.memo.book.is_none();
        let config = &self.loaded.config;
        self.pool = Pool::of(&world, config);
        let (compiled, observed);
        if whole {
            let mut scopes = Scopes::all();
            // Which sysctls to look at is known when it is known which are wanted.
            scopes.sysctls = Scope::Keys(BTreeSet::new());
            let mut seen = observe(&mut self.kernel, &scopes);
            micros.observe = clock.lap();
            let book = self.memo.book.take().filter(|_| self.memo.in_sync);
            let book = book.unwrap_or_else(|| IdBook::adopt(&seen.state));
            compiled = self.compiler.compile(&world, config, &book);
            micros.compile = clock.lap();
            watch_sysctls(&mut self.kernel, &compiled, config);
            let mut sysctls = Scopes::none();
            sysctls.add(Kind::Sysctl);
            let more = observe(&mut self.kernel, &sysctls);
            seen.state.sysctls = more.state.sysctls;
            seen.coverage.sysctls = more.coverage.sysctls;
            observed = seen;
            micros.observe += clock.lap();
        } else {
            let book = self.memo.book.take().unwrap_or_default();
            compiled = self.compiler.compile(&world, config, &book);
            micros.compile = clock.lap();
            let before = self.memo.wanted.take().unwrap_or_default();
            let mut scopes = Scopes::between(&before, &compiled.desired.state);
            self.memo.wanted = Some(before);
            if let Looking::AtChanges(kinds) = looking {
                kinds.iter().for_each(|kind| scopes.add(*kind));
            }
            self.pace.later(Duration::ZERO).iter().for_each(|row| scopes.add(row.kind));
            watch_sysctls(&mut self.kernel, &compiled, config);
            observed = observe(&mut self.kernel, &scopes);
            micros.observe = clock.lap();
        }
        let mut plan = diff(&compiled.desired, &observed);
        if let Some(before) = &self.memo.wanted {
            plan.remember(before);
        }
        micros.diff = clock.lap();
        let Compiled { desired, problems, book, view } = compiled;
        let cpu = cpu_time().saturating_sub(began);
        Ok(Thought { rows_read: observed.state.len(), desired, plan, problems, book, view, micros, cpu })
    }

    /// The world as the sources and the host tell it. Of the folder all is looked at, or only what was heard of.
    fn world(&mut self, looking: &Looking) -> Result<World> {
        let facts = self.facts(looking)?;
        let now = self.now();
        let whole = *looking == Looking::AtEverything;
        let snapshot = if whole { self.folder.scan(now) } else { self.folder.scan_heard(now) };
        self.scan_again = snapshot.again;
        self.place_pods();
        Ok(self.assembler.assemble(&snapshot, &self.records, facts, &self.loaded.config))
    }

    /// A device as it was read last.
    pub(crate) fn device(&self, name: &LinkName) -> Option<&HostDevice> {
        self.memo.facts.as_ref()?.devices.iter().find(|device| device.name == *name)
    }

    fn facts(&mut self, looking: &Looking) -> Result<HostFacts> {
        if let (Looking::AtChanges(heard), Some(facts)) = (looking, &self.memo.facts)
            && heard.is_empty()
        {
            return Ok(facts.clone());
        }
        let mut facts = self.kernel.net.facts().context("read the host's devices")?;
        facts.object_digest = object_digest().to_owned();
        if self.loaded.config.load_balancer.at_sockets() {
            facts.cgroup = self.kernel.bpf.cgroup();
        }
        self.memo.facts = Some(facts.clone());
        Ok(facts)
    }

    fn now(&self) -> Now {
        Now { uptime: self.began.elapsed(), wall: SystemTime::now() }
    }

    /// One pass, but for the files that come last, and for the look at what it wrote: see [`Self::settle`].
    ///
    /// # Errors
    /// The host's facts cannot be read; nothing was written.
    pub(crate) fn pass(&mut self, woken_by: &[String], looking: Looking) -> Result<Done> {
        let clock = Instant::now();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut thought = self.look(&looking)?;
        let full = looking == Looking::AtEverything || self.memo.wanted.is_none();
        let drifted = self.drifted(&thought);
        let steps = thought.plan.len();
        let files = last_files(&mut thought.plan);
        let mut stage = Stopwatch::start();
        let report = self.realise(&thought.plan);
        let mut micros = thought.micros;
        micros.apply = stage.lap();
        self.keep_router(&thought.desired);
        micros.total = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        let summary = PassSummary {
            woken_by: woken_by.to_vec(),
            started,
            micros,
            rows_read: thought.rows_read,
            rows_wanted: thought.desired.state.len(),
            steps,
            failed: 0,
            drift: drifted.len(),
            full,
        };
        let unread = thought.plan.unread.iter();
        Ok(Done {
            done: report.done(),
            failures: refusals::sort(failures(&report)).0,
            refused: Vec::new(),
            unread: unread
                .map(|(kind, e)| FailedRow { row: kind.to_string(), reason: e.to_string() })
                .collect(),
            pod_interfaces: thought.desired.state.pod_interfaces.clone(),
            backends: thought.desired.state.backends.clone(),
            sockets_at: thought
                .desired
                .state
                .socket_programs
                .iter()
                .next()
                .map(|(_, e)| e.row.cgroup.clone()),
            drivers: drivers::hooks(&thought.desired.state),
            wanted: Kind::ALL.iter().map(|kind| (*kind, thought.desired.state.count(*kind))).collect(),
            synced: thought.desired.synced.contains(SourceSet::ALL),
            in_sync: false,
            drift: BTreeMap::new(),
            drifted,
            files,
            looked: thought.cpu,
            summary,
            report,
            plan: thought.plan,
            problems: thought.problems,
            view: thought.view,
            desired: thought.desired,
            book: thought.book,
        })
    }

    /// Ends a pass: writes the files it left, looks again at all it wrote, and records it. To be called once
    /// after each pass, which does not do it itself so that nobody who waits for a pod waits for what is
    /// published of it, or for the look.
    pub(crate) fn settle(&mut self, done: &mut Done) {
        let clock = Instant::now();
        self.records.copy();
        self.write_files(done);
        done.in_sync = self.settled_after(done);
        done.summary.micros.total += u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.record(&done.plan, &done.report, &done.summary);
        // A scoped read takes the last pass for clean: after any failure everything is read again.
        self.memo = if done.failures.is_empty() && done.unread.is_empty() {
            let wanted = std::mem::take(&mut done.desired.state);
            let book = Some(std::mem::take(&mut done.book));
            Memo { wanted: Some(wanted), book, in_sync: done.in_sync, facts: self.memo.facts.take() }
        } else {
            Memo::default()
        };
    }

    fn realise(&mut self, plan: &Plan) -> Report {
        let later = self.pace.later(self.began.elapsed());
        realise(plan, &mut self.kernel, &later, &mut |progress| {
            tracing::trace!(?progress, "apply");
            ControlFlow::Continue(())
        })
    }

    fn write_files(&mut self, done: &mut Done) {
        let mut stage = Stopwatch::start();
        let files = Plan { phases: std::mem::take(&mut done.files), ..Plan::default() };
        done.report.outcomes.extend(self.realise(&files).outcomes);
        done.plan.phases.extend(files.phases);
        done.summary.micros.apply += stage.lap();
        self.pace.learn(&done.report, self.began.elapsed(), chance);
        done.done = done.report.done();
        let (failures, refused) = refusals::sort(failures(&done.report));
        done.failures = failures;
        done.refused = self.refusals.learn(refused, &done.report);
        refusals::tell(&done.refused, &mut done.problems);
        done.summary.failed = done.failures.len();
        for id in &done.drifted {
            let counts = done.drift.entry(id.kind).or_default();
            counts.0 += 1;
            counts.1 += u64::from(done.report.outcomes.get(id) == Some(&Outcome::Done));
        }
    }

    /// The router's addresses outlive a reboot.
    fn keep_router(&mut self, desired: &DesiredState) {
        if !desired.synced.contains(SourceSet::ALL) || self.pool.routers.is_empty() {
            return;
        }
        let of = |family: fn(&IpAddr) -> bool| self.pool.routers.iter().copied().find(family);
        let router = RouterAddresses { ipv4: of(IpAddr::is_ipv4), ipv6: of(IpAddr::is_ipv6) };
        if let Err(e) = self.records.keep_router(router) {
            tracing::warn!("keep the router's addresses: {e}");
        }
    }

    /// Forgets what the last pass left; the next one reads everything.
    pub(crate) fn forget(&mut self) {
        self.memo = Memo::default();
    }

    /// How soon a file that is being written is to be looked at again.
    pub(crate) fn scan_again(&self) -> Option<Duration> {
        self.scan_again
    }

    /// When the next look is due though nothing happens: a failed row's next try, or a file that is being
    /// written.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.pace.next(self.began.elapsed()).into_iter().chain(self.scan_again).min()
    }

    /// What this node's pods get their addresses from, as the last pass saw it.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Rows in the plan though nobody's wish for them changed since the last pass.
    fn drifted(&self, thought: &Thought) -> Vec<RowId> {
        let Some(before) = &self.memo.wanted else { return Vec::new() };
        let changed = Scopes::between(before, &thought.desired.state);
        let failing = self.pace.later(Duration::ZERO);
        thought.plan.changed_by_others(&changed).into_iter().filter(|id| !failing.contains(id)).collect()
    }

    fn settled_after(&mut self, done: &Done) -> bool {
        if done.plan.is_empty() {
            return done.plan.is_settled();
        }
        if !done.failures.is_empty() {
            return false;
        }
        let again = observe(&mut self.kernel, &done.plan.scopes());
        let refused: BTreeSet<&RowId> = done.refused.iter().map(|(id, _)| id).collect();
        let left = diff(&done.desired, &again);
        let mut left = left.phases.iter().flat_map(|phase| phase.steps.ids());
        done.plan.unread.is_empty() && left.all(|id| refused.contains(&id))
    }

    fn record(&mut self, plan: &Plan, report: &Report, summary: &PassSummary) {
        let circumstances = Circumstances {
            at_ms: summary.started * 1000,
            took_us: summary.micros.apply,
            woken_by: summary.woken_by.clone(),
            config: self.loaded.config.hash().to_string(),
        };
        if let Some(record) = Record::of(plan, report, circumstances)
            && let Err(e) = self.history.append(&record)
        {
            tracing::warn!("history: {e:#}");
        }
    }

    /// Where sockets of this node are, and which backends they may stay connected to.
    pub(super) fn sockets_of(&self, done: &Done) -> Ground {
        let pods = match self.loaded.config.load_balancer.socket_host_namespace_only {
            true => Vec::new(),
            false => self.records.endpoints().values().map(|record| record.netns.clone()).collect(),
        };
        Ground { backends: done.backends.clone(), pods }
    }

    /// How many pods are attached.
    pub(crate) fn attached_pods(&self) -> usize {
        self.records.endpoints().len()
    }

    /// Tells the drivers where the pods' namespaces are: hints where to look.
    fn place_pods(&mut self) {
        let places =
            self.records.endpoints().values().map(|r| (LinkName(r.link.clone()), r.netns.clone())).collect();
        self.kernel.net.place(places);
    }
}

fn watch_sysctls(kernel: &mut Kernel, compiled: &Compiled, config: &Config) {
    let wanted = &compiled.desired.state.sysctls;
    let reserved = wanted.find(&SysctlKey(RESERVED_PORTS.to_owned())).cloned();
    kernel.net.watch_sysctls(wanted.keys().cloned().collect(), reserved, sysctl_record(config));
}

/// Where is written what sysctls were before this project changed them.
fn sysctl_record(config: &Config) -> PathBuf {
    config.paths.state_dir.join("sysctls")
}

/// Takes files off a plan that ends with them: nothing waits for a file, so that whoever waits for what else
/// is planned need not wait for them.
fn last_files(plan: &mut Plan) -> Vec<Phase> {
    let others = plan.phases.iter().rposition(|phase| phase.kind() != Kind::File);
    plan.phases.split_off(others.map_or(0, |last| last + 1))
}

fn failures(report: &Report) -> Vec<(RowId, String)> {
    let rows = report.outcomes.iter();
    rows.filter_map(|(id, outcome)| match outcome {
        Outcome::Done => None,
        Outcome::Failed(e) => Some((id.clone(), e.to_string())),
        Outcome::Skipped { because } => Some((id.clone(), because.clone())),
    })
    .collect()
}

/// Jitter for retries, from 0 to 1; nothing depends on its quality.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    f64::from(RandomState::new().hash_one(0) as u32) / f64::from(u32::MAX)
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the struct it is given.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }
    /// Microseconds since the last lap.
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now.duration_since(self.0);
        self.0 = now;
        u64::try_from(lap.as_micros()).unwrap_or(u64::MAX)
    }
}
