//! A compiler with a memory says what one without says: over any sequence of worlds, configurations and
//! books, and wherever its memory is dropped. And it does remember.

use super::stable::build;
use super::stepwise::difference;
use super::*;
use crate::compile::Compiler;
use crate::state::Protocol;
use crate::world::{BackendAddress, EndpointSlice, SlicePort};
use proptest::prelude::*;

/// What differs from one compilation to the next.
#[derive(Clone, Debug)]
struct Step {
    pods: Vec<(u8, u8)>,
    rules: Vec<(u8, u8, bool)>,
    services: u8,
    /// Service, last part of the address, ready, terminating.
    slices: Vec<(u8, u8, bool, bool)>,
    /// Name and last part of the address of pods elsewhere, which may be another's.
    foreign: Vec<(u8, u8)>,
    lines: u32,
    second_node: bool,
    dual_stack: bool,
    tunnel: bool,
    balanced: bool,
    book: Book,
    forget: bool,
}

#[derive(Clone, Copy, Debug)]
enum Book {
    Empty,
    OfLast,
    OfFirst,
}

fn step() -> impl Strategy<Value = Step> {
    let objects = (
        prop::collection::vec((0..4u8, 0..2u8), 0..6),
        prop::collection::vec((0..4u8, 0..4u8, any::<bool>()), 0..4),
        0..4u8,
        prop::collection::vec((0..4u8, 1..6u8, any::<bool>(), any::<bool>()), 0..5),
        prop::collection::vec((0..3u8, 1..8u8), 0..3),
        0..2u32,
    );
    let book = prop::sample::select(&[Book::Empty, Book::OfLast, Book::OfLast, Book::OfFirst][..]);
    let mostly = || prop::bool::weighted(0.8);
    (objects, mostly(), mostly(), mostly(), mostly(), book, prop::bool::weighted(0.2)).prop_map(
        |(objects, second_node, dual_stack, tunnel, balanced, book, forget)| {
            let (pods, rules, services, slices, foreign, lines) = objects;
            Step {
                pods,
                rules,
                services,
                slices,
                foreign,
                lines,
                second_node,
                dual_stack,
                tunnel,
                balanced,
                book,
                forget,
            }
        },
    )
}

/// Sequences in which much stays: each step takes some of its parts from the one before.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((step(), any::<u8>()), 2..7).prop_map(|drawn| {
        let mut steps: Vec<Step> = Vec::new();
        for (mut step, keep) in drawn {
            if let Some(last) = steps.last().cloned() {
                let kept = |bit: u8| keep & 1 << bit != 0;
                if kept(0) {
                    step.pods = last.pods;
                }
                if kept(1) {
                    step.rules = last.rules;
                }
                if kept(2) {
                    step.services = last.services;
                }
                if kept(3) {
                    step.slices = last.slices;
                }
                if kept(4) {
                    step.foreign = last.foreign;
                }
                if kept(5) {
                    (step.lines, step.second_node) = (last.lines, last.second_node);
                }
                if kept(6) {
                    (step.dual_stack, step.tunnel) = (last.dual_stack, last.tunnel);
                }
            }
            steps.push(step);
        }
        steps
    })
}

fn world_of(step: &Step) -> World {
    let mut world = build(&step.pods, &step.rules, step.services);
    each(&mut world.services, |service| service.place.line = step.lines);
    for (n, (service, last, ready, terminating)) in step.slices.iter().enumerate() {
        let at = BackendAddress {
            ready: *ready,
            terminating: *terminating,
            ..BackendAddress::ready(ip(&format!("10.2.0.{last}")))
        };
        let slice = EndpointSlice {
            service: format!("s{service}"),
            ports: vec![SlicePort { name: String::new(), port: 8080, proto: Protocol::TCP }],
            endpoints: vec![at],
            ..EndpointSlice::default()
        };
        world.slices.insert(ObjectName::new("shop", &format!("slice{n}")), slice);
    }
    for (name, last) in &step.foreign {
        let pod = Pod {
            labels: strings(&[("app", "foreign")]),
            ips: vec![ip(&format!("10.2.0.{last}"))],
            node_name: Some("n2".into()),
            ..Pod::default()
        };
        world.pods.insert(ObjectName::new("shop", &format!("f{name}")), pod);
    }
    if step.lines == 1 {
        // CiliumEndpoints speak for their identities, as long as they are given.
        world.claims = world.claims.keys().take(1).cloned().map(|claim| (claim, ())).collect();
    }
    if !step.second_node {
        world.nodes.remove("n2");
    }
    world
}

fn config_of(step: &Step) -> Config {
    let mut config = config();
    config.ipv6.enabled = step.dual_stack;
    config.load_balancer.kube_proxy_replacement = step.balanced;
    if !step.tunnel {
        config.routing.mode = crate::config::RoutingMode::Native;
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn memory_changes_nothing(steps in steps()) {
        let mut compiler = Compiler::default();
        let mut books: Vec<IdBook> = Vec::new();
        for step in &steps {
            let (world, config) = (world_of(step), config_of(step));
            let book = match step.book {
                Book::Empty => None,
                Book::OfLast => books.last(),
                Book::OfFirst => books.first(),
            };
            let book = book.cloned().unwrap_or_default();
            if step.forget {
                compiler = Compiler::default();
            }
            let whole = compile(&world, &config, &book);
            // Twice: the second time most is remembered.
            for _ in 0..2 {
                let keyed = compiler.compile(&world, &config, &book);
                prop_assert_eq!(difference(&keyed, &whole), Vec::<String>::new());
            }
            books.push(whole.book);
        }
    }
}

fn example() -> World {
    build(&[(0, 0), (1, 0), (2, 0), (3, 1)], &[(0, 1, false), (1, 2, true)], 3)
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let (mut compiler, config, mut world) = (Compiler::default(), config(), example());
    let first = compiler.compile(&world, &config, &IdBook::default());
    let (first, book) = (first.desired.state, first.book);
    let again = compiler.compile(&world, &config, &book).desired.state;
    assert!(again.ipcache.shares(&first.ipcache) && again.slots.shares(&first.slots));
    // A pod that no Service selects.
    add_local(&mut world, 77, "alone", &[("app", "nobody's")]);
    let attached = compiler.compile(&world, &config, &book);
    let (attached, book) = (attached.desired.state, attached.book);
    assert!(!attached.ipcache.shares(&first.ipcache) && attached.frontends.shares(&first.frontends));
    // A Service that goes.
    let gone = world.services.keys().next().cloned().unwrap();
    world.services.remove(&gone);
    let served = compiler.compile(&world, &config, &book).desired.state;
    assert!(served.ipcache.shares(&attached.ipcache) && !served.frontends.shares(&attached.frontends));
}

#[test]
fn a_result_is_not_changed_by_whoever_got_it() {
    let (mut compiler, config, world) = (Compiler::default(), config(), example());
    let whole = compile(&world, &config, &IdBook::default());
    let mut spoiled = compiler.compile(&world, &config, &IdBook::default());
    let key = spoiled.desired.state.ipcache.keys().next().cloned().unwrap();
    spoiled.desired.state.ipcache.remove(&key);
    assert_eq!(compiler.compile(&world, &config, &whole.book), whole);
}
