//! Services at the socket: the production programs on a cgroup, and real sockets. Needs root, and cgroup2 in
//! the kernel.

mod choice;
mod node;
mod speed;
mod stage;
mod translate;
