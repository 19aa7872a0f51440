use super::*;
use crate::model::Wallet;
use proptest::prelude::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(deserialize_with = "exact_credits")]
    amount: Credits,
    reason: Option<String>,
    wallet_address: Option<Wallet>,
    count: Option<Whole<1, 9>>,
    #[serde(default)]
    times: Vec<Timestamp>,
}

fn read(body: &str) -> Result<Body, InputError> {
    read_object(body, "")
}

#[test]
fn each_error_names_its_member() {
    use InputKind::{Field, Json};
    for (body, kind, pointer, detail) in [
        ("{", Json, "", "the body is not valid JSON"),
        ("{\"amount\":1} x", Json, "", "the body is not valid JSON"),
        ("[]", Field, "", "must be a JSON object"),
        ("[1]", Field, "", "must be a JSON object"),
        ("7", Field, "", "must be a JSON object"),
        ("{}", Field, "/amount", "missing field `amount`"),
        (
            "{\"amount\":null}",
            Field,
            "/amount",
            "amount must be a plain decimal number",
        ),
        (
            "{\"amount\":\"1\"}",
            Field,
            "/amount",
            "amount must be a plain decimal number",
        ),
        (
            "{\"amount\":1e3}",
            Field,
            "/amount",
            "amount must be a plain decimal number",
        ),
        (
            "{\"amount\":1,\"reason\":7}",
            Field,
            "/reason",
            "reason must be a string",
        ),
        (
            "{\"amount\":1,\"a/b~\":7}",
            Field,
            "/a~1b~0",
            "unknown field `a/b~`, expected one of",
        ),
        (
            "{\"amount\":1,\"amount\":2}",
            Field,
            "/amount",
            "duplicate field `amount`",
        ),
        (
            "{\"amount\":1,\"wallet_address\":\"remes1x\"}",
            InputKind::Wallet,
            "/wallet_address",
            "wallet_address a wallet",
        ),
        (
            "{\"amount\":1,\"count\":10}",
            Field,
            "/count",
            "count must be a whole number from 1 to 9",
        ),
        (
            "{\"amount\":1,\"count\":1.5}",
            Field,
            "/count",
            "count must be a whole number from 1 to 9",
        ),
        (
            "{\"amount\":1,\"times\":[1,\"x\"]}",
            Field,
            "/times/1",
            "times must be a time",
        ),
    ] {
        let error = read(body).err().unwrap();
        assert_eq!(
            (error.kind, error.pointer.as_str()),
            (kind, pointer),
            "{body}: {error:?}"
        );
        assert!(error.detail.starts_with(detail), "{body}: {}", error.detail);
    }
}

#[test]
fn escaped_names_exact_amounts_and_whole_floats_are_read() {
    let body = r#"{"am\u006funt":1.000001,"reason":"two\nlines","count":3.0,"wallet_address":null,"times":["1795489200.25",1795489200.25]}"#;
    let body = read(body).unwrap();
    assert_eq!(body.amount.micro(), 1_000_001);
    assert_eq!(body.reason.unwrap(), "two\nlines");
    assert_eq!(body.count.unwrap().0, 3);
    assert!(body.wallet_address.is_none());
    assert_eq!(body.times[0], body.times[1]);
}

#[test]
fn a_body_is_refused_by_its_depth_and_not_by_the_brackets_in_its_texts() {
    let nested = |open: &str, depth: usize, close: &str| {
        check_depth(&format!("{}1{}", open.repeat(depth), close.repeat(depth)))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"[\\\"\":", "}]")] {
        let each = open.matches(['[', '{']).count().min(close.len());
        nested(open, MAX_DEPTH / each, close).unwrap();
        let refused = nested(open, MAX_DEPTH / each + 1, close).unwrap_err();
        assert!(refused.detail.contains("32"), "{}", refused.detail);
    }
    for flat in [
        "[],".repeat(99),
        format!("[\"{}\"]", "[\\\"{\\\\".repeat(99)),
    ] {
        check_depth(&flat).unwrap();
    }
    // A string that does not end, and one that ends with its escape, are for the parser to refuse.
    for broken in ["\"[[[", "\"\\", "]]]"] {
        check_depth(broken).unwrap();
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    limit: Option<Whole<1, 100>>,
    cursor: Option<String>,
}

#[test]
fn an_invalid_parameter_is_named() {
    for (query, pointer, detail) in [
        ("top=1", "top", "unknown parameter `top`"),
        ("Limit=1", "Limit", "unknown parameter `Limit`"),
        (
            "limit=0",
            "limit",
            "limit must be a whole number from 1 to 100",
        ),
        (
            "limit",
            "limit",
            "limit must be a whole number from 1 to 100",
        ),
        ("limit=1&limit=2", "limit", "limit is a duplicate parameter"),
    ] {
        let error = read_query::<Query>(query).err().unwrap();
        assert_eq!(error.pointer, pointer, "{query}");
        assert!(error.detail.starts_with(detail), "{}", error.detail);
    }
    let read = read_query::<Query>("&limit=007&cursor=key_1=").unwrap();
    assert_eq!(read.limit.unwrap().count(), 7);
    assert_eq!(read.cursor.unwrap(), "key_1=");
}

proptest! {
    #[test]
    fn parameters_are_known_and_not_duplicate(pairs in prop::collection::vec("(limit=[1-9]|cursor(=[a-z=]{0,3})?|top|Limit|)", 0..4), junk in any::<String>()) {
        let known = ["limit", "cursor"];
        let names: Vec<&str> = pairs.iter().filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap()).collect();
        let fine = names.iter().enumerate().all(|(at, name)| known.contains(name) && !names[..at].contains(name));
        prop_assert_eq!(read_query::<Query>(&pairs.join("&")).is_ok(), fine);
        let _ = read_query::<Query>(&junk);
    }

    #[test]
    fn a_number_is_digits_within_the_range_and_nothing_else(number in 0usize..500, text in "([0-9]{0,25}|[+-]?[0-9]{1,3}|[0-9]+\\.0|[^%\\p{C}]{0,4})") {
        let read = |text: &str| read_query::<Query>(&format!("limit={text}")).ok().and_then(|query| query.limit).map(Whole::count);
        prop_assert_eq!(read(&number.to_string()), (1..=100).contains(&number).then_some(number));
        if let Some(number) = read(&text) {
            prop_assert_eq!(text.trim_start_matches('0').trim_end_matches('&'), number.to_string());
        }
    }

    #[test]
    fn a_value_is_percent_decoded_whichever_of_its_bytes_are_encoded(text in "[^0-9]\\PC{0,9}", encoded in any::<u64>()) {
        let byte = |(at, byte): (usize, u8)| match byte {
            // Those that end a value, or begin an encoded byte.
            b'&' | b'%' | b'#' => format!("%{byte:02X}"),
            _ if encoded >> (at % 64) & 1 == 1 || !byte.is_ascii() => format!("%{byte:02x}"),
            _ => char::from(byte).to_string(),
        };
        let query: String = text.bytes().enumerate().map(byte).collect();
        let read = read_query::<Query>(&format!("cursor={query}")).unwrap();
        prop_assert_eq!(read.cursor.unwrap(), text);
    }

    #[test]
    fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
        let _ = read(&body);
        let _ = check_depth(&body);
    }
}
