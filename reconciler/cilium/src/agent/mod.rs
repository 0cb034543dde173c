//! The agent: the loop on a thread of its own, servers and wakers around it.
//!
//! ```text
//! inotify ─┐                       ┌─▶ status, view, metrics ─▶ cilium.sock, [metrics] listen
//! netlink ─┼─ Wake ─▶ loop thread ─┤
//! CNI ─────┘        (Reconciler)   └─▶ Kernel (drivers)
//! ring buffer ─▶ events thread ─▶ named with the view ─▶ monitors
//! ```

mod answers;
mod api;
mod attachments;
mod drivers;
mod events;
mod gc;
mod health_check;
mod healthz;
pub(crate) mod history;
mod lock;
mod memory;
mod metrics;
pub(crate) mod offline;
pub(crate) mod pass;
mod pool;
mod port_mappings;
mod refusals;
mod run;
mod shared;
mod sockets;
pub(crate) mod status;
mod view;
mod wakers;

pub(crate) use lock::WriterLock;
pub(crate) use metrics::direction_name;
pub(crate) use run::run;
