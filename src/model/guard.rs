//! What a request may contain: the members of each endpoint in lists, and the bounds of their values.
//!
//! A member is set by this server, forwarded unchanged, or accepted and dropped. Everything else is refused by its name, unless
//! the configuration of an inference server passes it on (`pass`); some members never are. The lists are those of `lists`.

mod blocks;
mod inputs;
mod lists;
mod media;
mod messages;
mod object;
mod response_items;
mod values;

pub(crate) use blocks::thinking_within;
pub(crate) use lists::{
    CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, MESSAGES, MOST_ANSWERS, RERANK, RESPONSES,
};
pub(crate) use response_items::{tools_added, tools_sent};

use serde_json::value::RawValue;

use super::{InputError, InputKind, Member, pointer};

/// Those of every endpoint.
const ALL: [&Guard; 6] = [
    &CHAT_COMPLETIONS,
    &COMPLETIONS,
    &EMBEDDINGS,
    &MESSAGES,
    &RERANK,
    &RESPONSES,
];

/// Checks a value at a JSON pointer; returns how many pictures and sounds it has.
type Check = fn(at: &str, value: &RawValue) -> Result<usize, InputError>;

/// What the requests of one endpoint may contain. Names are separated by spaces.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Read by this server, and written anew where an inference server needs them.
    pub(crate) own: &'static str,
    /// The one of them that limits the tokens of an answer, where it has any.
    pub(crate) limit: Option<&'static str>,
    /// Sent unchanged.
    pub(crate) forwarded: &'static [(&'static str, Check)],
    /// Accepted, as clients send them, and sent only to servers whose `pass` names them; with the texts that they may be,
    /// any where there are none.
    pub(crate) dropped: &'static [(&'static str, &'static [&'static str])],
}

/// The members of a request that passed its guard, without the own ones.
#[derive(Debug, Default)]
pub(crate) struct Checked<'a> {
    /// For the inference server, in their order.
    pub(crate) forwarded: Vec<Member<'a>>,
    /// For servers alone whose `pass` names them.
    pub(crate) dropped: Vec<Member<'a>>,
    /// Names among the forwarded ones that need a server whose `pass` has them.
    pub(crate) extra: Vec<String>,
    /// Pictures and sounds.
    pub(crate) media: usize,
}

impl Guard {
    /// Sorts the members of a request.
    ///
    /// # Errors
    /// The first member that no server may get, or whose value is out of its bounds.
    pub(crate) fn check<'a>(&self, request: Vec<Member<'a>>) -> Result<Checked<'a>, InputError> {
        let mut checked = Checked::default();
        for (name, value) in request {
            let is_null = value.get() == "null";
            let at = pointer("", &name);
            if is_in(self.own, &name) {
                continue;
            }
            if let Some(check) = self.check_of(&name) {
                if !is_null {
                    checked.media += check(&at, value)?;
                }
                checked.forwarded.push((name, value));
                continue;
            }
            let dropped = self.dropped.iter().find(|(names, _)| is_in(names, &name));
            if let Some((_, values)) = dropped
                && (is_null || values.is_empty() || values.contains(&value.get()))
            {
                if !is_null {
                    checked.dropped.push((name, value));
                }
                continue;
            }
            // Servers in Go (Ollama, LocalAI) read a name in any case, the last one wins.
            let folded = fold(&name);
            if folded != name && (is_in(self.own, &folded) || self.is_listed(&folded)) {
                return Err(refused(&at, &name, &format!("write it {folded}")));
            }
            // Clients that write every member they know write null for those that are not set.
            if is_null {
                continue;
            }
            if let Some(reason) = self.never_passed(&name) {
                return Err(refused(&at, &name, &reason));
            }
            checked.media += media::check_extra(&at, value)?;
            checked.extra.push(name.clone());
            checked.forwarded.push((name, value));
        }
        Ok(checked)
    }

    /// Why no server of this endpoint gets a member.
    fn never_passed(&self, name: &str) -> Option<String> {
        let is_own = |guard: &&Guard| is_in(guard.own, &fold(name));
        match never_passed(name) {
            Some(lists::LIMIT) => Some(match self.limit {
                Some(own) => format!("{}; {own} does that here", lists::LIMIT),
                None => format!("{}, which has no tokens here", lists::LIMIT),
            }),
            Some(reason) => Some(reason.to_owned()),
            None => ALL
                .iter()
                .any(is_own)
                .then(|| "this endpoint has no such member".to_owned()),
        }
    }

    fn check_of(&self, name: &str) -> Option<Check> {
        let mut listed = self.forwarded.iter();
        let found = listed.find(|(names, _)| is_in(names, name))?;
        Some(found.1)
    }

    fn is_listed(&self, name: &str) -> bool {
        self.check_of(name).is_some() || self.dropped.iter().any(|(names, _)| is_in(names, name))
    }
}

