//! Past plans: one JSON line each in `state_dir/history/plans.jsonl`, the last thousand kept.

use anyhow::{Context, Result};
use cilium_engine::history::Record;
use cilium_sources::kept::{self, Lasting};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How many are kept.
const KEEP: usize = 1000;
/// Lines are cut from the file when it holds this many.
const ROTATE_AT: usize = 2 * KEEP;
/// A longer file is not ours: two thousand records of the longest sort are a quarter of it.
const LONGEST: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    lines: usize,
    /// The last line may have no end: a crash, or a full disk, in the middle of one.
    torn: bool,
}

impl History {
    /// Opens, or prepares to create.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("history/plans.jsonl");
        let lines = open(&path).map(|file| count(BufReader::new(file))).unwrap_or(0);
        Self { path, lines, torn: true }
    }

    /// Adds a record. What is no file of ours is put aside.
    ///
    /// # Errors
    /// The file cannot be written (the pass goes on without).
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        let dir = self.path.parent().context("history has a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        if open(&self.path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
            && kept::put_aside(&self.path)
        {
            tracing::warn!("history: {} could not be read, and now ends in .bad", self.path.display());
            self.lines = 0;
        }
        self.torn = true;
        OpenOptions::new()
            .create(true)
            .append(true)
            // A pipe in its place would wait for a reader.
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path)
            .and_then(|mut f| f.write_all(&line))
            .with_context(|| format!("append to {}", self.path.display()))?;
        self.torn = false;
        self.lines += 1;
        if self.lines >= ROTATE_AT { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> Result<()> {
        let lines = read_lines(&self.path, KEEP)?;
        kept::write(&self.path, (lines.join("\n") + "\n").as_bytes(), Lasting::ThisBoot)
            .map_err(|(what, error)| anyhow::anyhow!("{what} {}: {error}", self.path.display()))?;
        self.lines = lines.len();
        Ok(())
    }
}

/// The file, if it can be one of ours.
fn open(path: &Path) -> io::Result<fs::File> {
    let file = kept::open(path)?;
    if file.metadata()?.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {LONGEST} bytes")));
    }
    Ok(file)
}

/// Lines, of whatever bytes, up to the first that cannot be read.
fn count(reader: impl BufRead) -> usize {
    reader.take(LONGEST).split(b'\n').map_while(Result::ok).count()
}

fn read_lines(path: &Path, last: usize) -> Result<Vec<String>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("open {}", path.display())),
    };
    let mut kept = std::collections::VecDeque::new();
    for line in BufReader::new(file.take(LONGEST)).split(b'\n') {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        if line.is_empty() {
            continue;
        }
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

    fn record(at_ms: u64) -> Record {
        Record {
            at_ms,
            took_us: 0,
            woken_by: vec![],
            config: String::new(),
            totals: Totals::default(),
            failed: 0,
            skipped: 0,
            steps: vec![],
            left_out: 0,
        }
    }

    #[test]
    fn keeps_the_last_thousand_and_survives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path());
        for at_ms in 0..2100 {
            history.append(&record(at_ms)).unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(dir.path().join("history/plans.jsonl")).unwrap();
        file.write_all(b"{\"at_ms\":").unwrap();
        let records = read(dir.path(), 50).unwrap();
        assert_eq!(records.last().unwrap().at_ms, 2099);
        assert_eq!(records.len(), 49);
        let mut history = History::open(dir.path());
        assert!(history.lines < 2000);
        history.append(&record(2100)).unwrap();
        assert_eq!(read(dir.path(), 1).unwrap()[0].at_ms, 2100, "not part of the torn line");
    }

    #[test]
    fn what_is_no_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history/plans.jsonl");
        let mkfifo = |path: &Path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        };
        let long = |path: &Path| fs::File::create(path).unwrap().set_len(LONGEST + 1).unwrap();
        let ways: [&dyn Fn(&Path); 4] = [
            &|path| fs::create_dir_all(path.join("within")).unwrap(),
            &|path| std::os::unix::fs::symlink(path, path).unwrap(),
            &mkfifo,
            &long,
        ];
        fs::create_dir(dir.path().join("history")).unwrap();
        for way in ways {
            way(&path);
            let mut history = History::open(dir.path());
            assert!(read(dir.path(), 1).is_err());
            history.append(&record(7)).unwrap();
            assert_eq!(read(dir.path(), 5).unwrap().len(), 1);
            fs::remove_file(&path).unwrap();
        }
    }
}
