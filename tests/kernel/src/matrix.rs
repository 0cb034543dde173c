//! The matrix of load balancing: every cell there is, the test that runs it or why none does, and a record of
//! what a test ran. `tests/kernel/matrix.md` is written from it (`tests/l2_services.rs`).
//!
//! The node asked is the first one, whose addresses NodePorts and hostPorts are asked at; "here" is there.

use crate::Mode;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;

macro_rules! axis {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $value:ident => $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $value,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$value),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $text,)* })
            }
        }
    };
}

axis! {
    /// What is asked. `Local` ones belong to a Service with both traffic policies `Local`.
    Frontend {
        /// A ClusterIP.
        ClusterIp => "ClusterIP",
        /// A port of the first node.
        NodePort => "NodePort",
        /// A load balancer's address.
        LoadBalancer => "LoadBalancer",
        /// An external IP.
        ExternalIp => "externalIP",
        /// A pod's port of the first node.
        HostPort => "hostPort",
        /// A ClusterIP, `internalTrafficPolicy: Local`.
        ClusterIpLocal => "ClusterIP, Local",
        /// A NodePort, `externalTrafficPolicy: Local`.
        NodePortLocal => "NodePort, Local",
        /// A load balancer's address, `externalTrafficPolicy: Local`.
        LoadBalancerLocal => "LoadBalancer, Local",
        /// An external IP, `externalTrafficPolicy: Local`.
        ExternalIpLocal => "externalIP, Local",
    }
}

axis! {
    /// Where its one backend is.
    Backend {
        /// On the first node.
        Near => "here",
        /// On the second.
        Far => "elsewhere",
    }
}

axis! {
    /// Who asks.
    Client {
        /// A pod of the first node.
        Pod => "pod",
        /// A pod of the second node.
        OtherPod => "pod of the other node",
        /// A process of the first node.
        Host => "host",
        /// A process of the second node.
        OtherHost => "the other host",
        /// A machine outside of the cluster.
        Outside => "outside",
    }
}

axis! {
    /// By what.
    Proto {
        /// TCP.
        Tcp => "TCP",
        /// UDP.
        Udp => "UDP",
    }
}

axis! {
    /// What the nodes have switched on.
    Hook {
        /// Programs at devices and pods' links.
        Packets => "TC",
        /// The same, and programs in drivers.
        Drivers => "XDP",
        /// The same as packets, and programs at sockets.
        Sockets => "sockets",
    }
}

axis! {
    /// How packets of clients outside get to a backend elsewhere.
    Forwarding {
        /// With an address of this node.
        Snat => "snat",
        /// With the client's own.
        Dsr => "dsr",
    }
}

/// A cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// What is asked.
    pub frontend: Frontend,
    /// Where its backend is.
    pub backend: Backend,
    /// Who asks.
    pub client: Client,
    /// Whether in the tunnel.
    pub tunnel: bool,
    /// How packets get elsewhere.
    pub forwarding: Forwarding,
    /// What is switched on.
    pub hook: Hook,
    /// By what.
    pub proto: Proto,
    /// In which family.
    pub ipv6: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, backend, client, tunnel, forwarding, hook, proto, ipv6 } = self;
        let routing = if *tunnel { "tunnel" } else { "native" };
        let family = if *ipv6 { "IPv6" } else { "IPv4" };
        write!(
            f,
            "{client} to {frontend}, backend {backend}, {proto} {family}, {routing}, {forwarding}, {hook}"
        )
    }
}

impl Cell {
    /// Every cell there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let every =
            Frontend::ALL.iter().flat_map(|frontend| Backend::ALL.iter().map(move |b| (*frontend, *b)));
        let every = every.flat_map(|at| Client::ALL.iter().map(move |client| (at, *client)));
        let setups: Vec<_> = Setup::all().collect();
        every.flat_map(move |((frontend, backend), client)| {
            let of = move |Setup { mode, forwarding, hook }| {
                let tunnel = mode == Mode::Tunnel;
                [(Proto::Tcp, false), (Proto::Tcp, true), (Proto::Udp, false), (Proto::Udp, true)].map(
                    |(proto, ipv6)| Self { frontend, backend, client, tunnel, forwarding, hook, proto, ipv6 },
                )
            };
            setups.clone().into_iter().flat_map(of)
        })
    }

    /// What nodes must be like to run it.
    pub fn setup(&self) -> Setup {
        let mode = if self.tunnel { Mode::Tunnel } else { Mode::Native };
        Setup { mode, forwarding: self.forwarding, hook: self.hook }
    }

    fn is_local(&self) -> bool {
        use Frontend::{ClusterIpLocal, ExternalIpLocal, LoadBalancerLocal, NodePortLocal};
        matches!(self.frontend, ClusterIpLocal | ExternalIpLocal | LoadBalancerLocal | NodePortLocal)
    }

    /// Whether the frontend is one of the first node's own addresses.
    fn is_of_node(&self) -> bool {
        matches!(self.frontend, Frontend::NodePort | Frontend::NodePortLocal | Frontend::HostPort)
    }

    /// Whether the client's packets come to the first node by its device before they are translated: then the
    /// client counts as one outside.
    pub fn comes_by_device(&self) -> bool {
        match self.client {
            Client::Outside => true,
            Client::OtherPod | Client::OtherHost => self.is_of_node(),
            Client::Pod | Client::Host => false,
        }
    }

    /// Whether the client is to get no answer, though the cell is run: a ClusterIP asked from outside, or a
    /// policy `Local` and no backend where the choice is made.
    pub fn is_refused(&self) -> bool {
        use Frontend::{ClusterIp, ClusterIpLocal};
        let chosen_here = matches!(self.client, Client::Pod | Client::Host) || self.comes_by_device();
        let lacks = (self.backend == Backend::Near) != chosen_here;
        match self.frontend {
            ClusterIp | ClusterIpLocal if self.client == Client::Outside => true,
            ClusterIpLocal => lacks,
            _ => self.is_local() && self.comes_by_device() && lacks,
        }
    }

    /// Who runs it, or why nobody does.
    pub fn plan(&self) -> Plan {
        let is_host = matches!(self.client, Client::Host | Client::OtherHost);
        if self.frontend == Frontend::HostPort && self.backend == Backend::Far {
            return Plan::Skip("a hostPort leads to a pod of its node");
        }
        match self.hook {
            Hook::Drivers if !self.comes_by_device() => {
                return Plan::Skip("nothing of it comes in by a device before it is translated");
            }
            Hook::Sockets if self.client == Client::Outside => {
                return Plan::Skip("the client's socket is on another machine: as with TC");
            }
            Hook::Packets if is_host && !self.comes_by_device() => {
                return Plan::Skip("the node's own processes are served at their sockets alone");
            }
            Hook::Packets | Hook::Drivers | Hook::Sockets => {}
        }
        if self.forwarding == Forwarding::Dsr && !self.comes_by_device() {
            return Plan::Skip("chosen where the client is, whose address stays its own: as with snat");
        }
        self.setup().test()
    }
}

