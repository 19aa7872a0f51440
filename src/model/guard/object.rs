//! Objects within a request, read as every server reads them.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{fold, wrong};
use crate::model::{InputError, members, pointer};

/// A member of an object.
pub(super) struct Inner<'a> {
    /// Folded, as servers in Go read names in any case.
    pub(super) name: String,
    /// As it is written.
    pub(super) at: String,
    pub(super) value: &'a RawValue,
}

impl Inner<'_> {
    /// Its text; empty where it is none.
    pub(super) fn text(&self) -> String {
        serde_json::from_str(self.value.get()).unwrap_or_default()
    }
}

/// An object at a JSON pointer, without the members that are null.
pub(super) struct Object<'a> {
    at: String,
    pub(super) members: Vec<Inner<'a>>,
}

impl<'a> Object<'a> {
    /// # Errors
    /// Not an object, or a name twice, in whatever case: servers in Go take the last one, others the one of the right case.
    pub(super) fn read(at: &str, value: &'a RawValue) -> Result<Self, InputError> {
        if !value.get().starts_with('{') {
            return Err(wrong(at, "must be an object"));
        }
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (written, value) in members(value.get(), at)? {
            let (name, at) = (fold(&written), pointer(at, &written));
            if !seen.insert(name.clone()) {
                return Err(wrong(&at, "is a duplicate: names are read in any case"));
            }
            if value.get() != "null" {
                found.push(Inner { name, at, value });
            }
        }
        Ok(Self {
            at: at.to_owned(),
            members: found,
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Inner<'a>> {
        self.members.iter().find(|member| member.name == name)
    }

    /// # Errors
    /// It is missing, or null.
    pub(super) fn required(&self, name: &str) -> Result<&Inner<'a>, InputError> {
        let missing = || wrong(&pointer(&self.at, name), "is missing");
        self.get(name).ok_or_else(missing)
    }
}
