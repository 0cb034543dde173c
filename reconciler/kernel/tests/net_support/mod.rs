//! Network namespaces of a test's own: made, entered by a thread, removed at the end, also on failure.

use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::Resource;
use cilium_kernel::net::Net;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A named network namespace.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    /// A new one.
    pub(crate) fn new() -> Self {
        let name = format!("kn-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        Self(name)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.0)
    }

    /// Runs a test's body in a thread inside; `ip` there is about this namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.path()).expect("the namespace exists");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: setns(2) takes an open descriptor and a flag, and touches no memory.
                let entered = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "enter a namespace: needs root");
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

/// Runs `ip`, in the namespace of the calling thread.
pub(crate) fn ip(args: &[&str]) -> String {
    let done = Command::new("ip").args(args).output().expect("ip is installed");
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {error}", args.join(" "));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// All rows.
pub(crate) fn all<R: Resource>(net: &mut Net) -> Vec<(R::Key, R::Row)>
where
    Net: Driver<R>,
{
    Driver::<R>::observe(net, &Scope::All).expect("readable")
}

/// The row of one key, which must be the same in a whole read, if there.
pub(crate) fn one<R: Resource>(net: &mut Net, key: &R::Key) -> Option<R::Row>
where
    Net: Driver<R>,
{
    let scope = Scope::Keys(BTreeSet::from([key.clone()]));
    let row = Driver::<R>::observe(net, &scope).expect("readable").pop().map(|(_, row)| row);
    let whole = all::<R>(net).into_iter().find(|(other, _)| other == key).map(|(_, row)| row);
    if whole.is_some() {
        assert_eq!(row, whole, "a point read sees what a whole read sees");
    }
    row
}

/// One creation.
pub(crate) fn create<R: Resource>(net: &mut Net, key: &R::Key, row: &R::Row) -> Result<(), DriverError>
where
    Net: Driver<R>,
{
    Driver::<R>::apply(net, &[Step::Create { key: key.clone(), row: row.clone() }]).remove(0)
}

/// One update.
pub(crate) fn update<R: Resource>(
    net: &mut Net,
    key: &R::Key,
    row: &R::Row,
    seen: &R::Row,
) -> Result<(), DriverError>
where
    Net: Driver<R>,
{
    let step = Step::Update { key: key.clone(), row: row.clone(), seen: seen.clone() };
    Driver::<R>::apply(net, &[step]).remove(0)
}

/// One removal.
pub(crate) fn remove<R: Resource>(net: &mut Net, key: &R::Key, seen: &R::Row) -> Result<(), DriverError>
where
    Net: Driver<R>,
{
    Driver::<R>::apply(net, &[Step::Remove { key: key.clone(), seen: seen.clone() }]).remove(0)
}

/// Creates twice, reads back, and expects no other row than that.
pub(crate) fn settle<R: Resource>(net: &mut Net, key: &R::Key, row: &R::Row)
where
    Net: Driver<R>,
{
    for _ in 0..2 {
        create::<R>(net, key, row).expect("created");
        let seen = one::<R>(net, key).expect("there");
        assert!(R::satisfied(row, &seen), "{key}: wanted {row}, seen {seen}");
    }
}
