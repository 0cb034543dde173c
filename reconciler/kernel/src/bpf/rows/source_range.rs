//! Who may use which frontend: a trie, as the ipcache's prefixes are.

use super::ipcache::{prefix_in, prefix_out};
use super::{Mapped, Pair, apply, open_readable};
use crate::bpf::Bpf;
use crate::bpf::ifname::Names;
use cilium_abi::ipcache::PrefixKey;
use cilium_abi::lb;
use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{IpcacheKey, Present, RevNatId, SourceRange, SourceRangeKey};

/// Bits of the key before the address.
const BEFORE: u32 = 32;

impl Mapped for SourceRange {
    const MAP: MapSpec = maps::SOURCE_RANGE;
    type AbiKey = lb::SourceRangeKey;
    type AbiRow = lb::SourceRangeRow;

    fn key_out(key: &SourceRangeKey, _: &mut Names) -> Option<lb::SourceRangeKey> {
        let PrefixKey { prefix_len, addr } = prefix_out(&IpcacheKey(key.net));
        let prefix_len = BEFORE + prefix_len;
        Some(lb::SourceRangeKey { prefix_len, rev_nat: key.rev_nat.0, reserved: 0, addr })
    }
    fn row_out(_: &SourceRangeKey, _: &Present, _: &mut Names) -> Result<lb::SourceRangeRow, DriverError> {
        Ok(1)
    }
    /// A key that ends within the frontend's number, or has bits beside it, is none that we write.
    fn key_in(key: &lb::SourceRangeKey, _: &mut Names) -> Option<SourceRangeKey> {
        let prefix_len = key.prefix_len.checked_sub(BEFORE)?;
        let net = prefix_in(&PrefixKey { prefix_len, addr: key.addr }).0;
        (key.reserved == 0).then_some(SourceRangeKey { rev_nat: RevNatId(key.rev_nat), net })
    }
    fn row_in(_: &lb::SourceRangeRow, _: &mut Names) -> Present {
        Present
    }
}

impl Driver<SourceRange> for Bpf {
    /// A lookup in a trie gives the longest prefix that covers the key and does not say which: whether the
    /// key's own row is there only a full read tells.
    fn observe(&mut self, scope: &Scope<SourceRangeKey>) -> Result<Vec<Pair<SourceRange>>, DriverError> {
        let table = open_readable::<lb::SourceRangeKey, lb::SourceRangeRow>(self, &maps::SOURCE_RANGE)?;
        let Some(table) = table else { return Ok(Vec::new()) };
        let wanted = |key: &SourceRangeKey| match scope {
            Scope::All => true,
            Scope::Keys(keys) => keys.contains(key),
        };
        if matches!(scope, Scope::Keys(keys) if keys.is_empty()) {
            return Ok(Vec::new());
        }
        let mut names = Names::default();
        let rows = table.dump()?;
        let keys = rows.iter().filter_map(|(key, _)| SourceRange::key_in(key, &mut names));
        Ok(keys.filter(wanted).map(|key| (key, Present)).collect())
    }

    fn apply(&mut self, steps: &[Step<SourceRange>]) -> Vec<Result<(), DriverError>> {
        apply::<SourceRange>(self, steps)
    }
}
