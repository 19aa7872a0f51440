//! The error of every type that is read from a text, and `FromStr` for those of this module.

use std::borrow::Cow;
use std::str::FromStr;

use super::{Credits, Period, Timestamp, Wallet};

/// Why a text is not valid, in words for the one who wrote it. Each type that is read from a text has it as its error.
///
/// ```
/// use r3mes_edge::config::Listen;
/// use r3mes_edge::model::{Credits, ParseError, Wallet};
///
/// fn payment(wallet: &str, amount: &str) -> Result<(Wallet, Credits), ParseError> {
///     Ok((wallet.parse()?, amount.parse()?))
/// }
/// let error = payment("remes1", "5").unwrap_err();
/// assert_eq!(error.to_string(), "a wallet address has 44 characters and starts with remes1");
///
/// // What libraries for errors ask of one.
/// fn reported(error: impl std::error::Error + Send + Sync + 'static) -> String {
///     error.to_string()
/// }
/// assert!(reported("localhost".parse::<Listen>().unwrap_err()).contains("use 127.0.0.1:8000"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(Cow<'static, str>);

impl From<&'static str> for ParseError {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for ParseError {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ParseError> for String {
    fn from(error: ParseError) -> Self {
        error.0.into_owned()
    }
}

macro_rules! from_str {
    ($($type:ty),*) => {$(
        impl FromStr for $type {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                Self::parse(text)
            }
        }
    )*};
}

from_str!(Credits, Period, Timestamp, Wallet);
