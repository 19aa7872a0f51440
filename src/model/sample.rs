//! Telemetry of a miner: a sample, its ranges, and how a body of samples is read.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::input::read_object;
use super::{InputError, Timestamp, Wallet, Whole};

/// The unit of a hashrate, stored as its number.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, Deserialize,
)]
pub enum HashrateUnit {
    /// Gradients an hour, as the R3MES miner engine counts its work.
    #[serde(rename = "gradients/h")]
    GradientsPerHour = 0,
    /// Hashes a second, as XMRig counts.
    #[serde(rename = "H/s")]
    HashesPerSecond = 1,
}

impl HashrateUnit {
    /// The unit as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GradientsPerHour => "gradients/h",
            Self::HashesPerSecond => "H/s",
        }
    }
}

/// One sample of a miner. A value that the miner did not report is `None`, never zero.
///
/// It is identified by (wallet, worker, time); a duplicate changes nothing.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// The miner's wallet.
    pub wallet: Wallet,
    /// The name of the miner within its wallet; `default` if not given.
    pub worker: String,
    /// When it was read.
    pub recorded_at: Timestamp,
    /// Work done, in `unit`.
    pub hashrate: f64,
    /// The unit of `hashrate`.
    pub unit: HashrateUnit,
    /// Degrees Celsius.
    pub gpu_temperature: Option<f64>,
    /// Blocks found so far.
    pub blocks_found: Option<i64>,
    /// 0 to 100.
    pub uptime_percentage: Option<f64>,
    /// Seconds since the miner started.
    pub uptime_seconds: Option<i64>,
    /// The difficulty of the network as the miner sees it.
    pub network_difficulty: Option<f64>,
    /// Watts drawn.
    pub power_watts: Option<f64>,
    /// Shares that the pool accepted.
    pub accepted: Option<i64>,
    /// Shares that the pool rejected.
    pub rejected: Option<i64>,
    /// Training loss.
    pub loss: Option<f64>,
}

impl Sample {
    /// Samples in one request at most.
    pub const MAX_BATCH: usize = 1000;
    /// How far a miner's clock may be ahead of the server's.
    pub const MAX_AHEAD: Duration = Duration::from_secs(300);

    /// A sample with nothing but its hashrate.
    #[must_use]
    pub fn new(wallet: Wallet, recorded_at: Timestamp, hashrate: f64, unit: HashrateUnit) -> Self {
        Self {
            wallet,
            worker: "default".to_owned(),
            recorded_at,
            hashrate,
            unit,
            gpu_temperature: None,
            blocks_found: None,
            uptime_percentage: None,
            uptime_seconds: None,
            network_difficulty: None,
            power_watts: None,
            accepted: None,
            rejected: None,
            loss: None,
        }
    }

    /// Reads a body: one sample, an array of them, or one after the other (NDJSON). `owner` is the wallet of samples that name
    /// none. A sample before `oldest` is refused: without those of that time it is unknown whether it is new. One without a
    /// time is of `now`; one more than [`Self::MAX_AHEAD`] after `latest` is refused.
    ///
    /// # Errors
    /// The first error, with the index of its sample; a batch is all or nothing.
    pub fn parse_batch(
        body: &str,
        owner: Option<Wallet>,
        oldest: Option<Timestamp>,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Vec<Self>, InputError> {
        let values = serde_json::Deserializer::from_str(body).into_iter::<&RawValue>();
        let values: serde_json::Result<_> = values.take(Self::MAX_BATCH + 1).collect();
        let mut items: Vec<&RawValue> = values.map_err(|error| InputError::json(&error))?;
        let mut is_batch = items.len() > 1;
        if let [array] = items[..]
            && array.get().starts_with('[')
        {
            items = super::items(array)?;
            is_batch = true;
        }
        if !(1..=Self::MAX_BATCH).contains(&items.len()) {
            let detail = "the body must hold 1 to 1,000 samples";
            return Err(InputError::field("", detail));
        }
        let samples = items.iter().enumerate().map(|(index, item)| {
            let at = match is_batch {
                true => format!("/{index}"),
                false => String::new(),
            };
            let body: SampleBody = read_object(item.get(), &at)?;
            body.checked(&at, owner, oldest, now, latest)
        });
        samples.collect()
    }

    /// Refuses a time of the member `recorded_at` that is further in the future than clocks differ.
    pub(crate) fn check_not_ahead(
        recorded_at: Timestamp,
        at: &str,
        now: Timestamp,
    ) -> Result<Timestamp, InputError> {
        if recorded_at <= now.plus(Self::MAX_AHEAD) {
            return Ok(recorded_at);
        }
        let detail = "recorded_at is more than 5 minutes ahead of this server's clock";
        Err(InputError::field(format!("{at}/recorded_at"), detail))
    }
}

/// A sample as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleBody {
    wallet_address: Option<Wallet>,
    worker: Option<String>,
    recorded_at: Option<Timestamp>,
    hashrate: Figure,
    hashrate_unit: Option<HashrateUnit>,
    gpu_temperature: Option<Figure>,
    blocks_found: Option<Count>,
    uptime_percentage: Option<Figure>,
    uptime_seconds: Option<Count>,
    network_difficulty: Option<Figure>,
    power_watts: Option<Figure>,
    accepted: Option<Count>,
    rejected: Option<Count>,
    loss: Option<Figure>,
}

