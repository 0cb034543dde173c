//! Links, addresses, routes, sysctls, facts, wakes and sockets, each in a namespace of its own. Needs root.

mod net_support;
#[path = "net_host/sockets.rs"]
mod sockets;

use cilium_engine::state::{
    Address, AddressKey, HOST_LINK, Kind, Link, LinkKind, LinkName, LinkRow, LinkUp, Mac, NET_LINK, Present,
    RESERVED_PORTS, Route, RouteKey, RouteRow, Sysctl, SysctlKey, VXLAN_LINK,
};
use cilium_kernel::net::Net;
use cilium_kernel::net::watch::Watch;
use ipnet::IpNet;
use net_support::{Namespace, all, create, ip, one, remove, settle, update};
use std::collections::BTreeSet;
use std::net::IpAddr;

fn name(name: &str) -> LinkName {
    LinkName::from(name)
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn row(link: &str, kind: LinkKind, mac: Option<Mac>) -> LinkRow {
    LinkRow { kind, mac, mtu: 1450, alias: format!("cilium:{link}") }
}

fn host_row() -> LinkRow {
    row(HOST_LINK, LinkKind::HostVeth { peer: name(NET_LINK) }, Some(Mac([2, 0, 0, 0, 0, 1])))
}

fn net_row() -> LinkRow {
    row(NET_LINK, LinkKind::HostVeth { peer: name(HOST_LINK) }, Some(Mac([2, 0, 0, 0, 0, 2])))
}

fn router(net: &mut Net) {
    settle::<Link>(net, &name(HOST_LINK), &host_row());
    settle::<Link>(net, &name(NET_LINK), &net_row());
    settle::<LinkUp>(net, &name(HOST_LINK), &Present);
    settle::<LinkUp>(net, &name(NET_LINK), &Present);
}

#[test]
fn the_router_pair_is_made_changed_and_removed() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        assert!(all::<Link>(net).is_empty());
        settle::<Link>(net, &name(HOST_LINK), &host_row());
        settle::<Link>(net, &name(NET_LINK), &net_row());
        assert!(all::<LinkUp>(net).is_empty(), "created down");
        assert_eq!(all::<Link>(net).len(), 2);
        let number = net.links().expect("links").index(&name(HOST_LINK)).expect("there");

        ip(&["link", "set", HOST_LINK, "mtu", "1300", "address", "02:00:00:00:00:99"]);
        let seen = one::<Link>(net, &name(HOST_LINK)).expect("there");
        assert_eq!((seen.mtu, seen.mac), (1300, Some(Mac([2, 0, 0, 0, 0, 0x99]))));
        update::<Link>(net, &name(HOST_LINK), &host_row(), &seen).expect("mended");
        assert_eq!(one::<Link>(net, &name(HOST_LINK)), Some(host_row()));
        assert_eq!(net.links().expect("links").index(&name(HOST_LINK)), Some(number), "changed in place");

        for _ in 0..2 {
            remove::<Link>(net, &name(HOST_LINK), &host_row()).expect("removed");
        }
        remove::<Link>(net, &name(NET_LINK), &net_row()).expect("gone with it");
        assert!(all::<Link>(net).is_empty());
    });
}

#[test]
fn a_link_that_lost_its_alias_is_still_ours() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        settle::<Link>(net, &name(HOST_LINK), &host_row());
        // As after a crash between creation and alias.
        ip(&["link", "set", HOST_LINK, "alias", ""]);
        let seen = one::<Link>(net, &name(HOST_LINK)).expect("there");
        assert_eq!(seen.alias, "");
        update::<Link>(net, &name(HOST_LINK), &host_row(), &seen).expect("mended");
        assert_eq!(one::<Link>(net, &name(HOST_LINK)), Some(host_row()));
    });
}

