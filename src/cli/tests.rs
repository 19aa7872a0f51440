//! The help of every command, as clap has it.

use clap::{Command, CommandFactory};

use super::Cli;

/// Every command with its words, the program itself among them.
fn commands() -> Vec<(Vec<String>, Command)> {
    fn add(path: Vec<String>, command: Command, found: &mut Vec<(Vec<String>, Command)>) {
        for under in command.get_subcommands() {
            if under.get_name() != "help" {
                let path = [&path[..], &[under.get_name().to_owned()]].concat();
                add(path, under.clone(), found);
            }
        }
        found.push((path, command));
    }
    let mut whole = Cli::command();
    whole.build();
    let mut found = Vec::new();
    add(vec!["r3mes-edge".to_owned()], whole, &mut found);
    found
}

/// The arguments of the command in an example, of a shell's line `KEY=$(r3mes-edge keys list) > file`.
fn example_arguments(line: &str) -> Option<Vec<String>> {
    let (_, command) = line.split_once("r3mes-edge ")?;
    let ends = [" > ", " | ", " && ", ")"];
    let end = ends.iter().filter_map(|end| command.find(end)).min();
    let command = &command[..end.unwrap_or(command.len())];
    let command = command.replace("remes1…", "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm");
    let command = command.replace('…', "");
    // Every second part is between quotation marks.
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    Some(
        std::iter::once("r3mes-edge".to_owned())
            .chain(words)
            .collect(),
    )
}

#[test]
fn the_help_of_every_command_has_an_example_that_is_accepted() {
    let all = commands();
    assert!(all.len() >= 50, "{}", all.len());
    for (path, mut command) in all {
        let help = command.render_long_help().to_string();
        let line = help.lines().find(|line| line.contains("Example"));
        let line = line.unwrap_or_else(|| panic!("{path:?} has no example:\n{help}"));
        let arguments = example_arguments(line);
        let arguments = arguments.unwrap_or_else(|| panic!("{path:?}: {line}"));
        let parsed = Cli::command().try_get_matches_from(&arguments);
        if let Err(error) = parsed {
            panic!("{path:?}: {line}: {error}");
        }
        let named: Vec<_> = path[1..].iter().collect();
        let mut words = arguments.iter();
        assert!(
            named.iter().all(|name| words.any(|word| word == *name)),
            "the example of {path:?} is of another command: {line}"
        );
    }
}

#[test]
fn the_help_of_every_option_shows_its_default() {
    for (path, command) in commands() {
        for option in command.get_arguments() {
            let takes_value = option.get_action().takes_values() && !option.is_positional();
            if !takes_value || option.is_required_set() {
                continue;
            }
            let help = option.get_long_help().or(option.get_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            // Required unless it is an admin's key.
            let is_required = option.get_id() == "wallet" && path.ends_with(&["create".to_owned()]);
            let default = option.get_default_values();
            let is_shown = !default.is_empty() && !option.is_hide_default_value_set();
            assert!(
                is_required || is_shown || help.contains("[default: "),
                "{path:?} --{}: {help}",
                option.get_id()
            );
        }
    }
}
