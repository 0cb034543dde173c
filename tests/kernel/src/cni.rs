//! Calls of the CNI plugin, as a container runtime makes them.

use crate::cluster::binary;
use crate::{Netns, Node};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

/// A call that can be changed before it is made. By default spec 1.1.0, network `cilium`, interface
/// `eth0`, no pod name.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    node: &'a Node,
    command: &'a str,
    container: String,
    netns: String,
    args: String,
    conf: Value,
}

impl<'a> Call<'a> {
    /// For the container whose id is the name of the namespace.
    pub fn new(node: &'a Node, command: &'a str, netns: &Netns) -> Self {
        Self {
            node,
            command,
            container: netns.name().to_owned(),
            netns: netns.path().display().to_string(),
            args: String::new(),
            conf: json!({
                "cniVersion": "1.1.0", "name": "cilium", "type": "cilium-cni", "run_dir": node.dir.join("run"),
            }),
        }
    }

    /// Names the pod, in namespace `default`.
    #[must_use]
    pub fn pod(mut self, name: &str) -> Self {
        self.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
        self
    }

    /// Sets a key of the network configuration.
    #[must_use]
    pub fn conf(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    /// Makes the call: what was printed, `Null` for nothing; `Err` if the plugin said it failed.
    ///
    /// # Errors
    /// What the plugin printed.
    pub fn run(&self) -> Result<Value, Value> {
        let mut child = self
            .node
            .netns
            .command(binary("cilium-cni"))
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the plugin");
        let mut stdin = child.stdin.take().expect("piped");
        // VERSION does not read its input, and may be gone already.
        let _ = stdin.write_all(self.conf.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("wait for the plugin");
        let printed = if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
                panic!("{}: not JSON: {e}: {}", self.command, String::from_utf8_lossy(&output.stdout))
            })
        };
        if output.status.success() { Ok(printed) } else { Err(printed) }
    }
}

/// The addresses in a result of ADD.
pub fn addresses(result: &Value) -> Vec<std::net::IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}
