//! The embedded eBPF object. Never: loads it; that is [`super::set`].

use cilium_engine::config::Digest;
use cilium_engine::driver::DriverError;
use std::sync::OnceLock;

/// The object, aligned as its parser wants it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CILIUM_BPF_OBJECT"));

/// SHA-256 of the embedded object (hexadecimal): part of the name of a program set, so that another
/// build's programs are another set.
pub fn object_digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| Digest::of(OBJECT).to_string())
}

/// The names of the object's programs, sorted.
pub(super) fn program_names() -> Result<&'static [String], DriverError> {
    static NAMES: OnceLock<Result<Vec<String>, DriverError>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let object = aya_obj::Object::parse(OBJECT)
            .map_err(|e| DriverError::new(format!("read the embedded eBPF object: {e}")))?;
        let mut names: Vec<String> = object.programs.into_keys().collect();
        names.sort_unstable();
        Ok(names)
    });
    names.as_deref().map_err(Clone::clone)
}

/// The whole name of a program of which the kernel keeps the first 15 bytes.
pub(super) fn whole_name(kept: &str) -> String {
    let names = program_names().unwrap_or_default();
    let whole = names.iter().find(|name| name.get(..15).unwrap_or(name) == kept);
    whole.cloned().unwrap_or_else(|| kept.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_programs_users_know() {
        let names = program_names().unwrap();
        for name in [
            "cil_from_container",
            "cil_from_host",
            "cil_to_host",
            "cil_from_netdev",
            "cil_to_netdev",
            "cil_from_overlay",
            "cil_to_overlay",
            "cil_xdp_entry",
        ] {
            assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
            assert_eq!(whole_name(&name[..name.len().min(15)]), name);
        }
        assert_eq!(whole_name("other"), "other");
        assert_eq!(object_digest().len(), 64);
    }
}
