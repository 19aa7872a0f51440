//! Gives the program the commit that it is built from, for `version`: the variable `R3MES_BUILD_COMMIT` of the build, as
//! `.github/release.sh` sets it, else what `.git` says. It needs no git, and without a repository the commit is unknown.

// What cargo reads is the output of this program.
#![allow(clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

const COMMIT: &str = "R3MES_BUILD_COMMIT";

fn main() {
    // Naming anything keeps cargo from running this for each changed file.
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let commit = match std::env::var(COMMIT) {
        Ok(commit) => Some(commit),
        Err(_) => head(Path::new(".git")),
    };
    if let Some(commit) = commit.filter(|commit| is_hash(commit)) {
        println!("cargo::rustc-env={COMMIT}={commit}");
    }
}

/// The commit that is checked out. Cargo runs this again when another one is.
fn head(git: &Path) -> Option<String> {
    // In a worktree `.git` is a file that names the folder.
    let git = match fs::read_to_string(git) {
        Ok(text) => PathBuf::from(text.strip_prefix("gitdir: ")?.trim()),
        Err(_) => git.to_owned(),
    };
    let head = watched(&git.join("HEAD"))?;
    let Some(name) = head.trim().strip_prefix("ref: ") else {
        return Some(head.trim().to_owned());
    };
    // The branches of a worktree are where those of the whole repository are.
    let common = fs::read_to_string(git.join("commondir"));
    let common = common.map_or(git.clone(), |common| git.join(common.trim()));
    if let Some(commit) = watched(&common.join(name)) {
        return Some(commit.trim().to_owned());
    }
    // The next commit makes the file; until then the log of HEAD is what changes.
    watched(&git.join("logs/HEAD"));
    let packed = watched(&common.join("packed-refs"))?;
    let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
    let (commit, _) = lines.find(|(_, of)| *of == name)?;
    Some(commit.to_owned())
}

/// The text of a file that exists; one that does not would make cargo run this each time.
fn watched(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text)
}

fn is_hash(commit: &str) -> bool {
    matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
}
