use std::fmt;
use std::sync::LazyLock;

use zeroize::Zeroizing;

/// An API key in plain text: it exists between the moment it is made and the answer that shows it, or between a
/// request's header and its hash. Its memory is wiped when dropped, and `Debug` prints its name only.
///
/// `r3mes_`, 43 base62 characters (256 random bits), 6 base62 characters of the CRC-32 of those 43. The checksum refuses
/// typing mistakes before any look-up and lets secret scanners find leaked keys; it protects nothing.
pub struct PlainKey(Zeroizing<String>);

impl PlainKey {
    /// Characters of a key.
    pub const LENGTH: usize = 55;
    /// What every key starts with.
    pub const PREFIX: &str = "r3mes_";
    /// Characters that are kept in plain text so that an owner recognises a key: too few to help anybody guess.
    const START: usize = 10;

    /// A new key of 256 random bits.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new(String::with_capacity(Self::LENGTH));
        key.push_str(Self::PREFIX);
        let mut pool = Zeroizing::new([0u8; 64]);
        while key.len() < Self::PREFIX.len() + 43 {
            getrandom::fill(pool.as_mut_slice())?;
            // 248 is the largest multiple of 62 that fits a byte: taking the rest would favour the first characters.
            let fair = pool.iter().filter(|byte| **byte < 248);
            let room = Self::PREFIX.len() + 43 - key.len();
            key.extend(
                fair.take(room)
                    .map(|byte| char::from(BASE62[usize::from(byte % 62)])),
            );
        }
        let check = checksum(&key[Self::PREFIX.len()..]);
        key.extend(check.map(char::from));
        Ok(Self(key))
    }

    /// Reads a key and checks its checksum.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(Self::PREFIX)?;
        if text.len() != Self::LENGTH || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (random, check) = body.split_at(43);
        (checksum(random) == check.as_bytes()).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The key itself, for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first characters.
    #[must_use]
    pub fn start(&self) -> &str {
        &self.0[..Self::START]
    }

    /// What is stored and looked up instead of the key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        // The input has 256 random bits, so a fast hash is enough; deriving under our own context means that no other
        // use of BLAKE3 over the same text gives the same value.
        static CONTEXT: LazyLock<blake3::Hasher> =
            LazyLock::new(|| blake3::Hasher::new_derive_key("r3mes-edge 2026-11-24 api key"));
        KeyHash(
            *CONTEXT
                .clone()
                .update(self.0.as_bytes())
                .finalize()
                .as_bytes(),
        )
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey")
    }
}

/// The BLAKE3 hash of a key, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The bytes as the store keeps them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the bytes the store kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn checksum(random: &str) -> [u8; 6] {
    let mut rest = crc32fast::hash(random.as_bytes());
    let mut text = [b'0'; 6];
    for place in text.iter_mut().rev() {
        *place = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_key_reads_back_and_hides_itself() {
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
        let key = text.clone() + std::str::from_utf8(&checksum(&text[6..])).unwrap();
        let hash = PlainKey::parse(&key).unwrap().hash();
        let expected = blake3::derive_key("r3mes-edge 2026-11-24 api key", key.as_bytes());
        assert_eq!(hash.as_bytes(), &expected);
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_always_noticed(at in 6usize..55, with in "[0-9A-Za-z]") {
            let mut text = PlainKey::generate().unwrap().reveal().to_owned();
            prop_assume!(text[at..=at] != with);
            text.replace_range(at..=at, &with);
            prop_assert!(PlainKey::parse(&text).is_none());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            prop_assert!(PlainKey::parse(&text).is_none());
        }
    }
}
