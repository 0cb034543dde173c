//! Label sets and words held once: thousands of endpoints share an identity, and each tells all of its labels, and
//! who published it.

use super::Facts;
use crate::object::Object;
use cilium_engine::shared::{Shared, Text};
use cilium_engine::world::{Label, Labels, Place};
use std::collections::HashSet;

/// How many there are before those nobody holds any more are looked for.
const FEW: usize = 1024;

impl Facts {
    /// The labels of an identity, where objects tell all of them.
    pub fn identity_labels_mut(&mut self) -> Option<&mut Shared<Labels>> {
        match self {
            Facts::Claim(claim) => Some(&mut claim.labels),
            Facts::Endpoint(endpoint) => Some(&mut endpoint.labels),
            Facts::Nothing
            | Facts::Namespace(_)
            | Facts::Node(_)
            | Facts::CiliumNode(_)
            | Facts::Pod(_)
            | Facts::Service(_)
            | Facts::Slice(_)
            | Facts::Group(_)
            | Facts::Policy(_) => None,
        }
    }

    /// Where the object is written, as its facts say.
    pub fn place_mut(&mut self) -> Option<&mut Place> {
        match self {
            Facts::Namespace(namespace) => Some(&mut namespace.place),
            Facts::Node(node) | Facts::CiliumNode(node) => Some(&mut node.place),
            Facts::Pod(pod) => Some(&mut pod.place),
            Facts::Service(service) => Some(&mut service.place),
            Facts::Slice(slice) => Some(&mut slice.place),
            Facts::Group(group) => Some(&mut group.place),
            Facts::Claim(claim) => Some(&mut claim.place),
            Facts::Endpoint(endpoint) => Some(&mut endpoint.place),
            Facts::Nothing | Facts::Policy(_) => None,
        }
    }

    /// The node that published the object, as its facts say: the one its header has.
    pub fn publisher_mut(&mut self) -> Option<&mut Text> {
        match self {
            Facts::Claim(claim) if claim.published_by.is_some() => claim.published_by.as_mut(),
            Facts::Endpoint(endpoint) if endpoint.node_name.is_some() => endpoint.node_name.as_mut(),
            _ => None,
        }
    }
}

/// Words in use.
#[derive(Debug, Default)]
struct Words {
    held: HashSet<Text>,
    cleared: usize,
}

impl Words {
    fn share(&mut self, word: &mut Text) {
        match self.held.get(word) {
            Some(held) => *word = held.clone(),
            None => drop(self.held.insert(word.clone())),
        }
        if self.held.len() > FEW.max(2 * self.cleared) {
            self.held.retain(|word| !word.is_alone());
            self.cleared = self.held.len();
        }
    }
}

/// The label sets in use.
#[derive(Debug, Default)]
pub struct LabelPool {
    held: HashSet<Shared<Labels>>,
    words: Words,
    /// How many there were when the pool was last cleared of those not in use.
    cleared: usize,
}

impl LabelPool {
    /// Lets an object that was just read hold the labels and words that others hold already.
    pub fn share(&mut self, object: &mut Object) {
        if let Some(labels) = object.facts.identity_labels_mut() {
            self.share_set(labels);
        }
        self.share_words(object);
    }

    /// The same but for labels.
    pub fn share_words(&mut self, object: &mut Object) {
        if let Some(place) = object.facts.place_mut()
            && place.file == object.header.place.file
        {
            place.file = object.header.place.file.clone();
        }
        // A name that was just made is held by its object alone.
        self.words.share(&mut object.header.name.namespace);
        let publishers = object.header.published_by.iter_mut().chain(object.facts.publisher_mut());
        publishers.for_each(|publisher| self.words.share(publisher));
    }

    /// The same for a set of labels.
    pub fn share_set(&mut self, labels: &mut Shared<Labels>) {
        match self.held.get(labels) {
            Some(held) => *labels = held.clone(),
            None => {
                for (Label { source, key }, value) in labels.0.iter_mut() {
                    [source, key, value].into_iter().for_each(|word| self.words.share(word));
                }
                self.held.insert(labels.clone());
            }
        }
        if self.held.len() > FEW.max(2 * self.cleared) {
            self.held.retain(|labels| !labels.is_alone());
            self.cleared = self.held.len();
        }
    }
}
