//! Wallet login: the server issues a challenge, the wallet signs it (ADR-036 of the Cosmos SDK), the server checks both.
//!
//! Challenges are not stored: the text carries a MAC under a key of this process, so a restart invalidates open ones, which
//! live five minutes. Only the proofs of used ones are remembered until they expire.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use ripemd::Ripemd160;
use sha2::{Digest, Sha256};

use crate::model::{Timestamp, Wallet};

/// Why a login was refused, in words for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The challenge or its signature is invalid.
    #[error("{0}")]
    Refused(&'static str),
    /// The table of used challenges is full.
    #[error("too many logins in the last five minutes")]
    Full,
}

/// A challenge with the signature of its wallet.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignedChallenge {
    pub(crate) wallet_address: Wallet,
    message: String,
    pub_key: String,
    signature: String,
}

/// Issues challenges and accepts each of them one time.
pub(crate) struct Challenges {
    mac_key: [u8; 32],
    /// Proofs of the challenges that were used, with their expiry.
    used: Mutex<HashMap<blake3::Hash, Timestamp>>,
}

impl Challenges {
    /// How long a challenge may be answered.
    pub(crate) const LIFETIME: Duration = Duration::from_secs(300);
    /// Used challenges remembered at most.
    const MAX_USED: usize = 65_536;
    const PROOF: &str = "\nProof: ";

    /// # Errors
    /// If the operating system provides no random bytes.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut mac_key = [0; 32];
        getrandom::fill(&mut mac_key)?;
        Ok(Self {
            mac_key,
            used: Mutex::default(),
        })
    }

    /// A text for `wallet` to sign, and its expiry. `server` is the name shown to the person who signs.
    pub(crate) fn issue(
        &self,
        wallet: &Wallet,
        server: &str,
        now: Timestamp,
    ) -> (String, Timestamp) {
        let (nonce, expires_at) = (uuid::Uuid::now_v7().simple(), now.plus(Self::LIFETIME));
        let text = format!(
            "Sign in to {server}\n\nWallet: {wallet}\nNonce: {nonce}\nExpires: {expires_at}"
        );
        let proof = blake3::keyed_hash(&self.mac_key, text.as_bytes());
        (format!("{text}{}{proof}", Self::PROOF), expires_at)
    }

    /// Accepts a signed challenge, one time.
    pub(crate) fn redeem(
        &self,
        signed: &SignedChallenge,
        now: Timestamp,
    ) -> Result<(), LoginError> {
        let (wallet, message) = (&signed.wallet_address, &signed.message);
        let unknown = LoginError::Refused("the message is not a challenge of this server");
        let (text, proof) = message.rsplit_once(Self::PROOF).ok_or(unknown)?;
        let proof = blake3::Hash::from_hex(proof).map_err(|_| unknown)?;
        // blake3 compares its hashes in constant time.
        if blake3::keyed_hash(&self.mac_key, text.as_bytes()) != proof {
            return Err(unknown);
        }
        // From the end: the name of the server is in front and may hold anything.
        let (text, expires) = text.rsplit_once("\nExpires: ").ok_or(unknown)?;
        let (text, _) = text.rsplit_once("\nNonce: ").ok_or(unknown)?;
        let expires_at = Timestamp::parse(expires).map_err(|_| unknown)?;
        let refused = |detail| Err(LoginError::Refused(detail));
        if !text.ends_with(&format!("\nWallet: {wallet}")) {
            return refused("the challenge was made for another wallet");
        }
        if expires_at <= now {
            return refused("the challenge has expired; request another");
        }
        verify(wallet, message, &signed.pub_key, &signed.signature).or_else(refused)?;
        self.spend(proof, expires_at, now)
    }

    /// Marks a challenge as used, under one lock: of two concurrent logins one is refused.
    fn spend(
        &self,
        proof: blake3::Hash,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), LoginError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= Self::MAX_USED {
            used.retain(|_, expires_at| *expires_at > now);
        }
        if used.contains_key(&proof) {
            let detail = "the challenge was used already; request another";
            return Err(LoginError::Refused(detail));
        }
        if used.len() >= Self::MAX_USED {
            return Err(LoginError::Full);
        }
        used.insert(proof, expires_at);
        Ok(())
    }
}

