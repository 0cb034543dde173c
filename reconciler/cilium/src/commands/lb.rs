//! `bpf lb list`: what the kernel holds of load balancing, without an agent. As JSON an object of lists of
//! texts, as Cilium's own tools have it.

use super::print;
use crate::cli::{Form, LbArgs};
use crate::table::Table;
use anyhow::{Result, bail};
use cilium_abi::lb;
use cilium_abi::maps::FRONTEND;
use cilium_engine::driver::{Driver, Scope};
use cilium_engine::state::{
    Backend, BackendId, BackendRow, Frontend, FrontendKey, FrontendRow, MaglevTable, Resource, RevNat,
    RevNatId, Slot, SourceRange,
};
use cilium_kernel::AttachMode;
use cilium_kernel::bpf::{Bpf, dump};
use cilium_sources::config::Loaded;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Texts by what they are about.
type Lists = BTreeMap<String, Vec<String>>;

/// Runs it.
pub(super) fn list(loaded: &Loaded, args: &LbArgs) -> Result<ExitCode> {
    let mut maps = Maps::open(loaded)?;
    let form = args.form;
    if let Some(id) = args.maglev {
        return table_of(&mut maps, RevNatId(id), form);
    }
    let (header, lists): ([&str; 2], Lists) = if args.frontends {
        (["SERVICE ADDRESS", "FRONTEND"], maps.frontends()?)
    } else if args.backends {
        (["ID", "BACKEND ADDRESS"], maps.backends()?)
    } else if args.revnat {
        (["ID", "SERVICE ADDRESS"], maps.rev_nats()?)
    } else if args.affinity {
        (["CLIENT (REVNAT_ID)", "BACKEND"], affinity(loaded)?)
    } else if args.source_ranges {
        (["SOURCE RANGE (REVNAT_ID)", "SERVICE ADDRESS"], maps.source_ranges()?)
    } else {
        (["SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"], maps.services()?)
    };
    print(form, &lists, || {
        let mut table = Table::new(&header);
        for (key, texts) in &lists {
            let mut key = Some(key.clone());
            if texts.is_empty() {
                table.row(key.take());
            }
            for text in texts {
                table.row([key.take().unwrap_or_default(), text.clone()]);
            }
        }
        table.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Maps(Bpf);

impl Maps {
    fn open(loaded: &Loaded) -> Result<Self> {
        let dir = &loaded.config.paths.bpf_dir;
        if dump::list(dir)?.iter().any(|map| map.name == FRONTEND.name && map.id.is_none()) {
            bail!(
                "map {} is not pinned under {} (hint: is paths.bpf_dir that of the agent, and has it run?)",
                FRONTEND.name,
                dir.display()
            );
        }
        Ok(Self(Bpf::open(dir, AttachMode::Auto)?))
    }

    fn rows<R: Resource>(&mut self) -> Result<BTreeMap<R::Key, R::Row>>
    where
        Bpf: Driver<R>,
    {
        Ok(Driver::<R>::observe(&mut self.0, &Scope::All)?.into_iter().collect())
    }

    fn services(&mut self) -> Result<Lists> {
        let (backends, slots) = (self.rows::<Backend>()?, self.rows::<Slot>()?);
        let mut lists = Lists::new();
        for (key, row) in self.rows::<Frontend>()? {
            let none = if key.addr.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let mut texts = vec![format!("{none} ({}) (0) [{}]", row.rev_nat, row.words())];
            for (slot, place) in (0..u32::from(row.count)).zip(1..) {
                let id = slots.get(&cilium_engine::state::SlotKey { list: row.list, slot });
                let backend = id.map_or_else(|| "slot not found".to_owned(), |id| named(&backends, *id));
                texts.push(format!("{backend} ({}) ({place})", row.rev_nat));
            }
            lists.insert(key.to_string(), texts);
        }
        Ok(lists)
    }

    fn frontends(&mut self) -> Result<Lists> {
        let rows = self.rows::<Frontend>()?;
        Ok(rows.into_iter().map(|(key, row)| (key.to_string(), vec![row.to_string()])).collect())
    }

    fn backends(&mut self) -> Result<Lists> {
        let rows = self.rows::<Backend>()?;
        Ok(rows.into_iter().map(|(id, row)| (id.to_string(), vec![row.to_string()])).collect())
    }

    fn rev_nats(&mut self) -> Result<Lists> {
        let rows = self.rows::<RevNat>()?;
        Ok(rows.into_iter().map(|(id, row)| (id.to_string(), vec![row.to_string()])).collect())
    }

    fn source_ranges(&mut self) -> Result<Lists> {
        let frontends = self.rows::<Frontend>()?;
        let of = |id: RevNatId| {
            let found = frontends.iter().filter(|(_, row)| row.rev_nat == id);
            found.map(|(key, row)| format!("{key} [{}]", row.words())).collect()
        };
        let keys = self.rows::<SourceRange>()?.into_keys();
        Ok(keys.map(|key| (format!("{} ({})", key.net, key.rev_nat), of(key.rev_nat))).collect())
    }
}

fn named(backends: &BTreeMap<BackendId, BackendRow>, id: BackendId) -> String {
    backends.get(&id).map_or_else(|| format!("backend {id} not found"), ToString::to_string)
}

/// Clients by address, or by the cookie of their network namespace, and the backend each keeps.
fn affinity(loaded: &Loaded) -> Result<Lists> {
    let rows = dump::rows(&loaded.config.paths.bpf_dir, "cilium_affinity")?;
    Ok(rows.into_iter().map(|row| (row.key, vec![row.row])).collect())
}

/// The Maglev table of a Service's number: as JSON backends by place, for people the share of each.
fn table_of(maps: &mut Maps, id: RevNatId, form: Form) -> Result<ExitCode> {
    let frontends = maps.rows::<Frontend>()?;
    let found: Vec<(&FrontendKey, &FrontendRow)> =
        frontends.iter().filter(|(_, row)| row.rev_nat == id).collect();
    let Some((key, _)) = found.first() else {
        bail!("there is no service {id} (hint: `cilium service list` has their numbers)");
    };
    let Some((_, row)) = found.iter().find(|(_, row)| row.flags & lb::FRONTEND_MAGLEV != 0) else {
        bail!(
            "service {id} ({key}) has no Maglev table: its backends are chosen at random (hint: \
             load_balancer.algorithm and the annotation service.cilium.io/lb-algorithm say which have one; one \
             backend needs none)"
        );
    };
    let backends = maps.rows::<Backend>()?;
    let scope = Scope::Keys([row.maglev].into());
    let table = Driver::<MaglevTable>::observe(&mut maps.0, &scope)?;
    let Some((_, table)) = table.first() else {
        bail!("service {id} ({key}) leads to table {}, which is not there", row.maglev);
    };
    let names: BTreeMap<BackendId, String> =
        table.backends().into_iter().map(|backend| (backend, named(&backends, backend))).collect();
    let places: Vec<&String> = table.0.iter().map(|backend| &names[backend]).collect();
    let value: BTreeMap<String, &Vec<&String>> = [(id.to_string(), &places)].into();
    print(form, &value, || {
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        for name in &places {
            *shares.entry(name).or_default() += 1;
        }
        let mut text = Table::new(&["BACKEND ADDRESS", "PLACES", "SHARE"]);
        for (name, count) in shares {
            let share = count as f64 * 100.0 / places.len() as f64;
            text.row([name.to_owned(), count.to_string(), format!("{share:.2} %")]);
        }
        format!("{key}, {} places\n{text}", places.len())
    })?;
    Ok(ExitCode::SUCCESS)
}
