//! Errors as a client sees them; the only place that maps a failure to a status.
//!
//! Every error has two messages: `detail`, which a client may read, and `internal`, which only the log holds. Each layer
//! below has a small error of its own; the `From` impls here are the whole mapping, without a wildcard arm.

use std::time::Duration;

use hyper::header::HeaderName;

use crate::limits::{Decision, seconds_up};
use crate::model::{InputError, InputKind, ParseError, shortened};
use crate::store::StoreError;
use crate::upstream::{Meaning, Refusal, UpstreamError};

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $title:literal $openai:literal;)*) => {
        /// The machine-readable name of a failure; together with its status it is a promise to clients.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $text, "`, status ", stringify!($status))] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Text, status, title, the `type` by which OpenAI's clients sort errors.
            const fn row(self) -> (&'static str, u16, &'static str, &'static str) {
                match self { $(Self::$name => ($text, $status, $title, $openai)),* }
            }
        }
    };
}

impl ErrorCode {
    /// The code as clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status it comes with.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }
}

codes! {
    InvalidJson          "invalid_json"           400 "Invalid JSON"            "invalid_request_error";
    InvalidRequest       "invalid_request"        400 "Invalid request"         "invalid_request_error";
    InvalidWallet        "invalid_wallet_address" 400 "Invalid wallet address"  "invalid_request_error";
    MissingChatIdentity  "missing_credentials"    400 "Missing credentials"     "invalid_request_error";
    KeyInQuery           "key_in_query"           400 "Key in the query string" "invalid_request_error";
    UnsupportedParameter "unsupported_parameter"  400 "Unsupported parameter"   "invalid_request_error";
    UnsupportedMedia     "unsupported_media"      400 "Unsupported media"       "invalid_request_error";
    ContextLength        "context_length_exceeded" 400 "Context length exceeded" "invalid_request_error";
    InvalidSchema        "invalid_schema"         400 "Invalid schema"          "invalid_request_error";
    MissingCredentials   "missing_credentials"    401 "Missing credentials"     "authentication_error";
    InvalidApiKey        "invalid_api_key"        401 "Invalid API key"         "authentication_error";
    InvalidSignature     "invalid_signature"      401 "Invalid signature"       "authentication_error";
    ExpiredApiKey        "expired_api_key"        401 "Expired API key"         "authentication_error";
    InsufficientCredits  "insufficient_credits"   402 "Insufficient credits"    "insufficient_quota";
    KeyLimitReached      "key_limit_reached"      402 "The key's limit is reached" "insufficient_quota";
    Forbidden            "forbidden"              403 "Forbidden"               "permission_error";
    AccountBlocked       "account_blocked"        403 "Account blocked"         "permission_error";
    ModelNotAllowed      "model_not_allowed"      403 "Model not allowed"       "permission_error";
    WrongHost            "wrong_host"             421 "Wrong host"              "invalid_request_error";
    NotFound             "not_found"              404 "Not found"               "invalid_request_error";
    UserNotFound         "user_not_found"         404 "User not found"          "invalid_request_error";
    ModelNotFound        "model_not_found"        404 "Model not found"         "invalid_request_error";
    MethodNotAllowed     "method_not_allowed"     405 "Method not allowed"      "invalid_request_error";
    RequestTimeout       "request_timeout"        408 "Request timeout"         "invalid_request_error";
    Conflict             "conflict"               409 "Conflict"                "invalid_request_error";
    IdempotencyRunning   "idempotency_in_progress" 409 "Idempotency in progress" "invalid_request_error";
    AlreadyIssued        "already_issued"         409 "Already issued"          "invalid_request_error";
    BodyTooLarge         "body_too_large"         413 "Body too large"          "invalid_request_error";
    UnsupportedMediaType "unsupported_media_type" 415 "Unsupported media type"  "invalid_request_error";
    IdempotencyReused    "idempotency_key_reused" 422 "Idempotency key reused"  "invalid_request_error";
    RateLimited          "rate_limited"           429 "Rate limited"            "rate_limit_error";
    ConcurrencyLimited   "concurrency_limited"    429 "Concurrency limited"     "rate_limit_error";
    IdempotencyFull      "idempotency_full"       429 "Idempotency full"        "rate_limit_error";
    Internal             "internal"               500 "Internal error"          "api_error";
    NotSupported         "not_supported"          501 "Not supported"           "api_error";
    UpstreamBadResponse  "upstream_bad_response"  502 "Bad upstream response"   "api_error";
    CircuitOpen          "circuit_open"           503 "Circuit open"            "api_error";
    InferenceDisabled    "inference_disabled"     503 "Inference disabled"      "api_error";
    ChainDisabled        "chain_disabled"         503 "Chain disabled"          "api_error";
    ModelLoading         "model_loading"          503 "Model loading"           "api_error";
    Overloaded           "overloaded"             503 "Overloaded"              "api_error";
    StorageUnavailable   "storage_unavailable"    503 "Storage unavailable"     "api_error";
    ShuttingDown         "shutting_down"          503 "Shutting down"           "api_error";
    UpstreamTimeout      "upstream_timeout"       504 "Upstream timeout"        "api_error";
}

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    /// For the client.
    pub(crate) detail: String,
    /// For the log only.
    pub(crate) internal: Option<String>,
    /// Which member, parameter or header of the request is wrong, as a JSON pointer or a name.
    pub(crate) pointer: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// A header of the response: `Allow` of a 405; `Connection: close`, as the rest of a body may still come.
    pub(crate) header: Option<Box<(HeaderName, String)>>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        // A 503 without a better estimate: soon, but not at once.
        let retry_after = (code.status() == 503).then_some(Duration::from_secs(1));
        Self {
            code,
            detail: shortened(detail.into()),
            internal: None,
            pointer: None,
            retry_after,
            header: None,
        }
    }

    /// An error of the server: the client reads nothing but the request id, the log everything.
    pub(crate) fn internal(internal: impl Into<String>) -> Self {
        let detail = "internal error; quote this request_id to the operator";
        Self::new(ErrorCode::Internal, detail).for_the_log(internal)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the server is shutting down")
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, detail)
    }

    pub(crate) fn other_wallet() -> Self {
        Self::forbidden("this key belongs to another wallet")
    }

    pub(crate) fn blocked() -> Self {
        let detail = "the account of this wallet is blocked; ask the operator";
        Self::new(ErrorCode::AccountBlocked, detail)
    }

    /// An invalid query parameter or header.
    pub(crate) fn parameter(name: &str, detail: &str) -> Self {
        InputError::field(name, format!("{name} {detail}")).into()
    }

    /// An invalid wallet address in a path, a parameter or a header.
    pub(crate) fn wallet(name: &str, detail: ParseError) -> Self {
        Self::new(ErrorCode::InvalidWallet, detail).at(name)
    }

    /// Adds which part of the request is wrong.
    #[must_use]
    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(shortened(pointer.into()));
        self
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
    pub(crate) fn for_openai(&self) -> OpenAiError<'_> {
        let param = self.pointer.as_deref().unwrap_or_default();
        let (code, _, _, openai_type) = self.code.row();
        OpenAiError {
            message: &self.detail,
            r#type: openai_type,
            code,
            param: Some(param.trim_start_matches('/')).filter(|param| !param.is_empty()),
        }
    }

    /// The error as Anthropic's clients read it, in a body or in an event of a stream.
    pub(crate) fn for_anthropic(&self, request_id: &str) -> serde_json::Value {
        let kind = match self.code.status() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "api_error",
        };
        let error = serde_json::json!({ "type": kind, "message": self.detail });
        serde_json::json!({ "type": "error", "error": error, "request_id": request_id })
    }

    /// The one error body: problem details (RFC 9457) with the members that R3MES and OpenAI clients read.
    pub(crate) fn body(&self, request_id: &str) -> String {
        let (code, status, title, _) = self.code.row();
        let detail = self.detail.as_str();
        let problem = Problem {
            r#type: format!("urn:r3mes-edge:{code}"),
            title,
            status,
            detail,
            code,
            message: detail,
            request_id,
            error: self.for_openai(),
            errors: (self.pointer.as_deref()).map(|pointer| [FieldError { pointer, detail }]),
        };
        serde_json::to_string(&problem).unwrap_or_default() + "\n"
    }
}

