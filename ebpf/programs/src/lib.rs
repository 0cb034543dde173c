//! The eBPF programs, one module per concern: values in, values out. [`entry`] ties them together.
//!
//! A packet's way reads as one function: parse, source check, service, conntrack, identity, policy,
//! rewrite, deliver. Each step gives a value or a [`flow::Cause`]; only [`event::drop`] ends a packet.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod accelerate;
pub mod answer;
pub mod arp;
pub mod conntrack;
pub mod container;
pub mod deliver;
pub mod dsr;
pub mod entry;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod geneve;
pub mod host;
pub mod host_stack;
pub mod ipcache;
pub mod ipip;
pub mod known;
pub mod maps;
pub mod metrics;
pub mod nd;
pub mod netdev;
pub mod north_south;
pub mod overlay;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod rewrite;
pub mod service;
pub mod snat;
pub mod sock;
