//! What tests of two nodes set up alike: pods that serve, ways to Services from outside, and what backends see.

use crate::probe::{eventually, serve};
use crate::services::ip;
use crate::{Cluster, Mode, Node, Pod};
use std::net::IpAddr;
use std::time::Duration;

impl Cluster {
    /// Pods a and b on the first node, c on the other, all of which serve on `port` by their names.
    pub fn three_pods(&self, port: u16) -> [Pod; 3] {
        [(0, "a"), (0, "b"), (1, "c")].map(|(node, name)| {
            let pod = self.pod(node, name, &format!("app: {name}"));
            serve(&pod.netns, name, port);
            pod
        })
    }

    /// Lets every node serve on `port` by its name.
    pub fn nodes_serve(&self, port: u16) {
        self.nodes.iter().for_each(|node| serve(&node.netns, &node.name, port));
    }

    /// Lets the host outside send what goes to these networks, each by family, to the first node.
    pub fn outside_asks_first_node(&self, networks: &[[&str; 2]]) {
        let node = &self.nodes[0];
        for [v4, v6] in networks {
            self.outside.ip(&format!("route add {v4} via {}", node.ipv4));
            self.outside.ip(&format!("-6 route add {v6} via {}", node.ipv6));
        }
    }

    /// The addresses of a node that its `cilium_host` has, by family.
    pub fn router(&self, n: usize) -> [IpAddr; 2] {
        [ip(&format!("10.77.{}.1", n + 1)), ip(&format!("fd78:{}::1", n + 1))]
    }

    /// The addresses of the first node with which it asks backends of the other for a client: in the overlay its
    /// router's.
    pub fn lent(&self, mode: Mode) -> [IpAddr; 2] {
        match mode {
            Mode::Tunnel => self.router(0),
            Mode::Native => self.nodes[0].addresses(),
        }
    }
}

impl Node {
    /// Waits until it lists so many frontends: each is of one address and protocol.
    ///
    /// # Panics
    /// It never does.
    pub fn wait_for_frontends(&self, count: usize) {
        let known = || {
            let output = self.cilium(&["service", "list", "-o", "json"]);
            let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            list.as_array().map_or(0, Vec::len) >= count
        };
        assert!(eventually(Duration::from_secs(15), known), "{}: frontends\n{}", self.name, self.log_tail());
    }
}
