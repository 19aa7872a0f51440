//! Wire formats: how the answers of each are read for accounting. What is not needed for that is passed on as it came.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::chat_completions::read;
use crate::model::Tokens;
use crate::upstream::UpstreamError;

/// A format in which model servers answer.
pub(in crate::upstream) trait WireFormat {
    /// Reads an event of a stream: its name, which most servers leave empty, and its data.
    ///
    /// # Errors
    /// [`UpstreamError::Reported`] where it reports a failure, [`UpstreamError::Unreadable`] where it is no event of this
    /// format. Both break the answer off, whatever follows.
    fn event<'a>(&self, name: &'a str, data: &'a str) -> Result<Reading<'a>, UpstreamError>;

    /// Reads an answer that is one JSON object; with the same errors.
    fn whole<'a>(&self, text: &'a str) -> Result<Reading<'a>, UpstreamError>;
}

/// What an event says, or a whole answer.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Reading<'a> {
    /// Its content by choice, in bytes of JSON: text, a tool call, reasoning, a refusal or audio. A role alone is none.
    pub(in crate::upstream) content: Vec<(u64, usize)>,
    /// Whether that content may have come before, as in an event that holds all of a response.
    pub(in crate::upstream) repeats_content: bool,
    /// The JSON of the text of the first choice.
    pub(in crate::upstream) text: Option<&'a str>,
    /// The choices that it completes, by their index.
    pub(in crate::upstream) finished: Vec<u64>,
    /// The reason with which the server gave a choice up: the event is passed on, and the answer broken off after it.
    pub(in crate::upstream) given_up: Option<String>,
    /// Where in the event the usage is, however it is formed; a place of no length is where one belongs that is missing.
    pub(in crate::upstream) usage: Option<Range<usize>>,
    /// What was used so far, where the usage can be read: by one choice, or by all.
    pub(in crate::upstream) tokens: Option<(Option<u64>, Usage)>,
    /// Whether it is about the whole answer and no choice.
    pub(in crate::upstream) no_choice: bool,
    /// The type of the event, else its name, in formats whose clients sort events by it.
    pub(in crate::upstream) kind: Option<&'a str>,
    /// Whether a client of this format reads it as the beginning of a stream, and as its end.
    pub(in crate::upstream) is_start: bool,
    pub(in crate::upstream) is_end: bool,
}

impl Reading<'_> {
    /// Whether it only shows that the server is there.
    pub(in crate::upstream) fn is_ping(&self) -> bool {
        self.kind == Some("ping")
    }
}

/// Tokens that a server reported, as far as it did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in crate::upstream) struct Usage {
    /// Of the prompt, less those of its cache.
    pub(in crate::upstream) input: Option<u32>,
    /// Read from its cache.
    pub(in crate::upstream) cached: Option<u32>,
    /// Written to its cache.
    pub(in crate::upstream) to_cache: Option<u32>,
    pub(in crate::upstream) output: Option<u32>,
}

impl Usage {
    /// In a format whose count of the prompt includes what its cache had.
    pub(in crate::upstream) fn including_cached(
        prompt: Option<u32>,
        cached: Option<u32>,
        output: Option<u32>,
    ) -> Self {
        let cached = cached.unwrap_or(0).min(prompt.unwrap_or(0));
        Self {
            input: prompt.map(|prompt| prompt - cached),
            cached: Some(cached),
            to_cache: None,
            output,
        }
    }

    /// Of the whole prompt. A server that reports 0 does not know them.
    pub(in crate::upstream) fn prompt(self) -> Option<i64> {
        let parts = [self.input, self.cached, self.to_cache]
            .into_iter()
            .flatten();
        let prompt: i64 = parts.map(i64::from).sum();
        (prompt > 0).then_some(prompt)
    }

    /// What a later event says replaces this, unless it does not know what this does.
    fn replace_by(&mut self, later: Self) {
        if later.prompt().is_some() || self.prompt().is_none() {
            self.input = later.input.or(self.input);
            self.cached = later.cached.or(self.cached);
            self.to_cache = later.to_cache.or(self.to_cache);
        }
        if later.output > Some(0) || self.output.is_none() {
            self.output = later.output;
        }
    }
}

/// Where in a text a part of it is.
pub(in crate::upstream) fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

/// Whether an answer with this `error`, and this `type` or `object`, is an error.
pub(in crate::upstream) fn is_error(error: Option<&RawValue>, kind: Option<&RawValue>) -> bool {
    error.is_some() || kind.and_then(read::<&str>) == Some("error")
}

/// A member that is there, even if it is null.
pub(in crate::upstream) fn also_null<'a, D: Deserializer<'a>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// A count of tokens; one that is no whole number is like none.
pub(in crate::upstream) fn count<'a, D: Deserializer<'a>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let value: Option<&RawValue> = Deserialize::deserialize(deserializer)?;
    Ok(value.and_then(read))
}

/// What the events of an answer say together.
#[derive(Debug)]
pub(in crate::upstream) struct Meter {
    /// How many choices were asked for.
    expected: usize,
    choices: BTreeMap<u64, Choice>,
    /// The choice that the last event completed.
    just_finished: Option<u64>,
    total: Option<Usage>,
}

/// What was read of one choice.
#[derive(Debug, Default)]
struct Choice {
    /// Events with content, and the bytes of it.
    pieces: u64,
    bytes: u64,
    is_finished: bool,
    /// Its usage, and whether that came in an event of its own.
    usage: Option<Usage>,
    has_own_event: bool,
}

