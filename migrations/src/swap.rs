//! Replaces a file as a whole: a reader sees the old content or the new, never a part.

use crate::error::Error;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

/// Writes `text` beside `path` and renames it there. Mode and owner stay those of the file replaced.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut copy = tempfile::Builder::new()
        .prefix(".cilium-migrate-")
        .tempfile_in(folder)
        .map_err(Error::io("create a file in", folder))?;
    copy.write_all(text.as_bytes()).map_err(Error::io("write", copy.path()))?;
    match fs::metadata(path) {
        Ok(old) => {
            fs::set_permissions(copy.path(), old.permissions())
                .map_err(Error::io("set the mode of", copy.path()))?;
            let new = copy.as_file().metadata().map_err(Error::io("look at", copy.path()))?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                chown(copy.path(), Some(old.uid()), Some(old.gid()))
                    .map_err(Error::io("set the owner of", copy.path()))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("look at", path)(error)),
    }
    copy.as_file().sync_all().map_err(Error::io("write", copy.path()))?;
    copy.persist(path).map_err(|error| Error::io("replace", path)(error.error))?;
    // Without this the rename itself may be lost by a power cut.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder))
}
