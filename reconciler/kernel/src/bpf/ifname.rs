//! Interface names in rows, numbers in maps. A number whose interface is gone is shown as
//! `ifindex:42`, which can be no interface's name, so that such a row can be seen and removed.

use super::sys;
use cilium_engine::driver::DriverError;
use cilium_engine::state::LinkName;
use std::collections::BTreeMap;

const NUMBERED: &str = "ifindex:";

/// Names and numbers looked up during one call; the kernel is asked once for each.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<u32, LinkName>,
    numbers: BTreeMap<LinkName, u32>,
}

impl Names {
    /// The name of an interface, or `ifindex:N` if it is gone.
    pub(super) fn name(&mut self, index: u32) -> LinkName {
        self.names
            .entry(index)
            .or_insert_with(|| LinkName(sys::name_of(index).unwrap_or_else(|| format!("{NUMBERED}{index}"))))
            .clone()
    }

    /// The number of an interface; `None`: there is none of this name.
    pub(super) fn find(&mut self, name: &LinkName) -> Option<u32> {
        if let Some(number) = name.0.strip_prefix(NUMBERED) {
            return number.parse().ok();
        }
        if let Some(index) = self.numbers.get(name) {
            return Some(*index);
        }
        let index = sys::index_of(&name.0)?;
        self.numbers.insert(name.clone(), index);
        Some(index)
    }

    /// The number of an interface that a row to be written names.
    pub(super) fn number(&mut self, name: &LinkName) -> Result<u32, DriverError> {
        self.find(name).ok_or_else(|| {
            DriverError::new(format!("interface {name} does not exist"))
                .hint("it is created before this row in the same pass; see why that failed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_interface_survives_the_round_trip() {
        let mut names = Names::default();
        let name = names.name(u32::MAX);
        assert_eq!(name.0, "ifindex:4294967295");
        assert_eq!(names.find(&name), Some(u32::MAX));
        assert_eq!(names.find(&LinkName("no-such-device".into())), None);
        assert!(names.number(&LinkName("no-such-device".into())).is_err());
    }

    #[test]
    fn loopback_is_known_both_ways() {
        let mut names = Names::default();
        let index = names.number(&LinkName::from("lo")).unwrap();
        assert_eq!(names.name(index), LinkName::from("lo"));
    }
}