#[test]
fn the_overlay_is_external_and_its_port_is_changed_by_a_new_one() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        let first = row(VXLAN_LINK, LinkKind::Vxlan { port: 8472 }, None);
        settle::<Link>(net, &name(VXLAN_LINK), &first);
        let shown = ip(&["-d", "link", "show", VXLAN_LINK]);
        assert!(shown.contains("external") && shown.contains("nolearning"), "{shown}");
        let other = LinkRow { kind: LinkKind::Vxlan { port: 4789 }, ..first.clone() };
        update::<Link>(net, &name(VXLAN_LINK), &other, &first).expect("made anew");
        assert_eq!(one::<Link>(net, &name(VXLAN_LINK)).expect("there").kind, other.kind);
        settle::<LinkUp>(net, &name(VXLAN_LINK), &Present);
        // Another port again, while it is up.
        update::<Link>(net, &name(VXLAN_LINK), &first, &other).expect("made anew");
        assert!(all::<LinkUp>(net).is_empty(), "what is made anew is down");
        remove::<Link>(net, &name(VXLAN_LINK), &first).expect("removed");
    });
}

#[test]
fn a_foreign_link_is_shown_and_never_touched() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        ip(&["link", "add", VXLAN_LINK, "type", "bridge"]);
        ip(&["link", "add", "lxcbr0", "type", "bridge"]);
        let seen = one::<Link>(net, &name(VXLAN_LINK)).expect("there");
        assert_eq!(seen.kind, LinkKind::Foreign { kind: "bridge".into() });
        assert_eq!(
            all::<Link>(net).len(),
            1,
            "a stranger that begins like a pod's link is nobody's business"
        );
        let want = row(VXLAN_LINK, LinkKind::Vxlan { port: 8472 }, None);
        for error in [
            create::<Link>(net, &name(VXLAN_LINK), &want).expect_err("refused"),
            update::<Link>(net, &name(VXLAN_LINK), &want, &seen).expect_err("refused"),
            remove::<Link>(net, &name(VXLAN_LINK), &seen).expect_err("refused"),
            create::<LinkUp>(net, &name(VXLAN_LINK), &Present).expect_err("refused"),
            create::<Link>(net, &name("lxcbr0"), &row("lxcbr0", LinkKind::PodVeth, None))
                .expect_err("refused"),
        ] {
            assert!(error.message.contains("bridge") && error.message.contains("not ours"), "{error}");
        }
        assert!(ip(&["-d", "link", "show", VXLAN_LINK]).contains("bridge"));
    });
}

#[test]
fn our_name_and_alias_on_another_type_is_replaced() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        ip(&["link", "add", HOST_LINK, "type", "bridge"]);
        ip(&["link", "set", HOST_LINK, "alias", "cilium:cilium_host"]);
        let seen = one::<Link>(net, &name(HOST_LINK)).expect("there");
        assert_eq!(seen.kind, LinkKind::Foreign { kind: "bridge".into() });
        update::<Link>(net, &name(HOST_LINK), &host_row(), &seen).expect("ours: made anew");
        assert_eq!(one::<Link>(net, &name(HOST_LINK)), Some(host_row()));
    });
}

#[test]
fn up_and_down() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        assert!(
            create::<LinkUp>(net, &name(HOST_LINK), &Present)
                .expect_err("no link")
                .message
                .contains(HOST_LINK)
        );
        router(net);
        ip(&["link", "set", NET_LINK, "down"]);
        assert_eq!(one::<LinkUp>(net, &name(NET_LINK)), None);
        settle::<LinkUp>(net, &name(NET_LINK), &Present);
        for _ in 0..2 {
            remove::<LinkUp>(net, &name(HOST_LINK), &Present).expect("down");
            assert_eq!(one::<LinkUp>(net, &name(HOST_LINK)), None);
        }
        remove::<LinkUp>(net, &name(VXLAN_LINK), &Present).expect("not there is down");
    });
}

