use super::*;
use crate::limits::RateClass;
use crate::model::Credits;
use std::time::Duration;

#[test]
fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let file =
        "listen = \"127.0.0.1:9000\"\n[chat]\nprice = 0.25\nqueue = 3\n[rates]\nchat = \"20/min\"";
    let settings = [
        ("LISTEN", "127.0.0.1:9001"),
        ("RATES__CHAT", "off"),
        ("CHAT__IDLE_TIMEOUT", "5s"),
        ("CHAT__QUEUE", "7"),
    ];
    let config = Config::read(file, settings).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:9001".parse().unwrap()]);
    assert_eq!(config.chat.price.request, Credits::from_micro(250_000));
    assert_eq!((config.chat.queue, config.chat.in_flight), (7, 4));
    assert_eq!(config.chat.idle_timeout, Duration::from_secs(5));
    assert_eq!(config.rates.get(RateClass::Chat), None);
    assert_eq!(config.rates.get(RateClass::Auth).unwrap().count.get(), 5);
}

#[test]
fn a_count_that_would_size_a_huge_table_is_refused() {
    for setting in [
        "LIMITS__CONNECTIONS",
        "LIMITS__IN_FLIGHT",
        "LIMITS__PER_ADDRESS",
        "CHAT__IN_FLIGHT",
        "BREAKER__LAST_CALLS",
    ] {
        for size in ["0", "9223372036854775807"] {
            assert!(
                Config::read("", [(setting, size)]).is_err(),
                "{setting} = {size}"
            );
        }
    }
}

#[test]
fn the_example_names_every_setting_and_its_default() {
    let example = include_str!("../../examples/config.toml");
    let defaults = format!("{:#?}", Config::default());
    assert_eq!(
        format!("{:#?}", Config::read(example, []).unwrap()),
        defaults
    );
    // Uncommented, as keys without a default are comments, it names every field.
    let whole: String = example
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    let settings = defaults
        .lines()
        .filter_map(|line| line.trim().split_once(": "));
    for name in settings.map(|(name, _)| name).filter(|name| {
        !matches!(
            *name,
            "count" | "per" | "request" | "prompt" | "cached_prompt" | "completion"
        )
    }) {
        let named = whole.lines().any(|line| {
            let section = line.trim_matches(['[', ']']).split('.').next() == Some(name);
            section
                || line
                    .split_once(" =")
                    .is_some_and(|(setting, _)| setting == name)
                || line.starts_with(&format!("[{name}]"))
        });
        assert!(named, "examples/config.toml does not name {name}");
    }
}
