//! The lines two texts differ in, for a plan people read.

use serde::Serialize;
use std::fmt;

/// Above so many line pairs a comparison is not worth its time; everything is shown as replaced.
const MOST_PAIRS: usize = 4_000_000;

/// A line-by-line difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Lines with their sign: `-` only before, `+` only after, a space in both.
    pub lines: Vec<(char, String)>,
}

impl Difference {
    /// Compares two texts.
    pub fn between(before: &str, after: &str) -> Self {
        let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
        let mut lines = Vec::new();
        let mut push = |sign: char, line: &str| lines.push((sign, line.to_owned()));
        if old.len().saturating_mul(new.len()) > MOST_PAIRS {
            old.iter().for_each(|line| push('-', line));
            new.iter().for_each(|line| push('+', line));
            return Self { lines };
        }
        let common = common_lengths(&old, &new);
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                push(' ', old[i]);
                (i, j) = (i + 1, j + 1);
            } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
                push('-', old[i]);
                i += 1;
            } else {
                push('+', new[j]);
                j += 1;
            }
        }
        Self { lines }
    }
}

/// At `[i][j]`: how many lines the rest of `old` from `i` and of `new` from `j` have in common, in order.
fn common_lengths(old: &[&str], new: &[&str]) -> Vec<Vec<u32>> {
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    common
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(sign, line)| writeln!(f, "{sign} {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Difference;

    #[test]
    fn only_what_differs_is_marked() {
        let shown = Difference::between("a\nb\nc\n", "a\nx\nc\nd\n").to_string();
        assert_eq!(shown, "  a\n- b\n+ x\n  c\n+ d\n");
    }
}
