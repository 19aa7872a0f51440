//! Lays the sources of a configuration over one another, the weakest first, and keeps where each setting comes from.
//!
//! Each setting is read by itself into an otherwise default configuration. So one mistake hides no other, and what was
//! refused is left out of the whole that is then looked at for what makes no sense.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::Config;
use super::mistake::{Mistake, Mistakes, Origin, nearest};
use super::print::quoted;
use super::value::{Fault, Kind, Reading};

/// Reads a configuration: a file, then what lies over it. With the feature `toml`.
///
/// ```
/// use r3mes_edge::config::{Origin, Reader};
///
/// let reader = Reader::default()
///     .file("edge.toml", "[chat]\nprice = 2\nqueue = 8")
///     .set("CHAT__QUEUE", "32".as_ref(), "R3MES_EDGE_CHAT__QUEUE");
/// let (config, origins) = reader.finish()?;
/// assert_eq!((config.chat.price.to_string().as_str(), config.chat.queue), ("2", 32));
/// assert_eq!(origins.of("chat.price").to_string(), "edge.toml:2:1");
/// assert_eq!(origins.of("chat.queue").to_string(), "R3MES_EDGE_CHAT__QUEUE");
/// assert_eq!(*origins.of("listen"), Origin::Default);
/// # Ok::<_, r3mes_edge::config::Mistakes>(())
/// ```
#[derive(Default)]
pub struct Reader {
    settings: BTreeMap<Vec<Step>, Value>,
    /// Of every key that stands somewhere, sections and refused ones too.
    places: BTreeMap<Vec<Step>, Origin>,
    refused: BTreeSet<Vec<Step>>,
    mistakes: Vec<Mistake>,
    /// The file cannot be read as TOML: nobody knows what it meant to set.
    is_broken: bool,
}

/// What leads from a value to one inside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Where the settings of a configuration come from, as a [`Reader`] found them. With the feature `toml`.
#[derive(Clone, Debug)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting comes from, by its key as in `chat.price` or `inference[0].url`.
    #[must_use]
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }
}

type Leaf<'i> = (Vec<Step>, Spanned<DeValue<'i>>);

