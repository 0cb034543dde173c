//! Addresses of a Service and their families.

use super::annotations::Said;
use crate::api::service as api;
use crate::lower::cursor::{Cursor, Notes};
use crate::lower::values::{Reach, unusable, usable_ip};
use crate::schema::quoted;
use cilium_engine::world::IpFamily;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// ClusterIPs, the primary first; none of headless Services.
pub(super) fn cluster_ips(at: &Cursor<'_>, spec: &api::ServiceSpec, notes: &mut Notes) -> Vec<IpAddr> {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let (texts, at, places): (Vec<&str>, _, _) = match several {
        [] => (single.into_iter().collect(), at.at("clusterIP"), vec![at.at("clusterIP")]),
        texts => {
            (texts.iter().map(String::as_str).collect(), at.at("clusterIPs"), at.at("clusterIPs").items())
        }
    };
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        notes.invalid(&at, "its first entry is another than `clusterIP`", "remove one of both fields");
    }
    if texts.contains(&"None") {
        if texts.len() > 1 {
            notes.invalid(&at, "`None` stands beside an address", "a headless Service has no address");
        }
        return Vec::new();
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for (text, at) in texts.into_iter().zip(&places).filter(|(text, _)| !text.is_empty()) {
        let Some(ip) = usable_ip(at, text, Reach::Link, notes) else { continue };
        if ips.iter().any(|other| IpFamily::of(*other) == IpFamily::of(ip)) {
            notes.invalid(
                at,
                format!("{ip} is the second of its family"),
                "one of IPv4 and one of IPv6 at most",
            );
            break;
        }
        ips.push(ip);
    }
    ips
}

fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// Families it is served in, as far as anyone has decided.
pub(super) fn families(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    cluster_ips: &[IpAddr],
    notes: &mut Notes,
) -> Vec<IpFamily> {
    let field = at.at("ipFamilies");
    let mut families = Vec::new();
    for (name, at) in spec.ip_families.iter().flatten().zip(field.items()) {
        let family = match name.as_str() {
            "IPv4" => IpFamily::V4,
            "IPv6" => IpFamily::V6,
            other => {
                notes.invalid(&at, format!("there is no family {}", quoted(other)), "IPv4 and IPv6");
                break;
            }
        };
        if families.contains(&family) {
            notes.invalid(&at, format!("{name} is given twice"), "");
            break;
        }
        families.push(family);
    }
    let of_ips: Vec<IpFamily> = cluster_ips.iter().map(|ip| IpFamily::of(*ip)).collect();
    if families.is_empty() {
        families = of_ips;
    } else if !families.starts_with(&of_ips) {
        let hint = "ClusterIPs have the families of `ipFamilies`, in that order";
        notes.invalid(&field, "the ClusterIPs are of other families", hint);
    } else if let (Some(missing), false) = (families.get(of_ips.len()), of_ips.is_empty()) {
        let message = format!("it has no ClusterIP of {}, so none is served", family_name(*missing));
        notes.warning(&field, message, "write one in `clusterIPs`");
    }
    match (spec.ip_family_policy.as_deref(), families.len()) {
        (Some("SingleStack"), 2) => {
            let hint = "write `PreferDualStack`, or remove one family";
            notes.invalid(&at.at("ipFamilyPolicy"), "SingleStack has one family, and two are given", hint);
        }
        (Some("RequireDualStack"), 1) => {
            let message = format!("only {} is given", families.first().map_or("one", |f| family_name(*f)));
            notes.warning(&at.at("ipFamilyPolicy"), message, "write `ipFamilies` and `clusterIPs` of both");
        }
        _ => {}
    }
    families
}

/// Whether it is served in the address's family; that it is not is told.
fn in_families(at: &Cursor<'_>, ip: IpAddr, families: &[IpFamily], notes: &mut Notes) -> bool {
    let family = IpFamily::of(ip);
    let served = families.is_empty() || families.contains(&family);
    if !served {
        let message = format!("{ip} is not served, as the Service has no {}", family_name(family));
        notes.warning(at, message, "add the family to `ipFamilies` and `clusterIPs`");
    }
    served
}

