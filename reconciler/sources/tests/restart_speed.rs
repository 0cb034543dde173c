//! What a start costs in a large cluster, from nothing to the first compiled state, and what memory it takes:
//! printed for people, and gated only by a ratio to a start without a cache. The full size is for release
//! builds.
//!
//! `cargo test --release -p cilium-sources --test restart_speed -- --nocapture`

use cilium_engine::compile::{Compiler, IdBook};
use cilium_engine::config::Config;
use cilium_engine::world::HostFacts;
use cilium_sources::folder::{ManifestFolder, Now};
use cilium_sources::records::Records;
use cilium_sources::world::Assembler;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const SERVICES: u32 = if cfg!(debug_assertions) { 200 } else { 10_000 };
const ENDPOINTS: u32 = if cfg!(debug_assertions) { 1_000 } else { 50_000 };
/// Set: this process is the agent, with this folder.
const AGENT: &str = "CILIUM_RESTART_SPEED";

fn published(kind: &str, name: &str, namespace: &str, node: u32) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: {kind}\nmetadata:\n  name: \"{name}\"\n{namespace}  annotations:\n    \
         cilium.io/published-by: \"r{node}\"\n"
    )
}

fn labels(identity: u32) -> [(String, String); 4] {
    [
        ("k8s:app", format!("app{identity}")),
        ("k8s:io.cilium.k8s.policy.cluster", "test".into()),
        ("k8s:io.cilium.k8s.policy.serviceaccount", "default".into()),
        ("k8s:io.kubernetes.pod.namespace", "default".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
}

fn write_all(root: &Path) {
    fs::create_dir_all(root.join("published")).expect("a folder");
    for file in 0..SERVICES.div_ceil(100) {
        let mut text = String::new();
        for n in file * 100..SERVICES.min((file + 1) * 100) {
            let [_, a, b, c] = n.to_be_bytes();
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: default}}\nspec: {{type: \
                 ClusterIP, clusterIP: 172.{a}.{b}.{c}, selector: {{app: s{n}}}, ports: [{{name: web, port: 80, \
                 protocol: TCP, targetPort: web}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: s{n}-a, namespace: default, labels: {{kubernetes.io/service-name: s{n}}}}}\n\
                 addressType: IPv4\nports: [{{name: web, port: 8080, protocol: TCP}}]\nendpoints:\n"
            );
            for m in n * 3..n * 3 + 3 {
                let [_, a, b, c] = m.to_be_bytes();
                let _ = writeln!(text, "- {{addresses: [10.{a}.{b}.{c}], conditions: {{ready: true}}}}");
            }
        }
        fs::write(root.join(format!("services-{file}.yaml")), text).expect("a file");
    }
    let published_dir = root.join("published");
    for n in 0..ENDPOINTS / 5 {
        let mut text =
            published("CiliumIdentity", &(1000 + n).to_string(), "", n / 20) + "security-labels:\n";
        for (key, value) in labels(n) {
            let _ = writeln!(text, "  {key:?}: {value:?}");
        }
        let name = format!("r{}.ciliumidentity.{}.yaml", n / 20, 1000 + n);
        fs::write(published_dir.join(name), text).expect("a file");
    }
    for n in 0..ENDPOINTS {
        let [_, a, b, c] = n.to_be_bytes();
        let (on, name) = (n / 100, format!("pod{n}"));
        let mut text = published("CiliumEndpoint", &name, "  namespace: \"default\"\n", on);
        let _ = writeln!(text, "status:\n  id: 1\n  state: ready\n  identity:\n    id: {}", 1000 + n / 5);
        text.push_str("    labels:\n");
        for (key, value) in labels(n / 5) {
            let _ = writeln!(text, "    - \"{key}={value}\"");
        }
        let _ = writeln!(
            text,
            "  networking:\n    node: \"172.20.0.1\"\n    addressing:\n    - ipv4: \"10.{a}.{b}.{c}\""
        );
        let name = format!("r{on}.ciliumendpoint.default.{name}.yaml");
        fs::write(published_dir.join(name), text).expect("a file");
    }
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// What the agent does until it can compare, printed; the milliseconds of it all.
fn agent(dir: &Path) {
    let (root, state) = (dir.join("manifests"), dir.join("state"));
    let began = Instant::now();
    let mut last = began;
    let mut lap = |what: &str| {
        print!("{what} {:?} ({} MiB), ", last.elapsed(), resident());
        last = Instant::now();
    };
    let mut config = Config::default();
    config.node.name = "n1".into();
    let mut folder = ManifestFolder::new(&root, "n1", &state);
    let records = Records::load(dir, dir, "boot");
    lap("open");
    let now = || Now { uptime: began.elapsed(), wall: SystemTime::now() };
    let snapshot = folder.scan(now());
    lap("scan");
    let mut assembler = Assembler::default();
    let world = assembler.assemble(&snapshot, &records, HostFacts::default(), &config);
    lap("assemble");
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&world, &config, &IdBook::default());
    lap("compile");
    let whole = began.elapsed();
    let rows = compiled.desired.state.len();
    drop(compiled);
    let again = Instant::now();
    let mut next = snapshot.again;
    while next.is_some() {
        std::thread::sleep(Duration::from_millis(50));
        next = folder.scan_heard(now()).again;
    }
    print!("settled {:?}, ", again.elapsed());
    let again = Instant::now();
    drop(folder);
    println!("end {:?}; {} objects, {rows} rows", again.elapsed(), snapshot.objects.len());
    println!("whole={}", whole.as_millis());
}

fn start(dir: &Path) -> u128 {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    let test = ["a_start_reads_only_what_has_changed", "--exact", "--nocapture"];
    let done = command.args(test).env(AGENT, dir).output().expect("it runs");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}");
    for line in text.lines().filter(|line| line.contains("open ")) {
        println!("{line}");
    }
    let whole = text.lines().find_map(|line| line.strip_prefix("whole=")).expect("it says");
    whole.parse().expect("a number")
}

#[test]
fn a_start_reads_only_what_has_changed() {
    if let Some(dir) = std::env::var_os(AGENT) {
        return agent(&PathBuf::from(dir));
    }
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path();
    write_all(&dir.join("manifests"));
    // Past the step of the file system's times.
    std::thread::sleep(Duration::from_millis(150));
    let first = start(dir);
    let others: Vec<u128> = (0..3).map(|_| start(dir)).collect();
    let size = fs::metadata(dir.join("state/manifests.cache")).expect("written at the end").len();
    println!("cache {} KiB; first {first} ms, others {others:?} ms", size >> 10);
    assert!(others.iter().min().expect("three") * 2 < first, "{others:?} ms, the first {first} ms");
}
