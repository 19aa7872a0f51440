//! What can go wrong, as a client sees it. This is the only place that knows which failure is which status.
//!
//! Every error has two messages: `detail`, which a client may read, and `internal`, which only the log holds. Each layer
//! below has a small error of its own; the `From` impls here are the whole mapping, without a wildcard arm.

use std::time::Duration;

use serde::Serialize;

use crate::limits::{Decision, seconds_up};
use crate::model::{InputError, InputKind};
use crate::store::StoreError;
use crate::upstream::UpstreamError;

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $title:literal $kind:literal;)*) => {
        /// The machine-readable name of a failure; together with its status it is a promise to clients.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $text, "`, status ", stringify!($status))] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as clients read it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The code as the `type` of problem details.
            const fn urn(self) -> &'static str {
                match self { $(Self::$name => concat!("urn:r3mes-edge:", $text)),* }
            }

            /// The HTTP status it comes with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// A few words for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// The `type` by which OpenAI's clients sort errors.
            #[must_use]
            pub const fn openai_type(self) -> &'static str {
                match self { $(Self::$name => $kind),* }
            }
        }
    };
}

codes! {
    InvalidJson          "invalid_json"           400 "Invalid JSON"            "invalid_request_error";
    InvalidRequest       "invalid_request"        400 "Invalid request"         "invalid_request_error";
    InvalidWallet        "invalid_wallet_address" 400 "Invalid wallet address"  "invalid_request_error";
    MissingChatIdentity  "missing_credentials"    400 "Missing credentials"     "invalid_request_error";
    KeyInQuery           "key_in_query"           400 "Key in the query string" "invalid_request_error";
    UnsupportedParameter "unsupported_parameter"  400 "Unsupported parameter"   "invalid_request_error";
    UnsupportedMedia     "unsupported_media"      400 "Unsupported media"       "invalid_request_error";
    MissingCredentials   "missing_credentials"    401 "Missing credentials"     "authentication_error";
    InvalidApiKey        "invalid_api_key"        401 "Invalid API key"         "authentication_error";
    InvalidSignature     "invalid_signature"      401 "Invalid signature"       "authentication_error";
    ExpiredApiKey        "expired_api_key"        401 "Expired API key"         "authentication_error";
    InsufficientCredits  "insufficient_credits"   402 "Insufficient credits"    "insufficient_quota";
    Forbidden            "forbidden"              403 "Forbidden"               "permission_error";
    WrongHost            "wrong_host"             421 "Wrong host"              "invalid_request_error";
    NotFound             "not_found"              404 "Not found"               "invalid_request_error";
    UserNotFound         "user_not_found"         404 "User not found"          "invalid_request_error";
    MethodNotAllowed     "method_not_allowed"     405 "Method not allowed"      "invalid_request_error";
    RequestTimeout       "request_timeout"        408 "Request timeout"         "invalid_request_error";
    Conflict             "conflict"               409 "Conflict"                "invalid_request_error";
    IdempotencyRunning   "idempotency_in_progress" 409 "Idempotency in progress" "invalid_request_error";
    AlreadyIssued        "already_issued"         409 "Already issued"          "invalid_request_error";
    BodyTooLarge         "body_too_large"         413 "Body too large"          "invalid_request_error";
    UnsupportedMediaType "unsupported_media_type" 415 "Unsupported media type"  "invalid_request_error";
    IdempotencyReused    "idempotency_key_reused" 422 "Idempotency key reused"  "invalid_request_error";
    RateLimited          "rate_limited"           429 "Rate limited"            "rate_limit_error";
    IdempotencyFull      "idempotency_full"       429 "Idempotency full"        "rate_limit_error";
    Internal             "internal"               500 "Internal error"          "api_error";
    UpstreamBadResponse  "upstream_bad_response"  502 "Bad upstream response"   "api_error";
    CircuitOpen          "circuit_open"           503 "Circuit open"            "api_error";
    InferenceDisabled    "inference_disabled"     503 "Inference disabled"      "api_error";
    ChainDisabled        "chain_disabled"         503 "Chain disabled"          "api_error";
    Overloaded           "overloaded"             503 "Overloaded"              "api_error";
    StorageUnavailable   "storage_unavailable"    503 "Storage unavailable"     "api_error";
    ShuttingDown         "shutting_down"          503 "Shutting down"           "api_error";
    UpstreamTimeout      "upstream_timeout"       504 "Upstream timeout"        "api_error";
}

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// Which failure.
    pub(crate) code: ErrorCode,
    /// What the client reads.
    pub(crate) detail: String,
    /// What only the log holds.
    pub(crate) internal: Option<String>,
    /// The place of the mistake in what the client sent, as a JSON pointer or a name.
    pub(crate) pointer: Option<String>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// For 405: the methods the path has.
    pub(crate) allow: Option<String>,
    /// Whether the connection is of no more use, as what is left of the body may still come.
    pub(crate) close: bool,
}

