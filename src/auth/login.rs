//! Wallet login: the server hands out a text, the wallet signs it (ADR-036), the server checks that it wrote the text and
//! that the wallet's key signed it.
//!
//! Nothing is stored for a challenge: the text carries a MAC under a key that lives as long as the process, so a restart
//! makes open challenges void (they live five minutes; a client asks for another). Used nonces are kept until they expire.

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

/// Why a login was refused; each text is fit for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoginError {
    /// The challenge or its signature does not hold.
    Refused(&'static str),
    /// More logins are remembered than there is room for.
    Full,
}

/// Hands out challenges and takes each back once.
pub(crate) struct Challenges {
    mac_key: [u8; 32],
    used: Mutex<HashMap<[u8; 16], Timestamp>>,
}

impl Challenges {
    /// How long a challenge may be answered.
    pub(crate) const LIFETIME: Duration = Duration::from_secs(300);
    /// Used nonces kept at once.
    const MOST_USED: usize = 65_536;
    const PROOF: &str = "\nProof: ";

    /// With a new key.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut mac_key = [0; 32];
        getrandom::fill(&mut mac_key)?;
        Ok(Self {
            mac_key,
            used: Mutex::new(HashMap::new()),
        })
    }

    /// A text for `wallet` to sign, and until when. `server` tells the person who signs what they sign in to.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub(crate) fn issue(
        &self,
        wallet: &Wallet,
        server: &str,
        now: Timestamp,
    ) -> Result<(String, Timestamp), getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let (nonce, expires_at) = (u128::from_be_bytes(nonce), now.plus(Self::LIFETIME));
        let text = format!(
            "Sign in to {server}\n\nWallet: {wallet}\nNonce: {nonce:032x}\nExpires: {expires_at}"
        );
        let proof = blake3::keyed_hash(&self.mac_key, text.as_bytes());
        Ok((format!("{text}{}{proof}", Self::PROOF), expires_at))
    }

    /// Takes back a signed challenge, once.
    ///
    /// # Errors
    /// [`LoginError::Refused`] where the text is not ours, not for this wallet, too old or used, or the signature is not
    /// the wallet's.
    pub(crate) fn redeem(
        &self,
        wallet: &Wallet,
        message: &str,
        pub_key: &str,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LoginError> {
        let not_ours = LoginError::Refused("the message is not a challenge of this server");
        let (text, proof) = message.rsplit_once(Self::PROOF).ok_or(not_ours)?;
        // Compared in constant time, as blake3's own comparison is.
        let proof = blake3::Hash::from_hex(proof).map_err(|_| not_ours)?;
        if blake3::keyed_hash(&self.mac_key, text.as_bytes()) != proof {
            return Err(not_ours);
        }
        // We wrote it, so its lines are as we write them.
        let line = |name| {
            text.lines()
                .rev()
                .find_map(|line| line.strip_prefix(name))
                .ok_or(not_ours)
        };
        if line("Wallet: ")? != wallet.as_str() {
            return Err(LoginError::Refused(
                "the challenge was made for another wallet",
            ));
        }
        let expires_at = Timestamp::parse(line("Expires: ")?).map_err(|_| not_ours)?;
        if expires_at <= now {
            return Err(LoginError::Refused(
                "the challenge has expired; ask for another",
            ));
        }
        let nonce = u128::from_str_radix(line("Nonce: ")?, 16)
            .map_err(|_| not_ours)?
            .to_be_bytes();
        verify(wallet, message, pub_key, signature).map_err(LoginError::Refused)?;
        self.spend(nonce, expires_at, now)
    }

    /// Notes a nonce as used; under one lock, so that of two at once one is refused.
    fn spend(
        &self,
        nonce: [u8; 16],
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), LoginError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= Self::MOST_USED {
            used.retain(|_, expires_at| *expires_at > now);
        }
        if used.contains_key(&nonce) {
            return Err(LoginError::Refused(
                "the challenge was used already; ask for another",
            ));
        }
        if used.len() >= Self::MOST_USED {
            return Err(LoginError::Full);
        }
        used.insert(nonce, expires_at);
        Ok(())
    }
}