/// Refuses what a request to count the tokens of a prompt does not have.
///
/// # Errors
/// The first member that is about an answer.
pub(crate) fn check_counted(request: &[Member<'_>]) -> Result<(), InputError> {
    const OF_ANSWER: &str = "max_tokens stream temperature top_p top_k stop_sequences";
    let is_of_answer =
        |(name, value): &&Member<'_>| is_in(OF_ANSWER, name) && value.get() != "null";
    match request.iter().find(is_of_answer) {
        Some((name, _)) => {
            let reason = "it is about an answer, and none is written where tokens are counted";
            Err(refused(&pointer("", name), name, reason))
        }
        None => Ok(()),
    }
}

/// The error for a member that no inference server of the model gets.
pub(crate) fn not_passed(name: &str) -> InputError {
    let reason = format!(
        "no inference server of this model gets it; its operator can pass it on with [[inference]] pass = [{name:?}]"
    );
    refused(&pointer("", name), name, &reason)
}

fn refused(at: &str, name: &str, reason: &str) -> InputError {
    InputError {
        kind: InputKind::Parameter,
        pointer: at.to_owned(),
        detail: format!("{} is not supported: {reason}", named(at, name)),
    }
}

/// A member or its value with where it is: not every client of these endpoints gets the pointer beside the text.
fn named(at: &str, name: &str) -> String {
    match at.rsplit_once('/') {
        Some((parent, last)) if last == name || parent.is_empty() => at[1..].to_owned(),
        _ => format!("{} {name}", &at[1..]),
    }
}

/// An error of the value at a pointer: `detail` follows its name.
fn wrong(at: &str, detail: &str) -> InputError {
    InputError::field(at, format!("{} {detail}", &at[1..]))
}

/// Why no setting passes a member on.
pub(crate) fn never_passed(name: &str) -> Option<&'static str> {
    let folded = fold(name);
    let squashed = squashed(&folded);
    let limits = ["token", "len", "output", "completion", "new", "gen"];
    let is_limit = squashed.starts_with("max") && limits.iter().any(|part| squashed.contains(part));
    if is_limit {
        return Some(lists::LIMIT);
    }
    if media::is_address(&folded) {
        return Some("a server would fetch what it names");
    }
    let is_listed = |names: &str| {
        names
            .split(' ')
            .any(|listed| self::squashed(listed) == squashed)
    };
    let (reason, _) = lists::NEVER.iter().find(|(_, names)| is_listed(names))?;
    Some(reason)
}

/// What is wrong with the names in `pass`.
pub(crate) fn wrong_pass(names: &[String]) -> Option<String> {
    names.iter().find_map(|name| {
        let shown = name.escape_debug();
        let folded = fold(name);
        if name.is_empty() || name.trim() != name || name.contains(char::is_control) {
            return Some(format!(
                "\"{shown}\": must be the name of a member, or \"*\""
            ));
        }
        if ALL.iter().any(|guard| is_in(guard.own, &folded)) {
            return Some(format!(
                "{shown}: is never passed on: this server reads and sets it"
            ));
        }
        if let Some(reason) = never_passed(name) {
            return Some(format!("{shown}: is never passed on: {reason}; remove it"));
        }
        let is_misspelt = *name != folded && ALL.iter().any(|guard| guard.is_listed(&folded));
        is_misspelt.then(|| format!("{shown}: write it {folded}"))
    })
}

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|listed| listed == name)
}

/// A name as Go's encoding/json compares it: without regard to case, also of the long s and the Kelvin sign.
fn fold(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

/// A folded name as a server may write it otherwise: `maxTokens`, `max-tokens`.
fn squashed(folded: &str) -> String {
    folded.replace(['_', '-'], "")
}

#[cfg(test)]
mod tests;
