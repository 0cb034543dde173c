//! What is known of the loaded programs, for `status`, budgets and the command line.

use super::pins::Pins;
use super::set::read_sets;
use cilium_engine::driver::DriverError;
use cilium_engine::state::SetId;
use std::path::Path;

/// A pinned program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The set it belongs to.
    pub set: SetId,
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub id: u32,
    /// Instructions the verifier looked at; 0 before Linux 5.16.
    pub verified_insns: u32,
    /// Bytes of machine code; 0 without a JIT.
    pub jited_bytes: u32,
    /// Bytes of instructions after verification.
    pub translated_bytes: u32,
    /// Times run, while the sysctl `kernel.bpf_stats_enabled` is 1.
    pub run_count: u64,
    /// Nanoseconds run, likewise.
    pub run_time_ns: u64,
    /// Numbers of the maps it uses.
    pub map_ids: Vec<u32>,
}

/// All pinned programs, by set and name.
///
/// # Errors
/// A pin cannot be read.
pub fn list(bpf_dir: &Path) -> Result<Vec<ProgramInfo>, DriverError> {
    let sets = read_sets(&Pins { root: bpf_dir.to_path_buf() })?;
    let programs = sets.into_iter().flat_map(|set| {
        set.programs.into_iter().map(move |(name, info)| ProgramInfo {
            set: set.id.clone(),
            name,
            id: info.id,
            verified_insns: info.verified_insns,
            jited_bytes: info.jited_len,
            translated_bytes: info.xlated_len,
            run_count: info.run_count,
            run_time_ns: info.run_time_ns,
            map_ids: info.map_ids,
        })
    });
    Ok(programs.collect())
}
