use std::time::Duration;

use super::{
    Fields, InputError, Timestamp, Wallet, float, integer, items, lines, percentage, plain_object,
    text,
};

/// What a hashrate counts.
///
/// ```
/// use r3mes_edge::model::HashrateUnit;
///
/// assert_eq!(HashrateUnit::parse("H/s"), Ok(HashrateUnit::HashesPerSecond));
/// assert_eq!(HashrateUnit::GradientsPerHour.as_str(), "gradients/h");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub enum HashrateUnit {
    /// Gradients an hour, as the R3MES miner engine counts its work.
    #[serde(rename = "gradients/h")]
    GradientsPerHour,
    /// Hashes a second, as XMRig counts.
    #[serde(rename = "H/s")]
    HashesPerSecond,
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

    /// Reads a unit.
    ///
    /// # Errors
    /// A sentence that names the two units.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "gradients/h" => Ok(Self::GradientsPerHour),
            "H/s" => Ok(Self::HashesPerSecond),
            _ => Err("must be \"gradients/h\" or \"H/s\""),
        }
    }
}

/// One reading of a miner. What the miner did not tell is `None`, never zero.
///
/// Its identity is (wallet, worker, moment): the same again changes nothing.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Whose miner it is.
    pub wallet: Wallet,
    /// Which of the wallet's miners; `default` where nobody said.
    pub worker: String,
    /// When it was read.
    pub recorded_at: Timestamp,
    /// Work done, in `unit`.
    pub hashrate: f64,
    /// What `hashrate` counts.
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
    /// Shares the pool took.
    pub accepted: Option<i64>,
    /// Shares the pool refused.
    pub rejected: Option<i64>,
    /// Training loss.
    pub loss: Option<f64>,
}

impl Sample {
    /// Samples in one request at most.
    pub const MAX_BATCH: usize = 1000;
    /// A miner's clock may run ahead of ours by this much.
    pub const MAX_AHEAD: Duration = Duration::from_secs(300);

    const FIELDS: [&str; 14] = [
        "wallet_address",
        "worker",
        "recorded_at",
        "hashrate",
        "hashrate_unit",
        "gpu_temperature",
        "blocks_found",
        "uptime_percentage",
        "uptime_seconds",
        "network_difficulty",
        "power_watts",
        "accepted",
        "rejected",
        "loss",
    ];

    /// A sample that tells only its hashrate.
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

    /// Reads a body: one sample, an array of them, or one a line (NDJSON). `owner` is the wallet of samples that name none.
    /// A sample before `oldest` is refused: those of that time may be gone, and with them what tells whether it is new.
    ///
    /// # Errors
    /// The first mistake, with the index of its sample; a batch is all or nothing.
    pub fn parse_batch(
        body: &str,
        owner: Option<Wallet>,
        oldest: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Vec<Self>, InputError> {
        let parse = |text: &str, at: &str| Self::parse(text, at, owner, oldest, now);
        let samples = if let Some(items) = items(body)? {
            let read = |(index, item): (usize, &&serde_json::value::RawValue)| {
                parse(item.get(), &format!("/{index}"))
            };
            items
                .iter()
                .take(Self::MAX_BATCH + 1)
                .enumerate()
                .map(read)
                .collect::<Result<Vec<_>, _>>()?
        } else if plain_object(body) || lines(body).nth(1).is_none() {
            vec![parse(body, "")?]
        } else {
            let read = |(index, line)| parse(line, &format!("/{index}"));
            lines(body)
                .take(Self::MAX_BATCH + 1)
                .enumerate()
                .map(read)
                .collect::<Result<Vec<_>, _>>()?
        };
        match samples.len() {
            0 => Err(InputError::field("", "the body holds no sample")),
            n if n > Self::MAX_BATCH => Err(InputError::field(
                "",
                "the body holds more than 1,000 samples",
            )),
            _ => Ok(samples),
        }
    }

    fn parse(
        body: &str,
        at: &str,
        owner: Option<Wallet>,
        oldest: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, InputError> {
        let fields = Fields::parse(body, at, &Self::FIELDS)?;
        let Some(wallet) = fields.wallet("wallet_address")?.or(owner) else {
            return Err(fields.refused("wallet_address", "is required"));
        };
        let time = |value: &serde_json::value::RawValue| match text(value) {
            Ok(written) => Timestamp::parse(&written),
            Err(_) => Timestamp::parse(value.get()),
        };
        let recorded_at = fields.optional("recorded_at", time)?.unwrap_or(now);
        if recorded_at > now.plus(Self::MAX_AHEAD) {
            return Err(fields.refused(
                "recorded_at",
                "is more than 5 minutes ahead of this server's clock",
            ));
        }
        if let Some(oldest) = oldest
            && recorded_at < oldest
        {
            let detail = format!("is older than the samples that are kept: those since {oldest}");
            return Err(fields.refused("recorded_at", &detail));
        }
        let unit = |value| text(value).and_then(|text| HashrateUnit::parse(&text));
        let percentage = |value| float(value).and_then(percentage);
        Ok(Self {
            wallet,
            worker: fields
                .optional("worker", worker)?
                .unwrap_or_else(|| "default".to_owned()),
            recorded_at,
            hashrate: fields.required("hashrate", float)?,
            unit: fields
                .optional("hashrate_unit", unit)?
                .unwrap_or(HashrateUnit::GradientsPerHour),
            gpu_temperature: fields.optional("gpu_temperature", float)?,
            blocks_found: fields.optional("blocks_found", integer)?,
            uptime_percentage: fields.optional("uptime_percentage", percentage)?,
            uptime_seconds: fields.optional("uptime_seconds", integer)?,
            network_difficulty: fields.optional("network_difficulty", float)?,
            power_watts: fields.optional("power_watts", float)?,
            accepted: fields.optional("accepted", integer)?,
            rejected: fields.optional("rejected", integer)?,
            loss: fields.optional("loss", float)?,
        })
    }
}

fn worker(value: &serde_json::value::RawValue) -> Result<String, &'static str> {
    let name = text(value)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err("must be 1 to 64 letters, digits, dots, dashes or underscores");
    }
    Ok(name.into_owned())
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
        Sample::parse_batch(body, Some(owner()), Some(oldest), NOW)
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
