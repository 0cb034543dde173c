//! The Geneve overlay: made, mended and replaced where the kernel has it, refused with a way out where it has not.
//! `make test-vm` runs this on kernels that have it. Needs root.

mod net_support;

use cilium_engine::state::{GENEVE_LINK, Link, LinkKind, LinkName, LinkRow, LinkUp, Present, VXLAN_LINK};
use cilium_kernel::net::Net;
use net_support::{Namespace, all, create, ip, one, remove, settle, update};
use std::process::Command;

fn name(name: &str) -> LinkName {
    LinkName::from(name)
}

fn row(link: &str, kind: LinkKind) -> LinkRow {
    LinkRow { kind, mac: None, mtu: 1450, alias: format!("cilium:{link}") }
}

/// Whether this kernel knows the type, in the namespace of the calling thread.
fn has_geneve() -> bool {
    let add = ["link", "add", "probe", "type", "geneve", "external"];
    let made = Command::new("ip").args(add).output().expect("ip is installed").status.success();
    if made {
        ip(&["link", "delete", "probe"]);
    }
    made
}

#[test]
fn vm_geneve_is_external_and_its_port_is_changed_by_a_new_one() {
    Namespace::new().run(|| {
        let net = &mut Net::open().expect("netlink");
        let first = row(GENEVE_LINK, LinkKind::Geneve { port: 6081 });
        if !has_geneve() {
            let error = create::<Link>(net, &name(GENEVE_LINK), &first).expect_err("this kernel has none");
            assert!(error.message.contains("this kernel has no geneve"), "{error}");
            for what in ["CONFIG_GENEVE", "modprobe geneve", "routing.tunnel_protocol = \"vxlan\""] {
                assert!(error.hint.contains(what), "{error}");
            }
            assert_eq!(all::<Link>(net), []);
            return;
        }
        settle::<Link>(net, &name(GENEVE_LINK), &first);
        assert!(all::<LinkUp>(net).is_empty(), "created down");
        let shown = ip(&["-d", "link", "show", GENEVE_LINK]);
        for what in ["external", "dstport 6081", "udp6zerocsumrx", "mtu 1450"] {
            assert!(shown.contains(what), "{what}: {shown}");
        }
        settle::<LinkUp>(net, &name(GENEVE_LINK), &Present);

        ip(&["link", "set", GENEVE_LINK, "mtu", "1300", "alias", ""]);
        let seen = one::<Link>(net, &name(GENEVE_LINK)).expect("there, and by its group ours");
        assert_eq!((seen.mtu, seen.alias.as_str()), (1300, ""));
        update::<Link>(net, &name(GENEVE_LINK), &first, &seen).expect("mended");
        settle::<Link>(net, &name(GENEVE_LINK), &first);
        assert_eq!(all::<LinkUp>(net).len(), 1, "changed in place");

        let other = LinkRow { kind: LinkKind::Geneve { port: 6082 }, ..first.clone() };
        update::<Link>(net, &name(GENEVE_LINK), &other, &first).expect("made anew");
        assert_eq!(one::<Link>(net, &name(GENEVE_LINK)).expect("there").kind, other.kind);
        assert!(all::<LinkUp>(net).is_empty(), "what is made anew is down");
        for _ in 0..2 {
            remove::<Link>(net, &name(GENEVE_LINK), &other).expect("removed");
        }
        assert!(all::<Link>(net).is_empty());
    });
}

#[test]
fn vm_a_geneve_that_is_not_external_or_not_ours_is_told_from_it() {
    Namespace::new().run(|| {
        if !has_geneve() {
            return println!("SKIP: needs geneve");
        }
        let net = &mut Net::open().expect("netlink");
        let want = row(GENEVE_LINK, LinkKind::Geneve { port: 6081 });
        ip(&["link", "add", GENEVE_LINK, "type", "geneve", "external"]);
        let error = create::<Link>(net, &name(GENEVE_LINK), &want).expect_err("a stranger's");
        assert!(error.message.contains("not ours"), "{error}");
        assert_eq!(one::<LinkUp>(net, &name(GENEVE_LINK)), None);
        ip(&["link", "delete", GENEVE_LINK]);

        let far = ["link", "add", GENEVE_LINK, "type", "geneve", "id", "7", "remote", "192.0.2.1"];
        ip(&far);
        ip(&["link", "set", GENEVE_LINK, "alias", "cilium:cilium_geneve"]);
        let seen = one::<Link>(net, &name(GENEVE_LINK)).expect("there");
        assert_eq!(seen.kind, LinkKind::Foreign { kind: "geneve that is not external".into() });
        update::<Link>(net, &name(GENEVE_LINK), &want, &seen).expect("ours: made anew");
        settle::<Link>(net, &name(GENEVE_LINK), &want);
    });
}

/// Both at once is what there is for a moment when the protocol is changed.
#[test]
fn vm_both_overlays_stand_side_by_side() {
    Namespace::new().run(|| {
        if !has_geneve() {
            return println!("SKIP: needs geneve");
        }
        let net = &mut Net::open().expect("netlink");
        let vxlan = row(VXLAN_LINK, LinkKind::Vxlan { port: 8472 });
        let geneve = row(GENEVE_LINK, LinkKind::Geneve { port: 6081 });
        settle::<Link>(net, &name(VXLAN_LINK), &vxlan);
        settle::<Link>(net, &name(GENEVE_LINK), &geneve);
        settle::<LinkUp>(net, &name(VXLAN_LINK), &Present);
        settle::<LinkUp>(net, &name(GENEVE_LINK), &Present);
        remove::<Link>(net, &name(VXLAN_LINK), &vxlan).expect("removed");
        assert_eq!(
            all::<Link>(net),
            [(name(GENEVE_LINK), one::<Link>(net, &name(GENEVE_LINK)).expect("there"))]
        );
        // With one port for both, the new one has it as soon as the old one is gone.
        remove::<Link>(net, &name(GENEVE_LINK), &geneve).expect("removed");
        let same = row(GENEVE_LINK, LinkKind::Geneve { port: 8472 });
        settle::<Link>(net, &name(VXLAN_LINK), &vxlan);
        settle::<LinkUp>(net, &name(VXLAN_LINK), &Present);
        settle::<Link>(net, &name(GENEVE_LINK), &same);
        let error = create::<LinkUp>(net, &name(GENEVE_LINK), &Present).expect_err("the port is taken");
        assert!(error.message.contains("EADDRINUSE"), "{error}");
        remove::<Link>(net, &name(VXLAN_LINK), &vxlan).expect("removed");
        settle::<LinkUp>(net, &name(GENEVE_LINK), &Present);
    });
}