impl Choice {
    /// Its tokens by this server's own count: most servers send each in a piece of its own, and one is about four bytes.
    fn count(&self) -> u64 {
        self.pieces.max(self.bytes.div_ceil(4))
    }

    fn reported(&self) -> u32 {
        self.usage.and_then(|used| used.output).unwrap_or(0)
    }
}

impl Meter {
    /// Choices in one answer at most; what is of later ones counts for the last.
    const MAX_CHOICES: u64 = 128;

    pub(in crate::upstream) const fn new(expected: usize) -> Self {
        Self {
            expected,
            choices: BTreeMap::new(),
            just_finished: None,
            total: None,
        }
    }

    fn choice(&mut self, index: u64) -> &mut Choice {
        let index = index.min(Self::MAX_CHOICES - 1);
        self.choices.entry(index).or_default()
    }

    pub(in crate::upstream) fn add(&mut self, reading: &Reading<'_>) {
        for (index, bytes) in &reading.content {
            let choice = self.choice(*index);
            let bytes = *bytes as u64;
            if reading.repeats_content {
                choice.pieces = choice.pieces.max(1);
                choice.bytes = choice.bytes.max(bytes);
            } else {
                choice.pieces += 1;
                choice.bytes += bytes;
            }
        }
        for index in &reading.finished {
            self.choice(*index).is_finished = true;
        }
        // The last one counts, as some servers tell running totals in every event; none does before there is content, where
        // the format has no place for it there.
        let counts = reading.is_start || self.has_content();
        if let Some((index, used)) = reading.tokens.filter(|_| counts) {
            let own_event = index.is_none();
            match index.or_else(|| self.only_of()) {
                Some(index) => {
                    let choice = self.choice(index);
                    choice.usage.get_or_insert_default().replace_by(used);
                    choice.has_own_event = own_event;
                }
                None => self.total.get_or_insert_default().replace_by(used),
            }
        }
        self.just_finished = reading.finished.last().copied();
    }

    /// The choice that a usage without one is of, if it is not of all: llama.cpp sends one after the end of each choice.
    fn only_of(&self) -> Option<u64> {
        let finished = self.just_finished.filter(|_| self.expected > 1)?;
        let mut others = self.choices.iter().filter(|(index, _)| **index != finished);
        let each_has_one = others.all(|(_, choice)| !choice.is_finished || choice.has_own_event);
        each_has_one.then_some(finished)
    }

    /// Content of an answer that is plain text.
    pub(in crate::upstream) fn add_content(&mut self, bytes: usize) {
        let choice = self.choice(0);
        choice.pieces += 1;
        choice.bytes += bytes as u64;
    }

    /// The end of such an answer, which has no finish reason.
    pub(in crate::upstream) fn add_finish(&mut self) {
        for index in 0..self.expected as u64 {
            self.choice(index).is_finished = true;
        }
    }

    pub(in crate::upstream) fn has_content(&self) -> bool {
        self.choices.values().any(|choice| choice.pieces > 0)
    }

    /// Pieces of content.
    pub(in crate::upstream) fn pieces(&self) -> u64 {
        self.choices.values().map(|choice| choice.pieces).sum()
    }

    /// Whether every choice is complete.
    pub(in crate::upstream) fn is_finished(&self) -> bool {
        let finished = self.choices.values().filter(|choice| choice.is_finished);
        finished.count() >= self.expected
    }

    /// Whether it is whole where nothing follows: Ollama makes one choice, however many it was asked for.
    pub(in crate::upstream) fn may_end(&self) -> bool {
        let mut choices = self.choices.values();
        let each_is_finished = !self.choices.is_empty() && choices.all(|choice| choice.is_finished);
        each_is_finished || self.is_finished()
    }

    /// The usage, as far as the server reported it. llama.cpp reports one for each choice, with the same prompt.
    pub(in crate::upstream) fn reported(&self) -> Usage {
        let used = || self.choices.values().filter_map(|choice| choice.usage);
        let outputs = || used().filter_map(|used| used.output);
        // The first of the longest.
        let longest = used().rev().max_by_key(|used| used.prompt());
        let by_choice = longest.map(|longest| Usage {
            output: outputs().reduce(u32::saturating_add),
            ..longest
        });
        let total = self.total.filter(|used| used.output > Some(0));
        total.or(by_choice).or(self.total).unwrap_or_default()
    }

    /// The usage, if the server reported that of the prompt.
    pub(in crate::upstream) fn usage(&self) -> Option<Tokens> {
        let used = self.reported();
        let prompt = used.prompt().filter(|_| self.has_content())?;
        Some(Tokens {
            prompt,
            cached: used.cached.unwrap_or(0).into(),
            completion: used.output.unwrap_or(0).into(),
        })
    }

    /// Tokens of the answer, as far as the server reported them.
    pub(in crate::upstream) fn reported_completion(&self) -> i64 {
        self.reported().output.unwrap_or(0).into()
    }

    /// Tokens of the content where the server did not report them, or not those of each choice, and this server's own count
    /// is larger.
    pub(in crate::upstream) fn estimate(&self) -> Option<i64> {
        let choices = || self.choices.values().filter(|choice| choice.pieces > 0);
        let is_whole = self.total.is_some_and(|used| used.output > Some(0))
            || choices().all(|choice| choice.reported() > 0);
        let reported = self.reported_completion();
        let counted = choices().map(Choice::count).sum::<u64>();
        let counted = i64::try_from(counted).unwrap_or(i64::MAX);
        (!is_whole && counted > reported).then_some(counted)
    }
}

#[cfg(test)]
pub(in crate::upstream) mod tests;