/// Checks a wallet's signature over `message`: ADR-036, amino sign document, secp256k1 over SHA-256.
///
/// # Errors
/// What is wrong, in words for the client.
pub(crate) fn verify(
    wallet: &Wallet,
    message: &str,
    pub_key: &str,
    signature: &str,
) -> Result<(), &'static str> {
    let decode = |text: &str, error| STANDARD.decode(text).map_err(|_| error);
    let pub_key = decode(pub_key, "pub_key must be base64")?;
    let signature = decode(signature, "signature must be base64")?;
    // 33 bytes: the compressed form, which the address is derived from.
    let verifying = VerifyingKey::from_sec1_bytes(&pub_key)
        .ok()
        .filter(|_| pub_key.len() == 33)
        .ok_or("pub_key must be a compressed secp256k1 key of 33 bytes")?;
    if address(&pub_key).as_deref() != Some(wallet.as_str()) {
        return Err("pub_key is not the key of this wallet");
    }
    let signature =
        Signature::from_slice(&signature).map_err(|_| "signature must be 64 bytes, r and s")?;
    // Each signature has a twin with the other s. Cosmos accepts the low one only, so a text has one signature.
    if signature.normalize_s() != signature {
        return Err("the signature is not in its low-S form");
    }
    let digest = Sha256::digest(sign_doc(wallet, message));
    verifying
        .verify_prehash(&digest, &signature)
        .map_err(|_| "the signature does not match this message")
}

/// The document that is signed: keys sorted, no spaces, an empty chain id.
fn sign_doc(wallet: &Wallet, message: &str) -> String {
    let data = STANDARD.encode(message);
    format!(
        r#"{{"account_number":"0","chain_id":"","fee":{{"amount":[],"gas":"0"}},"memo":"","msgs":[{{"type":"sign/MsgSignData","value":{{"data":"{data}","signer":"{wallet}"}}}}],"sequence":"0"}}"#
    )
}

