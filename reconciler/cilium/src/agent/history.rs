//! Past plans: one JSON line each in `state_dir/history/plans.jsonl`, the last thousand kept.

use anyhow::{Context, Result};
use cilium_engine::history::Record;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// How many are kept.
const KEEP: usize = 1000;
/// Lines are cut from the file when it holds this many.
const ROTATE_AT: usize = 2 * KEEP;
/// The file.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    lines: usize,
}

impl History {
    /// Opens, or prepares to create.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("history/plans.jsonl");
        let lines = fs::File::open(&path).map(|f| count(BufReader::new(f))).unwrap_or(0);
        Self { path, lines }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The file cannot be written (the pass goes on without).
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        let dir = self.path.parent().context("history has a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut f| f.write_all(&line))
            .with_context(|| format!("append to {}", self.path.display()))?;
        self.lines += 1;
        if self.lines >= ROTATE_AT { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> Result<()> {
        let kept = read_lines(&self.path, KEEP)?;
        let temporary = self.path.with_extension("tmp");
        fs::write(&temporary, kept.join("\n") + "\n")?;
        fs::rename(&temporary, &self.path)?;
        self.lines = kept.len();
        Ok(())
    }
}

/// Lines, of whatever bytes, up to the first that cannot be read.
fn count(reader: impl BufRead) -> usize {
    reader.split(b'\n').map_while(Result::ok).count()
}

fn read_lines(path: &Path, last: usize) -> Result<Vec<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("open {}", path.display())),
    };
    let mut kept = std::collections::VecDeque::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        if kept.len() == last {
            kept.pop_front();
        }
        kept.push_back(String::from_utf8_lossy(&line).into_owned());
    }
    Ok(kept.into())
}

/// The last records, oldest first. Lines that cannot be read (a crash in the middle of one) are left out.
///
/// # Errors
/// The file is there but cannot be read.
pub(crate) fn read(state_dir: &Path, last: usize) -> Result<Vec<Record>> {
    let lines = read_lines(&state_dir.join("history/plans.jsonl"), last)?;
    Ok(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cilium_engine::plan::Totals;

    #[test]
    fn keeps_the_last_thousand_and_survives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path());
        for at_ms in 0..2100 {
            let record = Record {
                at_ms,
                took_us: 0,
                woken_by: vec![],
                config: String::new(),
                totals: Totals::default(),
                failed: 0,
                skipped: 0,
                steps: vec![],
                left_out: 0,
            };
            history.append(&record).unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(dir.path().join("history/plans.jsonl")).unwrap();
        file.write_all(b"{\"at_ms\":").unwrap();
        let records = read(dir.path(), 50).unwrap();
        assert_eq!(records.last().unwrap().at_ms, 2099);
        assert_eq!(records.len(), 49);
        assert!(History::open(dir.path()).lines < 2000);
    }
}
