//! How often somebody may ask: one governor limiter per class, with buckets by client address and by key.
//!
//! GCRA (ATM Forum TM 4.0) gives a burst of the whole number and then one request every `window / number`. The buckets
//! live in a sharded LRU of a fixed size instead of governor's own maps, which grow with every new address: a full table
//! forgets the bucket that was idle longest, which is the one closest to full again.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use hyper::header::HeaderValue;
use lru::LruCache;
use nonzero_ext::nonzero;

use crate::auth::KeyHash;
use crate::clock::Clock;

/// What kind of request a rate is for.
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
}

impl RateClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Auth,
        Self::Chat,
        Self::Write,
        Self::Telemetry,
        Self::Read,
        Self::Health,
        Self::Failures,
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
        }
    }
}

/// So many requests in so long a time (GCRA: ATM Forum, Traffic Management 4.0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests, all of which may come at once.
    pub count: NonZeroU32,
    /// The time in which a spent burst comes back. A configuration has a text for a second, a minute and an hour.
    pub per: Duration,
}

/// Whose requests share a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Bucket {
    /// A client address: IPv4 whole, IPv6 by its /64, which is what one customer gets.
    Address(u128),
    /// A key.
    Key(u128),
}

impl From<IpAddr> for Bucket {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::Address(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self::Address(v6.to_bits() >> 64 << 64),
        }
    }
}

impl From<&KeyHash> for Bucket {
    fn from(hash: &KeyHash) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_bytes()[..16]);
        Self::Key(u128::from_le_bytes(first))
    }
}

/// What a limiter says to one request.
#[derive(Debug)]
pub(crate) struct Decision {
    limiter: Arc<ClassLimiter>,
    /// Requests left at once.
    pub(crate) remaining: u32,
    /// `None` where the request may pass; else how long to wait.
    pub(crate) retry_after: Option<Duration>,
}

impl Decision {
    /// The class that was asked.
    pub(crate) fn class(&self) -> RateClass {
        self.limiter.class
    }

    /// The `RateLimit-Policy` field (draft-ietf-httpapi-ratelimit-headers): `"chat";q=10;w=60`.
    pub(crate) fn policy(&self) -> &HeaderValue {
        &self.limiter.policy
    }

    /// The `RateLimit` field: requests left, and seconds until the bucket is full again or, where it refused, until the
    /// next request may pass.
    #[must_use]
    pub(crate) fn state(&self) -> String {
        let Rate { count, per } = self.limiter.rate;
        let spent = count.get().saturating_sub(self.remaining);
        let reset = match self.retry_after {
            Some(wait) => seconds_up(wait),
            None => {
                let millis = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
                let refill = millis.saturating_mul(spent.into());
                refill.div_ceil(u64::from(count.get()) * 1000)
            }
        };
        let mut state = String::with_capacity(48);
        // Into a text, which takes everything.
        let _ = write!(
            state,
            "\"{}\";r={};t={reset}",
            self.class().as_str(),
            self.remaining
        );
        state
    }
}

/// Whole seconds, rounded up, as `Retry-After` wants them.
#[must_use]
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The limiters of every class; a class without a rate is not limited.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Written only when a configuration is read again.
    classes: RwLock<Classes>,
    clock: Clock,
}

type Classes = [Option<Arc<ClassLimiter>>; RateClass::ALL.len()];
type Limiter = RateLimiter<Bucket, Buckets, Clock, StateInformationMiddleware>;

#[derive(Debug)]
struct ClassLimiter {
    class: RateClass,
    rate: Rate,
    policy: HeaderValue,
    limiter: Limiter,
    /// Those of the limiter.
    buckets: Buckets,
}

impl Limits {
    /// Limiters for the rates that `rate_of` tells.
    pub(crate) fn new(rate_of: impl Fn(RateClass) -> Option<Rate>, clock: &Clock) -> Self {
        let limits = Self {
            classes: RwLock::default(),
            clock: clock.clone(),
        };
        limits.change(rate_of);
        limits
    }

