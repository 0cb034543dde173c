//! Program sets: the embedded object loaded once with one choice of constants, all its programs
//! pinned in one directory that appears whole or not at all.
//!
//! ```text
//! progs/<set>/cil_…            the programs
//! progs/<set>/private_<map>    maps that are the set's own (scratch, constants)
//! ```
//! A set is complete when all programs are there and each uses only pinned maps and the set's own:
//! a program with another map serves rows that nobody writes any more.

use super::Bpf;
use super::fault::fault;
use super::object::{OBJECT, program_names};
use super::pins::{self, Pins, UNFINISHED};
use super::shape::{PinState, state_of};
use super::sys::{ObjectKind, ProgFd, ProgInfo};
use aya::EbpfLoader;
use aya::programs::Program;
use cilium_abi::maps;
use cilium_abi::node::NodeConstants;
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{ProgramSet, ProgramSetRow, SetId};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// What the names of pins of a set's own maps begin with.
const PRIVATE: &str = "private_";

/// A set as it is pinned.
#[derive(Debug)]
pub(super) struct SeenSet {
    pub(super) id: SetId,
    pub(super) programs: BTreeMap<String, ProgInfo>,
    private_maps: BTreeSet<u32>,
}

/// All pinned sets, whole or not.
pub(super) fn read_sets(pins: &Pins) -> Result<Vec<SeenSet>, DriverError> {
    pins::names(&pins.progs())?
        .into_iter()
        .map(|name| read_set(pins, &SetId(name)))
        .filter_map(Result::transpose)
        .collect()
}

/// One set; `None`: there is no such directory, or its name is not one of ours.
fn read_set(pins: &Pins, id: &SetId) -> Result<Option<SeenSet>, DriverError> {
    let dir = pins.progs().join(&id.0);
    if pins::checked(&id.0, "set").is_err() || !dir.is_dir() {
        return Ok(None);
    }
    let mut set = SeenSet { id: id.clone(), programs: BTreeMap::new(), private_maps: BTreeSet::new() };
    for name in pins::names(&dir)? {
        let path = dir.join(&name);
        if name.starts_with(PRIVATE) {
            set.private_maps.extend(pins::open_map(&path)?.map(|map| map.info.id));
        } else if let Some(fd) = pins::open_as(&path, ObjectKind::Program)? {
            let info =
                ProgFd(fd).info().map_err(|e| fault(&e, format!("look at program {}", path.display())))?;
            set.programs.insert(name, info);
        }
    }
    Ok(Some(set))
}

impl SeenSet {
    fn row(&self, pinned_maps: &BTreeSet<u32>) -> Result<ProgramSetRow, DriverError> {
        let whole = !self.id.0.starts_with(UNFINISHED)
            && program_names()?.iter().all(|name| self.programs.contains_key(name))
            && (self.programs.values().flat_map(|info| &info.map_ids))
                .all(|id| pinned_maps.contains(id) || self.private_maps.contains(id));
        Ok(if whole { ProgramSetRow::Complete } else { ProgramSetRow::Broken })
    }
}

/// Numbers of all pinned maps.
pub(super) fn pinned_maps(pins: &Pins) -> Result<BTreeSet<u32>, DriverError> {
    let mut ids = BTreeSet::new();
    for name in pins::names(&pins.maps())? {
        ids.extend(pins::open_map(&pins.maps().join(name))?.map(|map| map.info.id));
    }
    Ok(ids)
}

impl Driver<ProgramSet> for Bpf {
    fn observe(&mut self, scope: &Scope<SetId>) -> Result<Vec<(SetId, ProgramSetRow)>, DriverError> {
        let sets = match scope {
            Scope::All => read_sets(&self.pins)?,
            Scope::Keys(keys) => keys
                .iter()
                .map(|id| read_set(&self.pins, id))
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
        };
        let maps = pinned_maps(&self.pins)?;
        sets.into_iter().map(|set| Ok((set.id.clone(), set.row(&maps)?))).collect()
    }

    fn apply(&mut self, steps: &[Step<ProgramSet>]) -> Vec<Result<(), DriverError>> {
        steps
            .iter()
            .map(|step| match step {
                Step::Create { key, row } | Step::Update { key, row, .. } => match row {
                    ProgramSetRow::Constants(constants) => ensure(&self.pins, key, constants),
                    ProgramSetRow::Complete | ProgramSetRow::Broken => {
                        Err(DriverError::new(format!("load program set {key}: wanted without constants")))
                    }
                },
                Step::Remove { key, .. } => {
                    remove_set(&self.pins.progs().join(pins::checked(&key.0, "set")?))
                }
            })
            .collect()
    }
}

