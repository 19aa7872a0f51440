use crate::error::ErrorCode as E;
use crate::routes::RouteId;

/// Media types, each with the schema of what is sent in it.
type Media = &'static [(&'static str, &'static str)];

/// What is known of a route beyond its row. Names are those of `components.json`.
pub(super) struct Told {
    pub(super) summary: &'static str,
    /// Of the query, and headers. `None`: the query is not looked at.
    pub(super) parameters: Option<&'static [&'static str]>,
    pub(super) request: Media,
    pub(super) body_optional: bool,
    pub(super) success: &'static [(u16, Media)],
    /// Answers carry an `ETag`.
    pub(super) tag: bool,
    /// Answers come from a cache and say so.
    pub(super) cached: bool,
    /// Takes an `Idempotency-Key`.
    pub(super) once: bool,
    /// What the handler may refuse with, besides what the row brings with it.
    pub(super) errors: &'static [E],
}

/// A route that reads nothing and cannot be refused by its handler; the match below says how each one differs.
const PLAIN: Told = Told {
    summary: "",
    parameters: None,
    request: &[],
    body_optional: false,
    success: &[],
    tag: false,
    cached: false,
    once: false,
    errors: &[],
};

macro_rules! json {
    ($schema:literal) => {
        &[("application/json", $schema)]
    };
}

const CHAIN: &[E] = &[
    E::ChainDisabled,
    E::CircuitOpen,
    E::UpstreamBadResponse,
    E::UpstreamTimeout,
];

