//! What an unknown key was probably meant to be.

use cilium_engine::config::keys;

/// The nearest known key or table, if any is near enough to be worth a question.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let wanted = flat(path);
    let known = || {
        keys::all().iter().map(|key| key.path.as_str()).chain(keys::tables().iter().map(|t| t.path.as_str()))
    };
    // Upstream's flat spelling, or the right name in the wrong table, names one key exactly.
    if let Some(found) = known().find(|known| flat(known) == wanted) {
        return Some(found);
    }
    let name = wanted.rsplit_once('.').map_or(wanted.as_str(), |(_, name)| name);
    let allowed = (wanted.chars().count() / 3).clamp(1, 4);
    known()
        .map(|known| (strsim::damerau_levenshtein(&flat(known), &wanted), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
        .or_else(|| {
            let last = path.rsplit_once('.').map_or(name, |(_, last)| last);
            let mut same = keys::all().iter().filter(|key| key.name() == last);
            // Several tables have an `enabled` or `mode`: then the name alone says nothing.
            same.next().filter(|_| same.next().is_none()).map(|key| key.path.as_str())
        })
}

/// Dots, dashes and underscores are what people mix up.
fn flat(path: &str) -> String {
    path.to_lowercase().replace(['.', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn typing_mistakes_find_their_key() {
        for (typed, meant) in [
            ("routing.moed", Some("routing.mode")),
            ("rooting", Some("routing")),
            ("cluster-name", Some("cluster.name")),
            ("load-balancer.kube-proxy-replacement", Some("load_balancer.kube_proxy_replacement")),
            ("kube_proxy_replacement", Some("load_balancer.kube_proxy_replacement")),
            ("network.tunnel_port", Some("routing.tunnel_port")),
            ("zzz.qqq", None),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }
}
