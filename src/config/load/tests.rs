use super::*;
use proptest::prelude::*;

fn error(file: &str) -> String {
    Config::read(file, []).unwrap_err().to_string()
}

#[test]
fn an_error_in_the_file_has_its_line_and_column_and_the_nearest_key() {
    for (file, expected) in [
        (
            "\n[chat]\nprize = 1",
            "3:1: chat.prize: unknown key; did you mean chat.price?",
        ),
        (
            "[rates]\nchat = \"ten\"",
            "2:1: rates.chat: invalid rate \"ten\"",
        ),
        (
            "[rates]\nchats = \"1/min\"",
            "2:1: rates.chats: unknown key; did you mean rates.chat?",
        ),
        (
            "[limits]\n  body = \"64 elephants\"",
            "2:3: limits.body: invalid size \"64 elephants\"",
        ),
        ("[miner]\nwallet = \"remes1x\"", "2:1: miner.wallet: "),
        (
            "[chatt]\nprice = 1\nqueue = 2",
            "1:2: chatt: unknown key; did you mean chat?",
        ),
        ("chat = 5", "1:1: chat: must be a section, not integer `5`"),
        (
            "chat.price.high = 5",
            "1:12: chat.price.high: unknown key; known are request, prompt, cached_prompt, completion",
        ),
        (
            "[chat]\nqueue = \"many\"",
            "2:1: chat.queue: must be a whole number, 0 or more, not string \"many\"",
        ),
        (
            "[log]\nformat = \"jsn\"",
            "2:1: log.format: must be one of `auto`, `text`, `json`, not `jsn`",
        ),
        ("[miner]\nkind = 1", "2:1: miner.kind: "),
        (
            "discover = \"yes\"",
            "1:1: discover: must be true or false, not string \"yes\"",
        ),
        (
            "[chat]\nprice = 1\n[log]\nlevel = \"loud\"",
            "4:1: log.level: must be error,",
        ),
        (
            "[[inference]]\nname = \"a\"\nkind = \"r3mes\"\nurl = \"http://a\"\n[[inference]]\nnam = \"b\"\nkind = \"r3mes\"\nurl = \"http://b\"",
            "6:1: inference[1].nam: unknown key; did you mean inference[1].name?",
        ),
        (
            "[chat]\n[[inference]]\nname = \"b\"\nkind = \"openai\"",
            "2:1: inference[0].url: must be an http:// or https:// address",
        ),
        ("[chat]\nprice = ", "2:9: invalid TOML: "),
        ("[chat]\nprice = 1\nprice = 2", "3:1: invalid TOML: "),
        (
            "[adapters.a]\nkeywords = [1]",
            "2:13: adapters.a.keywords[0]: must be a text in quotes, not integer `1`",
        ),
        (
            "[retention]\nraw = \"90d\"\nminutes = \"1d\"",
            "1:2: retention: raw samples, minutes, hours and days",
        ),
    ] {
        let error = error(file);
        assert!(
            error.starts_with(&format!("configuration:{expected}")),
            "{error}"
        );
    }
}

