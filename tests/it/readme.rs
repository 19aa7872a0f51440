//! What the README and the pages of `.github/docs` say can be checked: links and files exist, settings are valid, the list of
//! commands is the program's, metrics exist, and tables of figures name the command that measures them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use r3mes_edge::Config;

use crate::support::{edge, edge_output};

struct Page {
    /// From the top of the repository.
    name: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> Page {
    let name = name.to_owned();
    let text = fs::read_to_string(root().join(&name)).unwrap();
    Page { name, text }
}

/// The pages that the README must name.
fn docs() -> Vec<Page> {
    let entries = fs::read_dir(root().join(".github/docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() >= 10, "{names:?}");
    let pages = names
        .iter()
        .map(|name| page(&format!(".github/docs/{name}")));
    pages.collect()
}

fn pages() -> Vec<Page> {
    let mut pages = docs();
    pages.extend(
        [
            "README.md",
            ".github/CONTRIBUTING.md",
            ".github/SECURITY.md",
        ]
        .map(page),
    );
    pages
}

/// The fenced blocks of a page, each with its language.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            inside = !inside;
            if inside {
                blocks.push((language, String::new()));
            }
        } else if inside {
            let (_, block) = blocks.last_mut().unwrap();
            block.push_str(line);
            block.push('\n');
        }
    }
    assert!(!inside, "a block has no end");
    blocks
}

/// A page without its fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The parts of a prose in backticks.
fn code(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

/// The sections of a page, each from its heading to the next.
fn sections(text: &str) -> Vec<(&str, String)> {
    let mut sections = vec![("", String::new())];
    let mut inside = false;
    for line in text.lines() {
        inside ^= line.trim_start().starts_with("```");
        match line.trim_start_matches('#') {
            heading if !inside && heading.len() < line.len() => {
                sections.push((heading.trim(), String::new()))
            }
            _ => {
                let (_, section) = sections.last_mut().unwrap();
                section.push_str(line);
                section.push('\n');
            }
        }
    }
    sections
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for Page { name, text } in pages() {
        let folder = root().join(&name);
        let folder = folder.parent().unwrap();
        for target in prose(&text).split("](").skip(1) {
            let target = target.split(')').next().unwrap().trim();
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(&name),
                file => folder.join(file),
            };
            assert!(path.exists(), "{name}: {target}");
            if !heading.is_empty() {
                let text = fs::read_to_string(path).unwrap();
                let headings = sections(&text);
                let mut headings = headings.iter().map(|(heading, _)| anchor(heading));
                assert!(headings.any(|found| found == heading), "{name}: {target}");
            }
        }
    }
    assert!(links >= 20, "{links}");
}

#[test]
fn every_file_named_in_a_page_exists() {
    let folders = ["tests/", "examples/", "src/", ".github/", ".ci/"];
    let mut named = 0;
    for Page { name, text } in pages() {
        let mut found: Vec<String> = code(&prose(&text)).map(str::to_owned).collect();
        let commands = blocks(&text);
        let commands = commands.iter().filter(|(language, _)| *language == "sh");
        found.extend(commands.map(|(_, block)| block.clone()));
        for text in found {
            for word in text.split(|c: char| c.is_whitespace() || ",;".contains(c)) {
                let is_path = folders.iter().any(|folder| word.starts_with(folder));
                if !is_path
                    || word.contains(['*', '…'])
                    || word.chars().any(char::is_uppercase) && word.contains("NAME")
                {
                    continue;
                }
                named += 1;
                let as_module = PathBuf::from(format!("{word}.rs"));
                assert!(
                    root().join(word).exists() || root().join(as_module).exists(),
                    "{name}: {word}"
                );
            }
        }
    }
    assert!(named >= 60, "{named}");
}

#[test]
fn the_readme_links_every_page_and_each_says_what_checks_it() {
    let readme = page("README.md").text;
    for Page { name, text } in docs() {
        assert!(readme.contains(&format!("]({name}")), "{name} has no link");
        let (_, begin) = text.split_once("\n\n").unwrap();
        let begin = begin.split("\n\n").next().unwrap();
        assert!(begin.contains("Checked by "), "{name}: what checks it?");
        let by_script = code(begin).any(|word| word.starts_with("tests/"));
        assert!(by_script || name.ends_with("money.md"), "{name}: {begin}");
    }
}

/// The configurations of a page: of the README each block, as it is pasted alone; elsewhere the blocks of a section together.
fn configurations(page: &Page) -> Vec<String> {
    // The dependency of a library is no configuration.
    let settings = |text: &str| -> Vec<String> {
        let blocks = blocks(text).into_iter();
        let blocks = blocks.filter(|(language, _)| *language == "toml");
        let blocks = blocks.map(|(_, block)| block);
        blocks
            .filter(|block| !block.starts_with("r3mes-edge = "))
            .collect()
    };
    if page.name == "README.md" {
        return settings(&page.text);
    }
    let sections = sections(&page.text);
    let joined = sections
        .iter()
        .map(|(_, section)| settings(section).join("\n"));
    joined.filter(|text| !text.is_empty()).collect()
}

