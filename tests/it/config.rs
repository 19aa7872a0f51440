//! The configuration on the real binary: looked at, begun, read again.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::edge;

/// Runs a command in a folder with these variables; its exit code, standard output and standard error.
fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    let command = command.args(arguments).current_dir(folder).env_clear();
    let done = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}

#[test]
fn every_mistake_of_file_and_environment_is_told_in_one_go() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = "[chat]\nprize = 1\nqueue = \"many\"\n[log]\nlevel = \"loud\"\n";
    std::fs::write(folder.join("r3mes-edge.toml"), file).unwrap();
    let environment = [("R3MES_EDGE_RATES__CHATS", "1/s")];
    let (code, _, told) = run(folder, &["config", "check"], &environment);
    let expected = [
        "r3mes-edge: r3mes-edge.toml:2:1: chat.prize is not known; did you mean chat.price?",
        "r3mes-edge.toml:3:1: chat.queue must be a whole number that is not negative, not the text \"many\"",
        "r3mes-edge.toml:5:1: log.level must be error, warn, info, debug or trace",
        "R3MES_EDGE_RATES__CHATS: rates.chats is not known; did you mean rates.chat?",
    ];
    assert_eq!((code, told.lines().collect()), (2, expected.to_vec()));
    let (code, told, _) = run(folder, &["config", "check", "--json"], &environment);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["good"]), (2, &Value::Bool(false)));
    assert_eq!(told["mistakes"].as_array().unwrap().len(), 4);
    assert_eq!(told["mistakes"][1]["line"], 3);
    assert_eq!(told["mistakes"][3]["origin"], "R3MES_EDGE_RATES__CHATS");
    // Every other command tells them too, and does nothing.
    assert_eq!(run(folder, &["keys", "list"], &environment).0, 2);
    std::fs::write(folder.join("r3mes-edge.toml"), "[chat]\nprice = 2\n").unwrap();
    let (code, told, _) = run(folder, &["config", "check"], &[]);
    assert_eq!(
        (code, told.as_str()),
        (0, "the configuration is good: r3mes-edge.toml\n")
    );
}

#[test]
fn what_is_printed_reads_back_as_the_same_and_says_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = "[chat]\nprice = 0.25\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\n[adapters.\"a b\"]\nkeywords = [\"x\"]";
    std::fs::write(folder.join("r3mes-edge.toml"), file).unwrap();
    let environment = [
        ("R3MES_EDGE_RATES__CHAT", "off"),
        ("R3MES_EDGE_LIMITS__BODY", "1024B"),
    ];
    let (code, printed, _) = run(
        folder,
        &["config", "print", "--listen", "[::1]:80"],
        &environment,
    );
    assert_eq!(code, 0);
    std::fs::write(folder.join("printed.toml"), &printed).unwrap();
    let (_, again, _) = run(
        folder,
        &["config", "print", "--config", "printed.toml"],
        &[],
    );
    assert_eq!(again, printed);
    let print = ["config", "print", "--listen", "[::1]:80", "--origin"];
    let (_, told, _) = run(folder, &print, &environment);
    for line in [
        "listen = \"[::1]:80\"  # --listen",
        "price = 0.25  # r3mes-edge.toml:2",
        "chat = \"off\"  # R3MES_EDGE_RATES__CHAT",
        "body = \"1KiB\"  # R3MES_EDGE_LIMITS__BODY",
        "url = \"http://a\"  # r3mes-edge.toml:6",
        "keywords = [\"x\"]  # r3mes-edge.toml:8",
        "# rpc is not set  # default",
        "days = \"forever\"  # default",
    ] {
        assert!(told.lines().any(|told| told == line), "{line}\n{told}");
    }
    std::fs::write(folder.join("told.toml"), &told).unwrap();
    let (_, again, _) = run(folder, &["config", "print", "--config", "told.toml"], &[]);
    assert_eq!(again, printed);
    let (_, told, _) = run(folder, &["config", "print", "--json"], &environment);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["chat"]["price"], &told["limits"]["body"]),
        (&0.25.into(), &"1KiB".into())
    );
    let (_, told, _) = run(folder, &["config", "print", "--json", "--origin"], &[]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["inference[0].name"]["origin"], "r3mes-edge.toml:4");
    assert_eq!(told["chat.queue"]["value"], 16);
}

#[test]
fn a_command_that_looks_makes_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    for command in [
        ["ledger", "verify"],
        ["config", "print"],
        ["config", "check"],
        ["keys", "list"],
    ] {
        edge(&database, &command);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{command:?}"
        );
    }
}