/// Checks a wallet's signature over `message`: ADR-036 (Cosmos SDK), amino sign document, secp256k1 over SHA-256.
///
/// # Errors
/// A sentence that says what does not hold, fit for the client.
pub(crate) fn verify(
    wallet: &Wallet,
    message: &str,
    pub_key: &str,
    signature: &str,
) -> Result<(), &'static str> {
    let pub_key = STANDARD
        .decode(pub_key)
        .map_err(|_| "pub_key must be base64")?;
    let signature = STANDARD
        .decode(signature)
        .map_err(|_| "signature must be base64")?;
    // 33 bytes: the compressed form, of which the address is made.
    let verifying = VerifyingKey::from_sec1_bytes(&pub_key)
        .ok()
        .filter(|_| pub_key.len() == 33);
    let verifying = verifying.ok_or("pub_key must be a compressed secp256k1 key of 33 bytes")?;
    if address(&pub_key).as_deref() != Some(wallet.as_str()) {
        return Err("pub_key is not the key of this wallet");
    }
    let signature =
        Signature::from_slice(&signature).map_err(|_| "signature must be 64 bytes, r and s")?;
    // Every signature has a twin with the other s; Cosmos takes the low one only, and so a text has one signature.
    if signature.normalize_s() != signature {
        return Err("the signature is not in its low-S form");
    }
    let digest = Sha256::digest(sign_doc(wallet, message));
    verifying
        .verify_prehash(&digest, &signature)
        .map_err(|_| "the signature does not hold for this message")
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

    fn sign(key: &SigningKey, document: &str) -> String {
        let signature: Signature = key.sign_prehash(&Sha256::digest(document)).unwrap();
        STANDARD.encode(signature.to_bytes())
    }

    #[test]
    fn the_known_signature_holds_and_nothing_near_it_does() {
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
    fn the_high_twin_of_a_signature_is_refused() {
        let (_, public, wallet) = signer(7);
        let low = Signature::from_slice(&STANDARD.decode(SIGNATURE).unwrap()).unwrap();
        let high = Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).unwrap();
        assert_ne!(high, low);
        let refused = verify(&wallet, "hello", &public, &STANDARD.encode(high.to_bytes()));
        assert_eq!(refused, Err("the signature is not in its low-S form"));
    }

    #[test]
    fn a_signature_for_a_chain_is_refused() {
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
    fn a_challenge_works_once_for_its_wallet_and_until_it_expires() {
        let challenges = Challenges::new().unwrap();
        let (key, public, wallet) = signer(7);
        let (message, expires_at) = challenges.issue(&wallet, "the test", NOW).unwrap();
        let signature = sign(&key, &sign_doc(&wallet, &message));
        let redeem = |by: &Challenges, message: &str, now| {
            by.redeem(&wallet, message, &public, &signature, now)
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
        let (message, _) = challenges.issue(&wallet, "the test", NOW).unwrap();
        let signature = sign(&other_key, &sign_doc(&other, &message));
        assert!(
            challenges
                .redeem(&other, &message, &other_public, &signature, NOW)
                .is_err(),
            "for another wallet"
        );
    }

    #[test]
    fn what_cannot_be_remembered_is_refused() {
        let challenges = Challenges::new().unwrap();
        let later = NOW.plus(Challenges::LIFETIME);
        for nonce in 0..Challenges::MOST_USED as u128 {
            challenges.spend(nonce.to_be_bytes(), later, NOW).unwrap();
        }
        assert_eq!(
            challenges.spend([0xFF; 16], later, NOW),
            Err(LoginError::Full)
        );
        assert_eq!(
            challenges.spend([0xFF; 16], later.plus(Challenges::LIFETIME), later),
            Ok(())
        );
    }
}