#[test]
fn addresses_of_the_router() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        router(net);
        for address in ["10.1.0.1/32", "fd00:1::1/128"] {
            let key = AddressKey { link: name(HOST_LINK), addr: self::net(address) };
            settle::<Address>(net, &key, &Present);
        }
        assert_eq!(all::<Address>(net).len(), 2, "link-local ones are the kernel's");
        assert!(!ip(&["-6", "addr", "show", "dev", HOST_LINK, "tentative"]).contains("fd00:1::1"));

        let key = AddressKey { link: name(HOST_LINK), addr: self::net("10.1.0.1/32") };
        ip(&["addr", "del", "10.1.0.1/32", "dev", HOST_LINK]);
        ip(&["addr", "add", "10.9.9.9/32", "dev", HOST_LINK]);
        assert_eq!(one::<Address>(net, &key), None);
        let stray = AddressKey { link: name(HOST_LINK), addr: self::net("10.9.9.9/32") };
        assert_eq!(one::<Address>(net, &stray), Some(Present));
        for _ in 0..2 {
            remove::<Address>(net, &stray, &Present).expect("removed");
        }
        settle::<Address>(net, &key, &Present);
        let missing = AddressKey { link: name(VXLAN_LINK), addr: self::net("10.1.0.1/32") };
        assert!(create::<Address>(net, &missing, &Present).is_err());
        remove::<Address>(net, &missing, &Present).expect("gone with its link");
    });
}

#[test]
fn routes_of_ours_only() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        router(net);
        for address in ["10.1.0.1/32", "fd00:1::1/128"] {
            let key = AddressKey { link: name(HOST_LINK), addr: self::net(address) };
            settle::<Address>(net, &key, &Present);
        }
        let on = |dst: &str, table, via: Option<&str>, src: &str, mtu| {
            let row = RouteRow { link: name(HOST_LINK), via: via.map(addr), src: Some(addr(src)), mtu };
            (RouteKey { table, dst: self::net(dst) }, row)
        };
        let wanted = [
            on("10.1.0.0/24", 254, None, "10.1.0.1", 0),
            on("10.2.0.0/24", 254, Some("10.1.0.1"), "10.1.0.1", 1400),
            on("10.3.0.0/24", 2004, None, "10.1.0.1", 0),
            on("fd00:1::/64", 254, None, "fd00:1::1", 1400),
            on("fd00:2::/64", 2004, None, "fd00:1::1", 0),
        ];
        // The router's own address is no next hop; a next hop on our links is on the link by definition.
        let refused = create::<Route>(net, &wanted[1].0, &wanted[1].1).expect_err("own address as next hop");
        assert!(refused.message.contains("10.2.0.0/24"), "{refused}");
        let via = on("10.2.0.0/24", 254, Some("10.1.0.7"), "10.1.0.1", 1400);
        let wanted = [wanted[0].clone(), via, wanted[2].clone(), wanted[3].clone(), wanted[4].clone()];
        for (key, row) in &wanted {
            settle::<Route>(net, key, row);
        }
        assert_eq!(all::<Route>(net).len(), wanted.len());

        let (key, row) = &wanted[0];
        ip(&["route", "change", "10.1.0.0/24", "dev", HOST_LINK, "proto", "73", "mtu", "1234"]);
        let seen = one::<Route>(net, key).expect("there");
        assert_eq!((seen.mtu, seen.src), (1234, None));
        update::<Route>(net, key, row, &seen).expect("mended");
        assert_eq!(one::<Route>(net, key).as_ref(), Some(row));
        ip(&["route", "del", "10.1.0.0/24"]);
        assert_eq!(one::<Route>(net, key), None);
        settle::<Route>(net, key, row);

        ip(&["route", "add", "10.4.0.0/24", "dev", HOST_LINK, "proto", "static"]);
        let taken = on("10.4.0.0/24", 254, None, "10.1.0.1", 0);
        assert_eq!(one::<Route>(net, &taken.0), None, "another's");
        let error = create::<Route>(net, &taken.0, &taken.1).expect_err("taken");
        assert!(error.message.contains("not ours"), "{error}");
        remove::<Route>(net, &taken.0, &taken.1).expect("ours is not there");
        assert!(ip(&["route"]).contains("10.4.0.0/24"));

        for (key, row) in &wanted {
            for _ in 0..2 {
                remove::<Route>(net, key, row).expect("removed");
            }
        }
        assert!(all::<Route>(net).is_empty());
    });
}

