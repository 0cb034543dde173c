//! Faults of what is kept on disk: damaged files, file systems that are full or read-only. Pods keep their
//! addresses and their policy, the loop neither dies nor spins, and all is mended when it can be.

use cilium_tests_kernel::cluster::{Node, long};
use cilium_tests_kernel::footprint::below;
use cilium_tests_kernel::probe::{eventually, ping, serve, tcp};
use cilium_tests_kernel::{Cluster, Netns, Options, Pod};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("CILIUM_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
        eprintln!("seed {seed} (CILIUM_TEST_SEED)");
        Self(seed)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % n.max(1)
    }
}

fn policy(name: &str, subject: &str, from: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: {subject}}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: \
         {from}}}}}]\n"
    )
}

fn service(name: &str, vip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{clusterIP: {vip}, \
         selector: {{app: p0}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
    )
}

/// One node with four pods: p0 serves, and only p1 may reach it.
struct Lab {
    // Taken away before the folders they are in.
    mounts: Vec<Mount>,
    cluster: Cluster,
    pods: Vec<Pod>,
    addresses: String,
    identities: String,
}

impl Lab {
    fn new(mut cluster: Cluster, mounts: Vec<Mount>) -> Self {
        cluster.nodes[0].start_agent();
        cluster.nodes[0].wait_healthy(WAIT);
        let pods: Vec<Pod> =
            (0..4).map(|n| cluster.pod(0, &format!("p{n}"), &format!("app: p{n}"))).collect();
        serve(&pods[0].netns, "p0", PORT);
        cluster.write("policy.yaml", &policy("p", "p0", "p1"));
        cluster.write("svc.yaml", &service("s", "10.96.0.10"));
        let mut lab = Self { mounts, cluster, pods, addresses: String::new(), identities: String::new() };
        assert!(eventually(WAIT, || lab.wrong().is_none()), "{:?}\n{}", lab.wrong(), lab.node().log_tail());
        lab.cluster.settle();
        (lab.addresses, lab.identities) =
            (lab.list(&["endpoint", "list", "-o", "json"]), lab.list(&["ip", "list"]));
        lab
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn list(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.node().cilium(args).stdout).into_owned()
    }

    /// What does not work as it should.
    fn wrong(&self) -> Option<String> {
        let reaches = |n: usize| tcp(&self.pods[n].netns, self.pods[0].ipv4, PORT).is_some();
        let vip = tcp(&self.pods[1].netns, "10.96.0.10".parse().expect("a literal address"), 80).is_some();
        let lost = self.pods.iter().find(|pod| !ping(&pod.netns, self.node().ipv4, None));
        match (reaches(1), reaches(2), vip, lost) {
            (true, false, true, None) => None,
            (one, two, vip, lost) => Some(format!(
                "p1 reaches p0: {one}; p2 does: {two}; by the Service: {vip}; without network: {:?}",
                lost.map(|pod| &pod.name)
            )),
        }
    }

    /// Everybody has the address, the identity and the connections that are due.
    fn check(&self, when: &str) {
        assert_eq!(
            self.list(&["endpoint", "list", "-o", "json"]),
            self.addresses,
            "{when}: {}",
            self.node().log_tail()
        );
        assert_eq!(self.list(&["ip", "list"]), self.identities, "{when}");
        if let Some(wrong) = self.wrong() {
            panic!("{when}: {wrong}\n{}", self.node().log_tail());
        }
        assert!(!self.node().log().contains("panicked"), "{when}: {}", self.node().log_tail());
    }

    /// The agent is killed, and another starts once `meanwhile` is done.
    fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.cluster.nodes[0].stop_agent(libc::SIGKILL);
        meanwhile(&self.cluster.nodes[0].dir.clone());
        self.cluster.nodes[0].start_agent();
    }

    fn problems(&self) -> Vec<String> {
        let status = self.node().status();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().map(Value::to_string).collect()
    }

    fn told(&self, part: &str) -> bool {
        self.problems().iter().any(|problem| problem.contains(part))
    }
}

