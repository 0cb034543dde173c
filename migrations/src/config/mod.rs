//! Steps for `cilium.toml`, one file each, oldest first.
//!
//! A new step: copy the shape of the last file, add its golden triple beside it, list it here, raise
//! `cilium_engine::config::VERSION`; when it is released, add its line to `released.txt`.

mod s0001_flat_keys;

use crate::step::Step;

/// All steps, in order; step `n` leads from version `n - 1` to `n`.
pub(crate) const STEPS: &[Step] = &[s0001_flat_keys::STEP];

#[cfg(test)]
mod tests {
    use super::STEPS;
    use crate::CURRENT;

    /// Steps that left the house, with the digest of their source.
    const RELEASED: &str = include_str!("released.txt");

    #[test]
    fn steps_are_numbered_without_gaps_up_to_the_version_this_build_reads() {
        for (i, step) in STEPS.iter().enumerate() {
            assert_eq!(step.from as usize, i);
            assert!(step.name.starts_with(&format!("{:04}_", step.to())), "{}", step.name);
        }
        assert_eq!(STEPS.last().map(|step| step.to()), Some(CURRENT));
    }

    #[test]
    fn released_steps_are_frozen() {
        for line in RELEASED.lines().filter(|line| !line.starts_with('#')) {
            let (name, digest) = line.split_once(' ').expect("a line is `name digest`");
            let step = STEPS.iter().find(|step| step.name == name).expect("a released step is never removed");
            assert_eq!(
                step.digest().to_string(),
                digest,
                "step {name} was released and must not change: write a new step instead"
            );
        }
    }
}
