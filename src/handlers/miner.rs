use std::time::Duration;

use hyper::StatusCode;
use hyper::header::ACCEPT;
use serde_json::json;

use crate::app::App;
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Credits, Fields, Sample, Timestamp, Wallet, text};
use crate::store::{
    Counted, Done, Earning, HashratePoint, Kept, Resolution, StoreError, ledger_id,
};

pub(super) async fn post_stats(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let principal = call.principal()?;
    let now = app.clock.now();
    let oldest = app.config.retention.raw.map(|kept| now.minus(kept));
    let samples = Sample::parse_batch(call.text()?, principal.wallet, oldest, now)?;
    if samples.iter().any(|sample| !principal.owns(&sample.wallet)) {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "a key records samples of its own wallet only",
        ));
    }
    let accepted = samples.len();
    app.store.record_samples(samples, now).await?;
    Reply::json(StatusCode::CREATED, &json!({ "accepted": accepted }))
}

pub(super) async fn post_earnings(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let now = app.clock.now();
    let fields = Fields::parse(
        call.text()?,
        "",
        &["wallet_address", "earnings", "source_id", "recorded_at"],
    )?;
    let positive = |value: &serde_json::value::RawValue| match Credits::parse(value.get()) {
        Ok(amount) if amount <= Credits::ZERO => Err("must be more than 0"),
        other => other,
    };
    let source = |value| {
        let source = text(value)?;
        let fine =
            (1..=128).contains(&source.len()) && source.bytes().all(|b| b.is_ascii_graphic());
        if fine {
            Ok(source.into_owned())
        } else {
            Err("must be 1 to 128 visible ASCII characters")
        }
    };
    let time = |value: &serde_json::value::RawValue| match text(value) {
        Ok(written) => Timestamp::parse(&written),
        Err(_) => Timestamp::parse(value.get()),
    };
    let earning = Earning {
        wallet: fields.required_wallet("wallet_address")?,
        earnings: fields.required("earnings", positive)?,
        source_id: fields.required("source_id", source)?,
        recorded_at: fields.optional("recorded_at", time)?.unwrap_or(now),
    };
    if earning.recorded_at > now.plus(Sample::MAX_AHEAD) {
        return Err(fields
            .refused(
                "recorded_at",
                "is more than 5 minutes ahead of this server's clock",
            )
            .into());
    }
    let answer = |told: &Counted| Kept {
        status: if told.counted { 201 } else { 200 },
        answer: serde_json::to_string(told).ok(),
        reference: told.entry.map(ledger_id),
    };
    match app
        .store
        .record_earning(earning, now, call.once(None, answer)?)
        .await?
    {
        Done::New(told) => Reply::given(answer(&told)),
        Done::Again(kept) => Reply::again(kept),
    }
}

pub(super) async fn stats(app: &App, call: &Call) -> Result<Reply, ApiError> {
    call.parameters(&[])?;
    let stats = app
        .store
        .miner(call.wallet()?, app.active_since())
        .await?
        .ok_or(StoreError::UserNotFound)?;
    Reply::json(StatusCode::OK, &stats)
}

pub(super) async fn earnings(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet = call.wallet()?;
    let parameters = call.parameters(&["days", "limit", "offset"])?;
    let days = parameters.number("days", 1..=365)?.unwrap_or(7);
    let limit = parameters.number("limit", 1..=500)?.unwrap_or(365);
    let offset = parameters.number("offset", 0..=365)?.unwrap_or(0);
    // Whole UTC days, today the last of them.
    let since = app
        .clock
        .now()
        .day()
        .minus(Duration::from_secs(86_400 * (days as u64 - 1)));
    let days = app
        .store
        .earnings(wallet, since, offset, limit)
        .await?
        .ok_or(StoreError::UserNotFound)?;
    let row = |day: crate::store::EarningsDay| {
        object! {
            date: day.recorded_at.date(),
            earnings: day.earnings,
            amount: day.earnings,
            recorded_at: day.recorded_at,
        }
    };
    let earnings: Vec<_> = days.into_iter().map(row).collect();
    Reply::json(StatusCode::OK, &object! { earnings: earnings })
}

/// Points of one answer at most.
const MOST_POINTS: usize = 10_000;

pub(super) async fn hashrate(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet = call.wallet()?;
    let parameters = call.parameters(&["days", "hours", "resolution"])?;
    let hours = match (
        parameters.number("days", 1..=365)?,
        parameters.number("hours", 1..=8760)?,
    ) {
        (Some(_), Some(_)) => {
            return Err(ApiError::parameter("hours", "and days exclude each other"));
        }
        (Some(days), None) => days * 24,
        (None, Some(hours)) => hours,
        (None, None) => 7 * 24,
    };
    let fitting = match hours {
        0..=2 => Resolution::Raw,
        3..=48 => Resolution::Minute,
        49..=1440 => Resolution::Hour,
        _ => Resolution::Day,
    };
    let asked = parameters.get("resolution").map(|name| {
        let known = Resolution::ALL
            .into_iter()
            .find(|resolution| resolution.as_str() == name);
        known.ok_or_else(|| ApiError::parameter("resolution", "must be raw, 1m, 1h or 1d"))
    });
    let asked = asked.transpose()?;
    let since = app
        .clock
        .now()
        .minus(Duration::from_secs(hours as u64 * 3600));
    let (resolution, points) = finest(app, wallet, since, asked.unwrap_or(fitting)).await?;
    if asked.is_some_and(|asked| asked != resolution) {
        let detail = format!(
            "gives more than 10,000 points; resolution={} fits",
            resolution.as_str()
        );
        return Err(ApiError::parameter("resolution", &detail));
    }
    let accept = call
        .headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept
        .split(',')
        .any(|kind| kind.trim().starts_with("text/csv"))
    {
        return Ok(Reply::bytes(
            StatusCode::OK,
            "text/csv; charset=utf-8",
            csv(&points).into(),
        ));
    }
    Reply::json(StatusCode::OK, &json!({ "hashrate": points }))
}

/// The history at a resolution, or at the next coarser one whose points are not too many for one answer.
async fn finest(
    app: &App,
    wallet: Wallet,
    since: Timestamp,
    from: Resolution,
) -> Result<(Resolution, Vec<HashratePoint>), ApiError> {
    for resolution in Resolution::ALL
        .into_iter()
        .filter(|resolution| *resolution >= from)
    {
        let points = app
            .store
            .hashrate(wallet, since, resolution, MOST_POINTS)
            .await;
        match points {
            Ok(Some(points)) => return Ok((resolution, points)),
            Ok(None) => return Err(StoreError::UserNotFound.into()),
            Err(StoreError::TooMuch) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::parameter(
        "days",
        "gives more than 10,000 points at any resolution; ask for fewer",
    ))
}

fn csv(points: &[HashratePoint]) -> String {
    let mut text = String::from("recorded_at,hashrate,hashrate_unit,min,max,samples\r\n");
    for point in points {
        let HashratePoint {
            recorded_at,
            hashrate,
            hashrate_unit,
            min,
            max,
            samples,
            ..
        } = point;
        text += &format!(
            "{recorded_at},{hashrate},{},{min},{max},{samples}\r\n",
            hashrate_unit.as_str()
        );
    }
    text
}
