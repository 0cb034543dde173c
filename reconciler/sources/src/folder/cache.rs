//! What was read of the folder, in one file (`state_dir/manifests.cache`), so that a start reads only what has
//! changed since. It says nothing that is not proven by stamps: a file whose stamp is another, or was taken
//! too soon after the file's last change, is read again, and so is one whose last good versions are not stored
//! as the cache says. Lost, damaged, or written by another build or node, it costs the time to read, no more.
//!
//! ```text
//! 4 bytes: length, least first │ 32 bytes: SHA-256 of build, node and content │ content: a Shard in postcard
//! ```
//! once for every so many files. A thread of its own writes it when nothing has changed for a while, and at the
//! end.

use super::lastgood::{Digest, Kept, Known, number};
use super::read::{Member, ReadFile};
use super::{Identity, many};
use crate::kept::{self, Lasting};
use cilium_crds::lower::LabelPool;
use cilium_crds::object::Object;
use cilium_engine::map::{Map, Rarely};
use cilium_engine::problem::Problem;
use cilium_engine::shared::{Shared, Text};
use cilium_engine::world::Labels;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io::{self, BufWriter, Write as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest cache, bytes. Of a longer one the rest is read from the folder.
const LONGEST: u64 = 1 << 30;
/// Files in one shard.
const FILES: usize = 512;
/// Digest of what turns manifests into facts.
const READING: &str = env!("CILIUM_READING");

/// It is written when nothing has changed for this time,
const QUIET: Duration = Duration::from_secs(5);
/// or this long after the first change,
const AT_LATEST: Duration = Duration::from_secs(60);
/// but not again within this time: the whole file is written.
const BETWEEN: Duration = Duration::from_secs(300);

type Files = Map<Text, ReadFile>;
type Versions = Map<Shared<Identity>, Kept>;

/// Some of the cache: `Text` is owned where it is read and borrowed where it is written, as the others.
#[derive(Serialize, Deserialize)]
struct Shard<Text, Problems, Object> {
    /// Sets of labels that objects refer to.
    labels: Vec<Shared<Labels>>,
    /// Words that they do.
    words: Vec<cilium_engine::shared::Text>,
    files: Vec<Entry<Text, Problems, Object>>,
    /// Last good versions that are in no file as they are.
    versions: Vec<Version<Text, Object>>,
}

#[derive(Serialize, Deserialize)]
struct Entry<Text, Problems, Object> {
    path: Text,
    mark: NonZeroU64,
    unsure: bool,
    problems: Problems,
    members: Vec<EntryMember<Object>>,
}

#[derive(Serialize, Deserialize)]
struct EntryMember<Object> {
    object: Object,
    beside: Beside,
    digest: Digest,
    /// Mark of the store's file, if that holds just this.
    stored: Option<NonZeroU64>,
}

#[derive(Serialize, Deserialize)]
struct Version<Text, Object> {
    object: Object,
    beside: Beside,
    file: Text,
    digest: Digest,
    stored: NonZeroU64,
}

/// What an object does not hold itself in its shard, since others hold it too: where it is there.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Beside {
    labels: Option<usize>,
    namespace: usize,
    publisher: Option<usize>,
}

impl<Text, Problems, Object> Default for Shard<Text, Problems, Object> {
    fn default() -> Self {
        Self { labels: Vec::new(), words: Vec::new(), files: Vec::new(), versions: Vec::new() }
    }
}

type Read = Shard<Text, Rarely<Problem>, Object>;
type Written<'a> = Shard<&'a str, &'a [Problem], Object>;

/// What the cache said at the start.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// By path.
    pub(super) files: HashMap<Text, ReadFile>,
    pub(super) versions: Known,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Its name: what a file says may depend on who reads it.
    pub(super) node: String,
}

impl Place {
    fn check(&self, content: &[u8]) -> [u8; 32] {
        let node = Sha256::digest(self.node.as_bytes());
        Sha256::new().chain_update(READING).chain_update(node).chain_update(content).finalize().into()
    }