/// Loads a set unless it is there whole.
fn ensure(pins: &Pins, id: &SetId, constants: &NodeConstants) -> Result<(), DriverError> {
    pins::checked(&id.0, "set")?;
    if let Some(set) = read_set(pins, id)?
        && set.row(&pinned_maps(pins)?)? == ProgramSetRow::Complete
    {
        return Ok(());
    }
    let draft = pins.progs().join(format!("{UNFINISHED}{id}"));
    remove_set(&draft)?;
    pins::make_dir(&draft)?;
    let loaded = load(pins, constants, &draft);
    if let Err(e) = loaded {
        // What was pinned so far is no set; a failure to remove it is repaired as a stray.
        let _ = remove_set(&draft);
        return Err(DriverError {
            message: format!("load program set {id:.12}: {}", e.message),
            hint: e.hint,
        });
    }
    let path = pins.progs().join(&id.0);
    remove_set(&path)?;
    std::fs::rename(&draft, &path).map_err(|e| fault(&e, format!("rename {} to {id}", draft.display())))
}

/// Loads all programs over the pinned maps and pins them in a directory.
fn load(pins: &Pins, constants: &NodeConstants, dir: &Path) -> Result<(), DriverError> {
    let specs = || maps::ALL.iter().chain([&maps::EVENTS]);
    // The loader would take a map of any shape that it finds under a pin, and make one where none is.
    for spec in specs() {
        let path = pins.map(spec);
        match state_of(pins, spec)? {
            PinState::Usable => {}
            PinState::Missing => return Err(not_ready(&path, "is not there")),
            PinState::Misshapen => return Err(not_ready(&path, "has another shape than this build's")),
        }
    }
    let mut loader = EbpfLoader::new();
    for spec in specs() {
        loader.map_pin_path(spec.name, pins.map(spec));
    }
    loader.override_global("NODE", constants.as_bytes(), true);
    let mut object = loader.load(OBJECT).map_err(|e| DriverError::new(chain(&e)))?;
    load_programs(object.programs_mut().collect())?;
    for (name, program) in object.programs_mut() {
        program
            .pin(dir.join(name))
            .map_err(|e| DriverError::new(format!("pin program {name}: {}", chain(&e))))?;
    }
    for (name, map) in object.maps() {
        if maps::find(name).is_none() {
            // bpffs reserves dots, which sections such as .rodata have.
            let path = dir.join(format!("{PRIVATE}{}", name.replace('.', "_")));
            map.pin(&path).map_err(|e| DriverError::new(format!("pin map {name}: {}", chain(&e))))?;
        }
    }
    Ok(())
}

fn not_ready(path: &Path, why: &str) -> DriverError {
    DriverError::new(format!("map {} {why}", path.display()))
        .hint("maps are created first in a pass; see why that failed")
}

/// Loads programs, as many at once as there are CPUs: each is verified by the thread that loads it, and
/// that is most of a first start.
fn load_programs(programs: Vec<(&str, &mut Program)>) -> Result<(), DriverError> {
    const AT_ONCE: usize = 4;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
    let waiting = Mutex::new(programs.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<(), DriverError> {
        while let Some((name, program)) = next() {
            load_one(program).map_err(|e| {
                DriverError::new(format!("program {name}: {e}"))
                    .hint("the kernel's verifier refused it; kernels from 6.1 on are known to take it")
            })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let ends = others.into_iter().map(|other| {
            other.join().unwrap_or_else(|_| Err(DriverError::new("the thread that loads programs panicked")))
        });
        ends.fold(own, Result::and)
    })
}

fn load_one(program: &mut Program) -> Result<(), String> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        other => return Err(format!("programs of type {:?} are not used here", other.prog_type())),
    }
    .map_err(|e| chain(&e))
}

/// An error with its causes; of a verifier's log the end, where the reason stands.
fn chain(error: &dyn Error) -> String {
    const LOG_MAX: usize = 600;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if text.len() > 2 * LOG_MAX {
        let head: String = text.chars().take(LOG_MAX / 2).collect();
        let tail: String = text.chars().rev().take(LOG_MAX).collect::<Vec<_>>().into_iter().rev().collect();
        text = format!("{head} … {tail}");
    }
    text
}

/// Removes a set's pins and its directory; gone already is fine. Attached programs run on.
fn remove_set(dir: &Path) -> Result<(), DriverError> {
    for name in pins::names(dir)? {
        pins::remove(&dir.join(name))?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(fault(&e, format!("remove {}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Opens a program of a set.
pub(super) fn open_program(pins: &Pins, set: &SetId, program: &str) -> Result<ProgFd, DriverError> {
    let path = pins.progs().join(pins::checked(&set.0, "set")?).join(pins::checked(program, "program")?);
    match pins::open_as(&path, ObjectKind::Program)? {
        Some(fd) => Ok(ProgFd(fd)),
        None => Err(DriverError::new(format!("program {} is not there", path.display()))
            .hint("program sets are loaded first in a pass; see why that failed")),
    }
}
