//! The agent's life: open, loop, servers, end. The datapath stays when it ends.

use super::attachments::{Attachments, Waiting};
use super::drivers::DriverStatus;
use super::health_check::HealthChecks;
use super::metrics::{AgentMetrics, KindLabel, SeverityLabel, StageLabel, StepLabel, TriggerLabel};
use super::pass::{Done, Looking, Reconciler};
use super::shared::{Shared, Wake};
use super::sockets::Terminator;
use super::status::{FailedRow, KindStatus, SocketState, SocketStatus, Status};
use super::view::Shown;
use super::{WriterLock, api, events, gc, memory, wakers};
use anyhow::{Context, Result};
use cilium_engine::config::Acceleration;
use cilium_engine::plan::Verb;
use cilium_engine::problem::Severity;
use cilium_engine::realise::Outcome;
use cilium_engine::state::{AttachmentKey, Kind, RowId};
use cilium_sources::config::{Loaded, file_digest};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// `cilium agent`.
///
/// # Errors
/// The lock is held by another, or the host or the sockets cannot be opened.
pub(crate) fn run(loaded: Loaded) -> Result<ExitCode> {
    memory::share();
    init_log();
    let lock = WriterLock::take(&loaded.config.paths.run_dir)?;
    let (wake, woken) = channel();
    let shared = Arc::new(Shared::new(wake, AgentMetrics::default()));
    let mut reconciler = Reconciler::open(loaded)?;
    let config = reconciler.loaded.config.clone();
    tracing::info!(node = %config.node.name, digest = %config.hash(), "cilium agent starts");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let servers = runtime.block_on(api::listen(&config, shared.clone()))?;
    let folder = reconciler.watch_folder();
    wakers::start(folder, &shared)?;
    events::start(&config, &shared);
    let terminator = Terminator::start(&config, &shared).context("start the thread that ends sockets")?;
    let health_checks = {
        let _within = runtime.enter();
        HealthChecks::start(shared.clone(), config.load_balancer.healthz_at())
    };
    let looping = std::thread::Builder::new()
        .name("reconciler".into())
        .spawn({
            let shared = shared.clone();
            move || Loop::new(reconciler, shared, terminator, health_checks).run(&woken)
        })
        .context("start the loop")?;
    runtime.block_on(async {
        wakers::terminated().await?;
        tracing::info!("cilium agent ends; the datapath stays");
        anyhow::Ok(())
    })?;
    // The loop ends after the pass it is in; if it is gone already, there is nothing to tell.
    let _ = shared.wake(Wake::Stop);
    let ended = looping.join();
    drop(servers);
    drop(lock);
    ended.map_err(|_| anyhow::anyhow!("the loop panicked"))?;
    Ok(ExitCode::SUCCESS)
}