    /// From now on these rates. A class whose rate is another begins with full buckets; the others go on as they are.
    pub(crate) fn change(&self, rate_of: impl Fn(RateClass) -> Option<Rate>) {
        let mut classes = self.classes.write().unwrap_or_else(PoisonError::into_inner);
        for class in RateClass::ALL {
            let place = &mut classes[class as usize];
            let rate = rate_of(class);
            if place.as_ref().map(|limiter| limiter.rate) != rate {
                *place = rate.and_then(|rate| self.limiter(class, rate));
            }
        }
    }

    fn limiter(&self, class: RateClass, rate: Rate) -> Option<Arc<ClassLimiter>> {
        let quota = Quota::with_period(rate.per / rate.count.get())?.allow_burst(rate.count);
        let buckets = Buckets::default();
        let limiter = RateLimiter::new(quota, buckets.clone(), self.clock.clone());
        let seconds = rate.per.as_secs().max(1);
        let policy = format!("\"{}\";q={};w={seconds}", class.as_str(), rate.count);
        Some(Arc::new(ClassLimiter {
            class,
            rate,
            // Letters, digits and signs: it always is one.
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("")),
            limiter,
            buckets,
        }))
    }

    fn classes(&self) -> Classes {
        let classes = self.classes.read().unwrap_or_else(PoisonError::into_inner);
        classes.clone()
    }

    /// Counts one request against a bucket; `None` where the class is not limited.
    pub(crate) fn check(&self, class: RateClass, bucket: impl Into<Bucket>) -> Option<Decision> {
        let limiter = {
            let classes = self.classes.read().unwrap_or_else(PoisonError::into_inner);
            classes[class as usize].clone()?
        };
        let (remaining, retry_after) = match limiter.limiter.check_key(&bucket.into()) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(refusal) => {
                let wait = refusal.wait_time_from(self.clock.instant());
                (0, Some(wait.max(Duration::from_millis(1))))
            }
        };
        Some(Decision {
            limiter,
            remaining,
            retry_after,
        })
    }

    /// Takes back that a request was counted against a bucket: it was none of those that this class is for.
    pub(crate) fn give_back(&self, class: RateClass, bucket: impl Into<Bucket>) {
        if let Some(place) = &self.classes()[class as usize] {
            let Rate { count, per } = place.rate;
            place.buckets.give_back(bucket.into(), per / count.get());
        }
    }

    /// Drops the buckets that are full again.
    pub(crate) fn sweep(&self) {
        for class in self.classes().iter().flatten() {
            class.limiter.retain_recent();
        }
    }

    /// Buckets held by each class, in the order of [`RateClass::ALL`].
    #[must_use]
    pub(crate) fn entries(&self) -> [usize; RateClass::ALL.len()] {
        self.classes()
            .map(|class| class.as_ref().map_or(0, |class| class.limiter.len()))
    }
}

/// The theoretical arrival time of each bucket.
#[derive(Clone, Debug)]
struct Buckets(Arc<[Mutex<LruCache<Bucket, Nanos>>; Buckets::SHARDS]>);

impl Buckets {
    const SHARDS: usize = 16;
    /// 65,536 in all.
    const PER_SHARD: NonZeroUsize = nonzero!(4096usize);

    fn shard(&self, bucket: &Bucket) -> std::sync::MutexGuard<'_, LruCache<Bucket, Nanos>> {
        let (Bucket::Address(bits) | Bucket::Key(bits)) = bucket;
        // The /64 of an IPv6 address has its variety in the upper half, an IPv4 one in the lower.
        let folded = (bits >> 64) as u64 ^ *bits as u64;
        let shard = folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60;
        Self::lock(&self.0[shard as usize])
    }

    fn give_back(&self, bucket: Bucket, time: Duration) {
        // One that was forgotten meanwhile is full as it is.
        if let Some(arrival) = self.shard(&bucket).get_mut(&bucket) {
            *arrival = arrival.saturating_sub(time.into());
        }
    }

    fn lock(
        shard: &Mutex<LruCache<Bucket, Nanos>>,
    ) -> std::sync::MutexGuard<'_, LruCache<Bucket, Nanos>> {
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| {
            Mutex::new(LruCache::sparse(Self::PER_SHARD))
        })))
    }
}

impl StateStore for Buckets {
    type Key = Bucket;