fn one_node() -> Cluster {
    Cluster::prepare(&Options { nodes: 1, ..Options::default() })
}

/// At most so many passes in some quiet: the loop does not spin.
fn assert_calm(node: &Node, quiet: Duration, most: u64, when: &str) {
    let passes = || node.status()["passes"].as_u64().unwrap_or(0);
    let (before, since) = (passes(), Instant::now());
    std::thread::sleep(quiet);
    let made = passes() - before;
    assert!(made <= most, "{when}: {made} passes in {:?}\n{}", since.elapsed(), node.log_tail());
}

/// Ways to damage a file.
const WAYS: &[&str] = &[
    "emptied",
    "truncated",
    "a bit flipped",
    "a byte put in",
    "overwritten with 0xff",
    "other JSON",
    "an older version",
    "a newer version",
    "very long",
    "removed",
    "a folder in its place",
    "unreadable",
    "a pipe in its place",
];

fn damage(path: &Path, way: &str, random: &mut Random) {
    let mut bytes = std::fs::read(path).expect("a file is there to be damaged");
    let at = random.below(bytes.len());
    let replaced = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&std::fs::read(path).expect("read")).into_owned();
        text.replace(&format!("\"version\":{from}"), &format!("\"version\":{to}"))
            .replace(&format!("\"version\": {from}"), &format!("\"version\": {to}"))
            .into_bytes()
    };
    match way {
        "emptied" => bytes.clear(),
        "truncated" => bytes.truncate(at),
        "a bit flipped" => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        "a byte put in" => bytes.insert(at, u8::try_from(random.below(256)).expect("below 256")),
        "overwritten with 0xff" => bytes = vec![0xff; 4096],
        "other JSON" => bytes = b"{\"version\":1,\"endpoints\":[{}]}\n".to_vec(),
        "an older version" => bytes = replaced("1", "0"),
        "a newer version" => bytes = replaced("1", "2"),
        "very long" => bytes = b"{}\n".repeat(3 << 20),
        _ => std::fs::remove_file(path).expect("remove a file"),
    }
    match way {
        "removed" => {}
        "a folder in its place" => std::fs::create_dir_all(path.join("within")).expect("make a folder"),
        // Root reads whatever the mode is; a link to itself nobody can open.
        "unreadable" => std::os::unix::fs::symlink(path, path).expect("make a link"),
        "a pipe in its place" => {
            assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo is installed").success());
        }
        _ => std::fs::write(path, bytes).expect("damage a file"),
    }
}

/// The kept files that may be damaged at one time: of each pod either its record or the copy.
fn targets(home: &Path, random: &mut Random) -> Vec<PathBuf> {
    let kept = below(&home.join("state")).into_iter().chain(below(&home.join("run/state")));
    let regular = |path: &PathBuf| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let mut all: Vec<PathBuf> =
        kept.filter(|path| regular(path) && path.extension().is_none_or(|e| e != "bad")).collect();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for path in &all {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        *seen.entry(name).or_default() += 1;
    }
    let spared: BTreeSet<PathBuf> = seen
        .into_iter()
        .filter(|(_, times)| *times == 2)
        .map(|(name, _)| home.join("run/state").join(["endpoints", "copies"][random.below(2)]).join(name))
        .collect();
    all.retain(|path| !spared.contains(path));
    all
}