/// An error as OpenAI's clients read it.
#[derive(serde::Serialize)]
pub(crate) struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    code: &'static str,
    param: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    message: &'a str,
    request_id: &'a str,
    error: OpenAiError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[FieldError<'a>; 1]>,
}

#[derive(serde::Serialize)]
struct FieldError<'a> {
    pointer: &'a str,
    detail: &'a str,
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        let code = match error.kind {
            InputKind::Json => return Self::new(ErrorCode::InvalidJson, error.detail),
            InputKind::Field => ErrorCode::InvalidRequest,
            InputKind::Wallet => ErrorCode::InvalidWallet,
            InputKind::Parameter => ErrorCode::UnsupportedParameter,
            InputKind::Media => ErrorCode::UnsupportedMedia,
        };
        Self::new(code, error.detail).at(error.pointer)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        let code = match error {
            StoreError::UserNotFound => ErrorCode::UserNotFound,
            StoreError::KeyNotFound => ErrorCode::NotFound,
            StoreError::Conflict(_) => ErrorCode::Conflict,
            StoreError::Insufficient { .. } => ErrorCode::InsufficientCredits,
            StoreError::LimitReached { .. } => ErrorCode::KeyLimitReached,
            StoreError::KeyReused => ErrorCode::IdempotencyReused,
            StoreError::AlreadyIssued(_) => ErrorCode::AlreadyIssued,
            StoreError::TooMuch => ErrorCode::InvalidRequest,
            StoreError::Busy => ErrorCode::Overloaded,
            StoreError::IdempotencyFull { retry_after } => {
                return Self::new(ErrorCode::IdempotencyFull, text).retry_after(retry_after);
            }
            StoreError::Internal(internal) => return Self::internal(internal),
            StoreError::Unavailable(_) | StoreError::Full | StoreError::Damaged(_) => {
                let detail = "the storage is unavailable";
                return Self::new(ErrorCode::StorageUnavailable, detail).for_the_log(text);
            }
        };
        Self::new(code, text)
    }
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        use ErrorCode::{CircuitOpen, Overloaded, UpstreamBadResponse, UpstreamTimeout};
        use UpstreamError::{
            Busy, Connect, Cut, Limited, NoChat, NoText, NotServed, Open, Paused, Refused,
            Reported, Status, Timeout, Unreadable,
        };
        let internal = error.to_string();
        let (code, detail) = match error {
            Refused(refusal) => return Self::from(refusal).for_the_log(internal),
            Open(_) => (
                CircuitOpen,
                "the circuit breaker of the upstream is open after repeated failures",
            ),
            Busy(_) | Paused(_) => (Overloaded, AT_CAPACITY),
            Limited(..) => (Overloaded, "the upstream limits its requests; retry later"),
            Status(status) | NoChat(_, status) => {
                let detail = format!("the upstream answered with status {status}");
                return Self::new(UpstreamBadResponse, detail).for_the_log(internal);
            }
            Timeout(_) => (UpstreamTimeout, "the upstream timed out"),
            Connect(_) => (UpstreamBadResponse, "the upstream is unreachable"),
            Unreadable(_) => (UpstreamBadResponse, "the upstream's answer is invalid"),
            NotServed => (ErrorCode::NotSupported, NOT_SERVED),
            NoText => (UpstreamBadResponse, "the model wrote no text"),
            Reported(_) => (
                UpstreamBadResponse,
                "the upstream reported an error inside its answer",
            ),
            Cut(_) => (UpstreamBadResponse, "the upstream closed its answer early"),
        };
        let mut error_response = Self::new(code, detail).for_the_log(internal);
        if let Some(wait) = error.retry_after() {
            error_response.retry_after = Some(wait);
        }
        error_response
    }
}