    /// Reads as much of it as is whole and ours.
    pub(super) fn load(&self, labels: &mut LabelPool) -> Cached {
        let mut out = Cached::default();
        let bytes = match kept::read(&self.path, LONGEST) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::info!("{}: {error}; the folder is read anew", self.path.display());
                }
                return out;
            }
        };
        let mut rest = bytes.as_slice();
        let mut shards: Vec<Part<'_>> = Vec::new();
        while let Some((shard, after)) = cut(rest) {
            shards.push(shard);
            rest = after;
        }
        let mut bad = usize::from(!rest.is_empty());
        let shards = many::each(&shards, |(check, content)| {
            if self.check(content) != **check {
                return None;
            }
            postcard::from_bytes::<Read>(content).ok().map(Decoded::of)
        });
        for shard in shards {
            match shard {
                Some(shard) => out.take_in(shard, labels),
                None => bad += 1,
            }
        }
        if bad > 0 {
            let place = self.path.display();
            tracing::info!(
                "{place}: {bad} parts are damaged, or another build's or node's; those are read anew"
            );
        }
        out
    }

    fn store(&self, files: &Files, versions: &Versions) -> io::Result<()> {
        let written = kept::write_by(&self.path, Lasting::ThisBoot, |file| {
            let mut file = BufWriter::new(file);
            let (mut shard, mut pool) = (Written::default(), Indices::default());
            let mut in_files = HashSet::new();
            for (path, file_read) in files.iter().filter(|(_, file)| file.proven) {
                let entry = entry(path, file_read, versions, &mut in_files, &mut pool);
                shard.files.push(entry);
                if shard.files.len() == FILES {
                    self.put(&mut file, &mut shard, &mut pool)?;
                }
            }
            for (identity, kept) in versions {
                let Some(stored) = kept.mark.filter(|_| !in_files.contains(identity)) else { continue };
                let (object, beside) = bare(&kept.object, &mut pool);
                let (file_of, digest) = (kept.file(), kept.digest);
                shard.versions.push(Version { object, beside, file: file_of, digest, stored });
                if shard.versions.len() == FILES {
                    self.put(&mut file, &mut shard, &mut pool)?;
                }
            }
            self.put(&mut file, &mut shard, &mut pool)?;
            file.flush()
        });
        written.map(drop).map_err(|(_, error)| error)
    }

    /// Writes a shard, and begins the next.
    fn put(&self, file: &mut impl io::Write, shard: &mut Written<'_>, pool: &mut Indices) -> io::Result<()> {
        let Indices { labels, words } = std::mem::take(pool);
        (shard.labels, shard.words) = (by_index(labels), by_index(words));
        let content = postcard::to_allocvec(&std::mem::take(shard)).map_err(io::Error::other)?;
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&self.check(&content))?;
        file.write_all(&content)
    }
}

/// Where each set of labels and each word will be in the shard.
#[derive(Default)]
struct Indices {
    labels: HashMap<Shared<Labels>, usize>,
    words: HashMap<Text, usize>,
}

fn index<T: Eq + Hash>(items: &mut HashMap<T, usize>, item: T) -> usize {
    let next = items.len();
    *items.entry(item).or_insert(next)
}

fn by_index<T>(items: HashMap<T, usize>) -> Vec<T> {
    let mut items: Vec<(T, usize)> = items.into_iter().collect();
    items.sort_by_key(|(_, index)| *index);
    items.into_iter().map(|(item, _)| item).collect()
}

/// The object without what stands beside it: its labels, its namespace, who published it, and its file.
fn bare(object: &Object, pool: &mut Indices) -> (Object, Beside) {
    let mut object = object.clone();
    object.header.place.file = Text::default();
    object.facts.place_mut().into_iter().for_each(|place| place.file = Text::default());
    let labels = object.facts.identity_labels_mut().map(std::mem::take);
    let namespace = std::mem::take(&mut object.header.name.namespace);
    let publisher = object.header.published_by.as_mut().map(std::mem::take);
    object.facts.publisher_mut().into_iter().for_each(|publisher| *publisher = Text::default());
    let beside = Beside {
        labels: labels.map(|labels| index(&mut pool.labels, labels)),
        namespace: index(&mut pool.words, namespace),
        publisher: publisher.map(|publisher| index(&mut pool.words, publisher)),
    };
    (object, beside)
}

fn word(words: &[Text], index: usize) -> Text {
    words.get(index).cloned().unwrap_or_default()
}

/// Puts back what stands beside it, but for its labels.
fn dress(object: &mut Object, beside: Beside, file: &Text, words: &[Text]) {
    object.header.place.file = file.clone();
    object.facts.place_mut().into_iter().for_each(|place| place.file = file.clone());
    object.header.name.namespace = word(words, beside.namespace);
    if let Some(publisher) = beside.publisher.map(|index| word(words, index)) {
        object.facts.publisher_mut().into_iter().for_each(|place| *place = publisher.clone());
        object.header.published_by = Some(publisher);
    }
}

fn entry<'a>(
    path: &'a str,
    file: &'a ReadFile,
    versions: &Versions,
    in_files: &mut HashSet<Shared<Identity>>,
    pool: &mut Indices,
) -> Entry<&'a str, &'a [Problem], Object> {
    let members = file.members.iter().map(|member| {
        let same = |kept: &&Kept| kept.digest == member.digest && kept.file() == path;
        let kept = versions.get(&*member.identity).filter(same).filter(|_| member.object.valid);
        let stored = kept.and_then(|kept| kept.mark);
        if stored.is_some() {
            in_files.insert(member.identity.clone());
        }
        let (object, beside) = bare(&member.object, pool);
        EntryMember { object, beside, digest: member.digest, stored }
    });
    let members = members.collect();
    Entry { path, mark: file.mark, unsure: file.unsure, problems: &file.problems, members }
}