impl SampleBody {
    fn checked(
        self,
        at: &str,
        owner: Option<Wallet>,
        oldest: Option<Timestamp>,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Sample, InputError> {
        let refused = |name: &str, detail: &str| {
            let pointer = format!("{at}/{name}");
            Err(InputError::field(pointer, format!("{name} {detail}")))
        };
        let Some(wallet) = self.wallet_address.or(owner) else {
            return refused("wallet_address", "is required");
        };
        let recorded_at = Sample::check_not_ahead(self.recorded_at.unwrap_or(now), at, latest)?;
        if let Some(oldest) = oldest
            && recorded_at < oldest
        {
            let detail = format!("is before {oldest}, the oldest that is stored");
            return refused("recorded_at", &detail);
        }
        let worker = self.worker.unwrap_or_else(|| "default".to_owned());
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=64).contains(&worker.len()) || !worker.bytes().all(plain) {
            let detail = "must be 1 to 64 letters, digits, dots, dashes or underscores";
            return refused("worker", detail);
        }
        let figure = |figure: Option<Figure>| figure.map(|figure| figure.0);
        let count = |count: Option<Count>| count.map(|count| count.0);
        let uptime_percentage = figure(self.uptime_percentage);
        if uptime_percentage.is_some_and(|share| share > 100.0) {
            return refused("uptime_percentage", "must be at most 100");
        }
        let unit = self.hashrate_unit.unwrap_or(HashrateUnit::GradientsPerHour);
        Ok(Sample {
            worker,
            gpu_temperature: figure(self.gpu_temperature),
            blocks_found: count(self.blocks_found),
            uptime_percentage,
            uptime_seconds: count(self.uptime_seconds),
            network_difficulty: figure(self.network_difficulty),
            power_watts: figure(self.power_watts),
            accepted: count(self.accepted),
            rejected: count(self.rejected),
            loss: figure(self.loss),
            ..Sample::new(wallet, recorded_at, self.hashrate.0, unit)
        })
    }
}

/// The largest figure and the largest count: sums over any history stay finite and fit.
pub(crate) const MOST_FIGURE: f64 = 1e30;
pub(crate) const MOST_COUNT: i64 = 1_000_000_000_000;

type Count = Whole<0, MOST_COUNT>;

/// A number from 0 to [`MOST_FIGURE`].
#[derive(Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct Figure(f64);

impl TryFrom<serde_json::Number> for Figure {
    type Error = &'static str;

    fn try_from(number: serde_json::Number) -> Result<Self, &'static str> {
        match number.as_f64().unwrap_or(f64::NAN) {
            number if number < 0.0 => Err("must not be negative"),
            number if !number.is_finite() => Err("must be a finite number"),
            number if number > MOST_FIGURE => Err("must be at most 1e30"),
            number => Ok(Self(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);

    fn owner() -> Wallet {
        Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm").unwrap()
    }

    fn read(body: &str) -> Result<Vec<Sample>, InputError> {
        let oldest = NOW.minus(Duration::from_secs(7 * 86_400));
        Sample::parse_batch(body, Some(owner()), Some(oldest), NOW, NOW)
    }

    #[test]
    fn one_sample_an_array_and_lines_are_read() {
        assert_eq!(read(r#"{"hashrate":42.5}"#).unwrap().len(), 1);
        assert_eq!(read("{\n \"hashrate\": 42.5\n}\n").unwrap().len(), 1);
        let whole = read(r#"{"hashrate":1,"accepted":36.0}"#).unwrap();
        assert_eq!(whole[0].accepted, Some(36));
        assert_eq!(
            read(r#"[{"hashrate":1},{"hashrate":2,"worker":"rig-2"}]"#)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            read("{\"hashrate\":1}\r\n\n{\"hashrate\":2}\n{\"hashrate\":3}")
                .unwrap()
                .len(),
            3
        );
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_its_index() {
        for (body, pointer) in [
            ("{}", "/hashrate"),
            ("", ""),
            ("[]", ""),
            (r#"[{"hashrate":1},{"hashrate":-1}]"#, "/1/hashrate"),
            ("{\"hashrate\":1}\n{\"hashrate\":1e999}", "/1/hashrate"),
            (
                r#"{"hashrate":1,"uptime_percentage":101}"#,
                "/uptime_percentage",
            ),
            (
                r#"{"hashrate":1,"recorded_at":"2026-11-24T03:06:00Z"}"#,
                "/recorded_at",
            ),
            (r#"{"hashrate":1,"recorded_at":1594489200}"#, "/recorded_at"),
            (r#"{"hashrate":1.1e30}"#, "/hashrate"),
            (r#"{"hashrate":1,"accepted":1000000000001}"#, "/accepted"),
            (r#"{"hashrate":1,"accepted":1.5}"#, "/accepted"),
            (r#"{"hashrate":1,"accepted":1.}"#, ""),
            (r#"{"hashrate":1,"worker":"a b"}"#, "/worker"),
            (
                r#"{"hashrate":1,"wallet_address":"remes1x"}"#,
                "/wallet_address",
            ),
            (r#"{"hashrate":1,"hash_rate":1}"#, "/hash_rate"),
        ] {
            assert_eq!(read(body).unwrap_err().pointer, pointer, "{body}");
        }
        let many = format!("[{}]", vec![r#"{"hashrate":1}"#; 1001].join(","));
        assert!(read(&many).unwrap_err().detail.contains("1,000"));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9_\\\\ .\\n-]{0,80}") {
            let _ = read(&body);
        }

        #[test]
        fn every_figure_in_range_is_kept(hashrate in 0.0f64..1e15, temperature in 0.0f64..120.0, blocks in 0i64..1_000_000) {
            let body = format!(r#"{{"hashrate":{hashrate:?},"gpu_temperature":{temperature:?},"blocks_found":{blocks}}}"#);
            let sample = read(&body).unwrap().remove(0);
            prop_assert_eq!(sample.hashrate, hashrate);
            prop_assert_eq!(sample.gpu_temperature, Some(temperature));
            prop_assert_eq!(sample.blocks_found, Some(blocks));
        }
    }
}