const NOT_SERVED: &str = "no inference server of this model serves this request";
const AT_CAPACITY: &str = "inference server at capacity; retry shortly";

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = refusal.status;
        match refusal.meaning {
            // The first words are OpenAI's: clients find the reason by them too.
            Meaning::ContextLength(limit) => {
                let limit = limit.map_or_else(
                    || "This model's maximum context length is exceeded".to_owned(),
                    |limit| format!("This model's maximum context length is {limit} tokens"),
                );
                let detail = format!("{limit}; shorten the messages or lower max_tokens");
                Self::new(ErrorCode::ContextLength, detail).at("/messages")
            }
            Meaning::Schema => {
                let detail = "the inference server cannot use this JSON schema or grammar";
                Self::new(ErrorCode::InvalidSchema, detail)
            }
            Meaning::Media => {
                let detail = "this model takes no media of this kind, or cannot read them";
                Self::new(ErrorCode::UnsupportedMedia, detail).at("/messages")
            }
            Meaning::Request(member) => {
                let pointer = member.map(|name| format!("/{name}")).unwrap_or_default();
                let detail =
                    format!("the inference server refused this request with status {status}");
                InputError::field(pointer, detail).into()
            }
            Meaning::NotServed => Self::new(ErrorCode::NotSupported, NOT_SERVED),
            Meaning::Loading(wait) => {
                let wait = wait.unwrap_or(Duration::from_secs(5));
                Self::new(ErrorCode::ModelLoading, "the model is loading").retry_after(wait)
            }
            Meaning::Unavailable(wait) => {
                Self::new(ErrorCode::Overloaded, AT_CAPACITY).retry_after(wait)
            }
            Meaning::StreamOptions
            | Meaning::Model
            | Meaning::Credentials
            | Meaning::Redirect
            | Meaning::Server => {
                let detail = format!("the upstream answered with status {status}");
                Self::new(ErrorCode::UpstreamBadResponse, detail)
            }
        }
    }
}

impl From<&Decision> for ApiError {
    fn from(decision: &Decision) -> Self {
        let wait = decision.retry_after.unwrap_or_default();
        let class = decision.class().as_str();
        let seconds = seconds_up(wait).max(1);
        let detail = format!("too many requests of the class {class}; retry in {seconds} s");
        Self::new(ErrorCode::RateLimited, detail).retry_after(wait)
    }
}

#[cfg(test)]
mod tests;