#[test]
fn every_block_of_settings_is_a_valid_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let mut count = 0;
    for page in pages() {
        let name = &page.name;
        for text in configurations(&page) {
            count += 1;
            let read = Config::read(&text, []);
            assert!(read.is_ok(), "{name}: {:?}\n{text}", read.err());
            if name != "README.md" {
                continue;
            }
            // The files that it names are there.
            for line in text.lines().filter(|line| line.contains("_file = ")) {
                let file = line.split('"').nth(1).unwrap();
                fs::write(folder.path().join(file), "secret\n").unwrap();
            }
            fs::write(folder.path().join("a.toml"), &text).unwrap();
            let (code, out, stderr) =
                edge_output(&database, &["config", "check", "--config", "a.toml"]);
            assert_eq!(code, 0, "{out}{stderr}\n{text}");
        }
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn the_error_that_the_page_about_settings_shows_is_the_programs() {
    let text = page(".github/docs/configuration.md").text;
    let blocks = blocks(&text);
    let shown = blocks
        .iter()
        .find_map(|(_, block)| block.strip_prefix("$ r3mes-edge config check\n"));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("r3mes-edge.toml"), "[chat]\nprize = 2\n").unwrap();
    let database = folder.path().join("edge.db");
    let (code, _, stderr) = edge_output(&database, &["config", "check"]);
    assert_eq!((code, Some(stderr.as_str())), (2, shown));
}

/// The commands that a help text lists.
fn listed(words: &[&str]) -> Vec<String> {
    let (code, help) = edge(Path::new("/nowhere"), &[words, &["--help"]].concat());
    assert_eq!(code, 0, "{words:?}");
    let (_, rest) = help.split_once("Commands:\n").unwrap_or_default();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let own = names.filter(|name| !["", "help"].contains(name));
    own.map(str::to_owned).collect()
}

/// Every command of the program.
fn commands() -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for group in listed(&[]) {
        let under = listed(&[&group]);
        if under.is_empty() {
            commands.insert(group.clone());
        }
        commands.extend(under.iter().map(|name| format!("{group} {name}")));
    }
    commands
}

/// The block of a page that lists the commands, without the indent and the descriptions.
fn command_lines(page: &Page) -> Vec<String> {
    let blocks = blocks(&page.text);
    let (_, block) = blocks
        .iter()
        .find(|(language, block)| language.is_empty() && block.starts_with("r3mes-edge [serve]"))
        .unwrap();
    let lines = block.lines().map(|line| {
        let line = line.strip_prefix("r3mes-edge").unwrap_or(line).trim();
        line.split("   ")
            .next()
            .unwrap()
            .replace("[serve]", "serve")
    });
    lines.filter(|line| !line.starts_with('[')).collect()
}

#[test]
fn the_commands_of_the_readme_and_of_their_page_are_those_of_the_program() {
    let is_name = |word: &&str| {
        word.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && !word.starts_with('-')
    };
    for name in ["README.md", ".github/docs/command-line.md"] {
        let mut found = BTreeSet::new();
        for line in command_lines(&page(name)) {
            let mut group = None;
            for command in line.split(" | ") {
                let words: Vec<_> = command.split(' ').take_while(is_name).collect();
                match (words.as_slice(), group) {
                    ([one, two], _) => {
                        group = Some(*one);
                        found.insert(format!("{one} {two}"));
                    }
                    ([one], Some(group)) => {
                        found.insert(format!("{group} {one}"));
                    }
                    ([one], None) => {
                        found.insert((*one).to_owned());
                    }
                    // An option of the command before.
                    _ => {}
                }
            }
        }
        assert_eq!(found, commands(), "{name}");
    }
}

#[test]
fn every_metric_named_in_a_page_exists() {
    let table = page("src/metrics/table.rs").text;
    let mut named = 0;
    for Page { name, text } in pages() {
        for metric in code(&prose(&text)) {
            let is_metric = metric.starts_with("r3mes_") || metric.starts_with("gen_ai_");
            let is_name = |byte: u8| byte.is_ascii_lowercase() || b"_3".contains(&byte);
            if !is_metric || !metric.bytes().all(is_name) {
                continue;
            }
            named += 1;
            // Counters get their `_total` when they are written.
            let own = metric.strip_suffix("_total").unwrap_or(metric);
            assert!(table.contains(&format!("\"{own}\"")), "{name}: {metric}");
        }
    }
    assert!(named >= 8, "{named}");
}

#[test]
fn every_table_of_figures_names_the_command_that_measures_it() {
    let measures = [
        "cargo bench",
        ".ci/long",
        "tests/clients/",
        ".github/release.sh",
    ];
    let mut tables = 0;
    for Page { name, text } in pages() {
        for (heading, section) in sections(&text) {
            let rows = section.lines().filter(|line| line.starts_with('|'));
            let cells: Vec<_> = rows
                .skip(2)
                .flat_map(|row| row.split('|').skip(2))
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect();
            // A status beside its code is no figure.
            let begins = |cell: &&&str| {
                cell.starts_with(|c: char| c.is_ascii_digit() || c == '+') && !cell.contains('`')
            };
            let figures = cells.iter().filter(begins).count();
            // The computations of this page are checked one by one.
            if figures * 3 < cells.len() || figures < 3 || name.ends_with("prices.md") {
                continue;
            }
            tables += 1;
            assert!(
                measures.iter().any(|command| section.contains(command)),
                "{name}, {heading}: which command measures it?"
            );
        }
    }
    assert!(tables >= 3, "{tables}");
}