#[test]
fn two_thousand_routes_at_once() {
    use cilium_engine::driver::{Driver, Step};
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        router(net);
        let row = RouteRow { link: name(HOST_LINK), via: None, src: None, mtu: 0 };
        let key =
            |n: u32| RouteKey { table: 254, dst: self::net(&format!("10.{}.{}.0/24", n >> 8, n & 255)) };
        let steps: Vec<Step<Route>> =
            (0..2000).map(|n| Step::Create { key: key(n), row: row.clone() }).collect();
        let start = std::time::Instant::now();
        assert!(net.apply(&steps).iter().all(Result::is_ok));
        let written = start.elapsed();
        assert_eq!(all::<Route>(net).len(), 2000);
        eprintln!("2000 routes: written in {written:?}, with a read {:?}", start.elapsed());
        assert!(net.apply(&steps).iter().all(Result::is_ok), "twice");
        let steps: Vec<Step<Route>> =
            (0..2000).map(|n| Step::Remove { key: key(n), seen: row.clone() }).collect();
        assert!(net.apply(&steps).iter().all(Result::is_ok));
        assert!(all::<Route>(net).is_empty());
    });
}

#[test]
fn reserved_ports_join_those_of_others() {
    for before in ["", "5000,31000-31010"] {
        let state = tempfile::tempdir().expect("a folder");
        Namespace::new().run(|| {
            let key = SysctlKey(RESERVED_PORTS.into());
            let proc = "/proc/sys/net/ipv4/ip_local_reserved_ports";
            let (set, now) = (
                |value: &str| std::fs::write(proc, format!("{value}\n")).expect("written"),
                || std::fs::read_to_string(proc).expect("read").trim().to_owned(),
            );
            set(before);
            let ours = "30000-32767".to_owned();
            let net = &mut Net::open().expect("netlink");
            net.watch_sysctls(
                BTreeSet::from([key.clone()]),
                Some(ours.clone()),
                state.path().join("sysctls"),
            );
            assert_eq!(one::<Sysctl>(net, &key).as_deref(), Some(before), "as it is, while something lacks");
            settle::<Sysctl>(net, &key, &ours);
            assert_eq!(now(), if before.is_empty() { "30000-32767" } else { "5000,30000-32767" });
            set("6000,29999-32768");
            assert_eq!(one::<Sysctl>(net, &key), Some(ours.clone()), "more than is wanted");
            set("30000-32766");
            assert_eq!(one::<Sysctl>(net, &key).as_deref(), Some("30000-32766"), "less than is wanted");
            let net = &mut Net::open().expect("netlink");
            net.watch_sysctls(BTreeSet::new(), None, state.path().join("sysctls"));
            remove::<Sysctl>(net, &key, &ours).expect("given back");
            assert_eq!(now(), before);
        });
    }
}

#[test]
fn parameters_are_set_and_given_back() {
    let state = tempfile::tempdir().expect("a folder");
    Namespace::new().run(|| {
        let key = SysctlKey("net.ipv4.ip_forward".into());
        let net = &mut Net::open().expect("netlink");
        let before = one::<Sysctl>(net, &key).expect("there");
        let other = if before == "1" { "0" } else { "1" };
        let record = state.path().join("sysctls");
        net.watch_sysctls(BTreeSet::new(), None, record.clone());
        assert!(all::<Sysctl>(net).is_empty());
        net.watch_sysctls(BTreeSet::from([key.clone()]), None, record.clone());
        settle::<Sysctl>(net, &key, &other.to_owned());
        // A new process that wants nothing still knows what to give back.
        let net = &mut Net::open().expect("netlink");
        net.watch_sysctls(BTreeSet::new(), None, record);
        assert_eq!(all::<Sysctl>(net), [(key.clone(), other.to_owned())]);
        for _ in 0..2 {
            remove::<Sysctl>(net, &key, &other.to_owned()).expect("given back");
            assert_eq!(one::<Sysctl>(net, &key), Some(before.clone()));
        }
        assert!(all::<Sysctl>(net).is_empty());
        let missing = SysctlKey("net.ipv4.conf.nobody.rp_filter".into());
        assert!(create::<Sysctl>(net, &missing, &"0".to_owned()).is_err());
        assert!(create::<Sysctl>(net, &key, &"surely not".to_owned()).is_err());
    });
}