#[test]
fn damaged_files_are_mended_and_pods_keep_their_addresses() {
    let mut random = Random::seeded();
    let mut lab = Lab::new(one_node(), Vec::new());
    let (mutations, each) = if long() { (500, 8) } else { (40, 8) };
    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    while done.values().sum::<usize>() < mutations {
        let mut what = Vec::new();
        lab.restart(|home| {
            let mut files = targets(home, &mut random);
            for _ in 0..each {
                let (path, way) =
                    (files.swap_remove(random.below(files.len())), WAYS[random.below(WAYS.len())]);
                damage(&path, way, &mut random);
                *done.entry(way).or_default() += 1;
                what.push(format!("{}: {way}", path.strip_prefix(home).unwrap_or(&path).display()));
            }
        });
        let (started, what) = (Instant::now(), what.join("; "));
        let healthy = || lab.node().cilium(&["status"]).status.success();
        assert!(
            eventually(WAIT, healthy),
            "{what}: not healthy\n{}\n{}",
            lab.list(&["status", "--verbose"]),
            lab.node().log_tail()
        );
        slowest = slowest.max(started.elapsed());
        lab.check(&what);
        // What is kept can be kept again.
        let guest = lab.cluster.pod(0, "guest", "app: guest");
        let online = || ping(&guest.netns, lab.node().ipv4, None);
        assert!(eventually(WAIT, online), "{what}: a new pod has no network\n{}", lab.node().log_tail());
        lab.cluster.detach(guest);
        assert_calm(lab.node(), Duration::from_millis(300), 10, &what);
    }
    lab.cluster.settle();
    // And after all that a start finds nothing to complain of but what it put aside.
    lab.restart(|_| {});
    lab.node().wait_healthy(WAIT);
    lab.check("at the end");
    assert_eq!(lab.problems(), Vec::<String>::new());
    eprintln!("{done:?}; slowest start {slowest:?}; addresses, identities and policy unchanged");
}

/// A file system of its own in place of a folder, taken away on drop.
struct Mount(PathBuf);

