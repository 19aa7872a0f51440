//! The page at `/` as it is served; what it does in a browser is tested by tests/clients/page.sh.

use hyper::Method;
use r3mes_edge::Config;

use crate::support::{Answer, Caller, TestServer, config};

/// Each file with its type.
const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
];

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

async fn files(caller: &Caller) -> Vec<Answer> {
    let mut files = Vec::new();
    for (path, _) in FILES {
        files.push(caller.get(path).await);
    }
    files
}

#[tokio::test]
async fn page_files_have_their_type_and_a_policy_that_loads_nothing_from_other_origins() {
    let server = TestServer::start(config()).await;
    for (file, (path, content_type)) in files(&server.anybody()).await.iter().zip(FILES) {
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("content-type"), content_type);
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        assert_eq!(file.header("referrer-policy"), "no-referrer");
        assert_eq!(file.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(
            file.header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
    }
}

#[tokio::test]
async fn a_cached_file_is_a_304_and_head_has_no_body() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    for (path, content_type) in FILES {
        let file = caller.get(path).await;
        assert_eq!(file.header("cache-control"), "public, no-cache");
        let known = [("if-none-match", file.header("etag"))];
        let again = caller.send(Method::GET, path, &known, "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        // A browser uses the headers of a 304 for its cached response.
        let policy = "content-security-policy";
        assert_eq!(again.header(policy), file.header(policy));
        let other = [("if-none-match", "\"0123456789abcdef\"")];
        let other = caller.send(Method::GET, path, &other, "").await;
        assert_eq!((other.status, &other.body), (200, &file.body), "{path}");
        let head = caller.send(Method::HEAD, path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-type"), content_type);
        assert_eq!(
            head.header("content-length"),
            file.body.len().to_string(),
            "{path}"
        );
        let posted = caller.send(Method::POST, path, &[], "{}").await;
        assert_eq!(posted.header("allow"), "GET, HEAD");
        posted.refused(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn the_page_is_small_and_names_only_files_that_are_served_with_it() {
    let server = TestServer::start(config()).await;
    let files = files(&server.anybody()).await;
    let bytes: usize = files.iter().map(|file| file.body.len()).sum();
    assert!(
        (10_000..150 << 10).contains(&bytes),
        "{bytes} bytes in all, heads not counted"
    );
    let [page, script, style] = [0, 1, 2].map(|at| text(&files[at]));
    for named in [r#"href="page.css""#, r#"src="page.js""#] {
        assert_eq!(page.matches(named).count(), 1, "{named}");
    }
    let mut loaded: Vec<&str> = page
        .split([' ', '<'])
        .filter(|word| {
            word.starts_with("src=")
                || word.starts_with("href=") && !word.starts_with("href=\"data:")
        })
        .map(|word| word.split('"').nth(1).unwrap())
        .collect();
    loaded.sort_unstable();
    assert_eq!(
        loaded,
        ["metrics", "openapi.json", "page.css", "page.js"],
        "relative to the page's folder, as a proxy may serve it below a path prefix"
    );
    // The policy blocks these; they should not be there at all.
    for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    // Names of XML's own are no addresses to load from.
    let name = "http://www.w3.org/2000/svg";
    for (file, (path, _)) in [page, script, style].into_iter().zip(FILES) {
        let rest = file.replace(name, "");
        assert!(!rest.contains("http://") && !rest.contains("https://"));
        assert!(
            !rest.contains("url(") && !rest.contains("@import"),
            "{path}"
        );
    }
    // Data become text, never markup; and the key goes into no storage but the tab's, from one place.
    assert_eq!(script.matches("sessionStorage").count(), 1);
    for never in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "new Function",
        "localStorage",
        "indexedDB",
        "document.cookie",
    ] {
        assert!(!script.contains(never), "{never}");
    }
}

#[tokio::test]
async fn only_three_paths_serve_the_page() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    for path in [
        "//",
        "/index.html",
        "/page",
        "/page.html",
        "/page.js/",
        "/page.css.map",
        "/Page.js",
        "/dashboard/page.js",
        "/page.js%00",
        "/anything/page.css",
        "/favicon.ico",
    ] {
        caller.get(path).await.refused(404, "not_found");
    }
    // The query is ignored, but a key in it is refused here as anywhere.
    assert_eq!(caller.get("/?from=bookmark").await.status, 200);
    let key = server.admin().key().to_owned();
    let leaky = caller.get(&format!("/?key={key}")).await;
    leaky.refused(400, "key_in_query");
}

#[tokio::test]
async fn the_page_is_public_but_only_under_a_host_of_this_server() {
    let mut config = config();
    config.auth = Config::read("[auth]\npublic_reads = false", [])
        .unwrap()
        .auth;
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    let forwarded = [("x-forwarded-for", "203.0.113.7")];
    for (path, _) in FILES {
        let passed_on = caller.send(Method::GET, path, &forwarded, "").await;
        assert_eq!(passed_on.status, 200, "{path}");
        let rebound = [("host", "evil.example")];
        let rebound = caller.send(Method::GET, path, &rebound, "").await;
        rebound.refused(421, "wrong_host");
        let elsewhere = [("origin", "https://evil.example")];
        let elsewhere = caller.send(Method::GET, path, &elsewhere, "").await;
        elsewhere.refused(403, "forbidden");
    }
    // The page needs no key, the data do.
    for path in ["/leaderboard", "/metrics", "/alerts", "/chain/status"] {
        caller.get(path).await.refused(401, "missing_credentials");
    }
}
