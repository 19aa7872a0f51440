//! Wire formats: how the answers of each are read for accounting. What is not needed for that is passed on as it came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::store::Tokens;
use crate::upstream::UpstreamError;

/// A format in which model servers answer.
pub(in crate::upstream) trait WireFormat {
    /// Reads an event of a stream: its name, which most servers leave empty, and its data.
    ///
    /// # Errors
    /// [`UpstreamError::Reported`] where it reports a failure, [`UpstreamError::Unreadable`] where it is no event of this
    /// format. Both break the answer off, whatever follows.
    fn event<'a>(&self, name: &str, data: &'a str) -> Result<Reading<'a>, UpstreamError>;

    /// Reads an answer that is one JSON object; with the same errors.
    fn whole<'a>(&self, body: &'a [u8]) -> Result<Reading<'a>, UpstreamError>;
}

/// What an event says, or a whole answer.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Reading<'a> {
    /// Whether it has content: text, a tool call, reasoning, a refusal or audio. A role alone is none.
    pub(in crate::upstream) has_content: bool,
    /// The JSON of the text of the first choice.
    pub(in crate::upstream) text: Option<&'a str>,
    /// The choices that it completes, by their index.
    pub(in crate::upstream) finished: Vec<u64>,
    /// The reason with which the server gave a choice up: the event is passed on, and the answer broken off after it.
    pub(in crate::upstream) given_up: Option<String>,
    /// Where in the event the usage is, however it is formed.
    pub(in crate::upstream) usage: Option<Range<usize>>,
    /// What was used so far, where the usage can be read: by one choice, or by all.
    pub(in crate::upstream) tokens: Option<(Option<u64>, Tokens)>,
    /// Whether it is about the whole answer and no choice.
    pub(in crate::upstream) no_choice: bool,
}

/// What the events of an answer say together.
#[derive(Debug)]
pub(in crate::upstream) struct Meter {
    /// How many choices were asked for.
    choices: usize,
    has_content: bool,
    finished: BTreeSet<u64>,
    total: Option<Tokens>,
    by_choice: BTreeMap<u64, Tokens>,
}

impl Meter {
    /// Choices in one answer at most.
    const MAX_CHOICES: usize = 128;

    pub(in crate::upstream) const fn new(choices: usize) -> Self {
        Self {
            choices,
            has_content: false,
            finished: BTreeSet::new(),
            total: None,
            by_choice: BTreeMap::new(),
        }
    }

    pub(in crate::upstream) fn add(&mut self, reading: &Reading<'_>) {
        self.has_content |= reading.has_content;
        if self.finished.len() < Self::MAX_CHOICES {
            self.finished.extend(&reading.finished);
        }
        // The last one counts: some servers tell running totals in every event.
        match reading.tokens {
            Some((None, tokens)) => self.total = Some(tokens),
            Some((Some(choice), tokens)) if self.by_choice.len() < Self::MAX_CHOICES => {
                self.by_choice.insert(choice, tokens);
            }
            _ => {}
        }
    }

    /// Content of an answer that is plain text.
    pub(in crate::upstream) const fn add_content(&mut self) {
        self.has_content = true;
    }

    /// The end of such an answer, which has no finish reason.
    pub(in crate::upstream) fn add_finish(&mut self) {
        self.finished.extend(0..self.choices as u64);
    }

    pub(in crate::upstream) const fn has_content(&self) -> bool {
        self.has_content
    }

    /// Whether every choice is complete.
    pub(in crate::upstream) fn is_finished(&self) -> bool {
        self.finished.len() >= self.choices
    }

    /// The usage, if the server reported it. llama.cpp reports one for each choice, with the same prompt.
    pub(in crate::upstream) fn usage(&self) -> Option<Tokens> {
        let first = self.by_choice.values().next();
        self.total.or_else(|| {
            first.map(|first| Tokens {
                prompt: self
                    .by_choice
                    .values()
                    .map(|used| used.prompt)
                    .max()
                    .unwrap_or(0),
                cached: first.cached,
                completion: self.by_choice.values().map(|used| used.completion).sum(),
            })
        })
    }
}