#[test]
fn facts_of_the_host() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "up0", "type", "veth", "peer", "name", "wire0"]);
        ip(&["link", "set", "up0", "address", "02:00:00:00:00:07", "mtu", "1400", "up"]);
        ip(&["link", "set", "wire0", "up"]);
        ip(&["addr", "add", "192.0.2.1/24", "dev", "up0"]);
        ip(&["addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"]);
        router(net);
        let key = AddressKey { link: name(HOST_LINK), addr: self::net("10.1.0.1/32") };
        settle::<Address>(net, &key, &Present);
        let facts = net.facts().expect("facts");
        assert_eq!(facts.devices.len(), 1, "{facts:?}");
        let device = &facts.devices[0];
        assert_eq!((device.name.0.as_str(), device.mtu, device.default_route), ("up0", 1400, false));
        assert_eq!(device.mac, Some(Mac([2, 0, 0, 0, 0, 7])));
        assert_eq!(device.addresses, [self::net("192.0.2.1/24"), self::net("2001:db8::1/64")]);
        assert_eq!(facts.boot_id.len(), 36);
        ip(&["route", "add", "default", "via", "192.0.2.254"]);
        assert!(net.facts().expect("facts").devices[0].default_route);
    });
}

#[test]
fn changes_wake() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        router(net);
        let mut watch = Watch::open().expect("watch");
        // The kernel tells of carriers about a second late.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        while !watch.drain().expect("heard").kinds.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        ip(&["addr", "add", "10.1.0.1/32", "dev", HOST_LINK]);
        let kinds = watch.drain().expect("heard").kinds;
        assert!(kinds.contains(&Kind::Address) && !kinds.contains(&Kind::Link), "{kinds:?}");
        ip(&["route", "add", "10.5.0.0/24", "dev", HOST_LINK, "proto", "static"]);
        assert!(watch.drain().expect("heard").kinds.is_empty(), "another's route");
        ip(&["route", "add", "10.6.0.0/24", "dev", HOST_LINK, "proto", "73"]);
        assert!(watch.drain().expect("heard").kinds.contains(&Kind::Route));
        ip(&["link", "set", HOST_LINK, "down"]);
        assert!(watch.drain().expect("heard").kinds.contains(&Kind::LinkUp));
        // More than the backlog holds.
        let mut batch = String::new();
        for n in 0..3000 {
            batch.push_str(&format!("link set {NET_LINK} mtu {}\n", 1300 + n % 100));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), batch).expect("written");
        ip(&["-batch", file.path().to_str().expect("utf-8")]);
        let mut heard = watch.drain().expect("overrun is a change");
        assert!(heard.kinds.contains(&Kind::Link));
        while heard.messages > 0 {
            heard = watch.drain().expect("goes on");
        }
    });
}

#[test]
fn reads_succeed_while_everything_changes() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let host = Namespace::new();
    let done = AtomicBool::new(false);
    /// Ends the churn also if the readings fail.
    struct Ended<'a>(&'a AtomicBool);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let ended = Ended(&done);
        let churn = || {
            host.run(|| {
                let net = &mut Net::open().expect("netlink");
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) {
                    create::<Link>(net, &name(HOST_LINK), &host_row()).expect("made");
                    create::<LinkUp>(net, &name(HOST_LINK), &Present).expect("up");
                    remove::<Link>(net, &name(HOST_LINK), &host_row()).expect("removed");
                    rounds += 1;
                }
                rounds
            })
        };
        let churn = scope.spawn(churn);
        host.run(|| {
            let net = &mut Net::open().expect("netlink");
            for n in 0..64 {
                ip(&["link", "add", &format!("x{n}"), "type", "bridge"]);
            }
            for _ in 0..300 {
                assert!(net.links().expect("read").iter().count() >= 64);
                all::<Address>(net);
                all::<Route>(net);
            }
        });
        drop(ended);
        assert!(churn.join().expect("ends") > 0);
    });
}
