//! Who is behind an address: host prefixes in the exact map, all others in the trie.
//!
//! The trie can hold a full-length prefix too; we never write one. If one is there, the exact row
//! hides it, alone it is shown as the host's row, and a removal removes both.

use super::{
    Run, open_readable, open_writable, optional_in, optional_out, remove_laid, revise, runs, write_laid,
};
use crate::bpf::Bpf;
use crate::bpf::table::Table;
use cilium_abi::Address;
use cilium_abi::ipcache::{self as abi, PrefixKey};
use cilium_abi::maps::{IPCACHE, IPCACHE_PREFIX};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{IdentityId, Ipcache, IpcacheKey, IpcacheRow};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::net::IpAddr;

type Exact = Table<Address, abi::IpcacheRow>;
type Prefixes = Table<PrefixKey, abi::IpcacheRow>;

impl Driver<Ipcache> for Bpf {
    fn observe(&mut self, scope: &Scope<IpcacheKey>) -> Result<Vec<(IpcacheKey, IpcacheRow)>, DriverError> {
        let exact: Option<Exact> = open_readable(self, &IPCACHE)?;
        let prefixes: Option<Prefixes> = open_readable(self, &IPCACHE_PREFIX)?;
        match scope {
            Scope::All => {
                let mut rows = BTreeMap::new();
                if let Some(prefixes) = &prefixes {
                    rows.extend(prefixes.dump()?.iter().map(|(k, row)| (prefix_in(k), row_in(row))));
                }
                // Extending in this order lets the exact row win.
                if let Some(exact) = &exact {
                    rows.extend(exact.dump()?.iter().map(|(k, row)| (host_in(*k), row_in(row))));
                }
                Ok(rows.into_iter().collect())
            }
            Scope::Keys(keys) => {
                let mut out = Vec::new();
                if let Some(exact) = &exact {
                    for key in keys.iter().filter(|key| is_host(key)) {
                        out.extend(exact.find(&key.0.addr().into())?.map(|row| (*key, row_in(&row))));
                    }
                }
                // A lookup in a trie gives the longest prefix that covers the key and does not say
                // which: whether the key's own row is there only a full read tells.
                if let (Some(prefixes), true) = (&prefixes, keys.iter().any(|key| !is_host(key))) {
                    let all = prefixes.dump()?;
                    let rows = all.iter().map(|(k, row)| (prefix_in(k), row_in(row)));
                    out.extend(rows.filter(|(key, _)| !is_host(key) && keys.contains(key)));
                }
                Ok(out)
            }
        }
    }

    fn apply(&mut self, steps: &[Step<Ipcache>]) -> Vec<Result<(), DriverError>> {
        if steps.is_empty() {
            return Vec::new();
        }
        let tables = open_writable(self, &IPCACHE).and_then(|exact: Exact| {
            Ok((exact, open_writable::<PrefixKey, abi::IpcacheRow>(self, &IPCACHE_PREFIX)?))
        });
        let (exact, prefixes) = match tables {
            Ok(tables) => tables,
            Err(e) => return steps.iter().map(|_| Err(e.clone())).collect(),
        };
        revise(self, runs(steps, |run, out| out.extend(carry_out(&exact, &prefixes, &run))))
    }
}

fn carry_out(exact: &Exact, prefixes: &Prefixes, run: &Run<'_, Ipcache>) -> Vec<Result<(), DriverError>> {
    match run {
        Run::Write(rows) => {
            let hosts = rows.iter().filter(|(key, _)| is_host(key));
            let hosts = hosts.map(|(key, row)| Ok((key.0.addr().into(), row_out(row)))).collect();
            let nets = rows.iter().filter(|(key, _)| !is_host(key));
            let nets = nets.map(|(key, row)| Ok((prefix_out(key), row_out(row)))).collect();
            let (mut hosts, mut nets) =
                (write_laid(exact, hosts).into_iter(), write_laid(prefixes, nets).into_iter());
            rows.iter().map(|(key, _)| next_of(if is_host(key) { &mut hosts } else { &mut nets })).collect()
        }
        Run::Remove(keys) => {
            let hosts =
                keys.iter().filter(|key| is_host(key)).map(|key| Ok(Some(key.0.addr().into()))).collect();
            let nets = keys.iter().map(|key| Ok(Some(prefix_out(key)))).collect();
            let mut hosts = remove_laid(exact, hosts).into_iter();
            let nets = remove_laid(prefixes, nets);
            keys.iter()
                .zip(nets)
                .map(|(key, net)| if is_host(key) { net.and(next_of(&mut hosts)) } else { net })
                .collect()
        }
    }
}

fn next_of(results: &mut impl Iterator<Item = Result<(), DriverError>>) -> Result<(), DriverError> {
    results.next().unwrap_or(Ok(()))
}

fn is_host(key: &IpcacheKey) -> bool {
    key.0.prefix_len() == key.0.max_prefix_len()
}

pub(super) fn prefix_out(key: &IpcacheKey) -> PrefixKey {
    let offset = match key.0 {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    PrefixKey { prefix_len: offset + u32::from(key.0.prefix_len()), addr: key.0.addr().into() }
}

pub(in crate::bpf) fn prefix_in(key: &PrefixKey) -> IpcacheKey {
    let len = u8::try_from(key.prefix_len.min(128)).unwrap_or(128);
    let net = match IpAddr::from(key.addr) {
        IpAddr::V4(v4) if len >= 96 => Ipv4Net::new(v4, len - 96).map(IpNet::V4).ok(),
        IpAddr::V4(v4) => Ipv6Net::new(v4.to_ipv6_mapped(), len).map(IpNet::V6).ok(),
        IpAddr::V6(v6) => Ipv6Net::new(v6, len).map(IpNet::V6).ok(),
    };
    // The trie compares no further than the prefix: what a key has behind it is not part of its name.
    IpcacheKey(net.map_or_else(|| IpAddr::from(key.addr).into(), |net| net.trunc()))
}

fn host_in(addr: Address) -> IpcacheKey {
    IpcacheKey(IpAddr::from(addr).into())
}

fn row_out(row: &IpcacheRow) -> abi::IpcacheRow {
    abi::IpcacheRow { identity: row.identity.0, flags: row.flags, tunnel: optional_out(row.tunnel) }
}

fn row_in(row: &abi::IpcacheRow) -> IpcacheRow {
    IpcacheRow { identity: IdentityId(row.identity), tunnel: optional_in(row.tunnel), flags: row.flags }
}
