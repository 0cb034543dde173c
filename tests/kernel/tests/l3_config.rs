//! Every key of the configuration wrong in each way, through the real agent: refused at once, by one message
//! that names key and place, with nothing on the host touched.

#[path = "../../../reconciler/sources/src/config/wrong.rs"]
mod wrong;

use cilium_engine::config::{document, keys};
use cilium_tests_kernel::Netns;
use cilium_tests_kernel::cluster::binary;
use cilium_tests_kernel::footprint::host;
use cilium_tests_kernel::netns::unique;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a refusal may take; what takes longer has started.
const PATIENCE: &str = "10";

/// A host on which nothing of ours is.
struct Place {
    netns: Netns,
    dir: tempfile::TempDir,
    pins: PathBuf,
}

/// One refusal to be seen.
struct Case {
    command: &'static str,
    toml: String,
    variable: Option<(String, String)>,
    set: Option<String>,
    /// What the message must hold.
    told: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let netns = Netns::new("cfg");
        netns.ip("link add eth0 type veth peer name eth1");
        // Not up: what the kernel does by itself then comes later, and is not what is looked for.
        netns.ip("addr add 192.168.77.1/24 dev eth0");
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("files")).expect("a folder for configurations");
        Self { netns, dir, pins: Path::new("/sys/fs/bpf").join(unique("pins")) }
    }

    /// Settings that would do, as TOML.
    fn good(&self) -> Vec<(&'static str, String)> {
        let inside = |name: &str| format!("{:?}", self.dir.path().join(name).display().to_string());
        vec![
            ("node.name", "\"n1\"".to_owned()),
            ("paths.run_dir", inside("run")),
            ("paths.state_dir", inside("state")),
            ("paths.cni_conf_dir", inside("cni")),
            ("paths.cni_bin_dir", "\"\"".to_owned()),
            ("paths.bpf_dir", format!("{:?}", self.pins.display().to_string())),
            ("source.manifests.path", inside("manifests")),
            ("source.manifests.publish", inside("published")),
            ("metrics.listen", "\"\"".to_owned()),
        ]
    }

    /// Settings before the good ones, which they replace.
    fn document<'a>(
        &'a self,
        settings: &[(&'a str, &'a str)],
    ) -> (String, impl Fn(&str) -> String + use<'a>) {
        let good: Vec<(&str, String)> = self.good();
        let mut all: Vec<(String, String)> =
            settings.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
        all.extend(good.into_iter().map(|(path, value)| (path.to_owned(), value)));
        let borrowed = |all: &[(String, String)]| -> String {
            wrong::document(&all.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect::<Vec<_>>())
        };
        let text = borrowed(&all);
        let place = move |path: &str| {
            let all: Vec<(&str, &str)> = all.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
            let (line, column) = wrong::place(&all, path);
            format!(".toml:{line}:{column}\n")
        };
        (text, place)
    }

    /// The agent, or another command, is refused, in one message, and nothing is there afterwards.
    fn refuses(&self, number: usize, case: &Case) {
        let file = self.dir.path().join(format!("files/{number}.toml"));
        std::fs::write(&file, &case.toml).expect("write a configuration");
        let mut command = self.netns.command("timeout");
        command.args(["-s", "KILL", PATIENCE]).arg(binary("cilium")).arg("--config").arg(&file);
        command.args(case.set.iter().flat_map(|set| ["--set", set])).arg(case.command);
        command.envs(case.variable.iter().map(|(name, value)| (name, value)));
        let output = command.output().expect("timeout is installed");
        let (said, Case { toml, variable, set, .. }) = (String::from_utf8_lossy(&output.stderr), case);
        let what = || format!("{} {variable:?} {set:?} with\n{toml}\n{said}", case.command);
        assert_eq!(output.status.code(), Some(1), "{}", what());
        assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", what());
        for part in &case.told {
            assert!(said.contains(part), "{part:?} is missing: {}", what());
        }
        assert!(said.ends_with("the configuration is refused: 1 error\n"), "{}", what());
        let made = ["run", "state", "cni", "manifests", "published"].map(|name| self.dir.path().join(name));
        let made: Vec<&PathBuf> = made.iter().chain([&self.pins]).filter(|path| path.exists()).collect();
        assert!(made.is_empty(), "{made:?} made: {}", what());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn in_file(place: &Place, command: &'static str, settings: &[(&str, &str)], at: &str, told: &[&str]) -> Case {
    let (toml, position) = place.document(settings);
    let mut told: Vec<String> = told.iter().map(|part| (*part).to_owned()).collect();
    told.push(position(at));
    Case { command, toml, variable: None, set: None, told }
}

/// Each key wrong in each way, and each contradiction.
fn grid(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    let good = || place.document(&[]).0;
    for key in keys::all() {
        let path = key.path.as_str();
        let mut values = wrong::types(&key.form);
        values.extend(wrong::out_of_range(key));
        for (n, value) in values.iter().enumerate() {
            let mut settings = vec![(path, value.as_str())];
            settings.extend(wrong::needed_by(key));
            // Every command that writes or plans reads the same configuration.
            let commands = if n == 0 { &["agent", "apply", "plan", "destroy"][..] } else { &["agent"] };
            let case = |command: &&'static str| in_file(place, command, &settings, path, &[path]);
            cases.extend(commands.iter().map(case));
        }
        let set = format!("{path}={}", wrong::text(key));
        let told = vec![path.to_owned(), format!("--set {set}\n")];
        cases.push(Case { command: "agent", toml: good(), variable: None, set: Some(set), told });
        if key.table().is_empty() {
            continue;
        }
        let variable = (document::variable(path), wrong::text(key));
        let told = vec![path.to_owned(), format!("environment variable {}\n", variable.0)];
        cases.push(Case { command: "agent", toml: good(), variable: Some(variable), set: None, told });
        let misspelt = wrong::misspelt(key);
        let hint = format!("did you mean {path}?");
        let mut unknown = in_file(
            place,
            "agent",
            &[(&misspelt, "1")],
            &misspelt,
            &[&format!("unknown key {misspelt}\n"), &hint],
        );
        // What is wrong with an unknown key is its name, not its value.
        if let Some(position) = unknown.told.last_mut() {
            let line = position.rsplit_once(':').expect("line and column").0;
            *position = format!("{line}:1\n");
        }
        cases.push(unknown);
    }
    for (settings, named) in wrong::CONTRADICTIONS {
        let set = |key: &&&str| settings.iter().any(|(path, _)| path == *key);
        let at = named.iter().find(set).expect("a contradiction has a key that is set");
        cases.push(in_file(place, "agent", settings, at, named));
    }
    cases
}

#[test]
fn every_wrong_key_is_refused_before_anything_is_touched() {
    let place = Place::new();
    let before = host(&place.netns);
    let cases = grid(&place);
    let began = Instant::now();
    let next = Mutex::new(cases.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().expect("no thread panics with it").next();
                    let Some((number, case)) = case else { return };
                    place.refuses(number, case);
                }
            });
        }
    });
    assert_eq!(host(&place.netns), before, "the host was changed");
    eprintln!("{} configurations refused in {:?}", cases.len(), began.elapsed());
    assert!(cases.len() > 9 * keys::all().len(), "only {} cases of {} keys", cases.len(), keys::all().len());
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn what_is_no_configuration_at_all_is_refused_too() {
    let place = Place::new();
    let before = host(&place.netns);
    let good = place.document(&[]).0;
    let place_of = |line: &str| format!("0.toml:{line}");
    for (toml, told) in [
        (good.replacen("version = 1", "version = 99", 1), "newer than this build"),
        (good.replacen("version = 1", "", 1), "has no `version`"),
        (good.replacen("version = 1", "version = 1\nversion = 1", 1), "not TOML"),
        (good.replacen("[paths]", "[paths", 1), "not TOML"),
        (good.replacen("[paths]", "[path]", 1), "unknown key path"),
        (good.clone() + "[hubble]\nlisten = \":4244\"\n", "not built yet"),
        (String::new(), "has no `version`"),
    ] {
        let case = Case {
            command: "agent",
            toml,
            variable: None,
            set: None,
            told: vec![told.to_owned(), place_of("")],
        };
        place.refuses(0, &case);
    }
    for bytes in [&b"\xff\xfe\x00"[..], &[0; 100], &[b'#'; 2 << 20]] {
        let file = place.dir.path().join("files/bytes.toml");
        std::fs::write(&file, bytes).expect("write it");
        for path in [file.as_path(), place.dir.path(), Path::new("/nonexistent/cilium.toml")] {
            let mut command = place.netns.command("timeout");
            command
                .args(["-s", "KILL", PATIENCE])
                .arg(binary("cilium"))
                .arg("--config")
                .arg(path)
                .arg("agent");
            let output = command.output().expect("timeout is installed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{}: {said}", path.display());
            assert!(said.contains(&path.display().to_string()), "{}: {said}", path.display());
        }
    }
    assert_eq!(host(&place.netns), before, "the host was changed");
    assert!(!place.pins.exists() && !place.dir.path().join("run").exists());
}
