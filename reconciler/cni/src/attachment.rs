//! What the runtime says through environment and standard input (CNI spec, sections 2 and 3).

use crate::error::{self, CniError};
use crate::ports;
use crate::wire::{Add, Attachment, Check, Request};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Versions of the specification this plugin speaks.
pub const VERSIONS: &[&str] = &["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The network configuration, as far as it concerns this plugin.
#[derive(Clone, Debug, Deserialize)]
pub struct NetConf {
    /// Version of results wanted.
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// Directory of the agent's socket.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// Dynamic arguments.
    #[serde(default)]
    pub args: Args,
    /// What the runtime makes of capabilities.
    #[serde(rename = "runtimeConfig", default)]
    pub runtime_config: RuntimeConfig,
    /// Live attachments (GC).
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// `args`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Args {
    /// `args.cni`.
    #[serde(default)]
    pub cni: CniArgs,
}

/// `args.cni` (CNI conventions).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CniArgs {
    /// Labels of the container.
    #[serde(default)]
    pub labels: Vec<KeyValue>,
    /// Addresses asked for, with or without prefix length.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// A label.
#[derive(Clone, Debug, Deserialize)]
pub struct KeyValue {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// `runtimeConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RuntimeConfig {
    /// Ports of the node asked for: see [`ports`].
    #[serde(rename = "portMappings", default)]
    pub port_mappings: Vec<serde_json::Value>,
}

/// An entry of `cni.dev/valid-attachments`.
#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    /// Container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface.
    pub ifname: String,
}

/// The environment variables of a call.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`: `K=V;K=V`.
    pub args: String,
    /// `CILIUM_PATHS__RUN_DIR`.
    pub run_dir: Option<PathBuf>,
}

impl Environment {
    /// From pairs as `std::env::vars` gives them.
    pub fn from_vars(vars: impl Iterator<Item = (String, String)>) -> Self {
        let mut env = Self::default();
        for (key, value) in vars {
            match key.as_str() {
                "CNI_COMMAND" => env.command = value,
                "CNI_CONTAINERID" => env.container_id = value,
                "CNI_NETNS" => env.netns = value,
                "CNI_IFNAME" => env.ifname = value,
                "CNI_ARGS" => env.args = value,
                "CILIUM_PATHS__RUN_DIR" => env.run_dir = Some(value.into()),
                _ => {}
            }
        }
        env
    }

    /// Directory of the agent's socket: configuration, environment, default.
    pub fn run_dir(&self, conf: &NetConf) -> PathBuf {
        conf.run_dir.clone().or_else(|| self.run_dir.clone()).unwrap_or_else(|| "/var/run/cilium".into())
    }

    fn attachment(&self) -> Result<Attachment, CniError> {
        let missing =
            |name| CniError::new(error::INVALID_ENVIRONMENT, format!("{name} is missing or invalid"));
        // The characters the specification allows; the value becomes part of a file name.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if self.container_id.is_empty()
            || self.container_id.len() > 128
            || !self.container_id.chars().all(plain)
        {
            return Err(missing("CNI_CONTAINERID"));
        }
        let invalid_name = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if self.ifname.is_empty()
            || self.ifname.len() > 15
            || self.ifname.contains(invalid_name)
            || matches!(self.ifname.as_str(), "." | "..")
        {
            return Err(missing("CNI_IFNAME"));
        }
        Ok(Attachment { container_id: self.container_id.clone(), ifname: self.ifname.clone() })
    }

    /// The request for the agent.
    ///
    /// # Errors
    /// A variable or a part of the configuration is missing, invalid or not supported.
    pub fn request(&self, conf: &NetConf) -> Result<Request, CniError> {
        match self.command.as_str() {
            "ADD" => self.add(conf).map(|add| Request::Add(Box::new(add))),
            "DEL" => Ok(Request::Del(self.attachment()?)),
            "CHECK" => Ok(Request::Check(Check {
                attachment: self.attachment()?,
                port_mappings: ports::parse(&conf.runtime_config.port_mappings)?,
            })),
            "STATUS" => Ok(Request::Status),
            "GC" => {
                let valid = conf.valid_attachments.as_ref().ok_or_else(|| {
                    CniError::new(error::INVALID_CONFIG, "GC without cni.dev/valid-attachments")
                        .details("nothing is removed without the list of live attachments")
                })?;
                let valid = valid
                    .iter()
                    .map(|v| Attachment { container_id: v.container_id.clone(), ifname: v.ifname.clone() })
                    .collect();
                Ok(Request::Gc { network: conf.name.clone(), valid })
            }
            other => Err(CniError::new(error::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND {other:?}"))),
        }
    }

    fn add(&self, conf: &NetConf) -> Result<Add, CniError> {
        if self.netns.is_empty() {
            return Err(CniError::new(error::INVALID_ENVIRONMENT, "CNI_NETNS is missing"));
        }
        let args = parse_args(&self.args)?;
        let take = |key: &str| args.get(key).filter(|v| !v.is_empty()).cloned();
        let ips = conf.args.cni.ips.iter().map(|text| {
            let bare = text.split('/').next().unwrap_or_default();
            bare.parse::<IpAddr>()
                .map_err(|e| CniError::new(error::INVALID_CONFIG, format!("args.cni.ips {text:?}: {e}")))
        });
        Ok(Add {
            attachment: self.attachment()?,
            netns: self.netns.clone(),
            network: conf.name.clone(),
            pod_namespace: take("K8S_POD_NAMESPACE"),
            pod_name: take("K8S_POD_NAME"),
            pod_uid: take("K8S_POD_UID"),
            labels: conf.args.cni.labels.iter().map(|l| (l.key.clone(), l.value.clone())).collect(),
            ips: ips.collect::<Result<_, _>>()?,
            port_mappings: ports::parse(&conf.runtime_config.port_mappings)?,
        })
    }
}

fn parse_args(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CniError::new(error::INVALID_ENVIRONMENT, format!("CNI_ARGS: {pair:?} has no '='"))
            })?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(json: &str) -> NetConf {
        serde_json::from_str(json).unwrap()
    }

    fn env(command: &str) -> Environment {
        Environment {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart".into(),
            run_dir: None,
        }
    }

    #[test]
    fn add_names_the_pod() {
        let Request::Add(add) = env("ADD").request(&conf(r#"{"name":"cilium"}"#)).unwrap() else { panic!() };
        assert_eq!((add.pod_namespace.as_deref(), add.pod_name.as_deref()), (Some("shop"), Some("cart")));
    }

    #[test]
    fn hostile_names_are_refused() {
        for id in ["", "../x", "a/b", &"x".repeat(200)] {
            let env = Environment { container_id: id.into(), ..env("DEL") };
            assert_eq!(env.request(&conf("{}")).unwrap_err().code, error::INVALID_ENVIRONMENT, "{id:?}");
        }
        for name in ["", "a/b", "..", "sixteen-bytes-xx", "a b"] {
            let env = Environment { ifname: name.into(), ..env("ADD") };
            assert_eq!(env.request(&conf("{}")).unwrap_err().code, error::INVALID_ENVIRONMENT, "{name:?}");
        }
    }

    #[test]
    fn gc_needs_its_list() {
        assert_eq!(env("GC").request(&conf("{}")).unwrap_err().code, error::INVALID_CONFIG);
        let request = env("GC").request(&conf(r#"{"name":"n","cni.dev/valid-attachments":[]}"#)).unwrap();
        assert_eq!(request, Request::Gc { network: "n".into(), valid: vec![] });
    }
}