/// Each once, in the order given, in families it is served in.
fn kept<'a>(
    ips: impl IntoIterator<Item = (IpAddr, Cursor<'a>)>,
    families: &[IpFamily],
    notes: &mut Notes,
) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let fresh = ips.into_iter().filter(|(ip, at)| seen.insert(*ip) && in_families(at, *ip, families, notes));
    fresh.map(|(ip, _)| ip).collect()
}

/// The address with its place, if it can be one.
fn placed<'a>(at: Cursor<'a>, text: &str, reach: Reach, notes: &mut Notes) -> Option<(IpAddr, Cursor<'a>)> {
    Some((usable_ip(&at, text, reach, notes)?, at))
}

pub(super) fn external_ips(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    families: &[IpFamily],
    notes: &mut Notes,
) -> Vec<IpAddr> {
    let listed = spec.external_ips.iter().flatten().zip(at.at("externalIPs").items());
    let ips: Vec<_> = listed.filter_map(|(text, at)| placed(at, text, Reach::Beyond, notes)).collect();
    kept(ips, families, notes)
}

/// Addresses that the status says.
pub(super) fn assigned(
    root: &Cursor<'_>,
    api: &api::Service,
    families: &[IpFamily],
    notes: &mut Notes,
) -> Option<Vec<IpAddr>> {
    let at = root.at("status").at("loadBalancer").at("ingress");
    let ingress = api.status.as_ref()?.load_balancer.as_ref()?.ingress.as_deref()?;
    if ingress.is_empty() {
        return None;
    }
    // Packets to a proxy's address come here with another destination; a name is no address.
    let direct =
        ingress.iter().zip(at.items()).filter(|(entry, _)| entry.ip_mode.as_deref() != Some("Proxy"));
    let named = direct.filter_map(|(entry, at)| Some((entry.ip.as_deref().filter(|ip| !ip.is_empty())?, at)));
    let ips: Vec<_> = named.filter_map(|(text, at)| placed(at.at("ip"), text, Reach::Link, notes)).collect();
    Some(kept(ips, families, notes))
}

/// Addresses that are asked for. What is wrong in the annotation is told and left out: it is no field of the
/// API, and the Service has other addresses.
pub(super) fn requested(
    at: &Cursor<'_>,
    spec: &api::ServiceSpec,
    said: &Said<'_>,
    families: &[IpFamily],
    notes: &mut Notes,
) -> Vec<IpAddr> {
    let Some((texts, at)) = &said.ips else {
        let text = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
        let ip = text.and_then(|text| placed(at.at("loadBalancerIP"), text, Reach::Link, notes));
        return kept(ip, families, notes);
    };
    let mut ips = Vec::new();
    for text in texts.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) if unusable(ip, Reach::Link).is_none() => ips.push((ip, at.clone())),
            _ => {
                let message = format!("{} is no address of a load balancer: it is not served", quoted(text));
                notes.unsupported(at, message, "write addresses with commas between them");
            }
        }
    }
    kept(ips, families, notes)
}

/// Source ranges, sorted, each once, without bits beyond their length.
pub(super) fn ranges(at: &Cursor<'_>, texts: &[String], notes: &mut Notes) -> Vec<IpNet> {
    let mut ranges = BTreeSet::new();
    for (text, at) in texts.iter().zip(at.items()) {
        let net = text.trim().parse::<IpNet>().ok();
        let net = net.filter(|net| !matches!(net.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()));
        let Some(net) = net else {
            notes.invalid(&at, format!("{} is no prefix", quoted(text)), "write it as `10.0.0.0/24`");
            continue;
        };
        if net != net.trunc() {
            let message = format!("{} has bits beyond its prefix length, which do not count", quoted(text));
            notes.warning(&at, message, &format!("write `{}`", net.trunc()));
        }
        ranges.insert(net.trunc());
    }
    ranges.into_iter().collect()
}
