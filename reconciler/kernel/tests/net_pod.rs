//! Pods' ends: moved, configured, mended, made anew; how long it takes. Needs root.

mod net_support;

use cilium_engine::driver::{Driver, Scope};
use cilium_engine::state::{
    Kind, Link, LinkKind, LinkName, LinkRow, LinkUp, Mac, PodInterface, PodInterfaceRow, Present,
};
use cilium_kernel::net::Net;
use cilium_kernel::net::watch::Watch;
use net_support::{Namespace, all, create, ip, one, remove, settle, update};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A pod: its namespace, and what is wanted of its pair.
struct Pod {
    netns: Namespace,
    link: LinkName,
    host_end: LinkRow,
    inside: PodInterfaceRow,
}

impl Pod {
    fn new(number: u8) -> Self {
        let netns = Namespace::new();
        let link = LinkName(format!("lxc{number:04x}"));
        let host_end = LinkRow {
            kind: LinkKind::PodVeth,
            mac: Some(Mac([2, 0, 0, 1, 0, number])),
            mtu: 1450,
            alias: format!("cilium:endpoint {number}"),
        };
        let inside = PodInterfaceRow {
            netns: netns.path(),
            ifname: LinkName::from("eth0"),
            mac: Mac([2, 0, 0, 2, 0, number]),
            mtu: 1450,
            addresses: vec![
                format!("10.1.0.{number}/32").parse().expect("prefix"),
                format!("fd00:1::{number:x}/128").parse().expect("prefix"),
            ],
            gateways: vec!["10.1.0.1".parse().expect("address"), "fd00:1::1".parse().expect("address")],
            route_mtu: 1400,
        };
        Self { netns, link, host_end, inside }
    }

    fn attach(&self, net: &mut Net) {
        create::<Link>(net, &self.link, &self.host_end).expect("pair");
        create::<PodInterface>(net, &self.link, &self.inside).expect("pod");
        create::<LinkUp>(net, &self.link, &Present).expect("up");
    }

    /// What programs do on a node, by plain routing: the gateway answers, and the pod is reached.
    fn route_by_hand(&self) {
        for addr in ["10.1.0.1/32", "fd00:1::1/128"] {
            ip(&["addr", "add", addr, "dev", &self.link.0, "nodad"]);
        }
        for net in &self.inside.addresses {
            ip(&["route", "add", &net.to_string(), "dev", &self.link.0]);
        }
    }
}

/// Output of an `ip` command inside a namespace.
fn ip_in(netns: &Namespace, args: &[&str]) -> String {
    let mut all = vec!["-n", &netns.0];
    all.extend(args);
    ip(&all)
}

/// Whether a ping from a namespace is answered.
fn ping(from: &Namespace, to: &str) -> bool {
    let args = ["netns", "exec", &from.0, "ping", "-c", "1", "-W", "2", to];
    std::process::Command::new("ip").args(args).output().expect("ip is installed").status.success()
}

#[test]
fn a_pod_is_attached_and_answers() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        settle::<Link>(net, &pod.link, &pod.host_end);
        assert!(all::<PodInterface>(net).is_empty(), "its other end is still here");
        assert!(ip(&["link", "show", "tmp0009"]).contains("DOWN"));
        settle::<PodInterface>(net, &pod.link, &pod.inside);
        settle::<Link>(net, &pod.link, &pod.host_end);
        assert!(all::<LinkUp>(net).is_empty(), "opened last");
        settle::<LinkUp>(net, &pod.link, &Present);
        assert!(ip_in(&pod.netns, &["link", "show", "lo"]).contains("UP"));
        assert!(ip_in(&pod.netns, &["route"]).contains("default via 10.1.0.1 dev eth0 proto 73 mtu 1400"));
        assert!(ip_in(&pod.netns, &["-6", "route"]).contains("default via fd00:1::1"));
        assert!(!ip_in(&pod.netns, &["addr", "show", "tentative"]).contains("fd00:1::9"));
        pod.route_by_hand();
    });
    assert!(ping(&pod.netns, "10.1.0.1"), "v4 to the gateway");
    assert!(ping(&pod.netns, "fd00:1::1"), "v6 to the gateway");
    assert!(ping(&host, "10.1.0.9"), "v4 to the pod");
    assert!(ping(&host, "fd00:1::9"), "v6 to the pod");
}

#[test]
fn the_pair_is_made_right_in_the_pod_when_its_place_is_known() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        net.place(BTreeMap::from([(pod.link.clone(), pod.netns.path())]));
        settle::<Link>(net, &pod.link, &pod.host_end);
        assert!(ip_in(&pod.netns, &["link"]).contains("tmp0009"));
        settle::<PodInterface>(net, &pod.link, &pod.inside);
    });
}

