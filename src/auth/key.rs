//! API keys: format, checksum and hash.
//!
//! A plain key exists only between its creation or a request's header and its hash.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::model::{Timestamp, id_from};

/// An API key in plain text. Its memory is wiped when dropped, and `Debug` does not print it.
///
/// `r3mes_`, 43 base62 characters (256 random bits), and 6 base62 characters of the CRC-32 of those 43. The checksum
/// refuses typing errors before any look-up and lets secret scanners find leaked keys; it protects nothing. Keys of the
/// R3MES backend ([`PlainKey::parse_imported`]) have no checksum.
///
/// ```
/// use r3mes_edge::auth::PlainKey;
///
/// let key = PlainKey::generate().map_err(|error| error.to_string())?;
/// assert_eq!(format!("{key:?}"), "PlainKey");
/// let sent = PlainKey::parse(key.reveal()).ok_or("its checksum is valid")?;
/// assert!(sent.hash() == key.hash());
/// // A mistyped key is refused without a look-up.
/// assert!(PlainKey::parse(&key.reveal().replace('_', "-")).is_none());
/// # Ok::<_, String>(())
/// ```
pub struct PlainKey(Zeroizing<String>);

impl PlainKey {
    /// Characters of a key.
    pub const LENGTH: usize = 55;
    /// What every key starts with.
    pub const PREFIX: &str = "r3mes_";
    /// Characters stored in plain text for the owner to recognise a key by: too few to help a guess.
    const START: usize = 10;
    const RANDOM: usize = 43;

    /// A new key of 256 random bits.
    ///
    /// # Errors
    /// If the operating system provides no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new(String::with_capacity(Self::LENGTH));
        key.push_str(Self::PREFIX);
        let end = Self::PREFIX.len() + Self::RANDOM;
        let mut byte = Zeroizing::new([0u8]);
        while key.len() < end {
            getrandom::fill(byte.as_mut_slice())?;
            // 248 is the largest multiple of 62 that fits a byte: the rest would favour the first characters.
            if byte[0] < 248 {
                key.push(base62(byte[0].into()));
            }
        }
        let check = checksum(&key[Self::PREFIX.len()..]);
        key.extend(check);
        Ok(Self(key))
    }

    /// Reads a key and checks its checksum.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(Self::PREFIX)?;
        if text.len() != Self::LENGTH || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (random, check) = body.split_at(Self::RANDOM);
        let valid = checksum(random).into_iter().eq(check.chars());
        valid.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// Reads a key as the R3MES backend made them: `r3mes_` and 43 characters of base64url (256 random bits).
    #[must_use]
    pub fn parse_imported(text: &str) -> Option<Self> {
        let body = text.strip_prefix(Self::PREFIX)?;
        let base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (body.len() == Self::RANDOM && body.bytes().all(base64url))
            .then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The hash that the R3MES backend stored: SHA-256 of the whole text.
    #[must_use]
    pub fn sha256(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The key itself, for the only response that contains it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first characters.
    #[must_use]
    pub fn start(&self) -> &str {
        &self.0[..Self::START]
    }

    /// The hash that is stored and looked up. A fast hash is enough for 256 random bits; the context separates it
    /// from any other use of BLAKE3 over the same text.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(blake3::derive_key(
            "r3mes-edge 2026-11-24 api key",
            self.0.as_bytes(),
        ))
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey")
    }
}

/// The BLAKE3 hash of a key, 32 bytes; of an imported key that was not used yet, its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The bytes as they are stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(hex).ok()?;
        Some(Self(*hash.as_bytes()))
    }

    /// The id of an imported key with this SHA-256, derived so that a second import recognises a key that was re-hashed
    /// since.
    #[must_use]
    pub fn imported_id(&self, created_at: Timestamp) -> String {
        let mixed = blake3::derive_key("r3mes-edge 2026-11-25 imported key id", &self.0);
        id_from("key_", created_at, &mixed)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

fn base62(digit: u32) -> char {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    char::from(DIGITS[digit as usize % 62])
}

/// Six base62 digits of the CRC-32.
fn checksum(random: &str) -> [char; 6] {
    let crc = crc32fast::hash(random.as_bytes());
    std::array::from_fn(|at| base62(crc / 62u32.pow(5 - at as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_generated_key_parses_and_its_debug_output_is_redacted() {
        let key = PlainKey::generate().unwrap();
        let text = key.reveal().to_owned();
        assert_eq!(text.len(), PlainKey::LENGTH);
        assert_eq!(PlainKey::parse(&text).unwrap().hash(), key.hash());
        assert!(!format!("{key:?} {:?}", key.hash()).contains(&text[6..12]));
        assert_ne!(PlainKey::generate().unwrap().reveal(), text);
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let text = "r3mes_0000000000000000000000000000000000000000000".to_owned();
        let key = text.clone() + &String::from_iter(checksum(&text[6..]));
        let hash = PlainKey::parse(&key).unwrap().hash();
        let expected = blake3::derive_key("r3mes-edge 2026-11-24 api key", key.as_bytes());
        assert_eq!(hash.as_bytes(), &expected);
    }

    #[test]
    fn a_key_of_the_r3mes_backend_has_no_checksum_and_is_hashed_with_sha256() {
        let old = format!("r3mes_{}", "0".repeat(43));
        let key = PlainKey::parse_imported(&old).unwrap();
        // `printf %s KEY | sha256sum`
        let expected = "faf606aa73e47e25c5e319be5f26dfb43abb1da959c059c76f49889abd4ab371";
        let hex: String = key
            .sha256()
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, expected);
        assert!(PlainKey::parse(&old).is_none());
        let ours = PlainKey::generate().unwrap();
        assert!(PlainKey::parse_imported(ours.reveal()).is_none());
        for wrong in [
            &old[1..],
            &old[..48],
            &format!("r3mes_{}", "+".repeat(43)),
            &format!("{old}0"),
        ] {
            assert!(PlainKey::parse_imported(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_single_wrong_character_is_detected(at in 6usize..55, with in "[0-9A-Za-z]") {
            let mut text = PlainKey::generate().unwrap().reveal().to_owned();
            prop_assume!(text[at..=at] != with);
            text.replace_range(at..=at, &with);
            prop_assert!(PlainKey::parse(&text).is_none());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            prop_assert!(PlainKey::parse(&text).is_none());
            prop_assert!(PlainKey::parse_imported(&text).is_none());
        }
    }
}
