use std::time::Duration;

use hyper::Method;
use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::{Actor, UserQuery, issue_key};
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use crate::support::{Caller, Process, TestServer, W1, W2, W3, config, edge, wallet};

#[tokio::test]
async fn the_list_of_accounts_is_an_admins_and_comes_page_by_page() {
    let server = TestServer::start(config()).await;
    let (admin, reader) = (server.admin(), server.caller(W1, &["read", "keys"]).await);
    assert_eq!(
        reader.get("/users").await.refused(403, "forbidden")["status"],
        403
    );
    server
        .anybody()
        .get("/users")
        .await
        .refused(401, "missing_credentials");
    for wallet in [W3, W2] {
        let body = json!({ "wallet_address": wallet });
        admin.post("/users", &body).await.expect(201);
    }
    let whole = admin.get("/users").await.expect(200);
    assert_eq!(whole["next_cursor"], json!(null));
    let mut path = "/users?limit=2".to_owned();
    let mut listed = Vec::new();
    loop {
        let page = admin.get(&path).await.expect(200);
        listed.extend(page["users"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/users?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(json!(listed), whole["users"]);
    let mut wallets = [W1, W2, W3];
    wallets.sort_unstable();
    for (user, wallet) in listed.iter_mut().zip(wallets) {
        let last_used_at = user.as_object_mut().unwrap().remove("last_used_at");
        assert_eq!(last_used_at, Some(json!(null)));
        let shown = admin.get(&format!("/users/{wallet}")).await;
        assert_eq!(*user, shown.expect(200));
    }
    for wrong in ["limit=0", "limit=501", "cursor=led_1", "cursor=", "after=1"] {
        let refused = admin.get(&format!("/users?{wrong}")).await;
        refused.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_key_is_shown_to_its_owner_and_to_an_admin() {
    let server = TestServer::start(config()).await;
    let (owner, other) = (
        server.caller(W1, &["read", "keys"]).await,
        server.caller(W2, &["keys"]).await,
    );
    let listed = owner.get("/api/keys").await.expect(200);
    let path = format!("/api/keys/{}", listed["keys"][0]["id"].as_str().unwrap());
    // The request itself marked the key as used.
    let shown = owner.get(&path).await.expect(200);
    for member in [
        "id",
        "start",
        "wallet_address",
        "name",
        "scopes",
        "is_active",
    ] {
        assert_eq!(shown[member], listed["keys"][0][member], "{member}");
    }
    assert_eq!(
        server.admin().get(&path).await.expect(200)["id"],
        shown["id"]
    );
    other.get(&path).await.refused(404, "not_found");
    owner
        .get("/api/keys/key_01")
        .await
        .refused(404, "not_found");
    let reader = server.caller(W1, &["read"]).await;
    reader.get(&path).await.refused(403, "forbidden");
}

#[tokio::test]
async fn amounts_are_printed_to_the_millionth_and_with_all_their_digits() {
    const MUCH: &str = "9000000000.000001";
    let server = TestServer::start(config()).await;
    let (admin, own) = (server.admin(), server.caller(W1, &["read"]).await);
    let send = async |method: Method, path: &str, body: String| {
        let post = method == Method::POST;
        let headers = [("idempotency-key", path)];
        let headers = if post { &headers[..] } else { &[] };
        let answer = admin.send(method, path, headers, body).await;
        assert!(answer.status < 300, "{path}");
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let credits = format!("/users/{W1}/credits");
    let small = "{\"amount\":0.000001,\"reason\":\"r\"}";
    for _ in ["first", "again"] {
        let granted = send(Method::POST, &credits, small.to_owned()).await;
        let starts = "{\"credits\":0.000001,\"entry\":{\"id\":\"led_0000000000000001\",\"amount\":0.000001,\"balance\":0.000001,";
        assert!(granted.starts_with(starts), "{granted}");
    }
    let get = async |path: &str| send(Method::GET, path, String::new()).await;
    let ledger = get(&format!("/users/{W1}/ledger")).await;
    assert!(
        ledger.contains("\"credits\":0.000001,\"entries\":[{"),
        "{ledger}"
    );
    assert!(
        ledger.contains("\"amount\":0.000001,\"balance\":0.000001,"),
        "{ledger}"
    );
    for _ in 0..9 {
        let much = json!({ "amount": 1_000_000_000, "reason": "r" });
        admin.post(&credits, &much).await.expect(200);
    }
    let exact = format!("\"credits\":{MUCH}");
    for path in [
        format!("/users/{W1}"),
        format!("/users/{W1}/ledger"),
        "/users".to_owned(),
    ] {
        let answer = get(&path).await;
        assert!(answer.contains(&exact), "{path}: {answer}");
    }
    let me = own.send(Method::GET, "/auth/me", &[], "").await.body;
    assert!(String::from_utf8(me.to_vec()).unwrap().contains(&exact));
    assert!(
        get("/network/stats")
            .await
            .contains(&format!("\"total_credits\":{MUCH}"))
    );
    let earned = json!({ "wallet_address": W2, "source_id": "block" }).to_string();
    let earned = earned.replace('}', ",\"earnings\":0.000003}");
    for path in ["/miner/earnings", "/miner/earnings"] {
        let counted = send(Method::POST, path, earned.clone()).await;
        assert!(counted.contains("\"earnings\":0.000003"), "{counted}");
    }
    let days = get(&format!("/miner/earnings/{W2}")).await;
    assert!(
        days.contains("\"earnings\":0.000003,\"amount\":0.000003,"),
        "{days}"
    );
    let board = get("/leaderboard").await;
    assert!(board.contains("\"total_earnings\":0.000003,"), "{board}");
    let stats = get(&format!("/miner/stats/{W2}")).await;
    assert!(stats.contains("\"total_earnings\":0.000003,"), "{stats}");
}

#[tokio::test]
async fn reasons_that_the_server_writes_itself_are_refused_by_name() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let path = format!("/users/{W1}/credits");
    for reason in [
        "chat",
        "chat_refund",
        "deposit",
        "mining",
        "opening",
        "refund",
        "Mining",
        " chat ",
    ] {
        for amount in [1, -1] {
            let body = json!({ "amount": amount, "reason": reason });
            let refused = admin.post(&path, &body).await;
            let refused = refused.refused(400, "invalid_request");
            assert_eq!(refused["errors"][0]["pointer"], "/reason", "{reason}");
        }
        let database = server.database();
        let grant = ["credits", "grant", W1, "1", "--reason", reason];
        let (code, _, stderr) = crate::support::edge_output(&database, &grant);
        assert!(
            code == 2 && stderr.contains("which the server writes itself"),
            "{stderr}"
        );
    }
    for reason in ["refund of an outage", "mining bonus", "chats"] {
        let body = json!({ "amount": 1, "reason": reason });
        admin.post(&path, &body).await.expect(200);
    }
    assert_eq!(server.balance(W1).await.to_string(), "3");
}

#[tokio::test]
async fn a_grant_has_the_reference_that_its_admin_gave_and_a_repeated_one_must_have_the_same() {
    const INVOICE: &str = "=invoice \"7\", 2026 \u{2600}";
    let server = TestServer::start(config()).await;
    let (admin, own) = (server.admin(), server.caller(W1, &["read"]).await);
    let path = format!("/users/{W1}/credits");
    let longest = "\u{e9}".repeat(200);
    for (amount, reference) in [
        (2, json!(INVOICE)),
        (-1, json!(longest)),
        (1, json!(null)),
        (1, json!("led_0000000000000001")),
    ] {
        let body = json!({ "amount": amount, "reason": "test", "reference": reference });
        let granted = admin.post(&path, &body).await.expect(200);
        assert_eq!(granted["entry"]["reference"], reference);
        let ledger = own.get(&format!("/users/{W1}/ledger?limit=1")).await;
        assert_eq!(ledger.expect(200)["entries"][0], granted["entry"]);
    }
    let long = "x".repeat(201);
    for wrong in [
        json!(""),
        json!(long),
        json!("a\nb"),
        json!("\u{7f}"),
        json!(7),
    ] {
        let body = json!({ "amount": 1, "reason": "test", "reference": wrong });
        let refused = admin.post(&path, &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "/reference", "{wrong}");
    }
    let headers = [("idempotency-key", "once")];
    let mut entries = Vec::new();
    for (reference, status) in [("a", 200), ("a", 200), ("b", 422)] {
        let body = json!({ "amount": 1, "reason": "test", "reference": reference });
        let answer = admin
            .send(Method::POST, &path, &headers, body.to_string())
            .await;
        entries.push(answer.expect(status)["entry"].clone());
    }
    assert_eq!(entries[0], entries[1]);
    assert_eq!(server.balance(W1).await.to_string(), "4");
    server.assert_ledger_adds_up().await;
    let database = server.database();
    let (code, csv) = edge(&database, &["ledger", "export"]);
    assert_eq!(code, 0);
    let quoted = ",test,\"'=invoice \"\"7\"\", 2026 \u{2600}\",";
    assert!(csv.contains(quoted), "{csv}");
    server.shutdown().await;
}

#[test]
fn the_command_grants_with_a_reference() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let grant = |amount, reference: &str| {
        let grant = [
            "credits",
            amount,
            W1,
            "1",
            "--reason",
            "test",
            "--reference",
            reference,
        ];
        edge(&database, &[&grant[..], &["--json"]].concat())
    };
    for (verb, reference) in [("grant", "invoice 7"), ("take", "invoice 8")] {
        let (code, granted) = grant(verb, reference);
        let granted: serde_json::Value = serde_json::from_str(&granted).unwrap();
        assert_eq!(
            (code, &granted["entry"]["reference"]),
            (0, &json!(reference))
        );
    }
    assert_eq!(grant("grant", "").0, 2);
    let (_, exported) = edge(&database, &["ledger", "export", "--json"]);
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    let references = exported.as_array().unwrap().iter();
    let references: Vec<_> = references.map(|entry| &entry["reference"]).collect();
    assert_eq!(references, ["invoice 7", "invoice 8"]);
}

#[tokio::test]
async fn a_sum_that_would_overflow_is_a_conflict_by_name_and_changes_nothing() {
    let server = TestServer::start(config()).await;
    let (admin, path) = (server.admin(), format!("/users/{W1}/credits"));
    let grant = json!({ "amount": 5, "reason": "test" });
    admin.post(&path, &grant).await.expect(200);
    let file = rusqlite::Connection::open(server.database()).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    let set = |total: i64, earnings: i64| {
        file.execute("UPDATE totals SET credits = ?1", [total])
            .unwrap();
        file.execute("UPDATE users SET total_earnings = ?1", [earnings])
            .unwrap();
    };
    set(i64::MAX - 4_999_999, 0);
    let refused = admin.post(&path, &grant).await.refused(409, "conflict");
    let detail = "the total of all balances would be more than can be counted";
    assert_eq!(refused["detail"], detail);
    let earning = json!({ "wallet_address": W1, "earnings": 5, "source_id": "block-1" });
    let refused = admin.post("/miner/earnings", &earning).await;
    assert_eq!(refused.refused(409, "conflict")["detail"], detail);
    set(5_000_000, i64::MAX - 4_999_999);
    let refused = admin.post("/miner/earnings", &earning).await;
    let detail = "the total of the wallet's earnings would be more than can be counted";
    assert_eq!(refused.refused(409, "conflict")["detail"], detail);
    set(5_000_000, 0);
    server.assert_ledger_adds_up().await;
    admin.post("/miner/earnings", &earning).await.expect(201);
    admin.post(&path, &grant).await.expect(200);
    assert_eq!(server.balance(W1).await.micro(), 15_000_000);
    server.assert_ledger_adds_up().await;
}

/// A new account with so many micro-credits.
async fn account(server: &TestServer, text: &str, micro: i64, at: Timestamp) {
    let actor = Actor::local(at);
    let created = server.store.create_user(wallet(text), actor, None);
    created.await.unwrap();
    if micro > 0 {
        server.grant_micro(text, micro).await;
    }
}

/// The addresses in a list of accounts, read in pages of this size.
async fn addresses(admin: &Caller, query: &str, limit: usize) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/users?{query}&limit={limit}{cursor}");
        let page = admin.get(&path).await.expect(200);
        let users = page["users"].as_array().unwrap();
        let names = users.iter().map(|user| user["wallet_address"].as_str());
        found.extend(names.map(|name| name.unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            None => return found,
            Some(next) => {
                assert_eq!(users.len(), limit, "only the last page is shorter");
                cursor = format!("&cursor={next}");
            }
        }
    }
}

#[tokio::test]
async fn accounts_are_sorted_by_each_value_and_those_that_are_alike_by_their_addresses() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let mut names: Vec<_> = (0..9).map(numbered).collect();
    names.sort_unstable();
    let hour = server.clock.now();
    // Not in the order of their addresses, and of three each with the same time and balance.
    for (at, name) in names.iter().rev().enumerate() {
        let (minute, micro) = [(1, 0), (2, 7_000_001), (0, 7_000_000)][at / 3];
        let at = hour.plus(Duration::from_secs(60 * minute));
        account(&server, name, micro, at).await;
    }
    for (place, minutes) in [(4, 5), (0, 5), (2, 9)] {
        let key = KeyRequest {
            wallet: Some(wallet(&names[place])),
            name: String::new(),
            scopes: Scopes::DEFAULT,
            expires_at: None,
            login: false,
            limits: None,
        };
        let key = issue_key(&*server.store, key, 9, Actor::local(hour), None);
        let id = key.await.unwrap().record.id;
        let at = hour.plus(Duration::from_secs(60 * minutes));
        server.store.touch_keys(vec![(id, at)]).await.unwrap();
    }
    let orders: [(&str, [usize; 9]); 4] = [
        ("address", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("created", [3, 4, 5, 6, 7, 8, 0, 1, 2]),
        ("balance", [3, 4, 5, 0, 1, 2, 6, 7, 8]),
        ("last_used", [2, 0, 4, 1, 3, 5, 6, 7, 8]),
    ];
    for (sort, order) in orders {
        let expected = order.map(|place| names[place].clone());
        for limit in [1, 2, 4, 8, 9, 100] {
            let found = addresses(&admin, &format!("sort={sort}"), limit).await;
            assert_eq!(found, expected, "by {sort}, {limit} at a time");
        }
        // One cursor leads on in its own order only.
        let first = admin.get(&format!("/users?sort={sort}&limit=1")).await;
        let next = first.expect(200)["next_cursor"].clone();
        let next = next.as_str().unwrap();
        let other = if sort == "address" {
            "created"
        } else {
            "address"
        };
        for wrong in [
            format!("sort={other}&cursor={next}"),
            format!("sort={sort}&cursor=+{next}"),
            format!("sort={sort}&cursor={next}x"),
            format!("sort={sort}&cursor=x.{}", names[0]),
            format!("sort={sort}&cursor=9223372036854775808.{}", names[0]),
        ] {
            let refused = admin.get(&format!("/users?{wrong}")).await;
            let refused = refused.refused(400, "invalid_request");
            assert_eq!(refused["errors"][0]["pointer"], "cursor", "{wrong}");
        }
    }
    let default = addresses(&admin, "", 2).await;
    assert_eq!(default, names);
    for wrong in [
        "sort=",
        "sort=Balance",
        "sort=credits",
        "sort=1",
        "sort=balance&sort=balance",
    ] {
        let refused = admin.get(&format!("/users?{wrong}")).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "sort", "{wrong}");
    }
}

#[tokio::test]
async fn a_search_finds_the_accounts_whose_addresses_have_the_part_in_every_order() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    let mut names: Vec<_> = (0..30).map(numbered).collect();
    for (at, name) in names.iter().enumerate() {
        account(&server, name, at as i64 % 4, server.clock.now()).await;
    }
    names.sort_unstable();
    let whole = names[7].clone();
    let end = whole[30..].to_owned();
    let parts = [
        "",
        "remes1",
        "7",
        "07",
        "00",
        "x0",
        "true",
        "REMES1Q",
        "%71",
        whole.as_str(),
        end.as_str(),
        "b",
        "_",
        "%25",
        "%27%20OR%201",
    ];
    for part in parts {
        let decoded = part
            .replace("%71", "q")
            .replace("%25", "%")
            .replace("%27%20", "' ");
        let decoded = decoded.replace("%20", " ").to_ascii_lowercase();
        let matching: Vec<_> = names
            .iter()
            .filter(|name| name.contains(&decoded))
            .collect();
        for sort in ["address", "created", "balance", "last_used"] {
            let query = format!("search={part}&sort={sort}");
            let mut found = addresses(&admin, &query, 3).await;
            found.sort_unstable();
            assert_eq!(found.iter().collect::<Vec<_>>(), matching, "{query}");
        }
    }
    let longest = "a".repeat(64);
    let none = addresses(&admin, &format!("search={longest}"), 1).await;
    assert_eq!(none, Vec::<String>::new());
    for wrong in [format!("{longest}a"), "%C3%A9".to_owned(), "%ff".to_owned()] {
        let refused = admin.get(&format!("/users?search={wrong}")).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "search", "{wrong}");
    }
    let own = server.caller(W1, &["read", "keys"]).await;
    own.get("/users?search=a").await.refused(403, "forbidden");
}