#[test]
fn an_error_of_the_environment_names_its_variable() {
    for (variable, value, expected) in [
        (
            "CHAT__PRIZE",
            "1",
            "chat.prize: unknown key; did you mean chat.price?",
        ),
        (
            "LIMITS__BODY",
            "64",
            "limits.body: invalid size \"64\"; use 512B, 64KiB or 1MiB",
        ),
        (
            "CHAT__QUEUE",
            "-1",
            "chat.queue: must be a whole number, 0 or more, not integer `-1`",
        ),
        ("CHAT", "1", "chat: must be a section, not "),
        (
            "INFERENCE__0__URL",
            "http://x",
            "inference: must be a list in brackets, not map",
        ),
        (
            "LOG__LEVEL",
            "loud",
            "log.level: must be error, warn, info, debug or trace",
        ),
        ("LISTEN", "here", "listen: invalid address \"here\""),
        (
            "DATABAS",
            "x",
            "databas: unknown key; did you mean database?",
        ),
    ] {
        let error = Config::read("", [(variable, value)])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{variable}: {expected}")),
            "{error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let value = OsStr::from_bytes(b"\xff");
    let refused = Loader::default().set("DATABASE", value, "R3MES_EDGE_DATABASE");
    assert_eq!(
        refused.unwrap_err().to_string(),
        "R3MES_EDGE_DATABASE: database: must be UTF-8"
    );
}

#[test]
fn every_setting_has_the_origin_of_its_value() {
    let mut loader = Loader::default();
    let file = "[chat]\nprice = 2\nqueue = 3\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\n[adapters.\"a b\"]\nkeywords = [\"x\"]";
    loader.file("edge.toml", file).unwrap();
    for (key, value, origin) in [
        ("CHAT__QUEUE", "4", "R3MES_EDGE_CHAT__QUEUE"),
        ("listen", "127.0.0.1:1", "--listen"),
    ] {
        loader.set(key, value.as_ref(), origin).unwrap();
    }
    let (config, origins) = loader.finish().unwrap();
    assert_eq!(
        (config.chat.queue, config.listen[0].to_string()),
        (4, "127.0.0.1:1".to_owned())
    );
    for (key, origin) in [
        ("chat.price", "edge.toml:2:1"),
        ("chat.queue", "R3MES_EDGE_CHAT__QUEUE"),
        ("listen", "--listen"),
        ("chat.in_flight", "default"),
        ("inference[0].url", "edge.toml:7:1"),
        ("inference[0].model", "default"),
        ("adapters.a b.keywords", "edge.toml:9:1"),
    ] {
        assert_eq!(origins.of(key).to_string(), origin, "{key}");
    }
    // A list that replaces the file's replaces the origins of its members too.
    let mut loader = Loader::default();
    loader.file("edge.toml", file).unwrap();
    let node = "[{ name = \"b\", kind = \"openai\", url = \"http://b\" }]";
    loader
        .set("INFERENCE", node.as_ref(), "R3MES_EDGE_INFERENCE")
        .unwrap();
    let (config, origins) = loader.finish().unwrap();
    assert_eq!(config.inference[0].name, "b");
    let origin = origins.of("inference[0].url").to_string();
    assert_eq!(origin, "R3MES_EDGE_INFERENCE");
}

#[test]
fn the_nearest_key_is_offered_only_for_a_typo() {
    let known = ["price", "queue", "idle_timeout", "per_address"];
    for (word, meant) in [
        ("prize", Some("price")),
        ("PRICE", Some("price")),
        ("quue", Some("queue")),
        ("idle_time", Some("idle_timeout")),
        ("idle-timeout", Some("idle_timeout")),
        ("peraddress", Some("per_address")),
        ("temperature", None),
        ("", None),
    ] {
        assert_eq!(nearest(word, &known), meant, "{word}");
    }
    assert_eq!(nearest("price", &[]), None);
}

/// Settings of the example, and what is wrong with them.
const PLANTED: [(&str, &str); 12] = [
    ("price = 1.0 ", "price = \"much\" "),
    ("price = 1.0 ", "prize = 1.0 "),
    ("queue = 16 ", "queue = -16 "),
    ("connections = 1024 ", "connections = 0 "),
    ("body = \"64KiB\"", "body = 64"),
    ("telemetry = \"600/min\"", "telemetry = \"600/fortnight\""),
    ("hosts = []", "hosts = [1]"),
    ("kind = \"r3mes\"   ", "kind = \"other\" "),
    ("days = \"forever\"", "days = \"ever\""),
    ("every = \"10s\"", "every = \"1ms\""),
    ("level = \"info\"", "level = 3"),
    ("[log]", "[logg]"),
];

#[test]
fn every_planted_error_is_found_at_its_line() {
    const EXAMPLE: &str = include_str!("../../../examples/config.toml");
    for (right, wrong) in PLANTED {
        let mut example = EXAMPLE.to_owned();
        let at = example.find(&format!("\n{right}")).unwrap() + 1;
        example.replace_range(at..at + right.len(), wrong);
        let line = example[..at].matches('\n').count() + 1;
        let error = Config::read(&example, []).unwrap_err();
        match error.origin {
            Origin::File { line: found, .. } => {
                assert_eq!(found, line, "{wrong}: {}", error.message)
            }
            origin => panic!("{wrong}: {origin}"),
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in any::<String>(), name in any::<String>(), value in any::<String>()) {
        let _ = Config::read(&text, []);
        let _ = Config::read(&text, [(name.as_str(), value.as_str())]);
    }

    #[test]
    fn a_changed_example_is_read_or_refused_with_a_reason(at in any::<prop::sample::Index>(), put in "([0-9-]{1,20}|[a-z_\\[\\]{}.\"'=#\n]{1,3}|\\PC)", section in "(limits|chat|rates|auth|chain|miner|breaker|log)", name in "[a-z_]{1,12}", value in "(-?[0-9]{1,20}|[0-9]{1,9}(ms|s|d|KiB|GiB|/min)|\\PC{0,6})") {
        let mut example = include_str!("../../../examples/config.toml").to_owned();
        let mut at = at.index(example.len());
        while !example.is_char_boundary(at) {
            at -= 1;
        }
        let setting = format!("{section}__{name}");
        let read = |text: &str| [Config::read(text, []), Config::read(text, [(setting.as_str(), value.as_str())])];
        example.insert_str(at, &put);
        for refused in read(&example).into_iter().filter_map(Result::err) {
            prop_assert!(!refused.message.is_empty());
        }
    }
}