impl ApiError {
    /// A failure with a sentence for the client.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        // A 503 without a better estimate: soon, but not at once.
        let retry_after = (code.status() == 503).then_some(Duration::from_secs(1));
        Self {
            code,
            detail: detail.into(),
            internal: None,
            pointer: None,
            retry_after,
            allow: None,
            close: false,
        }
    }

    /// A fault of ours: the client learns nothing but the request id, the log everything.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        let error = Self::new(
            ErrorCode::Internal,
            "internal error; quote this request_id to the operator",
        );
        error.for_the_log(what)
    }

    /// Nothing new begins here, or goes on.
    pub(crate) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the server is shutting down")
    }

    /// A query parameter or header that is wrong.
    pub(crate) fn parameter(name: &str, detail: &str) -> Self {
        InputError::field(name, format!("{name} {detail}")).into()
    }

    /// Adds what only the log may hold.
    #[must_use]
    pub(crate) fn for_the_log(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The error as OpenAI's clients read it, in a body or in an event of a stream.
    #[must_use]
    pub(crate) fn for_openai(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Error<'a> {
            message: &'a str,
            r#type: &'static str,
            code: &'static str,
            param: Option<&'a str>,
        }
        let param = self.pointer.as_deref();
        let param = param.map(|pointer| pointer.trim_start_matches('/'));
        Error {
            message: &self.detail,
            r#type: self.code.openai_type(),
            code: self.code.as_str(),
            param: param.filter(|param| !param.is_empty()),
        }
    }

    /// The one error body: problem details (RFC 9457) with the members that R3MES and OpenAI clients read.
    #[must_use]
    pub(crate) fn body(&self, request_id: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Place<'a> {
            pointer: &'a str,
            detail: &'a str,
        }
        #[derive(Serialize)]
        struct Problem<'a, E> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: &'a str,
            code: &'static str,
            message: &'a str,
            request_id: &'a str,
            error: E,
            #[serde(skip_serializing_if = "Option::is_none")]
            errors: Option<[Place<'a>; 1]>,
        }
        let detail = &*self.detail;
        let problem = Problem {
            r#type: self.code.urn(),
            title: self.code.title(),
            status: self.code.status(),
            detail,
            code: self.code.as_str(),
            message: detail,
            request_id,
            error: self.for_openai(),
            errors: (self.pointer.as_deref()).map(|pointer| [Place { pointer, detail }]),
        };
        let mut text = Vec::with_capacity(768);
        // A writer of ours, which cannot fail.
        let _ = serde_json::to_writer(&mut text, &problem);
        text.push(b'\n');
        text
    }
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        let code = match error.kind {
            InputKind::Json => ErrorCode::InvalidJson,
            InputKind::Field => ErrorCode::InvalidRequest,
            InputKind::Wallet => ErrorCode::InvalidWallet,
            InputKind::Parameter => ErrorCode::UnsupportedParameter,
            InputKind::Media => ErrorCode::UnsupportedMedia,
        };
        let pointer = (error.kind != InputKind::Json).then_some(error.pointer);
        Self {
            pointer,
            ..Self::new(code, error.detail)
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UserNotFound => Self::new(
                ErrorCode::UserNotFound,
                "no account has this wallet address",
            ),
            StoreError::KeyNotFound => Self::new(ErrorCode::NotFound, "no key has this id"),
            StoreError::Conflict(detail) => Self::new(ErrorCode::Conflict, detail),
            StoreError::Insufficient { needed, balance } => {
                let credits = if needed.micro() == 1_000_000 {
                    "credit"
                } else {
                    "credits"
                };
                let detail =
                    format!("the request needs {needed} {credits}, the wallet has {balance}");
                Self::new(ErrorCode::InsufficientCredits, detail)
            }
            StoreError::KeyReused => Self::new(
                ErrorCode::IdempotencyReused,
                "this Idempotency-Key was used for another request",
            ),
            StoreError::AlreadyIssued(made) => {
                let detail = match made {
                    Some(id) if id.starts_with("key_") => format!(
                        "the API key {id} was made under this Idempotency-Key before and is not shown again; revoke it and make another"
                    ),
                    Some(id) => format!(
                        "this was done under this Idempotency-Key before, as the ledger entry {id}; its answer was not stored"
                    ),
                    None => {
                        "this was done under this Idempotency-Key before; its answer was not stored"
                            .to_owned()
                    }
                };
                Self::new(ErrorCode::AlreadyIssued, detail)
            }
            StoreError::IdempotencyFull { retry_after } => {
                let detail = format!(
                    "this wallet or admin has used as many Idempotency-Keys on this route as are stored at once; the oldest expires in {} s",
                    seconds_up(retry_after).max(1)
                );
                Self::new(ErrorCode::IdempotencyFull, detail).retry_after(retry_after)
            }
            StoreError::TooMuch => Self::new(
                ErrorCode::InvalidRequest,
                "this is more than one answer can hold; ask for less",
            ),
            StoreError::Busy => Self::new(ErrorCode::Overloaded, "write queue full; retry shortly"),
            StoreError::Unavailable(_) | StoreError::Full | StoreError::Damaged(_) => Self::new(
                ErrorCode::StorageUnavailable,
                "the storage cannot be used at the moment",
            )
            .for_the_log(error.to_string()),
            StoreError::Internal(internal) => Self::internal(internal),
        }
    }
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        let internal = error.to_string();
        let shown = match error {
            UpstreamError::Open(wait) => {
                let detail = "the upstream failed repeatedly and is not asked at the moment";
                return Self::new(ErrorCode::CircuitOpen, detail).retry_after(wait);
            }
            UpstreamError::Busy => {
                return Self::new(
                    ErrorCode::Overloaded,
                    "inference server at capacity; retry shortly",
                );
            }
            UpstreamError::Timeout(_) => Self::new(
                ErrorCode::UpstreamTimeout,
                "the upstream did not answer in time",
            ),
            UpstreamError::Connect(_) => Self::new(
                ErrorCode::UpstreamBadResponse,
                "the upstream could not be reached",
            ),
            UpstreamError::Status(429) => Self::new(
                ErrorCode::Overloaded,
                "the upstream has no room at the moment",
            ),
            UpstreamError::Refused(status) => InputError::field(
                "",
                format!("the inference server refused this request with status {status}"),
            )
            .into(),
            UpstreamError::Status(status) | UpstreamError::NoChat(status) => Self::new(
                ErrorCode::UpstreamBadResponse,
                format!("the upstream answered with status {status}"),
            ),
            UpstreamError::Unreadable(_) => Self::new(
                ErrorCode::UpstreamBadResponse,
                "the upstream's answer could not be understood",
            ),
            UpstreamError::Cut(_) => Self::new(
                ErrorCode::UpstreamBadResponse,
                "the upstream broke off its answer",
            ),
        };
        shown.for_the_log(internal)
    }
}