/// A shard as it is written: its check, which was not looked at yet, and its content.
type Part<'a> = (&'a [u8; 32], &'a [u8]);

/// The first shard, and what follows it.
fn cut(bytes: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<32>()?;
    let (content, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some(((check, content), rest))
}

/// A shard with what can be made of it on any processor.
struct Decoded {
    shard: Read,
    /// Of the members of all files and then the versions, in order: the number in the name of the store's file.
    numbers: Vec<u128>,
}

impl Decoded {
    fn of(mut shard: Read) -> Self {
        let words = std::mem::take(&mut shard.words);
        for file in &mut shard.files {
            let path = &file.path;
            file.members.iter_mut().for_each(|m| dress(&mut m.object, m.beside, path, &words));
        }
        shard.versions.iter_mut().for_each(|v| dress(&mut v.object, v.beside, &v.file, &words));
        let members = shard.files.iter().flat_map(|file| &file.members).map(|member| &member.object);
        let objects = members.chain(shard.versions.iter().map(|version| &version.object));
        let number = |object: &Object| number(&Identity::of(&object.header));
        Self { numbers: objects.map(number).collect(), shard }
    }
}

impl Cached {
    fn take_in(&mut self, decoded: Decoded, pool: &mut LabelPool) {
        let Decoded { shard: Shard { mut labels, files, versions, .. }, numbers } = decoded;
        labels.iter_mut().for_each(|set| pool.share_set(set));
        let mut with = |mut object: Object, beside: Beside| {
            pool.share_words(&mut object);
            let set = beside.labels.and_then(|index| labels.get(index));
            if let (Some(place), Some(set)) = (object.facts.identity_labels_mut(), set) {
                *place = set.clone();
            }
            let identity = Shared::from(Identity::of(&object.header));
            (identity, Arc::new(object))
        };
        let mut numbers = numbers.into_iter();
        for Entry { path, mark, unsure, problems, members: read } in files {
            let mut members = Vec::with_capacity(read.len());
            let mut all_stored = true;
            for (EntryMember { object, beside, digest, stored }, number) in read.into_iter().zip(&mut numbers)
            {
                let (identity, object) = with(object, beside);
                all_stored &= stored.is_some() || !object.valid;
                if let Some(mark) = stored {
                    let kept = Kept { object: Arc::clone(&object), digest, mark: Some(mark) };
                    self.versions.add(number, identity.clone(), kept);
                }
                members.push(Member { identity, object, digest, document: None });
            }
            let mut file = ReadFile::of(mark);
            (file.proven, file.stored, file.unsure) = (true, all_stored, unsure);
            file.members = members.into();
            file.problems = problems;
            self.files.insert(path, file);
        }
        for (Version { object, beside, digest, stored, .. }, number) in versions.into_iter().zip(numbers) {
            let (identity, object) = with(object, beside);
            let kept = Kept { object, digest, mark: Some(stored) };
            self.versions.add(number, identity, kept);
        }
    }
}

#[derive(Debug)]
struct Running {
    news: Sender<(Files, Versions)>,
    thread: JoinHandle<()>,
}

/// The thread that writes the cache, started with the first news. Dropping it waits until the last is written.
#[derive(Debug)]
pub(super) struct Keeper {
    place: Option<Place>,
    running: Option<Running>,
}

impl Keeper {
    /// None: there is nothing to be written.
    pub(super) fn of(place: Option<Place>) -> Self {
        Self { place, running: None }
    }

    /// Has this written, some time. Costs nothing.
    pub(super) fn keep(&mut self, files: Files, versions: Versions) {
        if self.running.is_none() {
            let Some(place) = self.place.take() else { return };
            let (news, told) = channel();
            match std::thread::Builder::new().name("cache".into()).spawn(move || work(&place, &told)) {
                Ok(thread) => self.running = Some(Running { news, thread }),
                Err(error) => tracing::warn!("the next start takes longer: {error}"),
            }
        }
        if let Some(running) = &self.running {
            // A thread that panicked said so; the next start takes longer.
            let _ = running.news.send((files, versions));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(Running { news, thread }) = self.running.take() {
            drop(news);
            let _ = thread.join();
        }
    }
}

fn work(place: &Place, told: &Receiver<(Files, Versions)>) {
    let (mut again, mut failed) = (Instant::now(), false);
    while let Ok(mut newest) = told.recv() {
        let latest = again.max(Instant::now() + AT_LATEST);
        let ends = loop {
            let due = again.max(Instant::now() + QUIET).min(latest);
            match told.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(news) => newest = news,
                Err(RecvTimeoutError::Timeout) => break false,
                Err(RecvTimeoutError::Disconnected) => break true,
            }
        };
        match place.store(&newest.0, &newest.1) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::warn!("write {}: {error}; the next start takes longer", place.path.display());
            }
            Err(_) => {}
        }
        if ends {
            return;
        }
        again = Instant::now() + BETWEEN;
    }
}

#[cfg(test)]
mod tests;