#[tokio::test]
async fn the_last_use_of_an_account_is_the_newest_of_its_keys_and_outlives_them() {
    let server = TestServer::start(config()).await;
    let first = server.caller(W1, &["read"]).await;
    let second = server.caller(W1, &["read"]).await;
    account(&server, W2, 0, server.clock.now()).await;
    server.wait_for_noon();
    first.get("/auth/me").await.expect(200);
    server.clock.advance(Duration::from_secs(600));
    second.get("/auth/me").await.expect(200);
    let used = server.clock.now();
    let used = Timestamp::from_millis(used.millis() - used.millis() % 60_000);
    let me = second.get("/auth/me").await.expect(200);
    let id = me["key"]["id"].as_str().unwrap().to_owned();
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let (_, listed) = edge(&database, &["users", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let of = |text: &str| {
        let users = listed["users"].as_array().unwrap().iter();
        let mut own = users.filter(|user| user["wallet_address"] == text);
        own.next().unwrap()["last_used_at"].clone()
    };
    assert_eq!((of(W1), of(W2)), (json!(used), json!(null)));
    let store = SqliteStore::open(&database, false).unwrap();
    let later = used.plus(Duration::from_secs(40 * 86_400));
    let revoked = store.revoke_key(id.clone(), None, Actor::local(used)).await;
    assert!(revoked.is_ok());
    store.purge(later).await.unwrap();
    assert_eq!(store.key(id).await, Ok(None));
    let query = UserQuery {
        search: W1.to_owned(),
        limit: 9,
        ..UserQuery::default()
    };
    let found = store.users(query).await.unwrap();
    assert_eq!(found[0].last_used_at, Some(used));
}

/// Another address for each number.
fn numbered(number: u8) -> String {
    let prefix = bech32::Hrp::parse("remes").unwrap();
    bech32::encode::<bech32::Bech32>(prefix, &[number; 20]).unwrap()
}
