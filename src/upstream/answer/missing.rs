//! What the events of some servers lack, and clients of their API stop at.
//!
//! Anthropic's client for Python adds to the text of a block, which LocalAI leaves out where it is empty. OpenAI's clients find
//! the part that a delta of a response is of by its indexes and the events that began it: llama.cpp writes neither, nor an empty
//! `output` at the beginning, and begins again after characters of several tokens; Ollama begins no summary.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::upstream::inference::api::Api;
use crate::upstream::inference::wire::{also_null, range_in};

/// What is changed about an event.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// An event that has to come before it.
    pub(super) before: Option<String>,
    /// Places in its text, in their order, and what is to be there.
    pub(super) edits: Vec<(Range<usize>, String)>,
    /// Whether it begins a response again that has begun.
    pub(super) is_repeated: bool,
}

/// What the events of a stream said so far.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// How many there were.
    events: u64,
    items: Vec<Item>,
}

/// An item of a response.
#[derive(Debug)]
struct Item {
    id: String,
    has_content: bool,
    has_summary: bool,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    sequence_number: Option<&'a RawValue>,
    #[serde(borrow)]
    output_index: Option<&'a RawValue>,
    #[serde(borrow)]
    content_index: Option<&'a RawValue>,
    #[serde(borrow)]
    summary_index: Option<&'a RawValue>,
    #[serde(borrow)]
    item_id: Option<&'a RawValue>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Id<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Begun<'a> {
    #[serde(borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow)]
    content_block: &'a RawValue,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default, deserialize_with = "also_null")]
    text: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    thinking: Option<&'a RawValue>,
}

impl Missing {
    /// Items of a response at most whose events get indexes of their own.
    const MAX_ITEMS: usize = 1_024;

    /// The changes of an event of this type.
    pub(super) fn of(&mut self, api: Api, kind: &str, data: &str) -> Changes {
        match api {
            Api::Responses => self.of_response(kind, data).unwrap_or_default(),
            Api::Messages if kind == "content_block_start" => Changes {
                edits: of_block(data).into_iter().collect(),
                ..Changes::default()
            },
            _ => Changes::default(),
        }
    }

    fn of_response(&mut self, kind: &str, data: &str) -> Option<Changes> {
        let event: Event<'_> = serde_json::from_str(data).ok()?;
        let start = data.find('{')? + 1;
        let (mut before, mut added, mut edits) = (None, String::new(), Vec::new());
        let (_, part) = kind.split_once('.').unwrap_or_default();
        if let "created" | "in_progress" | "queued" = part
            && let Some(response) = event.response
            && let Ok(Begun { output: None }) = serde_json::from_str(response.get())
        {
            if !self.items.is_empty() {
                return Some(Changes {
                    is_repeated: true,
                    ..Changes::default()
                });
            }
            let at = range_in(data, response.get()).start + 1;
            edits.push((at..at, "\"output\":[],".to_owned()));
        }
        let item = event
            .item
            .and_then(|item| serde_json::from_str(item.get()).ok());
        let id = item.and_then(|Id { id }| id).or(event.item_id);
        let is_added = part == "output_item.added";
        if is_added && self.items.len() < Self::MAX_ITEMS {
            self.items.push(Item {
                id: id.map_or_else(String::new, |id| id.get().to_owned()),
                has_content: false,
                has_summary: false,
            });
        }
        let is_of_item = is_added || part == "output_item.done" || event.item_id.is_some();
        if is_of_item && let Some(last) = self.items.len().checked_sub(1) {
            let found = id.and_then(|id| self.items.iter().rposition(|item| item.id == id.get()));
            let index = found.unwrap_or(last);
            let item = &mut self.items[index];
            if event.output_index.is_none() {
                added += &format!("\"output_index\":{index},");
            }
            let index = event
                .output_index
                .map_or(index.to_string(), |index| index.get().to_owned());
            let id = id.map_or("\"\"", RawValue::get);
            let family = part.split('.').next().unwrap_or_default();
            let begun = match family {
                "content_part" | "output_text" | "refusal" | "reasoning_text" => {
                    if event.content_index.is_none() {
                        added += "\"content_index\":0,";
                    }
                    let at = event.content_index.map_or("0", RawValue::get);
                    let begun = std::mem::replace(&mut item.has_content, true);
                    let begins = !begun && family == "reasoning_text";
                    begins.then_some(("content_part", "content_index", at, "reasoning_text"))
                }
                "reasoning_summary_part" | "reasoning_summary_text" => {
                    if event.summary_index.is_none() {
                        added += "\"summary_index\":0,";
                    }
                    let at = event.summary_index.map_or("0", RawValue::get);
                    let begun = std::mem::replace(&mut item.has_summary, true);
                    let begins = !begun && family == "reasoning_summary_text";
                    begins.then_some((
                        "reasoning_summary_part",
                        "summary_index",
                        at,
                        "summary_text",
                    ))
                }
                _ => None,
            };
            if let Some((family, name, at, part)) = begun {
                let number = self.events;
                self.events += 1;
                before = Some(format!(
                    r#"{{"type":"response.{family}.added","item_id":{id},"output_index":{index},"{name}":{at},"part":{{"type":"{part}","text":""}},"sequence_number":{number}}}"#
                ));
            }
        }
        // Those of this server count too.
        let number = self.events.to_string();
        self.events += 1;
        match event.sequence_number {
            None => added += &format!("\"sequence_number\":{number},"),
            Some(own) if own.get() == number => {}
            Some(own) => edits.push((range_in(data, own.get()), number)),
        }
        if !added.is_empty() {
            edits.push((start..start, added));
        }
        edits.sort_by_key(|(at, _)| at.start);
        Some(Changes {
            before,
            edits,
            is_repeated: false,
        })
    }
}

/// The text of a block that has none yet.
fn of_block(data: &str) -> Option<(Range<usize>, String)> {
    let BlockStart { content_block } = serde_json::from_str(data).ok()?;
    let block: Block<'_> = serde_json::from_str(content_block.get()).ok()?;
    let text = match block.kind {
        "text" => block.text,
        "thinking" => block.thinking,
        _ => return None,
    };
    match text {
        Some(text) if text.get() == "null" => Some((range_in(data, text.get()), "\"\"".to_owned())),
        Some(_) => None,
        None => {
            let at = range_in(data, content_block.get()).start + 1;
            Some((at..at, format!("\"{}\":\"\",", block.kind)))
        }
    }
}
