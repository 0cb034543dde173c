//! The binary: agent, plan, apply, status and the commands users know.

fn main() {}