#[test]
fn a_new_process_finds_pods_without_being_told() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        pod.attach(&mut Net::open().expect("netlink"));
        let net = &mut Net::open().expect("netlink");
        assert_eq!(one::<PodInterface>(net, &pod.link), Some(pod.inside.clone()));
        // Another path of the same namespace, as a runtime may name it.
        let other = PathBuf::from(format!("/run/netns/{}", pod.netns.0));
        net.place(BTreeMap::from([(pod.link.clone(), other.clone())]));
        assert_eq!(one::<PodInterface>(net, &pod.link).expect("there").netns, other);
        // A wrong hint does no harm.
        net.place(BTreeMap::from([(pod.link.clone(), PathBuf::from("/dev/null"))]));
        assert_eq!(one::<PodInterface>(net, &pod.link), Some(pod.inside.clone()));
    });
}

#[test]
fn a_namespace_without_a_name_is_found_by_its_process() {
    let host = Namespace::new();
    let mut process = std::process::Command::new("unshare")
        .args(["-n", "sleep", "60"])
        .spawn()
        .expect("unshare is installed");
    let path = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
    let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
    while std::fs::read_link(&path).expect("it runs") == own {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut pod = Pod::new(9);
    pod.inside.netns = path;
    host.run(|| {
        pod.attach(&mut Net::open().expect("netlink"));
        let net = &mut Net::open().expect("netlink");
        let seen = one::<PodInterface>(net, &pod.link);
        process.kill().expect("ends");
        process.wait().expect("ended");
        assert_eq!(seen, Some(pod.inside.clone()));
    });
}

#[test]
fn drift_inside_is_seen_and_mended() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    let tampering: &[&[&str]] = &[
        &["link", "set", "eth0", "mtu", "1300"],
        &["link", "set", "eth0", "address", "02:00:00:00:00:77"],
        &["link", "set", "eth0", "down"],
        &["link", "set", "lo", "down"],
        &["addr", "del", "10.1.0.9/32", "dev", "eth0"],
        &["addr", "del", "fd00:1::9/128", "dev", "eth0"],
        &["addr", "add", "10.1.0.77/32", "dev", "eth0"],
        &["route", "del", "default"],
        &["route", "change", "default", "via", "10.1.0.1", "dev", "eth0", "proto", "73", "mtu", "1111"],
        &["-6", "route", "del", "default"],
        &[
            "-6",
            "route",
            "change",
            "default",
            "via",
            "fd00:1::1",
            "dev",
            "eth0",
            "proto",
            "73",
            "mtu",
            "1333",
        ],
        &["route", "del", "10.1.0.1/32"],
    ];
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        pod.attach(net);
        for command in tampering {
            ip_in(&pod.netns, command);
            let seen = one::<PodInterface>(net, &pod.link).expect("there");
            assert_ne!(seen, pod.inside, "seen after {command:?}");
            for _ in 0..2 {
                update::<PodInterface>(net, &pod.link, &pod.inside, &seen).expect("mended");
                assert_eq!(
                    one::<PodInterface>(net, &pod.link).as_ref(),
                    Some(&pod.inside),
                    "after {command:?}"
                );
            }
        }
        ip_in(&pod.netns, &["link", "set", "eth0", "down"]);
        ip_in(&pod.netns, &["link", "set", "eth0", "name", "eth7"]);
        let seen = one::<PodInterface>(net, &pod.link).expect("there");
        assert_eq!(seen.ifname, LinkName::from("eth7"));
        ip_in(&pod.netns, &["link", "set", "eth7", "up"]);
        update::<PodInterface>(net, &pod.link, &pod.inside, &seen).expect("named again");
        assert_eq!(one::<PodInterface>(net, &pod.link).as_ref(), Some(&pod.inside));
    });
}

#[test]
fn a_deleted_pair_is_made_again_as_it_was() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        pod.attach(net);
        for from_inside in [false, true] {
            if from_inside {
                ip_in(&pod.netns, &["link", "del", "eth0"]);
            } else {
                ip(&["link", "del", &pod.link.0]);
            }
            assert!(all::<Link>(net).is_empty() && all::<PodInterface>(net).is_empty());
            pod.attach(net);
            assert_eq!(one::<Link>(net, &pod.link), Some(pod.host_end.clone()));
            assert_eq!(
                one::<PodInterface>(net, &pod.link),
                Some(pod.inside.clone()),
                "same MAC, addresses, routes"
            );
        }
    });
}

#[test]
fn a_pod_that_is_gone_has_no_row_and_leaves_nothing() {
    let host = Namespace::new();
    let Pod { netns, link, host_end, inside } = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        create::<Link>(net, &link, &host_end).expect("pair");
        create::<PodInterface>(net, &link, &inside).expect("pod");
        assert_eq!(all::<PodInterface>(net).len(), 1);
        drop(netns);
        // The kernel takes a namespace apart when it has time.
        let end = Instant::now() + Duration::from_secs(10);
        while !all::<Link>(net).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(all::<Link>(net).is_empty(), "nothing of ours keeps a pod's namespace alive");
        assert!(all::<PodInterface>(net).is_empty());
        create::<Link>(net, &link, &host_end).expect("pair");
        let error = create::<PodInterface>(net, &link, &inside).expect_err("no namespace");
        assert!(error.message.contains("open network namespace") && !error.hint.is_empty(), "{error}");
        remove::<Link>(net, &link, &host_end).expect("removed");
    });
}

