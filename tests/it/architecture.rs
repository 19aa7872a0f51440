//! Which module may depend on which. One table has the rules; the `use` lines and paths of the
//! source are checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use r3mes_edge::routes::ROUTES;

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found)
        } else {
            found.push(path)
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let is_test = |file: &&PathBuf| {
        file.iter()
            .any(|part| part == "tests.rs" || part == "tests")
    };
    files
        .iter()
        .filter(|file| !is_test(file))
        .map(|file| {
            let name = file
                .strip_prefix(&root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(file).unwrap();
            // Comments may name anything; unit tests stand at the end or in files of their own and may use anything.
            let code: Vec<&str> = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (name, code.join("\n"))
        })
        .collect()
}

#[test]
fn each_outside_crate_is_named_only_where_it_belongs() {
    let homes: [(&str, &[&str]); 11] = [
        ("r2d2", &["store/sqlite"]),
        ("rusqlite", &["store/sqlite"]),
        ("governor", &["limits.rs", "clock.rs"]),
        ("lru", &["cache.rs", "auth/cache.rs", "limits.rs"]),
        ("prometheus_client", &["metrics"]),
        ("blake3", &["auth/", "http/", "cli/demo/"]),
        ("hyper_util", &["server/", "upstream", "cli/"]),
        ("rustls", &["upstream/tls.rs"]),
        ("clap", &["cli.rs", "cli/"]),
        ("clap_complete", &["cli.rs", "cli/statics.rs"]),
        ("env_logger", &["cli/"]),
    ];
    for (name, code) in sources() {
        for (dependency, homes) in homes {
            let named = code.contains(&format!("{dependency}::"))
                || code.contains(&format!("use {dependency};"));
            let at_home = homes.iter().any(|home| name.starts_with(home));
            assert!(
                !named || at_home,
                "{name} names {dependency}, which belongs to {homes:?}"
            );
        }
    }
}

#[test]
fn the_lower_layers_know_nothing_of_the_upper_ones() {
    let layers: [(&str, &[&str]); 6] = [
        ("model", &["crate::model"]),
        ("breaker.rs", &["crate::clock", "crate::model"]),
        (
            "routes.rs",
            &[
                "crate::auth",
                "crate::handlers",
                "crate::http::route",
                "crate::limits",
            ],
        ),
        ("store", &["crate::store", "crate::auth", "crate::model"]),
        ("cache.rs", &[]),
        ("limits.rs", &["crate::auth", "crate::clock"]),
    ];
    for (name, code) in sources() {
        for (layer, known) in layers {
            if !name.starts_with(layer) {
                continue;
            }
            for line in code.lines().filter(|line| line.contains("crate::")) {
                assert!(
                    known.iter().any(|known| line.contains(known)),
                    "{name} knows too much: {line}"
                );
            }
        }
    }
}

/// The top-level modules that each top-level module of the library names.
fn module_graph() -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, code) in sources() {
        let module = name.split('/').next().unwrap().trim_end_matches(".rs");
        if ["lib", "main", "cli"].contains(&module) {
            continue;
        }
        let named = graph.entry(module.to_owned()).or_default();
        for path in code.split("crate::").skip(1) {
            // `crate::{a, b::c}` names several.
            let group = path.strip_prefix('{').map(|group| group.split('}').next());
            let paths = group.flatten().unwrap_or(path).split(',');
            let count = if group.is_some() { usize::MAX } else { 1 };
            for path in paths.take(count) {
                let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = |path: &str| path.find(|c| !is_word(c)).unwrap_or(path.len());
                let path = path.trim();
                named.insert(path[..end(path)].to_owned());
            }
        }
        named.remove(module);
    }
    let modules: BTreeSet<String> = graph.keys().cloned().collect();
    for named in graph.values_mut() {
        named.retain(|name| modules.contains(name));
    }
    graph
}

#[test]
fn the_module_graph_has_no_cycle() {
    let mut graph = module_graph();
    assert!(graph["http"].contains("app"), "{graph:?}");
    // Modules without dependencies are removed until none is left, or a cycle.
    while !graph.is_empty() {
        let leaves: Vec<String> = graph
            .iter()
            .filter(|(_, named)| named.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!leaves.is_empty(), "a cycle is in or below {graph:#?}");
        graph.retain(|module, _| !leaves.contains(module));
        for named in graph.values_mut() {
            named.retain(|name| !leaves.contains(name));
        }
    }
}

#[test]
fn only_the_command_line_reads_the_environment_handles_signals_and_logs_somewhere() {
    for (name, code) in sources() {
        // The build script is a program too, of cargo.
        let mine = ["main.rs", "build.rs"].contains(&&*name) || name.starts_with("cli");
        for word in [
            "std::env::",
            "signal::",
            "println!",
            "process::exit",
            "set_hook",
            "_logger(",
            "set_max_level",
        ] {
            assert!(mine || !code.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn the_page_of_routes_names_every_route_and_no_other() {
    let page = include_str!("../../.github/docs/routes.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let named: Vec<&str> = rows.map(|(route, _)| route).collect();
    let routes = ROUTES.iter();
    let routes: Vec<String> = routes
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(named, routes);
    for alias in ROUTES.iter().filter_map(|route| route.alias) {
        assert!(page.contains(&format!("`{alias}`")), "{alias}");
    }
}

#[test]
fn every_test_named_in_the_page_of_attacks_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&root.join("src"), &mut files);
    walk(&root.join("tests/it"), &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let texts: Vec<_> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let mut tests = Vec::new();
    for text in &texts {
        let lines = || text.lines().map(str::trim);
        for (before, line) in lines().zip(lines().skip(1)) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(rest) = line.strip_prefix("fn ")
                && before.starts_with("#[")
                && before.contains("test")
            {
                tests.extend(rest.split('(').next());
            }
        }
    }
    let page = include_str!("../../.github/docs/attacks.md");
    let (_, table) = page.split_once("\n| attack |").unwrap();
    let rows: Vec<_> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 18, "{} rows", rows.len());
    for row in rows {
        let shown = row.rsplit('|').nth(1).unwrap();
        for name in shown.split(", ") {
            let name = name.trim().trim_matches('`');
            let there = if name.starts_with("tests/clients/") {
                root.join(name).is_file()
            } else {
                tests.contains(&name)
            };
            assert!(there, "{name}, which shows: {row}");
        }
    }
}
