//! Work on many files with all processors.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// Fewer than this are done where one is.
const FEW: usize = 16;
/// Most threads.
const MOST: usize = 8;

/// Does it for each, and gives the results in their order.
pub(super) fn each<T: Sync, R: Send>(jobs: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    // How many processors there are is not for nothing: it stands in files of the control groups.
    let processors = || available_parallelism().map_or(1, NonZero::get);
    let helpers = if jobs.len() < FEW { 0 } else { processors().min(MOST) - 1 };
    if helpers == 0 {
        return jobs.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || -> Vec<(usize, R)> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match jobs.get(index) {
                Some(job) => done.push((index, work(job))),
                None => return done,
            }
        }
    };
    let mut done = std::thread::scope(|scope| {
        // Where no thread is to be had, this one does it all.
        let spawn = |_| std::thread::Builder::new().name("manifests".into()).spawn_scoped(scope, take);
        let helpers: Vec<_> = (0..helpers).map(spawn).collect();
        let mut done = take();
        for helper in helpers.into_iter().flatten() {
            match helper.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
