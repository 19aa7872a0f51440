use std::fmt;
use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::model::{Ids, Timestamp};

/// An API key in plain text: it exists between the moment it is made and the answer that shows it, or between a
/// request's header and its hash. Its memory is wiped when dropped, and `Debug` prints its name only.
///
/// `r3mes_`, 43 base62 characters (256 random bits), 6 base62 characters of the CRC-32 of those 43. The checksum refuses
/// typing mistakes before any look-up and lets secret scanners find leaked keys; it protects nothing. Keys of the R3MES
/// backend ([`PlainKey::parse_imported`]) have no checksum.
///
/// ```
/// use r3mes_edge::auth::PlainKey;
///
/// let key = PlainKey::generate().map_err(|error| error.to_string())?;
/// // No log shows it by mistake.
/// assert_eq!(format!("{key:?}"), "PlainKey");
/// let sent = PlainKey::parse(key.reveal()).ok_or("its checksum holds")?;
/// assert!(sent.hash() == key.hash());
/// // A mistyped one needs no look-up to be refused.
/// assert!(PlainKey::parse(&key.reveal().replace('_', "-")).is_none());
/// # Ok::<_, String>(())
/// ```
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

    /// Reads a key as the R3MES backend made them: `r3mes_` and 43 characters of base64url (256 random bits).
    #[must_use]
    pub fn parse_imported(text: &str) -> Option<Self> {
        let body = text.strip_prefix(Self::PREFIX)?;
        let base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (body.len() == 43 && body.bytes().all(base64url))
            .then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the R3MES backend stored of its keys: the SHA-256 of the whole text.
    #[must_use]
    pub fn sha256(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
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
        static CONTEXT: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context("r3mes-edge 2026-11-24 api key"));
        let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
        KeyHash(*hasher.update(self.0.as_bytes()).finalize().as_bytes())
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
    /// The bytes as the store keeps them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The identifier of an imported key whose SHA-256 this is. Made of the key itself, so that a key that was re-hashed
    /// is known again when it is imported once more.
    #[must_use]
    pub fn imported_id(&self, created_at: Timestamp) -> String {
        let mixed = blake3::derive_key("r3mes-edge 2026-11-25 imported key id", &self.0);
        let tail = mixed[..10]
            .iter()
            .fold(0, |tail, byte| tail << 8 | u128::from(*byte));
        Ids::fixed("key_", created_at, tail)
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

    #[test]
    fn a_key_of_the_r3mes_backend_is_told_from_ours_and_hashed_as_there() {
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
        fn one_wrong_character_is_always_noticed(at in 6usize..55, with in "[0-9A-Za-z]") {
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
