//! Rate limits: one governor limiter per class, with buckets by client address and by key.
//!
//! GCRA (ATM Forum TM 4.0) allows a burst of the whole number and then one request every `window / number`. The buckets
//! live in an LRU of a fixed size instead of governor's own maps, which grow with every new address: a full table evicts
//! the bucket that was idle longest, which is the closest to full again.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use hyper::header::HeaderValue;
use lru::LruCache;
use nonzero_ext::nonzero;

use crate::auth::KeyHash;
use crate::clock::Clock;

mod concurrency;
pub(crate) use concurrency::{ConcurrencyLimiter, ConcurrencyPermit};

/// The classes of requests that have a rate each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RateClass {
    /// Making keys and logging in.
    Auth,
    /// Paid chat.
    Chat,
    /// Changes.
    Write,
    /// Samples from miners.
    Telemetry,
    /// Reads.
    Read,
    /// Health, metrics and alerts.
    Health,
    /// Wrong credentials, by address only.
    Failures,
    /// The operator's page and its files.
    Page,
    /// Requests that are refused before they have a route: unknown paths, methods and hosts, foreign pages.
    Refused,
}

impl RateClass {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Auth,
        Self::Chat,
        Self::Write,
        Self::Telemetry,
        Self::Read,
        Self::Health,
        Self::Failures,
        Self::Page,
        Self::Refused,
    ];

    /// The class's name in configuration, headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Chat => "chat",
            Self::Write => "write",
            Self::Telemetry => "telemetry",
            Self::Read => "read",
            Self::Health => "health",
            Self::Failures => "failures",
            Self::Page => "page",
            Self::Refused => "refused",
        }
    }
}

/// A number of requests per time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests, all of which may come at once.
    pub count: NonZeroU32,
    /// The time in which a spent burst is restored. The configuration has a text for a second, a minute and an hour.
    pub per: Duration,
}

/// The key of a bucket, whose requests share a rate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Bucket {
    /// A client address: IPv4 whole, IPv6 by its /64, which is what one customer gets.
    Address(u128),
    Key(KeyHash),
}

impl From<IpAddr> for Bucket {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::Address(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self::Address(v6.to_bits() >> 64 << 64),
        }
    }
}

/// Whether one request may pass.
#[derive(Debug)]
pub(crate) struct Decision {
    limiter: Arc<ClassLimiter>,
    /// Requests left at once.
    pub(crate) remaining: u32,
    /// `None` if the request may pass; otherwise how long to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Decision {
    pub(crate) fn class(&self) -> RateClass {
        self.limiter.class
    }

    /// The `RateLimit-Policy` field (draft-ietf-httpapi-ratelimit-headers): `"chat";q=10;w=60`.
    pub(crate) fn policy(&self) -> &HeaderValue {
        &self.limiter.policy
    }

    /// The `RateLimit` field: requests left, and seconds until the bucket is full again or, where it refused, until the
    /// next request may pass.
    pub(crate) fn state(&self) -> String {
        let Rate { count, per } = self.limiter.rate;
        let spent = count.get().saturating_sub(self.remaining);
        let reset = match self.retry_after {
            Some(wait) => seconds_up(wait),
            None => seconds_up(per.saturating_mul(spent) / count.get()),
        };
        let (class, remaining) = (self.class().as_str(), self.remaining);
        format!("\"{class}\";r={remaining};t={reset}")
    }
}

/// Whole seconds, rounded up, as `Retry-After` wants them.
#[must_use]
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The limiters of every class; a class without a rate is not limited.
#[derive(Debug)]
pub(crate) struct Limits([Option<Arc<ClassLimiter>>; RateClass::ALL.len()]);

#[derive(Debug)]
struct ClassLimiter {
    class: RateClass,
    rate: Rate,
    policy: HeaderValue,
    limiter: RateLimiter<Bucket, Buckets, Clock, StateInformationMiddleware>,
    /// The buckets of the limiter, which does not expose them.
    buckets: Buckets,
}

impl ClassLimiter {
    fn new(class: RateClass, rate: Rate, clock: &Clock) -> Option<Self> {
        let quota = Quota::with_period(rate.per / rate.count.get())?.allow_burst(rate.count);
        let buckets = Buckets(Arc::new(Mutex::new(LruCache::sparse(CAPACITY))));
        let seconds = rate.per.as_secs().max(1);
        let policy = format!("\"{}\";q={};w={seconds}", class.as_str(), rate.count);
        Some(Self {
            class,
            rate,
            policy: HeaderValue::try_from(policy).ok()?,
            limiter: RateLimiter::new(quota, buckets.clone(), clock.clone()),
            buckets,
        })
    }
}

impl Limits {
    pub(crate) fn new(rate_of: impl Fn(RateClass) -> Option<Rate>, clock: &Clock) -> Self {
        let limiter = |class| ClassLimiter::new(class, rate_of(class)?, clock).map(Arc::new);
        Self(RateClass::ALL.map(limiter))
    }

    /// Counts one request against a bucket; `None` where the class is not limited.
    pub(crate) fn check(&self, class: RateClass, bucket: impl Into<Bucket>) -> Option<Decision> {
        let limiter = self.0[class as usize].clone()?;
        let (remaining, retry_after) = match limiter.limiter.check_key(&bucket.into()) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(refusal) => {
                let wait = refusal.wait_time_from(limiter.limiter.clock().instant());
                (0, Some(wait.max(Duration::from_millis(1))))
            }
        };
        Some(Decision {
            limiter,
            remaining,
            retry_after,
        })
    }

    /// Undoes the count of a request that turned out not to belong to this class.
    pub(crate) fn uncount(&self, class: RateClass, bucket: impl Into<Bucket>) {
        let Some(limiter) = &self.0[class as usize] else {
            return;
        };
        let Rate { count, per } = limiter.rate;
        // A bucket that was evicted meanwhile is full.
        if let Some(arrival) = limiter.buckets.lock().get_mut(&bucket.into()) {
            *arrival = arrival.saturating_sub((per / count.get()).into());
        }
    }

    /// Buckets held by each class, in the order of [`RateClass::ALL`].
    pub(crate) fn entries(&self) -> [usize; RateClass::ALL.len()] {
        let held = |class: &Arc<ClassLimiter>| class.buckets.lock().len();
        (self.0.each_ref()).map(|class| class.as_ref().map_or(0, held))
    }
}

/// The most buckets of a class.
const CAPACITY: NonZeroUsize = nonzero!(65_536usize);

/// The theoretical arrival time of each bucket.
#[derive(Clone, Debug)]
struct Buckets(Arc<Mutex<LruCache<Bucket, Nanos>>>);

impl Buckets {
    fn lock(&self) -> MutexGuard<'_, LruCache<Bucket, Nanos>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for Buckets {
    type Key = Bucket;

    fn measure_and_replace<T, F, E>(&self, key: &Bucket, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut entries = self.lock();
        let (answer, arrival) = measure(entries.get(key).copied())?;
        entries.put(*key, arrival);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