impl From<&Decision> for ApiError {
    fn from(verdict: &Decision) -> Self {
        let wait = verdict.retry_after.unwrap_or_default();
        let name = verdict.class().as_str();
        let detail = format!(
            "too many requests of the class {name}; try again in {} s",
            seconds_up(wait).max(1)
        );
        Self::new(ErrorCode::RateLimited, detail).retry_after(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_never_holds_what_is_for_the_log() {
        for error in [
            ApiError::from(StoreError::Unavailable(
                "disk I/O error in SELECT secret".to_owned(),
            )),
            ApiError::internal("SELECT secret"),
            ApiError::from(UpstreamError::Cut("secret".to_owned())),
        ] {
            let body = String::from_utf8(error.body("req_1")).unwrap();
            assert!(!body.contains("secret"), "{body}");
            assert!(error.internal.unwrap().contains("secret"));
        }
    }

    #[test]
    fn a_wrong_field_is_named_for_every_kind_of_client() {
        let error = ApiError::from(InputError::field("/amount", "amount is required"));
        let body: serde_json::Value = serde_json::from_slice(&error.body("req_1")).unwrap();
        assert_eq!(body["errors"][0]["pointer"], "/amount");
        assert_eq!(body["error"]["param"], "amount");
        assert_eq!(body["detail"], body["message"]);
        assert_eq!(body["status"], 400);
    }
}