    fn measure_and_replace<T, F, E>(&self, key: &Bucket, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut entries = self.shard(key);
        let known = entries.get_mut(key);
        let (answer, arrival) = measure(known.as_deref().copied())?;
        match known {
            Some(known) => *known = arrival,
            None => drop(entries.put(*key, arrival)),
        }
        Ok(answer)
    }
}

impl ShrinkableKeyedStateStore<Bucket> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in self.0.iter() {
            Self::lock(shard).retain(|_, arrival| *arrival >= drop_below);
        }
    }

    fn shrink_to_fit(&self) {}

    fn len(&self) -> usize {
        self.0.iter().map(|shard| Self::lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn limits(count: u32, clock: &Clock) -> Limits {
        let rate = Rate {
            count: NonZeroU32::new(count).unwrap(),
            per: Duration::from_secs(60),
        };
        Limits::new(|class| (class != RateClass::Health).then_some(rate), clock)
    }

    #[test]
    fn a_burst_passes_then_one_every_twelve_seconds() {
        let clock = Clock::default();
        let limits = limits(5, &clock);
        let ask = || {
            limits
                .check(RateClass::Auth, IpAddr::from(Ipv4Addr::LOCALHOST))
                .unwrap()
        };
        for left in (0..5).rev() {
            let verdict = ask();
            assert_eq!((verdict.remaining, verdict.retry_after), (left, None));
            assert_eq!(verdict.policy(), "\"auth\";q=5;w=60");
        }
        let refused = ask();
        assert!(
            seconds_up(refused.retry_after.unwrap()) <= 12,
            "{refused:?}"
        );
        assert!(refused.state().starts_with("\"auth\";r=0;t=1"));
        clock.advance(Duration::from_secs(12));
        assert_eq!(ask().retry_after, None);
        assert!(ask().retry_after.is_some());
    }

    #[test]
    fn a_class_that_is_off_and_another_client_are_not_limited() {
        let clock = Clock::default();
        let limits = limits(1, &clock);
        let health = limits.check(RateClass::Health, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert!(health.is_none());
        for last in 1..200 {
            let address = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
            assert_eq!(
                limits.check(RateClass::Read, address).unwrap().retry_after,
                None
            );
        }
    }

    #[test]
    fn a_changed_rate_counts_at_once_and_an_unchanged_one_goes_on() {
        let clock = Clock::default();
        let limits = limits(1, &clock);
        let passes = |class| {
            let verdict = limits.check(class, IpAddr::from(Ipv4Addr::LOCALHOST));
            verdict.is_none_or(|verdict| verdict.retry_after.is_none())
        };
        assert!(passes(RateClass::Read) && passes(RateClass::Chat) && passes(RateClass::Auth));
        let rate = |count| {
            let (count, per) = (NonZeroU32::new(count)?, Duration::from_secs(60));
            Some(Rate { count, per })
        };
        limits.change(|class| match class {
            RateClass::Read => rate(2),
            RateClass::Auth => None,
            _ => rate(1),
        });
        assert!(passes(RateClass::Read) && passes(RateClass::Read) && !passes(RateClass::Read));
        assert!(!passes(RateClass::Chat), "its bucket was filled again");
        assert!(passes(RateClass::Auth));
    }

    #[test]
    fn one_64_of_ipv6_shares_a_bucket() {
        let limits = limits(1, &Clock::default());
        let ask = |text: &str| {
            limits
                .check(
                    RateClass::Read,
                    text.parse::<Ipv6Addr>().map(IpAddr::from).unwrap(),
                )
                .unwrap()
                .retry_after
        };
        assert_eq!(ask("2001:db8::1"), None);
        assert!(ask("2001:db8::ffff:1").is_some());
        assert_eq!(ask("2001:db8:0:1::1"), None);
    }

    #[test]
    fn the_table_stays_bounded_and_is_swept() {
        let clock = Clock::default();
        let limits = limits(1, &clock);
        for client in 0..100_000u32 {
            limits.check(RateClass::Read, IpAddr::from(Ipv4Addr::from_bits(client)));
        }
        let most = Buckets::SHARDS * Buckets::PER_SHARD.get();
        let held = || limits.entries()[RateClass::Read as usize];
        assert!(held() <= most && held() > most / 2, "{}", held());
        clock.advance(Duration::from_secs(120));
        limits.sweep();
        assert_eq!(held(), 0);
    }
}