/// What nodes are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Routing.
    pub mode: Mode,
    /// How packets get to backends elsewhere.
    pub forwarding: Forwarding,
    /// What is switched on.
    pub hook: Hook,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routing = if self.mode == Mode::Tunnel { "tunnel" } else { "native" };
        write!(f, "{routing}, {}, {}", self.forwarding, self.hook)
    }
}

impl Setup {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let modes = [Mode::Tunnel, Mode::Native].into_iter();
        let ways = modes.flat_map(|mode| Forwarding::ALL.iter().map(move |forwarding| (mode, *forwarding)));
        ways.flat_map(|(mode, forwarding)| {
            Hook::ALL.iter().map(move |hook| Self { mode, forwarding, hook: *hook })
        })
    }

    /// The test that runs the cells of such nodes.
    fn test(self) -> Plan {
        match (self.mode, self.forwarding, self.hook) {
            (Mode::Tunnel, Forwarding::Snat, Hook::Packets) => Plan::Run("l2_services::tunnel"),
            (Mode::Tunnel, Forwarding::Snat, Hook::Drivers) => Plan::Run("l2_services::tunnel_drivers"),
            (Mode::Tunnel, Forwarding::Snat, Hook::Sockets) => Plan::Run("l2_services::tunnel_sockets"),
            (Mode::Native, Forwarding::Snat, Hook::Packets) => Plan::Run("l2_services::native"),
            (Mode::Native, Forwarding::Snat, Hook::Drivers) => Plan::Run("l2_services::vm_native_drivers"),
            (Mode::Native, Forwarding::Snat, Hook::Sockets) => Plan::Run("l2_services::vm_native_sockets"),
            (Mode::Tunnel, Forwarding::Dsr, Hook::Packets) => Plan::Run("l2_services::tunnel_dsr"),
            (Mode::Tunnel, Forwarding::Dsr, Hook::Drivers) => Plan::Run("l2_services::tunnel_dsr_drivers"),
            (Mode::Native, Forwarding::Dsr, Hook::Packets) => Plan::Run("l2_services::native_dsr"),
            (Mode::Native, Forwarding::Dsr, Hook::Drivers) => Plan::Run("l2_services::vm_native_dsr_drivers"),
            (_, Forwarding::Dsr, Hook::Sockets) => Plan::Skip("sockets take no part in it: as with TC"),
        }
    }
}

/// What becomes of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    /// A test runs it: binary and function.
    Run(&'static str),
    /// Nobody does, and why.
    Skip(&'static str),
}

/// What a test ran.
#[derive(Debug)]
pub struct Record {
    test: &'static str,
    ran: Mutex<BTreeSet<Cell>>,
    failed: Mutex<Vec<String>>,
}

impl Record {
    /// Of a test, as [`Plan::Run`] names it.
    pub fn of(test: &'static str) -> Self {
        Self { test, ran: Mutex::default(), failed: Mutex::default() }
    }

    /// The cells it is to run.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        Cell::all().filter(|cell| cell.plan() == Plan::Run(self.test))
    }

    /// A cell was run: with what went wrong, if anything did.
    pub fn ran(&self, cell: Cell, wrong: Option<String>) {
        self.ran.lock().expect("no test thread panics").insert(cell);
        let wrong = wrong.map(|wrong| format!("{cell}: {wrong}"));
        self.failed.lock().expect("no test thread panics").extend(wrong);
    }

    /// Prints the cells, and fails if one went wrong, or if they are not those that the test is to run.
    ///
    /// # Panics
    /// So it fails.
    pub fn end(self) {
        let (ran, failed) = (self.ran.lock().expect("ended"), self.failed.lock().expect("ended"));
        ran.iter().for_each(|cell| println!("cell: {cell}"));
        println!("{}: {} cells, {} failed", self.test, ran.len(), failed.len());
        let wanted: BTreeSet<Cell> = self.cells().collect();
        assert!(failed.is_empty(), "{}:\n  {}", self.test, failed.join("\n  "));
        let odd: Vec<String> = ran.symmetric_difference(&wanted).map(Cell::to_string).collect();
        assert!(
            odd.is_empty(),
            "{}: run and not listed, or listed and not run:\n  {}",
            self.test,
            odd.join("\n  ")
        );
    }
}
