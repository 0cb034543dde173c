//! Which version of each object counts: of several the path that sorts first, of a broken one the last good.
//! Only objects are settled of whose files, or last good versions, something is other than before.

use super::lastgood::LastGood;
use super::read::{Member, ReadFile};
use super::walk::Found;
use super::{Identity, Objects};
use cilium_crds::object::Object;
use cilium_engine::map::{Map, Set};
use cilium_engine::problem::{Problem, Severity};
use cilium_engine::shared::{Shared, Text};
use cilium_engine::state::Origin;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

type Id = Shared<Identity>;

/// Who is written, in which file, as the how manieth of it.
type Writer = (Id, Text, u32);

/// The files as they were read, and what counts of them.
#[derive(Debug, Default)]
pub(super) struct Settled {
    files: Map<Text, ReadFile>,
    /// Where each object is written, in the order of paths and then of lines, as last settled.
    writers: Set<Writer>,
    /// What is other since.
    rewritten: Vec<(Writer, Option<()>)>,
    /// What is to be told of objects that are written more than once.
    twice: BTreeMap<Id, Vec<Problem>>,
    /// Files something is wrong with.
    wrong: BTreeSet<Text>,
    /// Files of which some cannot be told.
    unsure: BTreeSet<Text>,
    /// Files that were emptied just now: since when they have no documents any more.
    emptied: BTreeMap<Text, Duration>,
    members: usize,
    /// A file is other than when last settled.
    changed: bool,
    /// Objects to be settled, in any order, some more than once.
    touched: Vec<Id>,
    /// Folders that could not be read when last settled; none before that.
    unread: Option<Vec<String>>,
    objects: Objects,
}

impl Settled {
    pub(super) fn file(&self, name: &str) -> Option<&ReadFile> {
        self.files.get(name)
    }

    pub(super) fn files(&self) -> &Map<Text, ReadFile> {
        &self.files
    }

    pub(super) fn emptied(&self) -> &BTreeMap<Text, Duration> {
        &self.emptied
    }

    /// No file holds anything, for certain.
    pub(super) fn is_empty(&self) -> bool {
        self.members == 0 && self.unsure.is_empty()
    }

    /// Nothing is other than when last settled.
    pub(super) fn is_settled(&self) -> bool {
        !self.changed && self.unread.is_some()
    }

    /// What counts, as last settled; none before that.
    pub(super) fn objects(&self) -> Option<&Objects> {
        self.unread.is_some().then_some(&self.objects)
    }

    /// The file has gone.
    pub(super) fn remove(&mut self, name: &Text, store: &LastGood) {
        self.put(name, None, None, store);
    }

    /// The file was read anew; `emptied`: it has no documents since then, which is not believed yet. What is in
    /// it as it was stays the same in memory.
    pub(super) fn set(
        &mut self,
        name: &Text,
        mut fresh: ReadFile,
        emptied: Option<Duration>,
        store: &LastGood,
    ) {
        if let Some(before) = self.files.get(name) {
            let known: BTreeMap<&Id, &Member> = before.members.iter().map(|m| (&m.identity, m)).collect();
            for member in &mut fresh.members {
                if let Some(same) = known.get(&member.identity)
                    && same.digest == member.digest
                    && *same.object == *member.object
                {
                    member.object = same.object.clone();
                    member.identity = same.identity.clone();
                }
            }
        }
        fresh.proven &= emptied.is_none();
        self.put(name, Some(fresh), emptied, store);
    }

    /// The file has no documents since then, which is not believed yet.
    pub(super) fn set_emptied(&mut self, name: &Text, mark: NonZeroU64, since: Duration) {
        if let Some(file) = self.files.get_mut(name) {
            // It is known no more by what is in it.
            (file.mark, file.proven) = (mark, false);
            self.emptied.insert(name.clone(), since);
        }
    }

    fn put(&mut self, name: &Text, fresh: Option<ReadFile>, emptied: Option<Duration>, store: &LastGood) {
        let before = self.files.get(name);
        if before.is_none() && fresh.is_none() {
            return;
        }
        self.changed = true;
        for member in before.iter().flat_map(|file| &file.members) {
            self.touched.push(member.identity.clone());
        }
        let gone = before.iter().flat_map(|file| writers(name, file));
        self.rewritten.extend(gone.map(|writer| (writer, None)));
        self.members -= before.map_or(0, |file| file.members.len());
        // Whether they stay hangs on what can be told of the file.
        self.touched.extend(store.of_file(name));
        for set in [&mut self.wrong, &mut self.unsure] {
            set.remove(name);
        }
        match emptied {
            Some(since) => drop(self.emptied.insert(name.clone(), since)),
            None => drop(self.emptied.remove(name)),
        }
        let Some(fresh) = fresh else {
            self.files.remove(name);
            return;
        };
        self.rewritten.extend(writers(name, &fresh).map(|writer| (writer, Some(()))));
        self.touched.extend(fresh.members.iter().map(|member| member.identity.clone()));
        self.members += fresh.members.len();
        let marks = [(&mut self.wrong, !fresh.problems.is_empty()), (&mut self.unsure, fresh.unsure)];
        for (set, marked) in marks {
            if marked {
                set.insert(name.clone());
            }
        }
        self.files.insert(name.clone(), fresh);
    }

