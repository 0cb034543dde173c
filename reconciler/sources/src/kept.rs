//! Small files a node keeps for itself: read without ever waiting, written whole, put aside when broken.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a file must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// The agent's death.
    ThisBoot,
    /// A power cut.
    Forever,
}

/// What was tried, and why it failed.
pub type Failed = (&'static str, io::Error);

/// Opens a regular file for reading. Whatever else is in its place (a folder, a pipe, a device) is an error
/// at once: a pipe would wait for a writer.
///
/// # Errors
/// It is not there, is not a regular file, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"))
    }
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// As [`open`]; or it is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

/// Writes beside its place, then into its place, so that a reader finds it whole. What fails leaves nothing
/// beside it: on a full disk that would be in the way of the next try.
///
/// # Errors
/// The step that failed; the file is as it was.
pub fn write(path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), Failed> {
    write_by(path, lasting, |file| file.write_all(bytes)).map(drop)
}

/// As [`write`], of what is written bit by bit; gives what tells this file from others.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_by(
    path: &Path,
    lasting: Lasting,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<Metadata, Failed> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let beside = path.with_extension("tmp");
    let created = match File::create(&beside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(|error| ("create the folder of", error))?;
            File::create(&beside)
        }
        created => created,
    };
    let placed = created
        .and_then(|mut file| {
            fill(&mut file)?;
            if lasting == Lasting::Forever {
                file.sync_all()?;
            }
            Ok(file)
        })
        .map_err(|error| ("write", error))
        // A rename is a change too: only after it the file stays as it is.
        .and_then(|file| match fs::rename(&beside, path) {
            Ok(()) => file.metadata().map_err(|error| ("look at", error)),
            Err(error) => Err(("rename into", error)),
        });
    if placed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    } else if lasting == Lasting::Forever {
        sync(dir).map_err(|error| ("sync the folder of", error))?;
    }
    placed
}

/// Brings a file, or the names in a folder, to the disk.
///
/// # Errors
/// It is not there, or the disk refuses.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Renames what is broken to end in `.bad`, in place of what was put aside there before. Whether it is out of
/// the way.
pub fn put_aside(path: &Path) -> bool {
    let aside = path.with_extension("bad");
    // Only what is in the way of the rename needs to go; a rename replaces a file by itself.
    let _ = fs::remove_file(&aside).or_else(|_| fs::remove_dir_all(&aside));
    fs::rename(path, &aside).is_ok()
}

/// `O_NONBLOCK` of Linux on the architectures we build for (x86-64, arm64).
const O_NONBLOCK: i32 = 0o4000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_regular_files_of_bounded_size_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("deep/er/file.json"), b"12345", Lasting::Forever).unwrap();
        assert_eq!(read(&at("deep/er/file.json"), 5).unwrap(), b"12345");
        assert_eq!(read(&at("deep/er/file.json"), 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        for name in ["deep", "pipe", "loop"] {
            assert!(read(&at(name), 5).is_err(), "{name}");
        }
    }

    #[test]
    fn whatever_is_broken_is_put_aside_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for round in 0..6 {
            if round % 2 == 0 {
                fs::create_dir_all(path.join("within")).unwrap();
            } else {
                fs::write(&path, "x").unwrap();
            }
            assert!(put_aside(&path), "round {round}");
            assert!(!path.exists());
        }
        assert!(!put_aside(&path), "nothing is there");
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::create_dir_all(path.join("within")).unwrap();
        assert_eq!(write(&path, b"x", Lasting::ThisBoot).unwrap_err().0, "rename into");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
