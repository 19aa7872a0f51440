//! Compares what a meter finds in recorded answers with what is in them.

use super::*;
use crate::upstream::sse::Parser;

/// The file, its bytes, and what a meter must find: content, a whole answer, and tokens of the prompt, of its cache and of the
/// answer, `None` where the server does not report them.
pub(in crate::upstream) type Fixture = (&'static str, &'static [u8], Metered);
pub(in crate::upstream) type Metered = (bool, bool, [Option<i64>; 3]);

macro_rules! fixtures {
    ($($name:literal, $metered:expr;)*) => {
        &[$(($name, include_bytes!(concat!("../../../../tests/it/fixtures/", $name)), $metered)),*]
    };
}
pub(in crate::upstream) use fixtures;

/// Reads a stream to its end; whether it is whole.
fn read_stream(
    format: &dyn WireFormat,
    bytes: &[u8],
    meter: &mut Meter,
) -> Result<bool, UpstreamError> {
    let mut parser = Parser::default();
    parser.push(bytes);
    parser.push(b"\n\n");
    while let Some(event) = parser.next_event()? {
        if event.text() == "[DONE]" {
            break;
        }
        let reading = format.event(&event.name, event.text())?;
        meter.add(&reading);
        if reading.is_end {
            break;
        }
    }
    Ok(meter.is_finished())
}

/// How many choices were asked for.
pub(in crate::upstream) fn choices(name: &str) -> usize {
    match name.split_once("-n").map(|(_, count)| count.as_bytes()[0]) {
        Some(digit @ b'1'..=b'9') => usize::from(digit - b'0'),
        _ => 1,
    }
}

pub(in crate::upstream) fn check_fixtures(format: &dyn WireFormat, fixtures: &[Fixture]) {
    for (name, bytes, expected) in fixtures {
        let mut meter = Meter::new(choices(name));
        let is_whole = match name.ends_with(".json") {
            false => read_stream(format, bytes, &mut meter).unwrap_or(false),
            true => match format.whole(std::str::from_utf8(bytes).unwrap()) {
                Ok(reading) => {
                    meter.add(&reading);
                    meter.is_finished()
                }
                Err(_) => false,
            },
        };
        let usage = match is_whole {
            true => meter.reported(),
            false => Usage::default(),
        };
        let cached = usage.prompt().map(|_| usage.cached.unwrap_or(0).into());
        let found = [usage.prompt(), cached, usage.output.map(i64::from)];
        assert_eq!((meter.has_content(), is_whole, found), *expected, "{name}");
    }
}
