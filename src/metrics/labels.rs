use prometheus_client::encoding::EncodeLabelSet;

/// How a chat ended, as `chat_requests_total{status}` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ChatEnd {
    /// Whole.
    Success,
    /// Broken off by the upstream (or the shutdown) after its first text.
    Cut,
    /// The client did not wait for its end.
    ClientLeft,
    /// The wallet could not pay.
    Refused,
    /// Nothing came.
    Failed,
}

impl ChatEnd {
    pub(super) const ALL: [Self; 5] = [
        Self::Success,
        Self::Cut,
        Self::ClientLeft,
        Self::Refused,
        Self::Failed,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cut => "cut",
            Self::ClientLeft => "client_left",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ChatLabels {
    pub(super) status: &'static str,
    pub(super) adapter: String,
}

/// What became of a request, by the first digit of its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HttpEnd {
    Success,
    Redirect,
    ClientError,
    ServerError,
    /// The client left before there was an answer.
    Left,
}

impl HttpEnd {
    pub(super) const ALL: [Self; 5] = [
        Self::Success,
        Self::Redirect,
        Self::ClientError,
        Self::ServerError,
        Self::Left,
    ];

    pub(super) const fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::Left,
            Some(..300) => Self::Success,
            Some(300..400) => Self::Redirect,
            Some(400..500) => Self::ClientError,
            Some(500..) => Self::ServerError,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Left => "left",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct HttpLabels {
    pub(super) route: &'static str,
    pub(super) method: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct RouteLabel {
    pub(super) route: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct AlertLabels {
    pub(super) severity: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ClassLabel {
    pub(super) class: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct UpstreamLabel {
    pub(super) upstream: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct TransitionLabels {
    pub(super) upstream: String,
    pub(super) to: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct HealthCheckLabels {
    pub(super) upstream: String,
    pub(super) result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct CacheLabels {
    pub(super) cache: &'static str,
    pub(super) result: &'static str,
}