    /// Settles what is other than before.
    pub(super) fn settle(&mut self, store: &mut LastGood, found: &Found) -> Objects {
        if self.unread.as_ref() != Some(&found.unread) {
            // What cannot be seen may be there.
            self.touched.extend(store.iter().map(|(identity, _)| identity.clone()));
            self.unread = Some(found.unread.clone());
        }
        self.changed = false;
        self.follow_writers();
        let mut edits = Vec::new();
        let mut touched = take(&mut self.touched);
        touched.sort();
        touched.dedup();
        for identity in touched {
            let before = self.objects.get(&identity).cloned();
            let now = match self.written(&identity, before.as_ref(), store) {
                Some(now) => Some(now),
                None => self.unwritten(&identity, before.as_ref(), store, found),
            };
            let same = match (&before, &now) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                edits.push((identity, now));
            }
        }
        self.objects.edit(edits);
        self.objects.clone()
    }

    /// What is wrong with the files.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let of_files = self.wrong.iter().filter_map(|name| self.files.get(name)).flat_map(|f| &f.problems);
        of_files.chain(self.twice.values().flatten())
    }

    fn follow_writers(&mut self) {
        let mut rewritten = take(&mut self.rewritten);
        // In the order of what happened where it is about the same; the last counts.
        rewritten.reverse();
        rewritten.sort_by(|(a, _), (b, _)| a.cmp(b));
        rewritten.dedup_by(|(a, _), (b, _)| a == b);
        self.writers.edit(rewritten);
    }

    /// The first of those that are written.
    fn written(
        &mut self,
        id: &Id,
        before: Option<&Arc<Object>>,
        store: &mut LastGood,
    ) -> Option<Arc<Object>> {
        self.twice.remove(id);
        let mut writers = self.writers.range((id.clone(), Text::default(), 0)..).map(|(writer, ())| writer);
        let (_, file, index) = writers.next().filter(|(written, ..)| written == id)?;
        let first = version(self.files.get_mut(file)?.members.get_mut(*index as usize)?, before, store);
        let others = writers.take_while(|(written, ..)| written == id);
        let others = others.filter_map(|(_, file, index)| self.files.get(file)?.members.get(*index as usize));
        let told: Vec<Problem> = others.flat_map(|other| twice(&first, &other.object)).collect();
        if !told.is_empty() {
            self.twice.insert(id.clone(), told);
        }
        Some(first)
    }

    /// The last good version of what is not written, where it may be written all the same.
    fn unwritten(
        &self,
        id: &Id,
        before: Option<&Arc<Object>>,
        store: &mut LastGood,
        found: &Found,
    ) -> Option<Arc<Object>> {
        let kept = store.find(id)?;
        if !self.unsure.contains(kept.file()) && !found.may_hold(kept.file()) {
            store.forget(id);
            return None;
        }
        let mut object = Object::clone(&kept.object);
        object.problems = vec![unread(&object)].into();
        Some(as_before(before, object))
    }
}

/// All that are written in a file.
fn writers<'f>(name: &'f Text, file: &'f ReadFile) -> impl Iterator<Item = Writer> + 'f {
    (0..).zip(&file.members).map(|(index, member)| (member.identity.clone(), name.clone(), index))
}

/// The object as it is written, if it is valid; else its last good version; else what of it counts.
fn version(member: &mut Member, before: Option<&Arc<Object>>, store: &mut LastGood) -> Arc<Object> {
    if member.object.valid {
        store.put(&member.identity, &member.object, member.digest, member.document.take().map(|text| *text));
        return Arc::clone(&member.object);
    }
    match store.find(&member.identity) {
        None => Arc::clone(&member.object),
        Some(kept) => {
            let mut object = Object::clone(&kept.object);
            object.header.place = member.object.header.place.clone();
            let stays = told(
                &member.object,
                Severity::Warning,
                "its last good version stays in force".into(),
                "mend it, or remove it",
            );
            object.problems = member.object.problems.iter().cloned().chain([stays]).collect();
            as_before(before, object)
        }
    }
}

/// The same in memory, if it is as it was.
fn as_before(before: Option<&Arc<Object>>, object: Object) -> Arc<Object> {
    before.filter(|before| ***before == object).cloned().unwrap_or_else(|| Arc::new(object))
}

fn told(object: &Object, severity: Severity, message: String, hint: &str) -> Problem {
    Problem {
        severity,
        origin: Origin {
            object: object.header.title(),
            place: object.header.place.to_string(),
            rule: String::new(),
        },
        message,
        hint: hint.to_owned(),
    }
}

fn unread(object: &Object) -> Problem {
    let message = "its file cannot be read as a whole: its last good version stays in force".into();
    told(object, Severity::Warning, message, "mend the file; an object that is not in it then is removed")
}

fn twice(first: &Object, second: &Object) -> [Problem; 2] {
    let hint = "remove one, or rename it";
    let also = format!("it is written again in {}, which does not count", second.header.place);
    let not = format!("does not count: {} has it, and sorts first", first.header.place);
    [told(first, Severity::Warning, also, hint), told(second, Severity::Error, not, hint)]
}
