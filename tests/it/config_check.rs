//! `config check` with a wrong value for each key, and with what only a start would find.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use r3mes_edge::Config;
use serde_json::Value;

use crate::support::Process;

/// Every key with wrong values in TOML, and a part of the message that names the right ones.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "listen",
        "\"127.0.0.1:99999\"",
        "use 127.0.0.1:8000, [::1]:8000 or unix:/run",
    ),
    ("listen", "\"localhost\"", "use 127.0.0.1:8000"),
    (
        "listen",
        "8000",
        "must be a text like \"127.0.0.1:8000\", or an array of them",
    ),
    ("listen", "[]", "must name an address"),
    (
        "listen",
        "[\"127.0.0.1:8000\", \"127.0.0.1:8000\"]",
        "name it once",
    ),
    (
        "listen",
        "[\"0.0.0.0:8000\", \"127.0.0.1:8000\"]",
        "name it once",
    ),
    (
        "listen",
        "\"192.0.2.1:8000\"",
        "name an address of this machine",
    ),
    (
        "listen",
        "\"unix:/no/such/edge.sock\"",
        "name an address of this machine",
    ),
    ("database", "\"\"", "must name a file"),
    ("database", "\"/\"", "name a file in an existing folder"),
    ("database", "\"none/edge.db\"", "create the folder"),
    (
        "database",
        "\"edge.toml/edge.db\"",
        "is no folder; name an existing folder",
    ),
    ("discover", "\"yes\"", "must be true or false"),
    ("limits.connections", "0", "must be between 1 and 1000000"),
    ("limits.connections", "\"many\"", "must be a whole number"),
    ("limits.per_address", "0", "must be between 1 and 1000000"),
    (
        "limits.workers_per_wallet",
        "0",
        "must be between 1 and 1000000",
    ),
    ("compat.unknown_as_zero", "1", "must be true or false"),
    ("metrics.gen_ai", "1", "must be true or false"),
    (
        "chat.max_output_tokens",
        "0",
        "must be from 1 to 4294967295",
    ),
    ("chat.context_length", "0", "must be from 1 to 4294967295"),
    ("chat.media_tokens", "0", "must be at least 1"),
    ("chat.prompt_overhead", "-1", "must be a whole number"),
    (
        "adapters.coding.aliases",
        "[\"general\"]",
        "is the name of an adapter",
    ),
    (
        "adapters.coding.aliases",
        "[\"\"]",
        "must be a text of one line",
    ),
    ("adapters.coding.price", "-1", "must not be negative"),
    ("adapters.coding.price", "{ promt = 1 }", "did you mean"),
    (
        "adapters.coding.max_output_tokens",
        "0",
        "must be from 1 to 4294967295",
    ),
    (
        "adapters.coding.context_length",
        "0",
        "must be from 1 to 4294967295",
    ),
    (
        "adapters.coding.media_tokens",
        "0",
        "must be from 1 to 4294967295",
    ),
    (
        "limits.in_flight",
        "1000001",
        "must be between 1 and 1000000",
    ),
    ("limits.body", "64", "use 512B, 64KiB or 1MiB"),
    (
        "limits.telemetry_body",
        "\"0KiB\"",
        "use 512B, 64KiB or 1MiB",
    ),
    ("limits.chat_body", "\"64 kB\"", "use 512B, 64KiB or 1MiB"),
    ("limits.v1_body", "\"-1MiB\"", "use 512B, 64KiB or 1MiB"),
    (
        "limits.header_timeout",
        "10",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("limits.header_timeout", "\"0s\"", "must be at least 1ms"),
    ("limits.body_timeout", "\"0s\"", "must be at least 1ms"),
    ("limits.write_timeout", "\"0ms\"", "must be at least 1ms"),
    ("limits.request_timeout", "\"0min\"", "must be at least 1ms"),
    (
        "limits.shutdown_grace",
        "\"-5s\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("rates.auth", "\"5\"", "use 5/s, 60/min, 100/h or off"),
    ("rates.chat", "\"0/min\"", "use 5/s, 60/min, 100/h or off"),
    ("rates.write", "60", "use 5/s, 60/min, 100/h or off"),
    (
        "rates.telemetry",
        "\"600/fortnight\"",
        "use 5/s, 60/min, 100/h or off",
    ),
    ("rates.read", "\"many\"", "use 5/s, 60/min, 100/h or off"),
    ("rates.health", "false", "use 5/s, 60/min, 100/h or off"),
    (
        "rates.failures",
        "\"-1/s\"",
        "use 5/s, 60/min, 100/h or off",
    ),
    ("rates.page", "\"\"", "use 5/s, 60/min, 100/h or off"),
    ("rates.refused", "\"none\"", "use 5/s, 60/min, 100/h or off"),
    ("auth.public_reads", "\"no\"", "must be true or false"),
    ("auth.hosts", "[\"*\"]", "name each host, \"edge.example\""),
    (
        "auth.hosts",
        "\"edge.example\"",
        "must be a list in brackets",
    ),
    (
        "auth.cors_origins",
        "[\"https://app.example/\"]",
        "name each origin as browsers do, \"https://app.example\"",
    ),
    (
        "auth.trusted_proxies",
        "[\"10.0.0.5/8\"]",
        "use 10.0.0.5 for that alone, or 10.0.0.0/8 for all of it",
    ),
    (
        "auth.trusted_proxies",
        "[\"0.0.0.0/0\"]",
        "name the proxies' own addresses",
    ),
    (
        "auth.trusted_proxies",
        "[\"nginx\"]",
        "use 127.0.0.1, 10.0.0.0/8, or unix",
    ),
    ("auth.public_name", "\"a\\nb\"", "must be one line"),
    ("auth.login_ttl", "\"1s\"", "must be at least 60s"),
    (
        "auth.max_keys_per_wallet",
        "0",
        "must be between 1 and 1000000",
    ),
    ("chat.price", "-1", "must not be negative"),
    ("chat.price", "\"much\"", "must be a plain decimal number"),
    ("chat.max_message", "0", "must be at least 1"),
    (
        "chat.default_adapter",
        "\"\"",
        "must be a text of one line, not empty",
    ),
    ("chat.in_flight", "0", "must be between 1 and 1000000"),
    ("chat.queue", "-1", "must be a whole number, 0 or more"),
    ("chat.head_timeout", "\"0s\"", "must be at least 1ms"),
    ("chat.first_text_timeout", "\"0s\"", "must be at least 1ms"),
    ("chat.idle_timeout", "\"0s\"", "must be at least 1ms"),
    ("chat.answer_timeout", "\"0s\"", "must be at least 1ms"),
    (
        "inference[0].name",
        "\"a b\"",
        "must be letters, digits, dots, dashes or underscores",
    ),
    (
        "inference[0].kind",
        "\"ollama\"",
        "must be `openai` or `r3mes`",
    ),
    (
        "inference[0].url",
        "\"http://127.0.0.1:99999\"",
        "must have a port from 1 to 65535",
    ),
    (
        "inference[0].url",
        "\"http://127.0.0.1:1/v1\"",
        "\"http://127.0.0.1:1\"",
    ),
    (
        "inference[0].url",
        "\"127.0.0.1:8080\"",
        "must be an http:// or https:// address",
    ),
    (
        "inference[0].model",
        "\"a\\u001Bb\"",
        "must be a text of one line",
    ),
    ("inference[0].in_flight", "0", "must be from 1 to 1000000"),
    (
        "inference[0].adapters",
        "[\"\"]",
        "must be a text of one line, not empty",
    ),
    (
        "inference[0].pass",
        "\"grammar\"",
        "must be a list in brackets",
    ),
    (
        "inference[0].pass",
        "[\"grammar\", \"n_predict\"]",
        "n_predict: is never passed on: it limits the answer",
    ),
    (
        "inference[0].pass",
        "[\"Max_Tokens\"]",
        "Max_Tokens: is never passed on: this server reads and sets it",
    ),
    (
        "inference[0].pass",
        "[\"*\", \"id_slot\"]",
        "id_slot: is never passed on",
    ),
    (
        "inference[0].pass",
        "[\"\"]",
        "must be the name of a member, or \"*\"",
    ),
    (
        "inference[0].ca_file",
        "\"none.pem\"",
        "name a file that the server's user can read",
    ),
    (
        "inference[0].ca_file",
        "\"edge.toml\"",
        "it holds no certificate (PEM)",
    ),
    (
        "inference[0].api_key_file",
        "\"none.key\"",
        "name a file that the server's user can read",
    ),
    (
        "inference[0].api_key_file",
        "\"/\"",
        "name a file that the server's user can read",
    ),
    (
        "inference[0].api_key_file",
        "\"empty\"",
        "its first line must be the token",
    ),
    (
        "adapters.coding.keywords",
        "[\"\"]",
        "must be a text of one line, not empty",
    ),
    (
        "adapters.coding.keywords",
        "[\"code\", \"a\\tb\"]",
        "must be a text of one line",
    ),
    (
        "adapters.coding.keywords",
        "\"code\"",
        "must be a list in brackets",
    ),
    (
        "chain.rpc",
        "\"http://127.0.0.1:0\"",
        "must have a port from 1 to 65535",
    ),
    (
        "chain.rpc",
        "\"http://127.0.0.1:1?key=x\"",
        "\"http://127.0.0.1:1\"",
    ),
    (
        "chain.ca_file",
        "\"none.pem\"",
        "name a file that the server's user can read",
    ),
    ("chain.timeout", "\"0s\"", "must be at least 1ms"),
    (
        "chain.stale_if_error",
        "\"long\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("chain.max_block_age", "\"0s\"", "must be at least 1ms"),
    (
        "miner.url",
        "\"http://u:p@127.0.0.1/stats\"",
        "\"http://127.0.0.1/stats\"",
    ),
    (
        "miner.ca_file",
        "\"none.pem\"",
        "name a file that the server's user can read",
    ),
    ("miner.kind", "\"lolminer\"", "must be `r3mes` or `xmrig`"),
    ("miner.wallet", "\"remes1x\"", "remes1"),
    (
        "miner.worker",
        "\"rig 1\"",
        "must be 1 to 64 letters, digits, dots, dashes or underscores",
    ),
    ("miner.every", "\"1ms\"", "must be at least 1s"),
    (
        "miner.token_file",
        "\"none.token\"",
        "name a file that the server's user can read",
    ),
    ("breaker.consecutive_failures", "0", "must be at least 1"),
    ("breaker.failure_rate", "1.5", "must be between 0.0 and 1.0"),
    ("breaker.failure_rate", "nan", "must be a number"),
    ("breaker.last_calls", "0", "must be between 1 and 1000000"),
    ("breaker.open", "\"0s\"", "must be at least 1ms"),
    ("breaker.max_open", "\"0s\"", "must be at least 1ms"),
    ("retention.raw", "\"1min\"", "must be at least 1h"),
    (
        "retention.minutes",
        "\"ever\"",
        "use 500ms, 10s, 5min, 1h or 90d, or forever",
    ),
    (
        "retention.hours",
        "\"1d\"",
        "must each be kept at least as long as the one before",
    ),
    (
        "retention.days",
        "90",
        "use 500ms, 10s, 5min, 1h or 90d, or forever",
    ),
    ("backup.every", "\"1s\"", "must be at least 1min"),
    ("backup.folder", "\"none\"", "create the folder"),
    ("backup.folder", "\"edge.toml\"", "name an existing folder"),
    ("backup.keep", "0", "must be at least 1"),
    (
        "alerts.response_time",
        "\"fast\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    (
        "alerts.overhead_p99",
        "50",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("alerts.error_rate", "2", "must be between 0.0 and 1.0"),
    ("alerts.pool_use", "-0.1", "must be between 0.0 and 1.0"),
    (
        "alerts.miner_silent",
        "\"long\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    (
        "alerts.shares_flat",
        "\"off\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("alerts.hashrate_low", "50", "must be between 0.0 and 1.0"),
    ("alerts.temperature", "\"hot\"", "must be a number"),
    (
        "alerts.earnings_stopped",
        "1",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    ("alerts.disk_free", "\"500MB\"", "use 512B, 64KiB or 1MiB"),
    ("alerts.wal", "256", "use 512B, 64KiB or 1MiB"),
    (
        "alerts.slow_query",
        "\"slow\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    (
        "alerts.confirm",
        "\"-1s\"",
        "use 500ms, 10s, 5min, 1h or 90d",
    ),
    (
        "alerts.webhook_file",
        "\"none.url\"",
        "name a file that the server's user can read",
    ),
    (
        "alerts.webhook_file",
        "\"empty\"",
        "must be the webhook's http:// or https:// address",
    ),
    (
        "alerts.webhook_kind",
        "\"teams\"",
        "must be one of `json`, `slack`, `discord`, `ntfy`",
    ),
    (
        "log.level",
        "\"loud\"",
        "must be error, warn, info, debug or trace",
    ),
    (
        "log.format",
        "\"jsn\"",
        "must be one of `auto`, `text`, `json`",
    ),
];

const NODE: &str = "[[inference]]\nname = \"node\"\nurl = \"http://127.0.0.1:1\"\n";

/// Every key that there is.
fn keys() -> BTreeSet<String> {
    let text = format!("{NODE}[adapters.coding]\nkeywords = [\"code\"]\n");
    let config = Config::read(&text, []).unwrap();
    let keys = config.settings().unwrap();
    keys.into_iter().map(|(key, _)| key).collect()
}

/// Runs `config check`; its exit code, standard output and standard error.
fn check(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    let command = command.current_dir(folder).env_clear();
    let command = command.envs(environment.iter().copied());
    let done = command
        .args(["config", "check"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}

/// A file with this key set to a value in its last line.
fn file_with(key: &str, value: &str) -> String {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    match section {
        "" => format!("# A comment.\n{name} = {value}\n"),
        "inference[0]" => {
            let others: Vec<_> = NODE
                .lines()
                .filter(|line| !line.starts_with(name))
                .collect();
            format!("{}\n{name} = {value}\n", others.join("\n"))
        }
        section => format!("# A comment.\n[{section}]\n{name} = {value}\n"),
    }
}

#[test]
fn a_wrong_value_of_each_key_is_refused_with_its_place_and_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("empty"), "\n").unwrap();
    let keys = keys();
    let with_a_row: BTreeSet<_> = WRONG.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(with_a_row, keys, "each key needs a wrong value in WRONG");
    for (key, value, right) in WRONG {
        let text = file_with(key, value);
        std::fs::write(folder.join("edge.toml"), &text).unwrap();
        let (code, stdout, stderr) = check(folder, &["--config", "edge.toml"], &[]);
        assert_eq!(
            (code, stdout.as_str()),
            (2, ""),
            "{key} = {value}: {stderr}"
        );
        // A contradiction between the keys of a section is at the section.
        let (section, _) = key.split_once('.').unwrap_or(("", key));
        let line = text.lines().count();
        let places = [
            (line, format!(": {key}")),
            (line - 1, format!(": {section}: ")),
        ];
        let is_located = places.iter().any(|(line, key)| {
            stderr.starts_with(&format!("r3mes-edge: edge.toml:{line}:")) && stderr.contains(key)
        });
        assert!(is_located, "{key} = {value}: {stderr}");
        assert!(
            stderr.contains(right) && stderr.ends_with('\n'),
            "{key} = {value}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{key} = {value}: {stderr}");
        let (code, stdout, _) = check(folder, &["--json", "--config", "edge.toml"], &[]);
        let shown: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &shown["valid"]), (2, &Value::Bool(false)), "{key}");
        assert_eq!(shown["error"]["file"], "edge.toml", "{key}: {shown}");
        assert!(
            shown["error"]["message"].as_str().unwrap().contains(right),
            "{key}: {shown}"
        );
        // A list of servers is one variable.
        if section == "inference[0]" {
            continue;
        }
        let variable = format!("R3MES_EDGE_{}", key.to_uppercase().replace('.', "__"));
        let text = serde_json::from_str(value).unwrap_or_else(|_| (*value).to_owned());
        let (code, _, stderr) = check(folder, &[], &[(&variable, &text)]);
        assert_eq!(code, 2, "{variable}={text}: {stderr}");
        let is_located = [key, section]
            .iter()
            .any(|key| stderr.starts_with(&format!("r3mes-edge: {variable}: {key}")));
        assert!(
            is_located && stderr.contains(right),
            "{variable}={text}: {stderr}"
        );
    }
    let (code, _, stderr) = check(folder, &["--database", "/"], &[]);
    assert_eq!(code, 2);
    assert!(
        stderr.starts_with("r3mes-edge: --database: database: / is no file"),
        "{stderr}"
    );
}

/// D12 of the faults found from outside.
#[test]
fn settings_that_contradict_each_other_are_refused_and_what_a_start_can_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let with = |text: &str| {
        std::fs::write(folder.join("edge.toml"), text).unwrap();
        let (code, _, stderr) = check(folder, &["--config", "edge.toml"], &[]);
        (code, stderr)
    };
    let coding = format!("{NODE}adapters = [\"coding\"]\n");
    let (code, stderr) = with(&coding);
    assert!(
        code == 2 && stderr.contains("no inference server serves \"general\""),
        "{stderr}"
    );
    let (code, stderr) = with(&format!("{NODE}{NODE}"));
    assert!(
        code == 2 && stderr.contains("each needs a name of its own"),
        "{stderr}"
    );
    std::fs::create_dir(folder.join("folder")).unwrap();
    std::fs::write(folder.join("secret"), "\u{feff}http://127.0.0.1:1/hook\r\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let good = format!(
        "listen = \"{}\"\ndatabase = \"folder/edge.db\"\nchat.default_adapter = \"coding\"\nbackup.folder = \"folder\"\nalerts.webhook_file = \"secret\"\nminer.token_file = \"secret\"\n{coding}api_key_file = \"secret\"\n",
        taken.local_addr().unwrap()
    );
    assert_eq!(with(&good), (0, String::new()));
    assert_eq!(std::fs::read_dir(folder.join("folder")).unwrap().count(), 0);
    // The start refuses what it needs, before it creates anything.
    let database = folder.join("folder/edge.db");
    let node = format!("{NODE}api_key_file = \"/none.key\"\n");
    let refused = Process::try_serve(&database, &node).err().unwrap();
    let expected = ": inference[0].api_key_file: /none.key: No such file";
    assert!(
        refused.contains(expected) && refused.contains("edge.toml:"),
        "{refused}"
    );
    assert!(!database.exists());
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("latin1.toml"), b"# \xe4\n").unwrap();
    for (file, reason) in [
        (
            "none.toml",
            "No such file or directory (os error 2); name one that exists with --config, or write one with init",
        ),
        ("latin1.toml", "save it as UTF-8"),
        (".", "Is a directory"),
    ] {
        let (code, _, stderr) = check(folder, &["--config", file], &[]);
        assert!(
            code == 2 && stderr.starts_with(&format!("r3mes-edge: {file}: ")),
            "{stderr}"
        );
        assert!(stderr.contains(reason), "{stderr}");
    }
}
