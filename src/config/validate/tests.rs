use super::*;

fn read(auth: &str) -> Result<Config, String> {
    Config::read(auth, []).map_err(|error| error.to_string())
}

#[test]
fn proxy_networks_wider_than_any_private_one_are_refused() {
    for network in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3"] {
        let refused = read(&format!("auth.trusted_proxies = [\"{network}\"]")).unwrap_err();
        assert!(refused.contains(network), "{refused}");
        assert!(refused.contains("proxies' own addresses"), "{refused}");
    }
    read("auth.trusted_proxies = [\"10.0.0.0/8\", \"fc00::/7\", \"127.0.0.1\", \"unix\"]").unwrap();
}

#[test]
fn a_port_that_no_server_has_is_refused() {
    for url in [
        "http://h:99999",
        "http://h:0",
        "http://[::1]:65536",
        "https://h:",
        "http://u:p@h:70000",
    ] {
        for config in [
            format!("[[inference]]\nname = \"node\"\nurl = \"{url}\""),
            format!("chain.rpc = \"{url}\""),
            format!("miner.url = \"{url}/stats\""),
        ] {
            let refused = read(&config).unwrap_err();
            assert!(
                refused.contains("must have a port from 1 to 65535"),
                "{url}: {refused}"
            );
        }
    }
    for listen in ["127.0.0.1:65536", "127.0.0.1:99999"] {
        let refused = read(&format!("listen = {listen:?}")).unwrap_err();
        assert!(refused.contains("listen: invalid address"), "{refused}");
    }
}

#[test]
fn names_that_cannot_be_shown_or_compared_are_refused() {
    for name in ["", " ", "a\n", "a\u{1b}[31m", " a", "a\t"] {
        let text = serde_json::Value::from(name)
            .to_string()
            .replace("\\u001b", "\\u001B");
        for (config, key) in [
            (
                format!("adapters.a.keywords = [\"x\", {text}]"),
                "adapters.a.keywords[1]",
            ),
            (
                format!("adapters = {{ {text} = {{ keywords = [\"x\"] }} }}"),
                "adapters",
            ),
            (
                format!("chat.default_adapter = {text}"),
                "chat.default_adapter",
            ),
            (
                format!("[[inference]]\nname = \"a\"\nurl = \"http://h\"\nadapters = [{text}]"),
                "inference[0].adapters",
            ),
        ] {
            let refused = read(&config).unwrap_err();
            assert!(
                refused.contains(&format!("{key}: ")) && refused.contains(LABEL),
                "{config}: {refused}"
            );
            assert!(!refused.contains('\u{1b}'), "{refused:?}");
        }
    }
}

#[test]
fn a_default_adapter_that_no_server_has_is_refused() {
    let node = |name: &str, adapters: &str| {
        format!("[[inference]]\nname = \"{name}\"\nurl = \"http://h\"\nadapters = [{adapters}]\n")
    };
    let coding = node("a", "\"coding\"");
    let refused = read(&coding).unwrap_err();
    assert!(refused.starts_with("configuration:1:"), "{refused}");
    let refused = read(&format!("[chat]\ndefault_adapter = \"legal\"\n{coding}")).unwrap_err();
    assert!(refused.starts_with("configuration:2:1: chat.default_adapter: no inference server serves \"legal\": name one of coding"), "{refused}");
    for served in [
        String::new(),
        coding.clone() + &node("b", ""),
        coding.clone() + &node("b", "\"general\""),
        format!("chat.default_adapter = \"coding\"\n{coding}"),
    ] {
        read(&served).unwrap();
    }
}

#[test]
fn origins_and_hosts_that_match_everything_or_nothing_are_refused() {
    for origin in [
        "*",
        "null",
        "app.example",
        "https://*.app.example",
        "https://app.example/",
        "https://App.example",
        "https://app.example:443",
        "",
    ] {
        let refused = read(&format!("auth.cors_origins = [\"{origin}\"]")).unwrap_err();
        assert!(refused.contains("auth.cors_origins"), "{origin}: {refused}");
    }
    for host in [
        "*",
        "*.edge.example",
        ".edge.example",
        "https://edge.example",
        "edge.example:443",
        "[::1",
        "",
    ] {
        let refused = read(&format!("auth.hosts = [\"{host}\"]")).unwrap_err();
        assert!(refused.contains("auth.hosts"), "{host}: {refused}");
    }
    read("auth.cors_origins = [\"https://app.example\", \"http://[::1]:3000\", \"moz-extension://0a-1b\"]").unwrap();
    read("auth.hosts = [\"edge.example\", \"203.0.113.7\", \"[2001:db8::1]\"]").unwrap();
}

#[test]
fn an_address_that_would_not_be_used_as_written_is_refused_with_its_right_form() {
    let inference = |url: &str| format!("[[inference]]\nname = \"node\"\nurl = \"{url}\"");
    let chain = |url: &str| format!("chain.rpc = \"{url}\"");
    let miner = |url: &str| format!("miner.url = \"{url}\"");
    for (config, key, right) in [
        (
            inference("http://h:1/v1"),
            "inference[0].url",
            "\"http://h:1\"",
        ),
        (
            inference("http://h:1/v1/"),
            "inference[0].url",
            "\"http://h:1\"",
        ),
        (
            inference("http://h/openai/v1"),
            "inference[0].url",
            "\"http://h/openai\"",
        ),
        (
            inference("https://h/v1/chat/completions"),
            "inference[0].url",
            "\"https://h\"",
        ),
        (
            inference("http://user:secret@[::1]:8/x"),
            "inference[0].url",
            "\"http://[::1]:8/x\"",
        ),
        (
            inference("http://secret@h"),
            "inference[0].url",
            "\"http://h\"",
        ),
        (
            inference("http://h:1?key=secret"),
            "inference[0].url",
            "\"http://h:1\"",
        ),
        (
            inference("http://h:1/#secret"),
            "inference[0].url",
            "\"http://h:1\"",
        ),
        (
            chain("http://h:1/?key=secret"),
            "chain.rpc",
            "\"http://h:1\"",
        ),
        (chain("http://u:secret@h:1"), "chain.rpc", "\"http://h:1\""),
        (
            miner("http://u:secret@h/stats?a=1"),
            "miner.url",
            "\"http://h/stats?a=1\"",
        ),
        (
            miner("http://h/stats#secret"),
            "miner.url",
            "\"http://h/stats\"",
        ),
    ] {
        let refused = read(&config).unwrap_err();
        assert!(
            refused.contains(&format!("{key}: must be without")),
            "{refused}"
        );
        assert!(refused.ends_with(right), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
    for url in [
        "",
        "h:8080",
        "ftp://h",
        "http://",
        "http://user:secret@",
        "http://u:secret word@h",
    ] {
        let refused = read(&inference(url)).unwrap_err();
        assert!(refused.contains(HTTP_URL), "{url}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
    for url in [
        "http://h:1",
        "http://[::1]:11434/",
        "https://h/openai",
        "http://h/v1/gateway",
    ] {
        read(&inference(url)).unwrap();
    }
    read(&miner("http://h/stats?a=1")).unwrap();
}
