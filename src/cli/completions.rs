use clap::Command;
use clap_complete::{Shell, generate};
use serde_json::json;

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
Example, for bash: r3mes-edge completions bash > ~/.local/share/bash-completion/completions/r3mes-edge

zsh reads a file _r3mes-edge in a folder of its fpath, fish ~/.config/fish/completions/r3mes-edge.fish.";

/// Prints the script that completes `command` in a shell.
pub(super) fn run(shell: Shell, mut command: Command, json: bool) {
    let mut script = Vec::new();
    generate(shell, &mut command, "r3mes-edge", &mut script);
    let script = String::from_utf8_lossy(&script);
    if json {
        let value = json!({ "shell": shell.to_string(), "script": script });
        println!("{value}");
    } else {
        println!("{}", script.trim_end());
    }
}