#[test]
fn errors_name_what_stands_in_the_way() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        let error = create::<PodInterface>(net, &pod.link, &pod.inside).expect_err("no link");
        assert!(error.message.contains("there is no interface lxc0009"), "{error}");
        ip_in(&pod.netns, &["link", "add", "eth0", "type", "bridge"]);
        create::<Link>(net, &pod.link, &pod.host_end).expect("pair");
        let error = create::<PodInterface>(net, &pod.link, &pod.inside).expect_err("taken");
        assert!(error.hint.contains("already has an interface eth0"), "{error}");
        ip_in(&pod.netns, &["link", "del", "eth0"]);
        settle::<PodInterface>(net, &pod.link, &pod.inside);
    });
}

#[test]
fn a_pair_to_another_namespace_is_made_anew() {
    let host = Namespace::new();
    let (pod, other) = (Pod::new(9), Namespace::new());
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        pod.attach(net);
        let moved = PodInterfaceRow { netns: other.path(), ..pod.inside.clone() };
        let seen = one::<PodInterface>(net, &pod.link).expect("there");
        assert!(update::<PodInterface>(net, &pod.link, &moved, &seen).is_err(), "this pass cannot");
        create::<Link>(net, &pod.link, &pod.host_end).expect("pair");
        settle::<PodInterface>(net, &pod.link, &moved);
    });
}

#[test]
fn removal_takes_the_pair_and_may_run_twice() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        pod.attach(net);
        for _ in 0..2 {
            remove::<LinkUp>(net, &pod.link, &Present).expect("down");
            remove::<PodInterface>(net, &pod.link, &pod.inside).expect("removed");
            remove::<Link>(net, &pod.link, &pod.host_end).expect("removed");
        }
        assert!(all::<Link>(net).is_empty());
        assert!(!ip_in(&pod.netns, &["link"]).contains("eth0"));
    });
}

#[test]
fn changes_inside_a_pod_wake() {
    let host = Namespace::new();
    let pod = Pod::new(9);
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        pod.attach(net);
        let mut watch = Watch::open().expect("watch");
        std::thread::sleep(Duration::from_millis(1500));
        while !watch.drain().expect("heard").kinds.is_empty() {
            std::thread::sleep(Duration::from_millis(300));
        }
        ip_in(&pod.netns, &["route", "del", "default"]);
        assert!(watch.drain().expect("heard").kinds.contains(&Kind::PodInterface));
    });
}

/// Figures are printed; only gross slowness fails.
#[test]
fn a_hundred_pods() {
    let host = Namespace::new();
    let pods: Vec<Pod> = (1..=100).map(|n| Pod::new(n + 1)).collect();
    let elsewhere = Namespace::new();
    host.run(|| {
        let net = &mut Net::open().expect("netlink");
        let mut each = Vec::new();
        for pod in &pods {
            let start = Instant::now();
            net.place(BTreeMap::from([(pod.link.clone(), pod.inside.netns.clone())]));
            pod.attach(net);
            each.push(start.elapsed());
        }
        net.place(pods.iter().map(|pod| (pod.link.clone(), pod.inside.netns.clone())).collect());
        each.sort_unstable();
        eprintln!("attach, one pod of 100: p50 {:?}, p99 {:?}", each[50], each[98]);
        let start = Instant::now();
        assert_eq!(all::<PodInterface>(net).len(), 100);
        eprintln!("read of 100 pods: {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(all::<Link>(net).len(), 100);
        eprintln!("read of their links: {:?}", start.elapsed());
        let scope = Scope::Keys([pods[7].link.clone()].into());
        let start = Instant::now();
        let seen = Driver::<PodInterface>::observe(net, &scope).expect("read");
        eprintln!("read of one of them: {:?}", start.elapsed());
        assert_eq!(seen[0].1, pods[7].inside);
        let mut fresh = Net::open().expect("netlink");
        let start = Instant::now();
        assert_eq!(all::<PodInterface>(&mut fresh).len(), 100);
        let searched = start.elapsed();
        eprintln!("read of 100 pods by a process that knows nothing: {searched:?}");
        assert!(searched < Duration::from_secs(2));
        let mut each = Vec::new();
        for pod in &pods {
            let start = Instant::now();
            remove::<PodInterface>(net, &pod.link, &pod.inside).expect("removed");
            remove::<Link>(net, &pod.link, &pod.host_end).expect("removed");
            each.push(start.elapsed());
        }
        each.sort_unstable();
        eprintln!("removal: p50 {:?}, p99 {:?}", each[50], each[98]);
        assert!(all::<Link>(net).is_empty());
    });
    elsewhere.run(|| {
        let net = &mut Net::open().expect("netlink");
        let mut each = Vec::new();
        for pod in &pods[..30] {
            let start = Instant::now();
            pod.attach(net);
            each.push(start.elapsed());
        }
        each.sort_unstable();
        eprintln!("attach with the end moved into the pod instead of made there: p50 {:?}", each[15]);
    });
}