impl Reader {
    /// Takes a configuration file's text; `name` is what it is called in messages.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        let name: Arc<str> = name.into();
        let place = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Origin::File {
                name: Arc::clone(&name),
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
            }
        };
        match DeTable::parse(text) {
            Ok(table) => {
                let span = table.span();
                let whole = Spanned::new(span, DeValue::Table(table.into_inner()));
                for leaf in self.leaves(whole, &mut Vec::new(), &place) {
                    self.take_leaf(leaf);
                }
            }
            Err(error) => {
                self.is_broken = true;
                let origin = place(error.span().unwrap_or_default());
                let what = error.message().replace('\n', ", ");
                self.mistakes.push(Mistake {
                    origin,
                    key: String::new(),
                    what: format!("this is not TOML: {what}"),
                });
            }
        }
        self
    }

    /// Lays one setting over what came before. Its key is written as in the file, `__` between section and name, letters
    /// in any case; its value as in the file, a text without quotes. `origin` is the variable or flag it stands in.
    #[must_use]
    pub fn set(mut self, key: &str, value: &OsStr, origin: &str) -> Self {
        let key = key.to_ascii_lowercase();
        // Nothing lies deeper than that.
        let steps = key.splitn(5, "__");
        let mut path: Vec<_> = steps.map(|key| Step::Key(key.to_owned())).collect();
        let origin = Origin::Named(origin.to_owned());
        self.settings.retain(|known, _| !known.starts_with(&path));
        self.places.retain(|known, _| !known.starts_with(&path));
        self.refused.retain(|known| !known.starts_with(&path));
        for length in 1..=path.len() {
            let section = self.places.entry(path[..length].to_vec());
            section.or_insert_with(|| origin.clone());
        }
        let Some(text) = value.to_str() else {
            self.refuse(path, "is not UTF-8");
            return self;
        };
        let literal = DeValue::parse(text.trim()).ok().filter(|value| {
            let value = value.get_ref();
            value.is_integer() || value.is_float() || value.is_bool() || value.is_array()
        });
        let text = Value::String(text.to_owned());
        match literal {
            Some(list) if list.get_ref().is_array() => {
                for leaf in self.leaves(list, &mut path, &|_| origin.clone()) {
                    self.take_leaf(leaf);
                }
            }
            // A name may be made of digits.
            Some(literal) => self.take(path, own(literal).into_iter().chain([text])),
            None => self.take(path, [text]),
        }
        self
    }

    /// The configuration, and where its settings come from.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn finish(mut self) -> Result<(Config, Origins), Mistakes> {
        self.look_for_missing();
        let whole = whole(&self.settings);
        match Config::deserialize(Reading(&whole)) {
            Ok(config) => {
                let names: BTreeMap<_, _> = self.places.iter().map(|(k, v)| (text(k), v)).collect();
                let refused: BTreeSet<_> = self.refused.iter().map(|path| text(path)).collect();
                let named = |key: &String| matches!(names.get(key), Some(Origin::Named(_)));
                let senseless = config.senseless().into_iter().filter(|senseless| {
                    let mut keys = senseless.keys.iter();
                    let is_known = !self.is_broken || keys.clone().all(named);
                    is_known && !keys.any(|key| refused.contains(key))
                });
                for senseless in senseless {
                    // The last that was set: of several, it may have been right before.
                    let places = senseless.keys.iter().filter_map(|key| names.get(key));
                    self.mistakes.push(Mistake {
                        origin: places
                            .max()
                            .map_or(Origin::Default, |place| (*place).clone()),
                        key: senseless.keys.first().cloned().unwrap_or_default(),
                        what: senseless.what,
                    });
                }
                if self.mistakes.is_empty() {
                    let origins = names.into_iter().map(|(key, place)| (key, place.clone()));
                    return Ok((config, Origins(origins.collect())));
                }
            }
            Err(fault) => self.mistakes.push(Mistake {
                origin: Origin::Default,
                key: String::new(),
                what: fault.to_string(),
            }),
        }
        self.mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(Mistakes(self.mistakes))
    }

    /// Everything in a value that is no section with something in it, nor a list of such; notes where all of it stands.
    fn leaves<'i>(
        &mut self,
        value: Spanned<DeValue<'i>>,
        path: &mut Vec<Step>,
        place: &dyn Fn(Range<usize>) -> Origin,
    ) -> Vec<Leaf<'i>> {
        let mut found = Vec::new();
        let span = value.span();
        let mut inside = |reader: &mut Self, step, span, value| {
            path.push(step);
            reader.places.insert(path.clone(), place(span));
            found.append(&mut reader.leaves(value, path, place));
            path.pop();
        };
        match value.into_inner() {
            DeValue::Table(table) if !table.is_empty() => {
                for (key, value) in table {
                    let span = key.span();
                    inside(self, Step::Key(key.into_inner().into_owned()), span, value);
                }
            }
            DeValue::Array(items)
                if !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()) =>
            {
                for (at, item) in items.into_iter().enumerate() {
                    inside(self, Step::Index(at), item.span(), item);
                }
            }
            value => found.push((path.clone(), Spanned::new(span, value))),
        }
        found
    }

    fn take_leaf(&mut self, (path, value): Leaf<'_>) {
        match own(value) {
            Ok(value) => self.take(path, [value]),
            Err(what) => self.refuse(path, &what),
        }
    }

    /// Takes the first value that fits, or refuses the setting.
    fn take(&mut self, path: Vec<Step>, values: impl IntoIterator<Item = Value>) {
        let first = |step: &Step| match step {
            Step::Index(_) => Step::Index(0),
            key => key.clone(),
        };
        let alone_at: Vec<_> = path.iter().map(first).collect();
        let mut refusal: Option<Fault> = None;
        for value in values {
            let alone = BTreeMap::from([(alone_at.clone(), value.clone())]);
            match Config::deserialize(Reading(&whole(&alone))) {
                Ok(_) => {
                    self.settings.insert(path, value);
                    return;
                }
                Err(fault) => {
                    // Of two, the one that says more than that it is something else.
                    let says_more = |before: &Fault| before.is_of_type() && !fault.is_of_type();
                    if refusal.as_ref().is_none_or(says_more) {
                        refusal = Some(fault);
                    }
                }
            }
        }
        let Some(Fault { kind, depth }) = refusal else {
            return;
        };
        let up_to = |length: usize| path[..length.min(path.len())].to_vec();
        match kind {
            Kind::Type(what) => self.refuse(up_to(depth), &what),
            Kind::Value(what) if what.starts_with("must ") => self.refuse(path, &what),
            Kind::Value(what) => self.refuse(path, &format!("is wrong: {what}")),
            Kind::Unknown { name, known } => {
                let section = up_to(depth);
                let mut meant = section.clone();
                let what = match nearest(&name, known) {
                    Some(near) => {
                        meant.push(Step::Key(near.to_owned()));
                        format!("is not known; did you mean {}?", text(&meant))
                    }
                    None => format!("is not known; known are {}", known.join(", ")),
                };
                self.refuse(up_to(depth + 1), &what);
            }
        }
    }

    fn refuse(&mut self, path: Vec<Step>, what: &str) {
        let key = text(&path);
        let what = format!("{key} {what}");
        let origin = self.places.get(&path).cloned().unwrap_or(Origin::Default);
        // A section that is not known has one mistake, not one for each of its settings.
        if self.refused.insert(path) {
            self.mistakes.push(Mistake { origin, key, what });
        }
    }

    /// What an inference server cannot do without.
    fn look_for_missing(&mut self) {
        let nodes: Vec<_> = self
            .places
            .keys()
            .filter(|path| matches!(path.as_slice(), [Step::Key(key), Step::Index(_)] if key == "inference"))
            .cloned()
            .collect();
        for node in nodes {
            for name in ["name", "kind", "url"] {
                let mut path = node.clone();
                path.push(Step::Key(name.to_owned()));
                if !self.places.contains_key(&path) {
                    let place = self.places.get(&node).cloned();
                    self.places.extend(place.map(|place| (path.clone(), place)));
                    self.refuse(path, "is missing");
                }
            }
        }
    }
}

