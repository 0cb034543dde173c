//! A file becomes the objects it holds.

use super::lastgood::Digest;
use super::walk::{self, Stamp};
use super::{Identity, many, problem};
use cilium_crds::object::{Object, Reading};
use cilium_engine::map::{Mostly, Rarely};
use cilium_engine::problem::Problem;
use cilium_engine::shared::{Shared, Text};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// An object of a file.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) identity: Shared<Identity>,
    pub(super) object: Arc<Object>,
    pub(super) digest: Digest,
    /// Its document, until the last good version was written.
    pub(super) document: Option<Box<Box<str>>>,
}

/// A file as it was last read.
#[derive(Clone, Debug)]
pub(super) struct ReadFile {
    /// Mark of the stamp it had.
    pub(super) mark: NonZeroU64,
    /// As long as the stamp is the same, this is what the file holds.
    pub(super) proven: bool,
    /// Read so soon after its last change that another may follow with the same stamp.
    pub(super) early: bool,
    /// As it was in the cache, which knew the last good versions of all its objects.
    pub(super) stored: bool,
    /// In order.
    pub(super) members: Mostly<Member>,
    /// Some of it could not be read, or not be told apart: any object of the file may be meant.
    pub(super) unsure: bool,
    /// What is wrong with it as a file.
    pub(super) problems: Rarely<Problem>,
}

impl ReadFile {
    /// A file of this mark that nothing is known of yet.
    pub(super) fn of(mark: NonZeroU64) -> Self {
        let members = Mostly::default();
        Self {
            mark,
            proven: false,
            early: false,
            stored: false,
            members,
            unsure: false,
            problems: Rarely::default(),
        }
    }
}

/// Reads files of the folder at `root`, for the node of this name, at this time or a little later. With each,
/// whether it still had the stamp when it was read.
pub(super) fn read_all(
    root: &Path,
    node_name: &str,
    files: &[(Text, Stamp)],
    now: SystemTime,
) -> Vec<(ReadFile, bool)> {
    many::each(files, |(name, stamp)| {
        let mut file = read(root, node_name, name, *stamp);
        let proof = stamp.is_proof_at(now);
        file.early = file.proven && !proof;
        file.proven &= proof;
        let steady = std::fs::metadata(root.join(&**name)).is_ok_and(|now| Stamp::of(&now) == *stamp);
        (file, steady)
    })
}

fn read(root: &Path, node_name: &str, name: &str, stamp: Stamp) -> ReadFile {
    let mut out = ReadFile::of(stamp.mark());
    let bytes = match walk::read(&root.join(name)) {
        Ok(bytes) => bytes,
        Err(error) => {
            out.unsure = true;
            let message = format!("cannot be read: {error}");
            out.problems = vec![problem(name, message, "its objects stay as they were")].into();
            return out;
        }
    };
    out.proven = true;
    let (mut members, mut problems) = (Vec::new(), Vec::new());
    let file = cilium_crds::read_file(&bytes, name);
    if let Some(problem) = file.broken {
        out.unsure = true;
        problems.push(problem);
    }
    for reading in file.readings {
        match reading {
            // What this node wrote itself tells it nothing.
            Reading::Object(object, _) if object.header.published_by.as_deref() == Some(node_name) => {}
            Reading::Object(object, document) => {
                let text = document.json().to_string();
                members.push(Member {
                    identity: Identity::of(&object.header).into(),
                    digest: Digest::of(&text),
                    document: object.valid.then(|| Box::new(text.into())),
                    object: Arc::new(*object),
                });
            }
            Reading::Nameless(problem) => {
                out.unsure = true;
                problems.push(problem);
            }
            Reading::Other(problem) => problems.extend(problem),
        }
    }
    out.members = members.into();
    out.problems = problems.into();
    out
}
