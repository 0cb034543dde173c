//! A whole look at many rows must cost little more than reading them: unchanged rows are compared, not
//! named.

use cilium_engine::diff::diff;
use cilium_engine::state::*;
use std::time::{Duration, Instant};

const ROWS: u32 = 100_000;

fn state() -> State {
    let mut state = State::default();
    for n in 0..ROWS / 2 {
        let addr = std::net::IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let row = IpcacheRow { identity: IdentityId(256 + n % 10_000), tunnel: Some(addr), flags: 1 };
        state.ipcache.insert(IpcacheKey(addr.into()), row, None);
        let row = BackendRow { addr, port: 80, proto: Protocol::TCP, flags: 0 };
        state.backends.insert(BackendId(n), row, None);
    }
    state
}

/// A copy row by row: a clone would share them.
fn copy(state: &State) -> State {
    let ipcache = state.ipcache.iter().map(|(key, entry)| (*key, entry.row)).collect();
    let backends = state.backends.iter().map(|(key, entry)| (*key, entry.row.clone())).collect();
    State { ipcache, backends, ..State::default() }
}

fn fastest(mut what: impl FnMut()) -> Duration {
    let time = |what: &mut dyn FnMut()| {
        let start = Instant::now();
        what();
        start.elapsed()
    };
    (0..5).map(|_| time(&mut what)).min().expect("five runs")
}

#[test]
fn unchanged_rows_cost_one_comparison_each() {
    let desired = DesiredState { state: state(), synced: SourceSet::ALL };
    let observed = ObservedState::whole(state());
    let copied = fastest(|| assert_eq!(copy(&observed.state).len(), observed.state.len()));
    let whole = fastest(|| assert!(diff(&desired, &observed).is_settled()));
    println!("{ROWS} rows: diff {whole:?}, a copy {copied:?}");
    // A copy touches every row once and allocates; naming every row would cost several of it.
    assert!(whole < copied * 3, "diff {whole:?}, a copy {copied:?}");
}

#[test]
fn a_scoped_look_does_not_pay_for_the_rest() {
    let desired = DesiredState { state: state(), synced: SourceSet::ALL };
    let keys = [BackendId(7)].into();
    let observed = ObservedState {
        state: State::default(),
        coverage: Coverage { backends: Covered::Keys(keys), ..Coverage::default() },
    };
    let whole = fastest(|| assert!(diff(&desired, &ObservedState::whole(state())).is_settled()));
    let scoped = fastest(|| assert_eq!(diff(&desired, &observed).len(), 1));
    assert!(scoped < whole / 20, "scoped {scoped:?}, whole {whole:?}");
}
