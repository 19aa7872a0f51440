//! The operator's page: static files compiled in. They hold no data, so anybody may have them; what they show they ask for
//! by the routes that everybody asks, with the key of whoever sits before them.

use bytes::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY};

use crate::call::Reply;

const PAGE: &str = include_str!("../dashboard/page.html");
const STYLE: &str = include_str!("../dashboard/page.css");
/// One module: each part uses those before it.
const SCRIPT: &str = concat!(
    include_str!("../dashboard/format.js"),
    include_str!("../dashboard/feed.js"),
    include_str!("../dashboard/metrics.js"),
    include_str!("../dashboard/chart.js"),
    include_str!("../dashboard/page.js"),
    include_str!("../dashboard/account.js"),
);

/// Its own script and style, requests to this server, and nothing from anywhere else or inline: a text that got into the
/// page could still not run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn page() -> Reply {
    file("text/html; charset=utf-8", PAGE)
}

pub(super) fn script() -> Reply {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) fn style() -> Reply {
    file("text/css; charset=utf-8", STYLE)
}

fn file(content_type: &'static str, text: &'static str) -> Reply {
    let mut reply = Reply::fixed(content_type, Bytes::from_static(text.as_bytes()));
    reply.set(CONTENT_SECURITY_POLICY, POLICY);
    reply.set(REFERRER_POLICY, "no-referrer");
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    reply.set(resource_policy, "same-origin");
    reply
}
