//! The operator's page: static files compiled in. They contain no data, so they are public; the page
//! gets its data from the usual routes, with the user's key.

use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};

use super::{Context, Result};
use crate::http::response;

const PAGE: &str = include_str!("../dashboard/page.html");
const STYLE: &str = include_str!("../dashboard/page.css");
/// One module: each part uses those before it.
const SCRIPT: &str = concat!(
    include_str!("../dashboard/format.js"),
    include_str!("../dashboard/feed.js"),
    include_str!("../dashboard/metrics.js"),
    include_str!("../dashboard/chart.js"),
    include_str!("../dashboard/action.js"),
    include_str!("../dashboard/state.js"),
    include_str!("../dashboard/page.js"),
    include_str!("../dashboard/own.js"),
    include_str!("../dashboard/chat_box.js"),
    include_str!("../dashboard/sign_in.js"),
    include_str!("../dashboard/account.js"),
    include_str!("../dashboard/admin.js"),
    include_str!("../dashboard/admin-keys.js"),
    include_str!("../dashboard/admin-accounts.js"),
    include_str!("../dashboard/admin-node.js"),
);

/// Only its own script and style, and requests to this server; nothing inline or from elsewhere, so that injected text cannot
/// run.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(crate) async fn page(_: Context) -> Result {
    file("text/html; charset=utf-8", PAGE)
}

pub(crate) async fn script(_: Context) -> Result {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(crate) async fn style(_: Context) -> Result {
    file("text/css; charset=utf-8", STYLE)
}

fn file(content_type: &'static str, text: &'static str) -> Result {
    let mut response = response::file(content_type, text.as_bytes());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-resource-policy", same_origin);
    Ok(response)
}
