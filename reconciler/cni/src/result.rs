//! The result of ADD as the runtime reads it, for each version of the specification.

use crate::wire::Attached;
use serde_json::{Value, json};

/// The result for `version`, with the pod's interface `ifname` in `netns`.
pub fn render(attached: &Attached, version: &str, ifname: &str, netns: &str) -> Value {
    let with_family = version.starts_with("0.");
    let with_mtu = version == "1.1.0";
    let ips: Vec<Value> = attached
        .addresses
        .iter()
        .map(|a| {
            let length = if a.ip.is_ipv4() { 32 } else { 128 };
            let mut ip = json!({
                "address": format!("{}/{length}", a.ip),
                "gateway": a.gateway.to_string(),
                "interface": 1,
            });
            if with_family {
                ip["version"] = json!(if a.ip.is_ipv4() { "4" } else { "6" });
            }
            ip
        })
        .collect();
    let routes: Vec<Value> = attached
        .addresses
        .iter()
        .flat_map(|a| {
            let (own, all) = if a.ip.is_ipv4() {
                (format!("{}/32", a.gateway), "0.0.0.0/0")
            } else {
                (format!("{}/128", a.gateway), "::/0")
            };
            [json!({"dst": own}), json!({"dst": all, "gw": a.gateway.to_string()})]
        })
        .collect();
    let mut inside = json!({"name": ifname, "mac": attached.mac, "sandbox": netns});
    if with_mtu {
        inside["mtu"] = json!(attached.mtu);
    }
    json!({
        "cniVersion": version,
        "interfaces": [{"name": attached.link, "mac": attached.link_mac}, inside],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::AttachedAddress;

    #[test]
    fn old_versions_name_the_family_and_new_ones_the_mtu() {
        let attached = Attached {
            link: "lxc1".into(),
            link_mac: "aa:00:00:00:00:01".into(),
            mac: "aa:00:00:00:00:02".into(),
            mtu: 1450,
            addresses: vec![AttachedAddress { ip: [10, 0, 0, 2].into(), gateway: [10, 0, 0, 1].into() }],
        };
        let old = render(&attached, "0.4.0", "eth0", "/n");
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["interfaces"][1]["mtu"], Value::Null);
        let new = render(&attached, "1.1.0", "eth0", "/n");
        assert_eq!(new["ips"][0]["version"], Value::Null);
        assert_eq!(new["interfaces"][1]["mtu"], 1450);
        assert_eq!(new["routes"][1]["gw"], "10.0.0.1");
    }
}
