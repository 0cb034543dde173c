//! C1, C2: a pass over many rows of one map, by the engine's comparison and the production drivers,
//! against reading (and writing) the same map with the fewest calls.
//!
//! Rows of the ipcache stand for all: it is the largest map, and rows of other kinds are as wide.

use crate::figure::{Figure, Goal, short};
use crate::stats::{Interval, bootstrap, median};
use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::MapData;
use cilium_abi::{Address, ipcache as abi, maps};
use cilium_engine::diff::diff;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::plan::{Plan, Steps};
use cilium_engine::state::{
    BpfMap, DesiredState, IdentityId, Ipcache, IpcacheKey, IpcacheRow, MapKey, MapRow, ObservedState,
    SourceSet,
};
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::Bpf;
use cilium_tests_kernel::l1::sys;
use cilium_tests_kernel::netns::unique;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

/// Rows of the map.
const ROWS: u32 = 100_000;
/// Rows that drift.
const DRIFTED: u32 = 1_000;
/// Rounds of each.
const ROUNDS: usize = 20;
/// Room for all rows in one call.
const MOST: usize = 1 << 17;

/// A `bpf_dir` of its own, removed on drop.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn key(n: u32) -> IpcacheKey {
    IpcacheKey(std::net::IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)).into())
}

fn row(n: u32) -> IpcacheRow {
    let tunnel = Ipv4Addr::from_bits(0xc0a8_0000 + n / 100);
    IpcacheRow { identity: IdentityId(256 + n % 5000), tunnel: Some(tunnel.into()), flags: 1 }
}

fn oops(error: DriverError) -> anyhow::Error {
    anyhow!("{error}")
}

/// The map under test, and all that is wanted of it.
struct Bench {
    bpf: Bpf,
    map: MapData,
    desired: DesiredState,
    _dir: Dir,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = Dir(PathBuf::from("/sys/fs/bpf").join(unique("rows")));
        let mut bpf = Bpf::open(&dir.0, AttachMode::Auto).map_err(oops)?;
        let steps: Vec<Step<BpfMap>> = [maps::IPCACHE, maps::IPCACHE_PREFIX, maps::REVISION]
            .iter()
            .map(|spec| Step::Create {
                key: MapKey(format!("{}_v{}", spec.name, spec.version)),
                row: MapRow {
                    kind: spec.kind,
                    key_size: spec.key_size,
                    value_size: spec.value_size,
                    max_entries: spec.max_entries,
                    flags: spec.flags,
                },
            })
            .collect();
        for done in bpf.apply(&steps) {
            done.map_err(oops)?;
        }
        let pin = dir.0.join("maps").join(format!("{}_v{}", maps::IPCACHE.name, maps::IPCACHE.version));
        let map = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        let mut desired = DesiredState { synced: SourceSet::ALL, ..DesiredState::default() };
        desired.state.ipcache = (0..ROWS).map(|n| (key(n), row(n))).collect();
        let mut bench = Self { bpf, map, desired, _dir: dir };
        let plan = bench.look()?;
        ensure!(steps_of(&plan) == ROWS as usize, "an empty map needs every row");
        bench.write(&plan)?;
        ensure!(bench.look()?.is_empty(), "a second pass finds nothing to do");
        Ok(bench)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Reads all rows and compares.
    fn look(&mut self) -> Result<Plan> {
        let mut observed = ObservedState::default();
        observed.state.ipcache =
            Driver::<Ipcache>::observe(&mut self.bpf, &Scope::All).map_err(oops)?.into_iter().collect();
        observed.coverage = cilium_engine::state::Coverage::all();
        Ok(diff(&self.desired, &observed))
    }

    /// Carries a plan out.
    fn write(&mut self, plan: &Plan) -> Result<()> {
        for phase in &plan.phases {
            let Steps::Ipcache(list) = &phase.steps else { bail!("only ipcache rows were to be written") };
            for done in self.bpf.apply(&list.steps) {
                done.map_err(oops)?;
            }
        }
        Ok(())
    }

    /// The fewest calls that read the map.
    fn dump(&self) -> Result<usize> {
        Ok(sys::dump::<Address, abi::IpcacheRow>(self.fd(), MOST).context("dump")?.len())
    }

    /// Changes rows behind the agent's back, in another place each round.
    fn drift(&self, round: u32) -> Result<()> {
        for n in drifted(round) {
            let wrong = abi::IpcacheRow { identity: 1, flags: 0, tunnel: Address::NONE };
            self.put(n, &wrong)?;
        }
        Ok(())
    }

    fn put(&self, n: u32, row: &abi::IpcacheRow) -> Result<()> {
        let key = Address::from(key(n).0.addr());
        sys::update(self.fd(), &key, row).context("write a row")
    }
}

fn drifted(round: u32) -> impl Iterator<Item = u32> {
    (0..DRIFTED).map(move |i| (i * (ROWS / DRIFTED) + round * 7) % ROWS)
}

fn steps_of(plan: &Plan) -> usize {
    plan.phases.iter().map(|phase| phase.steps.len()).sum()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Pairs of (ours, floor) in milliseconds, as a figure.
fn figure(id: (&'static str, String), pairs: &[(f64, f64)], floor: &str, goal: Goal) -> Figure {
    let middle = |of: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(of).collect::<Vec<_>>());
    let number: Interval = bootstrap(&pairs.iter().map(|(ours, floor)| ours / floor).collect::<Vec<_>>());
    let (ours, least) = (middle(|pair| pair.0), middle(|pair| pair.1));
    Figure::ratio(id, format!("{} ms", short(ours)), format!("{floor} {} ms", short(least)), number, goal)
}

/// Both goals.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let mut bench = Bench::new()?;
    crate::traffic::pin();
    let (mut idle, mut repair) = (Vec::new(), Vec::new());
    let right: Vec<abi::IpcacheRow> = (0..ROWS)
        .map(|n| {
            let row = row(n);
            let tunnel = row.tunnel.map_or(Address::NONE, Address::from);
            abi::IpcacheRow { identity: row.identity.0, flags: row.flags, tunnel }
        })
        .collect();
    for round in 0..ROUNDS as u32 {
        let started = Instant::now();
        let rows = bench.dump()?;
        let floor = milliseconds(started);
        ensure!(rows == ROWS as usize, "{rows} rows were dumped");
        let started = Instant::now();
        let plan = bench.look()?;
        idle.push((milliseconds(started), floor));
        ensure!(plan.is_empty(), "nothing had changed");

        bench.drift(round)?;
        let started = Instant::now();
        bench.dump()?;
        for n in drifted(round) {
            bench.put(n, &right[n as usize])?;
        }
        let floor = milliseconds(started);
        bench.drift(round)?;
        let started = Instant::now();
        let plan = bench.look()?;
        let steps = steps_of(&plan);
        bench.write(&plan)?;
        repair.push((milliseconds(started), floor));
        ensure!(steps == DRIFTED as usize, "{steps} rows written, {DRIFTED} had drifted");
        ensure!(bench.look()?.is_empty(), "the repair is whole");
    }
    Ok(vec![
        figure(("C1", format!("no-op pass over {ROWS} rows")), &idle, "batch dump", Goal::at_most(2.5, 1.5)),
        figure(
            ("C2", format!("repair of {DRIFTED} drifted rows in {ROWS}")),
            &repair,
            "dump and updates",
            Goal::at_most(2.5, 1.5),
        ),
    ])
}
