//! Why a configuration is refused, and where its settings come from.

use std::fmt;

use serde::Serialize;

/// Where a setting comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(untagged)]
pub enum Origin {
    /// It was not set.
    Default,
    /// A position in the file, counted from 1; columns are characters.
    File {
        /// The file's name.
        #[serde(rename = "file")]
        name: String,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable or a flag.
    Named {
        /// Its name.
        #[serde(rename = "origin")]
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Named { name } => f.write_str(name),
        }
    }
}

/// Why a configuration was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[error("{}{}{message}", prefix(origin, *origin == Origin::Default), prefix(key, key.is_empty()))]
pub struct ConfigError {
    /// Where the setting comes from; the default for a configuration made in code.
    #[serde(flatten)]
    pub origin: Origin,
    /// The setting or section, as `chat.price`; empty where the file is not TOML.
    pub key: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(origin: Origin, key: &str, message: impl Into<String>) -> Self {
        Self {
            origin,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

fn prefix(text: impl fmt::Display, is_left_out: bool) -> String {
    match is_left_out {
        true => String::new(),
        false => format!("{text}: "),
    }
}