fn own(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    Value::deserialize(ValueDeserializer::from(value))
        .map_err(|error| format!("is wrong: {}", error.message()))
}

/// One table of all these settings.
fn whole(settings: &BTreeMap<Vec<Step>, Value>) -> Value {
    let mut whole = Value::Table(Table::new());
    for (path, value) in settings {
        put(&mut whole, path, path, value);
    }
    whole
}

fn put(into: &mut Value, path: &[Step], whole_path: &[Step], value: &Value) {
    let Some((step, rest)) = path.split_first() else {
        // A section without anything in it takes nothing from one that has.
        if !(value.is_table() && into.is_table()) {
            *into = value.clone();
        }
        return;
    };
    let nothing = || Value::Table(Table::new());
    match step {
        Step::Key(key) => {
            if !into.is_table() {
                *into = nothing();
            }
            if let Value::Table(table) = into {
                let entry = table.entry(key.as_str()).or_insert_with(nothing);
                put(entry, rest, whole_path, value);
            }
        }
        Step::Index(at) => {
            if !into.is_array() {
                *into = Value::Array(Vec::new());
            }
            if let Value::Array(items) = into {
                // Paths come in order; what was refused altogether leaves no gap that anybody would look into.
                while items.len() <= *at {
                    let is_node = whole_path.first() == Some(&Step::Key("inference".to_owned()));
                    items.push(if is_node { stand_in() } else { nothing() });
                }
                put(&mut items[*at], rest, whole_path, value);
            }
        }
    }
}

/// What an inference server has that says nothing of itself: enough to read the rest of it.
fn stand_in() -> Value {
    let texts = [
        ("name", "?"),
        ("kind", "r3mes"),
        ("url", "http://localhost"),
    ];
    let texts = texts.map(|(key, text)| (key.to_owned(), Value::String(text.to_owned())));
    Value::Table(texts.into_iter().collect())
}

/// A key as people write it.
fn text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        let dot = if text.is_empty() { "" } else { "." };
        // A string of ours, which takes whatever is written.
        let _ = match step {
            Step::Key(key) => write!(text, "{dot}{}", quoted(key)),
            Step::Index(at) => write!(text, "[{at}]"),
        };
    }
    text
}