/// What a route's row cannot know.
#[rustfmt::skip]
pub(super) fn told(id: RouteId) -> Told {
    match id {
        RouteId::Challenge => Told {
            summary: "A text for a wallet to sign",
            request: json!("WalletOnly"),
            success: &[(200, json!("Challenge"))],
            errors: &[E::InvalidWallet],
            ..PLAIN
        },
        RouteId::Login => Told {
            summary: "A short-lived key for a signed challenge",
            request: json!("LoginRequest"),
            success: &[(200, json!("Login"))],
            errors: &[E::InvalidWallet, E::InvalidSignature, E::StorageUnavailable],
            ..PLAIN
        },
        RouteId::CreateKey => Told {
            summary: "Makes a key, shown once",
            request: json!("KeyRequest"),
            success: &[(201, json!("IssuedKey"))],
            errors: &[E::InvalidWallet, E::Conflict],
            once: true,
            ..PLAIN
        },
        RouteId::ListKeys => Told {
            summary: "Lists keys, newest first",
            parameters: Some(&["KeyWallet", "PageLimit", "KeyCursor"]),
            success: &[(200, json!("Keys"))],
            errors: &[E::InvalidWallet],
            ..PLAIN
        },
        RouteId::GetKey => Told {
            summary: "A key, as the list shows it",
            parameters: Some(&[]),
            success: &[(200, json!("Key"))],
            errors: &[E::NotFound],
            ..PLAIN
        },
        RouteId::RevokeKey => Told {
            summary: "Revokes a key, from its next request on",
            success: &[(200, json!("Key"))],
            errors: &[E::NotFound],
            ..PLAIN
        },
        RouteId::ListKeysOf => Told {
            summary: "Lists a wallet's keys, by the R3MES backend's path",
            parameters: Some(&["KeyWallet", "PageLimit", "KeyCursor"]),
            success: &[(200, json!("Keys"))],
            ..PLAIN
        },
        RouteId::RevokeByPost | RouteId::RevokeByBody => Told {
            summary: "Revokes the key that the body names, by the R3MES backend's path",
            request: json!("RevokeRequest"),
            success: &[(200, json!("Key"))],
            errors: &[E::InvalidWallet, E::NotFound],
            ..PLAIN
        },
        RouteId::RotateKey => Told {
            summary: "A new key in the place of an active one",
            request: json!("RotateRequest"),
            body_optional: true,
            success: &[(201, json!("IssuedKey"))],
            errors: &[E::NotFound, E::Conflict],
            ..PLAIN
        },
        RouteId::Me => Told {
            summary: "Whose key this is",
            success: &[(200, json!("Me"))],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::CreateUser => Told {
            summary: "Makes an account for the key's own wallet; an admin for any",
            request: json!("WalletOnly"),
            success: &[(201, json!("User"))],
            errors: &[E::InvalidWallet, E::Forbidden, E::Conflict],
            once: true,
            ..PLAIN
        },
        RouteId::ListUsers => Told {
            summary: "Every account, in the order of the addresses",
            parameters: Some(&["PageLimit", "WalletCursor"]),
            success: &[(200, json!("Users"))],
            ..PLAIN
        },
        RouteId::GetUser => Told {
            summary: "An account",
            parameters: Some(&[]),
            success: &[(200, json!("User"))],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::Grant => Told {
            summary: "Gives credits, or takes them; never below zero",
            request: json!("GrantRequest"),
            success: &[(200, json!("Granted"))],
            errors: &[E::UserNotFound, E::Conflict],
            once: true,
            ..PLAIN
        },
        RouteId::Ledger => Told {
            summary: "Every movement of credits, newest first",
            parameters: Some(&["PageLimit", "LedgerCursor"]),
            success: &[(200, json!("Ledger"))],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::PostStats => Told {
            summary: "Records samples of a miner, all or none",
            request: &[("application/json", "Samples"), ("application/x-ndjson", "SampleLines")],
            success: &[(201, json!("Accepted"))],
            errors: &[E::InvalidWallet],
            ..PLAIN
        },
        RouteId::PostEarnings => Told {
            summary: "Records an earning and grants it; 200 where this source_id was counted already",
            request: json!("EarningRequest"),
            success: &[(200, json!("Earned")), (201, json!("Earned"))],
            errors: &[E::InvalidWallet, E::Conflict],
            once: true,
            ..PLAIN
        },
        RouteId::MinerStats => Told {
            summary: "A miner's latest figures",
            parameters: Some(&[]),
            success: &[(200, json!("MinerStats"))],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::Earnings => Told {
            summary: "Earnings by day",
            parameters: Some(&["Days", "EarningsLimit", "EarningsOffset"]),
            success: &[(200, json!("Earnings"))],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::Hashrate => Told {
            summary: "The hashrate over time; CSV by Accept",
            parameters: Some(&["HistoryDays", "Hours", "Resolution"]),
            success: &[(200, &[("application/json", "Hashrate"), ("text/csv", "Text")])],
            errors: &[E::UserNotFound],
            ..PLAIN
        },
        RouteId::Leaderboard => Told {
            summary: "Who earned most",
            parameters: Some(&["LeaderboardLimit", "Period"]),
            success: &[(200, json!("Leaderboard"))],
            cached: true,
            ..PLAIN
        },
        RouteId::Chat => Told {
            summary: "The model's text as it comes, for a price; a stream that breaks off is never ended cleanly",
            parameters: Some(&["AdapterHeader", "WalletHeader"]),
            request: json!("ChatRequest"),
            success: &[(200, &[("text/plain", "Text")])],
            errors: &[
                E::InvalidWallet, E::MissingChatIdentity, E::InsufficientCredits, E::UserNotFound,
                E::UpstreamBadResponse, E::CircuitOpen, E::InferenceDisabled, E::UpstreamTimeout,
            ],
            ..PLAIN
        },
        RouteId::Completions => Told {
            summary: "A chat completion as OpenAI's API gives it, for a price; members we do not know pass on to the server",
            parameters: Some(&["WalletHeader"]),
            request: json!("CompletionRequest"),
            success: &[(200, &[("application/json", "Completion"), ("text/event-stream", "CompletionEvent")])],
            errors: &[
                E::InvalidWallet, E::UnsupportedParameter, E::UnsupportedMedia, E::NotFound, E::InsufficientCredits,
                E::UserNotFound, E::IdempotencyRunning, E::UpstreamBadResponse, E::CircuitOpen, E::InferenceDisabled,
                E::UpstreamTimeout,
            ],
            once: true,
            ..PLAIN
        },
        RouteId::Models => Told {
            summary: "The adapters that are served, as models",
            parameters: Some(&[]),
            success: &[(200, json!("Models"))],
            ..PLAIN
        },
        RouteId::NetworkStats => Told {
            summary: "Figures over all wallets",
            parameters: Some(&[]),
            success: &[(200, json!("NetworkStats"))],
            cached: true,
            ..PLAIN
        },
        RouteId::ChainStatus => Told {
            summary: "The chain's height; its last good answer while it is down",
            parameters: Some(&[]),
            success: &[(200, json!("ChainStatus"))],
            cached: true,
            errors: CHAIN,
            ..PLAIN
        },
        RouteId::Blocks => Told {
            summary: "The newest blocks",
            parameters: Some(&["BlocksLimit"]),
            success: &[(200, json!("Blocks"))],
            cached: true,
            errors: CHAIN,
            ..PLAIN
        },
        RouteId::BackUp => Told {
            summary: "Copies the database into the folder for copies, verified, beside whoever writes",
            parameters: Some(&[]),
            success: &[(201, json!("Backup"))],
            errors: &[E::Conflict, E::StorageUnavailable],
            ..PLAIN
        },
        RouteId::VerifyLedger => Told {
            summary: "Whether every balance equals its ledger",
            parameters: Some(&[]),
            success: &[(200, json!("LedgerReport"))],
            ..PLAIN
        },
        RouteId::Breakers => Told {
            summary: "What the breaker before each upstream is doing",
            parameters: Some(&[]),
            success: &[(200, json!("Breakers"))],
            ..PLAIN
        },
        RouteId::SetBreaker => Told {
            summary: "Opens an upstream's breaker until it is reset, or resets it",
            request: json!("BreakerRequest"),
            success: &[(200, json!("Breaker"))],
            errors: &[E::NotFound],
            ..PLAIN
        },
        RouteId::Health => Told {
            summary: "How the node is",
            success: &[(200, json!("Health"))],
            ..PLAIN
        },
        RouteId::Livez => Told {
            summary: "Whether the process answers",
            success: &[(200, json!("Alive"))],
            ..PLAIN
        },
        RouteId::Readyz => Told {
            summary: "Whether it takes writes",
            success: &[(200, json!("Ready"))],
            errors: &[E::StorageUnavailable, E::ShuttingDown],
            ..PLAIN
        },
        RouteId::Alerts => Told {
            summary: "What is wrong now, and what was lately",
            success: &[(200, json!("Alerts"))],
            ..PLAIN
        },
        RouteId::Metrics => Told {
            summary: "Prometheus text, or OpenMetrics by Accept",
            success: &[(200, &[("text/plain", "Text"), ("application/openmetrics-text", "Text")])],
            ..PLAIN
        },
        RouteId::Version => Told {
            summary: "This server's version, and whether a client of the given one is too old for it",
            parameters: Some(&["ClientVersion"]),
            success: &[(200, json!("Version"))],
            ..PLAIN
        },
        RouteId::Time => Told {
            summary: "The time of this server",
            parameters: Some(&[]),
            success: &[(200, json!("ServerTime"))],
            ..PLAIN
        },
        RouteId::OpenApi => Told {
            summary: "This document",
            success: &[(200, json!("Document"))],
            tag: true,
            ..PLAIN
        },
        #[cfg(feature = "page")]
        RouteId::Page => Told {
            summary: "The operator's page",
            success: &[(200, &[("text/html", "Text")])],
            tag: true,
            ..PLAIN
        },
        #[cfg(feature = "page")]
        RouteId::PageScript => Told {
            summary: "The page's script",
            success: &[(200, &[("text/javascript", "Text")])],
            tag: true,
            ..PLAIN
        },
        #[cfg(feature = "page")]
        RouteId::PageStyle => Told {
            summary: "The page's style",
            success: &[(200, &[("text/css", "Text")])],
            tag: true,
            ..PLAIN
        },
    }
}
