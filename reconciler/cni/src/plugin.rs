//! One call of the plugin: read, ask the agent, answer.

use crate::attachment::{Environment, NetConf, VERSIONS};
use crate::client::{AskError, ask};
use crate::error::{self, CniError};
use crate::wire::{Answer, Request};
use crate::{result, teardown};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long an ADD may take; runtimes give up after some minutes themselves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the other commands may take.
const SHORT_PATIENCE: Duration = Duration::from_secs(15);

/// What goes to standard output; `Err` with exit code 1.
///
/// # Errors
/// An error in the form of the specification, for the version asked.
pub fn run(env: &Environment, input: &[u8]) -> Result<Option<Value>, Value> {
    if env.command == "VERSION" {
        return Ok(Some(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})));
    }
    let (conf, version) = match parse(input) {
        Ok(parsed) => parsed,
        Err(e) => return Err(render_error(&e, "1.1.0")),
    };
    serve(env, &conf, &version).map_err(|e| render_error(&e, &version))
}

fn parse(input: &[u8]) -> Result<(NetConf, String), CniError> {
    let conf: NetConf = serde_json::from_slice(input).map_err(|e| {
        CniError::new(error::DECODING_FAILURE, "the network configuration is not valid")
            .details(e.to_string())
    })?;
    let version = if conf.cni_version.is_empty() { "0.3.1".to_owned() } else { conf.cni_version.clone() };
    if !VERSIONS.contains(&version.as_str()) {
        return Err(CniError::new(
            error::INCOMPATIBLE_VERSION,
            format!("cniVersion {version} is not supported"),
        )
        .details(format!("supported: {}", VERSIONS.join(", "))));
    }
    Ok((conf, version))
}

fn serve(env: &Environment, conf: &NetConf, version: &str) -> Result<Option<Value>, CniError> {
    let run_dir = env.run_dir(conf);
    let request = env.request(conf)?;
    let patience = if matches!(request, Request::Add(_)) { PATIENCE } else { SHORT_PATIENCE };
    let answer = match ask(&run_dir, &request, patience) {
        Ok(answer) => answer,
        Err(e) => return without_agent(env, &run_dir, &request, e),
    };
    match answer {
        Answer::Attached(attached) => Ok(Some(result::render(&attached, version, &env.ifname, &env.netns))),
        Answer::Done => Ok(None),
        Answer::Failed(e) => Err(e),
    }
}

/// DEL never fails for want of an agent: a pod that cannot be deleted blocks its node.
fn without_agent(
    env: &Environment,
    run_dir: &Path,
    request: &Request,
    e: AskError,
) -> Result<Option<Value>, CniError> {
    match request {
        Request::Del(attachment) => {
            if let Err(e) = teardown::tombstone(run_dir, attachment) {
                eprintln!("cilium-cni: tombstone in {}: {e}", run_dir.display());
            }
            if !env.netns.is_empty()
                && let Err(e) = teardown::remove_interface(Path::new(&env.netns), &attachment.ifname)
            {
                eprintln!("cilium-cni: remove {} in {}: {e}", attachment.ifname, env.netns);
            }
            Ok(None)
        }
        Request::Status => Err(e.into_cni(error::NOT_AVAILABLE)),
        Request::Add(_) | Request::Check(_) | Request::Gc { .. } => Err(e.into_cni(error::TRY_AGAIN)),
    }
}

fn render_error(e: &CniError, version: &str) -> Value {
    let mut out = json!({"cniVersion": version, "code": e.code, "msg": e.msg});
    if !e.details.is_empty() {
        out["details"] = json!(e.details);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_without_agent_is_50_and_del_succeeds() {
        let dir = std::env::temp_dir().join(format!("cilium-cni-test-{}", std::process::id()));
        let conf =
            format!(r#"{{"cniVersion":"1.1.0","name":"cilium","run_dir":{:?}}}"#, dir.display().to_string());
        let env = |command: &str| Environment {
            command: command.into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            ..Environment::default()
        };
        assert_eq!(run(&env("STATUS"), conf.as_bytes()).unwrap_err()["code"], 50);
        assert_eq!(run(&env("DEL"), conf.as_bytes()), Ok(None));
        assert!(dir.join("deleteQueue/c1.eth0.json").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn versions() {
        let env = Environment { command: "VERSION".into(), ..Environment::default() };
        assert_eq!(run(&env, b"").unwrap().unwrap()["supportedVersions"][0], "0.3.1");
        let env = Environment { command: "STATUS".into(), ..Environment::default() };
        assert_eq!(run(&env, br#"{"cniVersion":"9.0.0"}"#).unwrap_err()["code"], 1);
        assert_eq!(run(&env, b"nonsense").unwrap_err()["code"], 6);
    }
}