impl Mount {
    /// A small one in memory.
    fn small(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).expect("a folder to mount on");
        Self::run("mount", &["-t", "tmpfs", "-o", &format!("size={size},nr_inodes=2000"), "tmpfs"], at);
        Self(at.to_owned())
    }

    /// One on a disk of its own, of which nothing is written before it must be.
    ///
    /// # Errors
    /// There are no loop devices here.
    fn disk(image: &Path, at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).expect("a folder to mount on");
        let output = Command::new("mount").args(["-o", "loop,commit=300"]).arg(image).arg(at).output();
        let output = output.expect("mount is installed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(Self(at.to_owned())) } else { Err(said) }
    }

    fn run(program: &str, args: &[&str], at: &Path) {
        let output = Command::new(program).args(args).arg(at).output().expect("mount is installed");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn remount(&self, mode: &str) {
        Self::run("mount", &["-o", &format!("remount,{mode}")], &self.0);
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut fill = std::fs::File::create(self.0.join("fill")).expect("create a file");
        while std::io::Write::write_all(&mut fill, &[0x55; 512]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("fill")).expect("remove a file");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The agent may still run in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Copies of objects in the store.
fn last_good(node: &Node) -> usize {
    let store = below(&node.dir.join("state/last-good"));
    store.iter().filter(|path| path.extension().is_some_and(|e| e == "json")).count()
}

impl Lab {
    /// While nothing can be kept: what is wanted comes into force, no pod is attached by halves, and the
    /// loop is calm.
    fn works_without_keeping(&self, when: &str) {
        let node = self.node();
        self.check(when);
        // A new object, and a change of one in force.
        self.cluster.write("more.yaml", &service("more", "10.96.0.11"));
        self.cluster.write("policy.yaml", &policy("p", "p0", "p2"));
        let reaches = |n: usize, to: &str, port| {
            tcp(&self.pods[n].netns, to.parse().expect("a literal address"), port).is_some()
        };
        let server = self.pods[0].ipv4.to_string();
        assert!(
            eventually(WAIT, || reaches(2, "10.96.0.11", 80) && !reaches(1, &server, PORT)),
            "{when}: objects are not in force\n{}",
            node.log_tail()
        );
        assert!(eventually(WAIT, || self.told("was not kept")), "{when}: {:?}", self.problems());
        assert_calm(node, Duration::from_secs(1), 8, when);
        self.cluster.write("policy.yaml", &policy("p", "p0", "p1"));
        self.cluster.remove("more.yaml");
        assert!(
            eventually(WAIT, || self.wrong().is_none()),
            "{when}: {:?}\n{}",
            self.wrong(),
            node.log_tail()
        );
    }

    /// A pod whose record cannot be written is refused, and leaves nothing.
    fn refuses_a_pod(&self, why: &str) {
        let (node, netns) = (self.node(), Netns::new("pod"));
        let links = || String::from_utf8_lossy(&node.netns.shell("ip -o link | wc -l").stdout).into_owned();
        let before = links();
        let refused = node.cni("ADD", &netns, "guest").expect_err("its record cannot be written");
        assert!(refused.contains("endpoint record") && refused.contains(why), "{refused}");
        assert_eq!(links(), before, "{}", node.log_tail());
        node.cni("DEL", &netns, "guest").expect("DEL of what is not there");
    }

    /// When all can be kept again, it is, and nobody had to do anything.
    fn recovers(&mut self, when: &str) {
        let clean = || self.problems().is_empty();
        assert!(
            eventually(WAIT, clean),
            "{when}: {}\n{}",
            self.list(&["status", "--verbose"]),
            self.node().log_tail()
        );
        let objects =
            below(&self.cluster.manifests).len() - below(&self.cluster.manifests.join("published")).len();
        assert!(
            last_good(self.node()) >= objects,
            "{when}: {} copies of {objects} files",
            last_good(self.node())
        );
        let guest = self.cluster.pod(0, "guest", "app: guest");
        let online = || ping(&guest.netns, self.node().ipv4, None);
        assert!(eventually(WAIT, online), "{when}: a new pod has no network\n{}", self.node().log_tail());
        self.cluster.detach(guest);
        self.restart(|_| {});
        self.node().wait_healthy(WAIT);
        self.check(when);
        self.cluster.settle();
    }
}

#[test]
fn full_disks_are_survived() {
    let cluster = one_node();
    let home = cluster.nodes[0].dir.clone();
    let disks = ["run", "state"].map(|name| Mount::small(&home.join(name), "1m"));
    let mut lab = Lab::new(cluster, disks.into());
    lab.mounts.iter().for_each(Mount::fill);
    lab.works_without_keeping("full");
    lab.refuses_a_pod("No space left");
    // What is full is full for the next agent too.
    lab.restart(|_| {});
    lab.node().wait_healthy(WAIT);
    lab.works_without_keeping("started on full disks");
    // A pod that goes needs no room.
    let gone = lab.pods.pop().expect("four pods");
    lab.node().cni("DEL", &gone.netns, &gone.name).expect("DEL");
    assert!(!lab.list(&["endpoint", "list"]).contains(&gone.name), "{} is gone", gone.name);
    lab.cluster.remove("pod-default-p3.yaml");
    lab.mounts.iter().for_each(Mount::free);
    lab.cluster.settle();
    (lab.addresses, lab.identities) =
        (lab.list(&["endpoint", "list", "-o", "json"]), lab.list(&["ip", "list"]));
    lab.recovers("with room again");
}

#[test]
fn read_only_file_systems_are_survived() {
    let cluster = one_node();
    let home = cluster.nodes[0].dir.clone();
    // The records apart: the lock and the socket are open for writing as long as an agent runs.
    let mounts = ["run", "run/state", "state"].map(|name| Mount::small(&home.join(name), "8m"));
    let (run, records, state) = (0, 1, 2);
    let mut lab = Lab::new(cluster, mounts.into());
    lab.mounts[state].remount("ro");
    lab.mounts[records].remount("ro");
    lab.works_without_keeping("read-only");
    lab.refuses_a_pod("Read-only file system");
    // A pod that cannot be forgotten keeps its network, and the runtime is told to come again.
    let kept = &lab.pods[3];
    let refused = lab.node().cni("DEL", &kept.netns, &kept.name).expect_err("its record cannot be removed");
    assert!(refused.contains("Read-only file system"), "{refused}");
    lab.restart(|_| {});
    lab.node().wait_healthy(WAIT);
    lab.works_without_keeping("started on read-only file systems");
    // Without the lock of the one writer no agent starts; the datapath does not need one.
    lab.cluster.nodes[0].stop_agent(libc::SIGKILL);
    lab.mounts[run].remount("ro");
    lab.cluster.nodes[0].start_agent();
    let refused =
        || lab.node().log().lines().rev().take(2).any(|line| line.contains("agent.lock: Read-only"));
    assert!(eventually(WAIT, refused), "{}", lab.node().log_tail());
    assert_eq!(lab.wrong(), None, "without an agent");
    lab.mounts[run].remount("rw");
    lab.restart(|_| {});
    lab.node().wait_healthy(WAIT);
    lab.mounts[state].remount("rw");
    lab.mounts[records].remount("rw");
    lab.recovers("writable again");
    let gone = lab.pods.pop().expect("four pods");
    lab.cluster.detach(gone);
    assert!(!lab.list(&["endpoint", "list"]).contains("default/p3"), "forgotten at last");
}

/// The disk as it would be found if the power went now.
fn after_a_power_cut(disk: &Path) -> PathBuf {
    let copy = disk.with_extension("cut");
    std::fs::copy(disk, &copy).expect("copy the disk");
    copy
}

#[test]
fn last_good_versions_outlive_a_power_cut() {
    let cluster = one_node();
    let (home, root) = (cluster.nodes[0].dir.clone(), cluster.nodes[0].dir.join("disks"));
    std::fs::create_dir(&root).expect("a folder for disks");
    let disk = root.join("disk");
    std::fs::File::create(&disk).and_then(|file| file.set_len(16 << 20)).expect("a disk");
    Mount::run("mkfs.ext4", &["-q", "-F"], &disk);
    let state = match Mount::disk(&disk, &home.join("state")) {
        Ok(mount) => mount,
        Err(why) => return println!("SKIP: needs a loop device: {}", why.trim()),
    };
    let mut lab = Lab::new(cluster, vec![state]);
    // A version that nothing else on this disk is written with.
    let marked = policy("p", "p0", "p1").replace("metadata: {", "metadata: {labels: {mark: m4rk}, ");
    lab.cluster.write("policy.yaml", &marked);
    let holds = |dir: &Path| {
        let paths = below(&dir.join("last-good")).into_iter();
        let texts = paths.filter_map(|path| std::fs::read_to_string(path).ok());
        texts.filter(|text| text.contains("m4rk") && text.ends_with('}')).count() == 1
    };
    assert!(eventually(WAIT, || holds(&home.join("state"))), "{}", lab.node().log_tail());
    let found = root.join("found");
    let kept = || {
        let copy = after_a_power_cut(&disk);
        let _mount = Mount::disk(&copy, &found).expect("a loop device, as before");
        holds(&found)
    };
    assert!(eventually(Duration::from_secs(10), kept), "the version just kept is not on the disk");
    // The power goes; what comes back is the disk, and a manifest that was just being written.
    let cut = after_a_power_cut(&disk);
    lab.cluster.nodes[0].stop_agent(libc::SIGKILL);
    lab.mounts.clear();
    lab.mounts.push(Mount::disk(&cut, &home.join("state")).expect("a loop device, as before"));
    let half = &marked[..marked.len() / 2];
    std::fs::write(lab.cluster.manifests.join("policy.yaml"), half).expect("half a manifest");
    lab.cluster.nodes[0].start_agent();
    assert!(eventually(WAIT, || lab.told("policy.yaml")), "{}", lab.node().log_tail());
    lab.check("with the last good version");
    lab.cluster.write("policy.yaml", &marked);
    lab.node().wait_healthy(WAIT);
    lab.cluster.settle();
}
