//! Wallet addresses, valid by type.

use std::fmt;

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;

use super::ParseError;

/// A wallet address: bech32 (BIP-173, not bech32m) with the prefix `remes` over a 20-byte account, in lower case.
///
/// A value of this type always has a valid checksum: [`Wallet::parse`] is the only way to make one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wallet([u8; Wallet::LENGTH]);

impl Wallet {
    /// Characters of an address: `remes`, `1`, 32 for the account, 6 for the checksum.
    pub const LENGTH: usize = 44;
    /// The human-readable part of every address.
    pub const PREFIX: &str = "remes";

    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong, in words for the client.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let Ok(bytes) = <[u8; Self::LENGTH]>::try_from(text.as_bytes()) else {
            return Err("a wallet address has 44 characters and starts with remes1".into());
        };
        if bytes.iter().any(u8::is_ascii_uppercase) {
            return Err("a wallet address is written in lower case".into());
        }
        let Ok(checked) = CheckedHrpstring::new::<Bech32>(text) else {
            return Err("the checksum of the wallet address is wrong (bech32)".into());
        };
        if checked.hrp().as_bytes() != Self::PREFIX.as_bytes() {
            return Err("a wallet address starts with remes1".into());
        }
        // The length leaves 32 five-bit groups, 20 bytes exactly, so there is no padding to check.
        if checked.byte_iter().count() != 20 {
            return Err("a wallet address holds an account of 20 bytes".into());
        }
        Ok(Self(bytes))
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first and last characters, for logs: enough to recognise, too few to copy.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.as_str();
        [&text[..10], "…", &text[Self::LENGTH - 4..]].concat()
    }
}

impl fmt::Display for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({})", self.short())
    }
}

impl serde::Serialize for Wallet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Wallet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = serde::Deserialize::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: [&str; 4] = [
        "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm",
        "remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx",
        "remes16kykek0kkvk803mfw4e3wukykhaccla26tvxhq",
        "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm",
    ];

    #[test]
    fn real_addresses_round_trip() {
        for text in REAL {
            assert_eq!(Wallet::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Wallet::parse(REAL[0]).unwrap().short(), "remes1jrtx…mshm");
    }

    #[test]
    fn upper_case_other_prefixes_and_bech32m_are_refused() {
        assert!(Wallet::parse(&REAL[0].to_uppercase()).is_err());
        let account = [7u8; 20];
        let encode_m = |hrp: &str| {
            bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse(hrp).unwrap(), &account).unwrap()
        };
        let encode = |hrp: &str, data: &[u8]| {
            bech32::encode::<Bech32>(bech32::Hrp::parse(hrp).unwrap(), data).unwrap()
        };
        assert!(Wallet::parse(&encode("remes", &account)).is_ok());
        assert!(Wallet::parse(&encode_m("remes")).is_err());
        assert!(Wallet::parse(&encode("cosmo", &account)).is_err());
        assert!(Wallet::parse(&encode("remes", &account[..19])).is_err());
        assert!(Wallet::parse(&encode("remes", &[1; 21])).is_err());
    }

    proptest! {
        #[test]
        fn any_single_wrong_character_is_detected(at in 6usize..44, with in proptest::char::range('0', 'z')) {
            let mut text: Vec<char> = REAL[0].chars().collect();
            prop_assume!(text[at] != with);
            text[at] = with;
            prop_assert!(Wallet::parse(&text.into_iter().collect::<String>()).is_err());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            if let Ok(wallet) = Wallet::parse(&text) {
                prop_assert_eq!(wallet.as_str(), text);
            }
        }
    }
}