/// bech32 of RIPEMD-160 of SHA-256 of the compressed key (Cosmos SDK, ADR-028).
fn address(pub_key: &[u8]) -> Option<String> {
    let account = Ripemd160::digest(Sha256::digest(pub_key));
    let prefix = bech32::Hrp::parse(Wallet::PREFIX).ok()?;
    bech32::encode::<bech32::Bech32>(prefix, &account).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::SigningKey;
    use k256::ecdsa::signature::hazmat::PrehashSigner;

    const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);
    /// Of the project's fixture: key of 32 bytes 0x07, message "hello".
    const WALLET: &str = "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm";
    const SIGNATURE: &str =
        "cHFI5zmza9WSR7pErFJj/SFuBZURK4/2xfnHOHrbnM8aC1LLRZ0SusRj8fM7sz5b0OL4+NsHSCJSDY8wPYDnvA==";

    fn signer(byte: u8) -> (SigningKey, String, Wallet) {
        let key = SigningKey::from_slice(&[byte; 32]).unwrap();
        let public = key.verifying_key().to_sec1_point(true);
        let wallet = Wallet::parse(&address(public.as_bytes()).unwrap()).unwrap();
        let public = STANDARD.encode(public.as_bytes());
        (key, public, wallet)
    }

    fn signed_by(
        wallet: &Wallet,
        message: &str,
        pub_key: &str,
        signature: &str,
    ) -> SignedChallenge {
        SignedChallenge {
            wallet_address: *wallet,
            message: message.to_owned(),
            pub_key: pub_key.to_owned(),
            signature: signature.to_owned(),
        }
    }

    fn sign(key: &SigningKey, document: &str) -> String {
        let signature: Signature = key.sign_prehash(&Sha256::digest(document)).unwrap();
        STANDARD.encode(signature.to_bytes())
    }

    #[test]
    fn the_known_signature_is_valid_and_every_altered_one_is_not() {
        let (_, public, wallet) = signer(7);
        assert_eq!(wallet.as_str(), WALLET);
        assert_eq!(verify(&wallet, "hello", &public, SIGNATURE), Ok(()));
        assert!(verify(&wallet, "hellp", &public, SIGNATURE).is_err());
        for at in 0..64 {
            let mut bytes = STANDARD.decode(SIGNATURE).unwrap();
            bytes[at] ^= 1;
            assert!(
                verify(&wallet, "hello", &public, &STANDARD.encode(bytes)).is_err(),
                "byte {at}"
            );
        }
        let (_, other_public, other_wallet) = signer(8);
        assert!(verify(&wallet, "hello", &other_public, SIGNATURE).is_err());
        assert!(verify(&other_wallet, "hello", &public, SIGNATURE).is_err());
    }

    #[test]
    fn a_high_s_signature_is_refused() {
        let (_, public, wallet) = signer(7);
        let low = Signature::from_slice(&STANDARD.decode(SIGNATURE).unwrap()).unwrap();
        let high = Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).unwrap();
        assert_ne!(high, low);
        let refused = verify(&wallet, "hello", &public, &STANDARD.encode(high.to_bytes()));
        assert_eq!(refused, Err("the signature is not in its low-S form"));
    }

    #[test]
    fn a_signature_with_a_chain_id_is_refused() {
        let (key, public, wallet) = signer(7);
        let document =
            sign_doc(&wallet, "hello").replace(r#""chain_id":"""#, r#""chain_id":"remes-1""#);
        assert!(verify(&wallet, "hello", &public, &sign(&key, &document)).is_err());
        assert_eq!(
            verify(
                &wallet,
                "hello",
                &public,
                &sign(&key, &sign_doc(&wallet, "hello"))
            ),
            Ok(())
        );
    }

    #[test]
    fn a_challenge_is_valid_one_time_for_its_wallet_until_it_expires() {
        let challenges = Challenges::new().unwrap();
        let (key, public, wallet) = signer(7);
        let (message, expires_at) = challenges.issue(&wallet, "the test", NOW);
        let signature = sign(&key, &sign_doc(&wallet, &message));
        let redeem = |by: &Challenges, message: &str, now| {
            by.redeem(&signed_by(&wallet, message, &public, &signature), now)
        };
        assert!(
            redeem(&Challenges::new().unwrap(), &message, NOW).is_err(),
            "of another server"
        );
        assert!(
            redeem(&challenges, &message, expires_at).is_err(),
            "expired"
        );
        assert!(
            redeem(&challenges, &message.replace("2026", "2036"), NOW).is_err(),
            "changed"
        );
        assert!(
            redeem(&challenges, "Sign in to the test", NOW).is_err(),
            "no challenge"
        );
        assert_eq!(redeem(&challenges, &message, NOW), Ok(()));
        assert!(redeem(&challenges, &message, NOW).is_err(), "used");

        let (other_key, other_public, other) = signer(8);
        let (message, _) = challenges.issue(&wallet, "the test", NOW);
        let signature = sign(&other_key, &sign_doc(&other, &message));
        assert!(
            challenges
                .redeem(&signed_by(&other, &message, &other_public, &signature), NOW)
                .is_err(),
            "for another wallet"
        );
    }

    #[test]
    fn a_full_table_of_used_challenges_refuses_logins_until_entries_expire() {
        let challenges = Challenges::new().unwrap();
        let proof = |nonce: usize| blake3::hash(&nonce.to_le_bytes());
        let later = NOW.plus(Challenges::LIFETIME);
        for nonce in 0..Challenges::MAX_USED {
            challenges.spend(proof(nonce), later, NOW).unwrap();
        }
        assert_eq!(
            challenges.spend(proof(usize::MAX), later, NOW),
            Err(LoginError::Full)
        );
        assert_eq!(
            challenges.spend(proof(usize::MAX), later.plus(Challenges::LIFETIME), later),
            Ok(())
        );
    }
}