fn init_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("CILIUM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}

/// What woke a pass, taken together.
#[derive(Default)]
struct Woken {
    by: BTreeSet<&'static str>,
    kinds: BTreeSet<Kind>,
    cni: Vec<super::shared::CniCall>,
    stop: bool,
}

impl Woken {
    fn add(&mut self, wake: Wake) {
        match wake {
            Wake::Manifests => {
                self.by.insert("manifests");
            }
            Wake::Kernel(kinds) => {
                self.by.insert("netlink");
                self.kinds.extend(kinds);
            }
            Wake::Cni(call) => {
                self.by.insert("cni");
                self.cni.push(call);
            }
            Wake::Stop => self.stop = true,
        }
    }

    /// A container runtime waits, or the end does: no time to gather more.
    fn urgent(&self) -> bool {
        !self.cni.is_empty() || self.stop
    }
}

struct Loop {
    reconciler: Reconciler,
    shared: Arc<Shared>,
    attachments: Attachments,
    collector: gc::Collector,
    terminator: Option<Terminator>,
    health_checks: HealthChecks,
    drift: BTreeMap<Kind, (u64, u64)>,
    passes: u64,
    next_full: Instant,
    /// Kinds heard of that no pass has looked at yet, and since when: a container runtime came between.
    put_off: Option<(Instant, BTreeSet<Kind>)>,
    /// When the last pass was over.
    looked: Instant,
    in_sync: bool,
    /// Passes in a row that failed or ended with work left.
    unsettled: u32,
}

/// How long looking for what others changed may be put off while container runtimes wait: the more pods
/// there are, the longer such a look takes, and most of what is heard then is the echo of our own writes.
const PUT_OFF_AT_MOST: Duration = Duration::from_millis(500);
/// The period of full reads is at least this many times the processor time of the last.
const FULL_READ_SHARE: u32 = 200;
/// How long nothing must have happened before a pod's program is moved to where it costs packets least: a
/// container runtime that comes meanwhile waits for it.
const QUIET: Duration = Duration::from_millis(25);
/// How long an answer has to leave the agent before the loop goes on: on a busy machine both have one processor.
const STAND_BACK: Duration = Duration::from_micros(100);
/// How soon a pass that failed, or ended with work left, is followed by another: twice as long each time,
/// [`DOUBLINGS`] times at most. What happens meanwhile is looked at at once.
const AGAIN: Duration = Duration::from_millis(50);
/// Up to 1.6 s.
const DOUBLINGS: u32 = 5;
/// New problems of one pass that the log tells: one Service may have thousands.
const TOLD_AT_MOST: usize = 200;

impl Loop {
    fn new(
        reconciler: Reconciler,
        shared: Arc<Shared>,
        terminator: Option<Terminator>,
        health_checks: HealthChecks,
    ) -> Self {
        let collector = gc::Collector::new(&reconciler.loaded.config.bpf);
        Self {
            attachments: Attachments::default(),
            collector,
            terminator,
            health_checks,
            drift: BTreeMap::new(),
            passes: 0,
            next_full: Instant::now(),
            put_off: None,
            looked: Instant::now(),
            in_sync: false,
            unsettled: 0,
            reconciler,
            shared,
        }
    }

    fn run(mut self, woken: &Receiver<Wake>) {
        let config = self.reconciler.loaded.config.clone();
        self.attachments.bury(&mut self.reconciler.records, &config);
        if let Err(e) = self.reconciler.kernel.bpf.start() {
            tracing::warn!("{e}");
        }
        self.pass(Woken { by: ["start"].into(), ..Woken::default() });
        self.looked = Instant::now();
        loop {
            let Some(wakes) = self.wait(woken) else { return };
            if wakes.stop {
                return;
            }
            self.pass(wakes);
            self.looked = Instant::now();
            self.collector.run_if_due(&config.paths.bpf_dir, &self.shared.metrics);
        }
    }

    /// Waits for a reason to look. What comes within the debounce time after the last look is gathered; the first
    /// after that is looked at at once.
    fn wait(&mut self, woken: &Receiver<Wake>) -> Option<Woken> {
        let mut wakes = Woken::default();
        let mut patience = self.next_full.saturating_duration_since(Instant::now());
        let mut reason = "period";
        let retry = self.reconciler.next_look().or((!self.in_sync).then(|| self.again()));
        if let Some(retry) = retry.filter(|retry| *retry < patience) {
            (patience, reason) = (retry, "retry");
        }
        let debounce = self.reconciler.loaded.config.reconciler.debounce.duration();
        if self.put_off.is_some() && debounce < patience {
            (patience, reason) = (debounce, "netlink");
        }
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let quiet = if self.reconciler.kernel.bpf.has_to_move() { left.min(QUIET) } else { left };
            match woken.recv_timeout(quiet) {
                Ok(wake) => {
                    wakes.add(wake);
                    break;
                }
                Err(RecvTimeoutError::Timeout) if quiet < left => {
                    if let Err(e) = self.reconciler.kernel.bpf.move_one() {
                        tracing::warn!("{e}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    wakes.by.insert(reason);
                    return Some(wakes);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        let until = self.looked + debounce;
        while !wakes.urgent() {
            match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(wake) => wakes.add(wake),
                Err(_) => break,
            }
        }
        while let Ok(wake) = woken.try_recv() {
            wakes.add(wake);
        }
        Some(wakes)
    }

    fn again(&self) -> Duration {
        AGAIN * 2u32.pow(self.unsettled.saturating_sub(1).min(DOUBLINGS))
    }

    fn pass(&mut self, wakes: Woken) {
        self.shared.pulse.begin();
        let waiting = self.attachments.change_records(wakes.cni, &mut self.reconciler.records);
        let (full, looking) = self.looking(wakes.kinds, &waiting);
        let by: Vec<String> = wakes.by.iter().map(|&by| by.to_owned()).collect();
        let mut done = match self.reconciler.pass(&by, looking) {
            Ok(done) => done,
            Err(e) => {
                tracing::error!("pass failed, nothing was changed: {e:#}");
                self.in_sync = false;
                self.unsettled = self.unsettled.saturating_add(1);
                self.next_full = self.next_full.max(Instant::now() + self.again());
                self.reconciler.forget();
                self.attachments.answer_failed(waiting, &format!("{e:#}"), &mut self.reconciler.records);
                return;
            }
        };
        if full {
            let period = self.reconciler.loaded.config.reconciler.full_read.duration();
            self.next_full = Instant::now() + period.max(done.looked * FULL_READ_SHARE);
        }
        if !done.unread.is_empty() {
            // A kind that could not be read: look at everything soon, not at the next period.
            self.next_full = self.next_full.min(Instant::now() + Duration::from_secs(1));
        }
        self.passes += 1;
        // First what is shown, so that whoever asks after its answer sees what it made.
        self.show(&done);
        self.attachments.learn(self.reconciler.pool());
        let scan_again = self.reconciler.scan_again();
        let waited_for = !waiting.is_empty();
        let took_back = self.attachments.answer(waiting, &done, scan_again, &mut self.reconciler.records);
        if waited_for {
            std::thread::sleep(STAND_BACK);
        }
        self.reconciler.settle(&mut done);
        self.in_sync = done.in_sync && !took_back;
        if self.in_sync && done.synced {
            self.shared.pulse.done();
        }
        self.unsettled = if done.in_sync { 0 } else { self.unsettled.saturating_add(1) };
        self.tell(&done);
        self.end_sockets(&done, full);
        drop(done);
        if full {
            memory::give_back();
        }
    }

    /// Has sockets ended whose backend is gone. Never on half a picture: what is not synced may only be late.
    fn end_sockets(&self, done: &Done, full: bool) {
        let Some(terminator) = self.terminator.as_ref().filter(|_| done.synced) else { return };
        let counts = done.plan.counts();
        let went =
            [Verb::Remove, Verb::Update].iter().any(|verb| counts.contains_key(&(Kind::Backend, *verb)));
        if went || full {
            terminator.look(self.reconciler.sockets_of(done), went);
        }
    }

    /// How much to read. While a runtime waits only what it waits for, unless the rest was put off for long.
    fn looking(&mut self, heard: BTreeSet<Kind>, waiting: &[Waiting]) -> (bool, Looking) {
        let now = Instant::now();
        let grace = if waiting.is_empty() { Duration::ZERO } else { PUT_OFF_AT_MOST };
        if self.passes == 0 || now >= self.next_full + grace {
            self.put_off = None;
            return (true, Looking::AtEverything);
        }
        let (since, mut kinds) = self.put_off.take().unwrap_or((now, BTreeSet::new()));
        kinds.extend(heard);
        if !kinds.is_empty() && now < since + grace {
            self.put_off = Some((since, std::mem::take(&mut kinds)));
        }
        if waiting.is_empty() {
            // The kernel does not tell when others change them.
            kinds.insert(Kind::Sysctl);
        }
        (false, Looking::AtChanges(kinds))
    }

    /// The view of a pass.
    fn show(&self, done: &Done) {
        let failing: BTreeSet<String> =
            done.failures.iter().filter_map(|(id, _)| id.key.split(' ').next().map(str::to_owned)).collect();
        self.shared.show(Shown::new(done.view.clone(), failing));
        self.health_checks.follow(&done.view.health_checks);
    }

    /// Log, metrics and status of a pass.
    fn tell(&mut self, done: &Done) {
        let s = &done.summary;
        if s.steps > 0 || !done.failures.is_empty() {
            tracing::info!(
                woken_by = %s.woken_by.join(","), steps = s.steps, failed = s.failed, drift = s.drift,
                read = s.rows_read, micros = s.micros.total, in_sync = done.in_sync, "pass"
            );
        } else {
            tracing::debug!(woken_by = %s.woken_by.join(","), read = s.rows_read, micros = s.micros.total, "pass");
        }
        // What only waits for its next try was told when it failed.
        let tried = |row: &RowId| matches!(done.report.outcomes.get(row), Some(Outcome::Failed(_)));
        for (row, reason) in done.failures.iter().filter(|(row, _)| tried(row)).take(20) {
            tracing::warn!("{row}: {reason}");
        }
        let metrics = &self.shared.metrics;
        for by in &s.woken_by {
            metrics.passes.get_or_create(&TriggerLabel { trigger: by.clone() }).inc();
        }
        let m = s.micros;
        for (stage, micros) in [
            ("sources", m.sources),
            ("compile", m.compile),
            ("observe", m.observe),
            ("diff", m.diff),
            ("apply", m.apply),
            ("total", m.total),
        ] {
            metrics.stage_seconds.get_or_create(&StageLabel { stage }).observe(micros as f64 / 1e6);
        }
        for line in done.plan.lines() {
            let verb = match line.verb {
                Verb::Create => "create",
                Verb::Update => "update",
                Verb::Remove => "remove",
            };
            let outcome = match done.report.outcomes.get(&line.id()) {
                Some(Outcome::Done) => "done",
                Some(Outcome::Failed(_)) => "failed",
                Some(Outcome::Skipped { .. }) | None => "skipped",
            };
            metrics.steps.get_or_create(&StepLabel { kind: line.kind.name(), verb, outcome }).inc();
        }
        for (kind, (found, repaired)) in &done.drift {
            metrics.drift_found.get_or_create(&KindLabel { kind: kind.name() }).inc_by(*found);
            metrics.drift_repaired.get_or_create(&KindLabel { kind: kind.name() }).inc_by(*repaired);
            let sums = self.drift.entry(*kind).or_default();
            sums.0 += found;
            sums.1 += repaired;
            tracing::warn!(kind = kind.name(), found, repaired, "rows were changed by others");
        }
        for (kind, rows) in &done.wanted {
            metrics.set_rows(*kind, *rows);
        }
        metrics.endpoints.set(done.view.endpoints.len() as i64);
        metrics.in_sync.set(i64::from(done.in_sync));
        let before = self.shared.status();
        let fresh = done.problems.since(&before.problems);
        for problem in fresh.iter().take(TOLD_AT_MOST) {
            tracing::warn!("{problem}");
        }
        if fresh.len() > TOLD_AT_MOST {
            tracing::warn!(more = fresh.len() - TOLD_AT_MOST, "more problems: see `cilium status --verbose`");
        }
        if done.problems != before.problems {
            for (severity, name) in [(Severity::Warning, "warning"), (Severity::Error, "error")] {
                let n = done.problems.iter().filter(|p| p.severity == severity).count();
                metrics.problems.get_or_create(&SeverityLabel { severity: name }).set(n as i64);
            }
        }
        self.publish(done);
    }

    /// What became of Services at sockets.
    fn sockets(&self, done: &Done) -> SocketStatus {
        let wanted = &self.reconciler.loaded.config.load_balancer;
        let state = match done.sockets_at() {
            _ if !wanted.at_sockets() => SocketState::Off,
            Some(_) if done.refused.is_empty() => SocketState::Active,
            Some(_) | None => SocketState::Inactive,
        };
        SocketStatus {
            state,
            cgroup: done.sockets_at().map(|path| path.display().to_string()),
            host_namespace_only: wanted.socket_host_namespace_only,
            trouble: self.terminator.as_ref().map(Terminator::trouble).unwrap_or_default(),
        }
    }

    fn drivers(&self, done: &Done) -> Vec<DriverStatus> {
        let reconciler = &self.reconciler;
        if reconciler.loaded.config.load_balancer.at_drivers() == Acceleration::Disabled {
            return Vec::new();
        }
        let status = |(key, is_wanted): &(AttachmentKey, bool)| {
            DriverStatus::of(&reconciler.kernel.bpf, key, *is_wanted, reconciler.device(&key.link))
        };
        done.drivers().iter().map(status).collect()
    }

    fn publish(&self, done: &Done) {
        let loaded = &self.reconciler.loaded;
        let changed = match (&loaded.file, &loaded.file_hash) {
            (Some(file), Some(hash)) => file_digest(file).map_or(true, |now| now != *hash),
            _ => false,
        };
        self.shared.metrics.config_changed.set(i64::from(changed));
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: loaded.config.node.name.clone(),
            in_sync: done.in_sync,
            synced: done.synced,
            config_digest: loaded.config.hash().to_string(),
            config_changed_on_disk: changed,
            last_pass: done.summary.clone(),
            passes: self.passes,
            kinds: done
                .wanted
                .iter()
                .map(|(kind, wanted)| {
                    let (drift_found, drift_repaired) = self.drift.get(kind).copied().unwrap_or_default();
                    KindStatus { kind: kind.to_string(), wanted: *wanted, drift_found, drift_repaired }
                })
                .collect(),
            failed: done
                .failures
                .iter()
                .take(100)
                .map(|(id, reason)| FailedRow { row: id.to_string(), reason: reason.clone() })
                .collect(),
            unread: done.unread.clone(),
            sockets: self.sockets(done),
            acceleration: self.drivers(done),
            // Filled in when it is asked for.
            health_checks: Vec::new(),
            problems: done.problems.clone(),
        };
        self.shared.publish(status);
    }
}
