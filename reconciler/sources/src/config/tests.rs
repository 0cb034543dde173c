//! The loader as operators meet it: a file, some variables, some `--set`.

use super::*;
use cilium_engine::config::{Aggregation, RoutingMode, Span};
use proptest::prelude::*;
use std::path::PathBuf;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cilium.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn load_text(text: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, ConfigErrors> {
    let (_dir, path) = file(text);
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    load(Some(&path), env, &sets)
}

/// The only error of a document, with its position.
fn only_error(text: &str) -> (ConfigError, Position) {
    only_error_with(text, &[])
}

fn only_error_with(text: &str, sets: &[&str]) -> (ConfigError, Position) {
    let mut errors = load_text(text, &[], sets).unwrap_err().errors;
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    let error = errors.remove(0);
    let Origin::File { position, .. } = error.origin else { panic!("{error:?} has no place in the file") };
    (error, position)
}

#[test]
fn without_any_layer_the_defaults_are_in_force() {
    let loaded = load(None, [("K8S_NODE_NAME".to_owned(), "n1".to_owned())].into_iter(), &[]).unwrap();
    let mut want = Config::default();
    want.node.name = "n1".into();
    assert_eq!(loaded.config, want);
    assert_eq!(loaded.file_hash, None);
    assert_eq!(loaded.origins["node.name"], Origin::Environment { variable: "K8S_NODE_NAME".into() });
    assert_eq!(loaded.origins.len(), keys::all().len());
}

#[test]
fn without_a_name_the_node_is_called_as_its_host() {
    let loaded = load(None, std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded.origins["node.name"], Origin::Hostname);
    assert!(!loaded.config.node.name.is_empty());
}

#[test]
fn later_layers_win_and_origins_say_which() {
    let text = "version = 1\n[routing]\nmode = \"tunnel\"\ntunnel_port = 1000\nmtu = 1400\n[monitor]\naggregation = \"low\"\n";
    let env = [
        ("CILIUM_ROUTING__TUNNEL_PORT", "2000"),
        ("CILIUM_ROUTING__MTU", "1450"),
        ("CILIUM_NODE__NAME", "7"),
        ("CILIUM_INGRESS_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "/root"),
    ];
    let loaded = load_text(text, &env, &["routing.mtu=1500", "reconciler.full_read=90s"]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.routing.mode, RoutingMode::Tunnel);
    assert_eq!((config.routing.tunnel_port, config.routing.mtu), (2_000, 1_500));
    assert_eq!(config.node.name, "7", "a text key takes the text as it is");
    assert_eq!(config.monitor.aggregation, Aggregation::Low);
    assert_eq!(config.reconciler.full_read, Span::from_secs(90));
    let shown = |key: &str| loaded.origins[key].to_string();
    assert!(shown("monitor.aggregation").ends_with("cilium.toml:7:15"), "{}", shown("monitor.aggregation"));
    assert_eq!(shown("routing.tunnel_port"), "environment variable CILIUM_ROUTING__TUNNEL_PORT");
    assert_eq!(shown("routing.mtu"), "--set routing.mtu=1500");
    assert_eq!(shown("policy.enforcement"), "default");
}

#[test]
fn what_show_prints_is_a_file_with_the_same_meaning() {
    let loaded =
        load_text("version = 1\n[node]\nname = \"a\"\naddresses = [\"10.0.0.1\", \"fd00::1\"]\n", &[], &[])
            .unwrap();
    let again = load_text(&loaded.show(), &[], &[]).unwrap();
    assert_eq!(again.config, loaded.config);
    let plain = load_text(&document::toml_document(&loaded.config), &[], &[]).unwrap();
    assert_eq!(plain.config, loaded.config);
    assert_eq!(again.config.hash(), loaded.config.hash());
    assert_ne!(again.file_hash, loaded.file_hash);
}

#[test]
fn all_errors_are_told_at_once_each_with_its_place() {
    let text = "version = 1\n[routing]\nmoed = \"native\"\nmtu = \"big\"\n[ipv4]\nenabled = 1\n";
    let env = [("CILIUM_BPF__CT_TCP_MAX", "many"), ("CILIUM_POLICY__ENFORCMENT", "always")];
    let errors = load_text(text, &env, &["ipv6.enabled=maybe", "nonsense"]).unwrap_err();
    let shown = errors.to_string();
    let mut at = 0;
    for part in [
        "unknown key routing.moed",
        "cilium.toml:3:1",
        "did you mean routing.mode?",
        "routing.mtu must be a whole number, not \"big\"",
        "cilium.toml:4:7",
        "ipv4.enabled must be true or false, not 1",
        "cilium.toml:6:11",
        "bpf.ct_tcp_max must be a whole number, not \"many\"",
        "environment variable CILIUM_BPF__CT_TCP_MAX",
        "did you mean policy.enforcement (CILIUM_POLICY__ENFORCEMENT)?",
        "--set nonsense: not of the form table.key=value",
        "ipv6.enabled must be true or false, not \"maybe\"",
        "--set ipv6.enabled=maybe",
        "7 errors",
    ] {
        // In the order of the layers, and of the file's lines.
        let found = shown[at..].find(part);
        at += found.unwrap_or_else(|| panic!("no {part:?} in its place in\n{shown}"));
    }
}

#[test]
fn the_message_shows_the_line_and_marks_the_value() {
    let (error, _) = only_error("version = 1\n[routing]\nmtu = 70000\n");
    let shown = error.to_string();
    assert!(shown.contains("  3 | mtu = 70000\n    |       ^^^^^\n"), "{shown}");
}

#[test]
fn every_key_is_refused_in_each_wrong_way_by_one_message_that_names_it() {
    let mut tried = 0;
    for key in keys::all() {
        for value in wrong::types(&key.form).into_iter().chain(wrong::out_of_range(key)) {
            let mut settings = vec![(key.path.as_str(), value.as_str())];
            settings.extend(wrong::needed_by(key));
            let (error, position) = only_error(&wrong::document(&settings));
            assert!(error.message.contains(&key.path), "{}: {}", key.path, error.message);
            assert!(error.keys.contains(&key.path), "{error:?}");
            let (line, column) = wrong::place(&settings, &key.path);
            assert!(error.origin.to_string().ends_with(&format!("cilium.toml:{line}:{column}")), "{error:?}");
            assert_eq!(position, Position { line, column }, "{} = {value}", key.path);
            tried += 1;
        }
    }
    assert!(tried > 4 * keys::all().len() - 20, "only {tried} wrong documents tried");
}

#[test]
fn every_key_is_refused_from_each_layer_above_the_file() {
    for key in keys::all() {
        let text = wrong::text(key);
        let errors = load_text("version = 1\n", &[], &[&format!("{}={text}", key.path)]).unwrap_err();
        assert_eq!(errors.errors.len(), 1, "{errors}");
        assert!(errors.errors[0].message.contains(&key.path), "{errors}");
        if !key.table().is_empty() {
            let errors =
                load_text("version = 1\n", &[(&document::variable(&key.path), &text)], &[]).unwrap_err();
            assert_eq!(errors.errors.len(), 1, "{errors}");
            assert!(errors.errors[0].message.contains(&key.path), "{errors}");
        }
    }
}

#[test]
fn every_key_misspelt_is_unknown_and_the_right_one_is_proposed() {
    for key in keys::all().iter().filter(|key| !key.table().is_empty()) {
        let misspelt = wrong::misspelt(key);
        let (error, position) = only_error(&wrong::document(&[(&misspelt, "1")]));
        assert_eq!(error.message, format!("unknown key {misspelt}"));
        assert_eq!(error.hint, Some(format!("did you mean {}?", key.path)));
        assert_eq!(position, Position { line: 3, column: 1 });
    }
}

#[test]
fn contradictions_name_every_key_that_takes_part() {
    for (settings, keys) in wrong::CONTRADICTIONS {
        let (error, _) = only_error(&wrong::document(settings));
        assert_eq!(error.keys, *keys, "{settings:?}");
        let shown = error.to_string();
        assert!(keys.iter().all(|key| shown.contains(key)), "{shown}");
        assert!(error.hint.is_some(), "{shown}");
    }
}

#[test]
fn a_contradiction_between_layers_shows_both_places() {
    let errors =
        load_text("version = 1\n[ipv4]\nenabled = true\n", &[], &["ipv4.enabled=false"]).unwrap_err();
    let shown = errors.to_string();
    assert!(shown.contains("--> --set ipv4.enabled=false"), "{shown}");
    assert!(shown.contains("note: ipv6.enabled = false is the default"), "{shown}");
}

#[test]
fn native_routing_is_accepted_once_it_is_said_what_is_native() {
    for text in [
        "mode = \"native\"\nipv4_native_cidr = \"10.0.0.0/8\"\n",
        "mode = \"native\"\nauto_direct_node_routes = true\n",
        "mode = \"native\"\n[masquerade]\nipv4 = false\n",
    ] {
        load_text(&format!("version = 1\n[routing]\n{text}"), &[], &[]).unwrap();
    }
}

#[test]
fn planned_features_are_refused_as_not_built_and_not_as_unknown() {
    for (text, path) in [
        ("[encryption]\ntype = \"wireguard\"\n", "encryption.type"),
        ("[source]\nkind = \"kubernetes\"\n", "source.kind"),
        ("[source.kubernetes]\nkubeconfig = \"\"\n", "source.kubernetes.kubeconfig"),
        ("[ipam]\nmode = \"multi-pool\"\n", "ipam.mode"),
        ("[ipam]\nmode = \"cluster-pool\"\n", "ipam.mode"),
        ("[hubble]\nlisten = \":4244\"\n", "hubble.listen"),
        ("[policy]\naudit = true\n", "policy.audit"),
    ] {
        let (error, _) = only_error(&format!("version = 1\n{text}"));
        assert!(error.message.starts_with(path), "{}", error.message);
        assert!(error.message.contains("not built yet"), "{}", error.message);
    }
    let off =
        "version = 1\n[policy]\naudit = false\n[encryption]\ntype = \"none\"\n[hubble]\nenabled = false\n";
    load_text(off, &[], &[]).unwrap();
}

#[test]
fn documents_of_other_versions_name_the_command() {
    for (text, part) in [
        ("", "has no `version`"),
        ("tunnel = \"vxlan\"\ncluster-name = \"a\"\n", "cilium migrate up --config"),
        ("version = 0\n", "older than this build"),
        ("version = 2\n[from_the_future]\nx = 1\n", "newer than this build"),
    ] {
        let errors = load_text(text, &[], &[]).unwrap_err();
        assert_eq!(errors.errors.len(), 1, "{errors}");
        assert!(errors.to_string().contains(part), "{errors}");
        assert!(errors.to_string().contains("cilium migrate "), "{errors}");
    }
    let errors = load_text("version = 1\n", &[], &["version=2"]).unwrap_err();
    assert!(errors.to_string().contains("property of the file"), "{errors}");
}

#[test]
fn broken_syntax_is_one_error_per_place_with_line_and_column() {
    let (error, position) = only_error("version = 1\n[routing]\nmode = native\n");
    assert!(error.message.contains("TOML"), "{}", error.message);
    assert_eq!(position.line, 3);
    let errors = load_text("version = 1\n[routing]\nmode = native\nmtu = \"x\"\n", &[], &[]).unwrap_err();
    assert_eq!(errors.errors.len(), 2, "{errors}");
    let (error, position) = only_error("version = 1\n[ipv4]\nenabled = true\nenabled = true\n");
    assert_eq!(position.line, 4, "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Path::new("/nonexistent/cilium.toml");
    let errors = load(Some(missing), std::iter::empty(), &[]).unwrap_err();
    assert!(errors.to_string().contains("/nonexistent/cilium.toml"), "{errors}");
    let (_dir, path) = file("");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load(Some(&path), std::iter::empty(), &[]).unwrap_err().to_string().contains("not UTF-8"));
    fs::write(&path, vec![b'#'; (LARGEST_FILE + 1) as usize]).unwrap();
    assert!(load(Some(&path), std::iter::empty(), &[]).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn a_changed_file_is_noticed_by_its_digest() {
    let (_dir, path) = file("version = 1\n");
    let loaded = load(Some(&path), std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded.file_hash, Some(file_digest(&path).unwrap()));
    fs::write(&path, "version = 1\n# changed\n").unwrap();
    assert_ne!(loaded.file_hash, Some(file_digest(&path).unwrap()));
}

#[test]
fn the_example_uncommented_is_the_default() {
    let uncommented: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let loaded = load_text(&uncommented, &[("K8S_NODE_NAME", "n1")], &[]).unwrap();
    let mut want = Config::default();
    want.node.name = "n1".into();
    assert_eq!(loaded.config, want);
    let set = loaded.origins.values().filter(|origin| matches!(origin, Origin::File { .. })).count();
    assert_eq!(
        set,
        keys::all().len() - 1,
        "every key but node.name, which is empty there, comes from the example"
    );
}

/// Compares a generated file with the tree; with `CILIUM_BLESS=1` writes it.
fn generated(path: &str, want: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("CILIUM_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, want).unwrap();
    }
    let seen = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        seen == want,
        "{} is out of date: run the tests of cilium-sources with CILIUM_BLESS=1",
        path.display()
    );
}

#[test]
fn generated_files_are_in_date() {
    generated("cilium.toml.example", &example());
    generated("docs/configuration.md", &markdown());
}

proptest! {
    #[test]
    fn no_file_makes_the_loader_panic(text in "(version = 1\n)?(\\[[a-z_.]{1,12}\\]\n)?([a-z_\"é]{1,8} = [\\[\\]{}a-z0-9\", \t.é-]{0,20}\n){0,4}.{0,20}") {
        if let Err(errors) = load_text(&text, &[], &[]) {
            prop_assert!(!errors.errors.is_empty());
            let _ = errors.to_string();
        }
    }

    #[test]
    fn no_variable_or_argument_makes_the_loader_panic(key in "[A-Z_]{0,20}", value in ".{0,20}", set in ".{0,30}") {
        let _ = load_text("version = 1\n", &[(&format!("CILIUM_{key}"), &value)], &[&set]);
    }
}
