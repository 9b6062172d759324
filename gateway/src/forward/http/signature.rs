//! A signature of each request: HMAC-SHA256 over the time and the body, as they are sent.
//!
//! The signed bytes are the timestamp as it stands in its header, a dot, and the body
//! (compressed, if it is). The header has `sha256=` and the digest in hex.

use std::fmt::Write as _;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::{event::Timestamp, forward::Secret};

/// How requests are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What both sides know.
    pub secret: Secret,
    /// The header with the signature.
    pub header: String,
    /// The header with the time, in seconds since 1970.
    pub timestamp_header: String,
}

impl Signature {
    /// `header` where not configured.
    pub const HEADER: &'static str = "x-penstock-signature";
    /// `timestamp_header` where not configured.
    pub const TIMESTAMP_HEADER: &'static str = "x-penstock-timestamp";
    /// A shorter secret could be found by trying.
    const SECRET_BYTES_MIN: usize = 16;

    /// Says what is wrong with a secret, and never shows it.
    ///
    /// # Errors
    /// When it is too short.
    pub fn check_secret(secret: &str) -> Result<(), String> {
        match secret.len() {
            bytes if bytes < Self::SECRET_BYTES_MIN => Err(format!(
                "has {bytes} bytes, of at least {}",
                Self::SECRET_BYTES_MIN
            )),
            _ => Ok(()),
        }
    }

    /// Says what is wrong with the name of a header.
    ///
    /// # Errors
    /// When it is none.
    pub fn check_header(name: &str) -> Result<(), &'static str> {
        let parsed = name.parse::<HeaderName>();
        parsed.map(drop).map_err(|_| "not a header's name")
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let secret = Self::check_secret(self.secret.expose());
        secret.map_err(|what| format!("signature.secret {what}"))?;
        Signer::new(self).map(drop)
    }
}

/// Ready to sign.
pub(super) struct Signer {
    key: hmac::Key,
    header: HeaderName,
    timestamp_header: HeaderName,
}

impl Signer {
    pub(super) fn new(config: &Signature) -> Result<Self, String> {
        let name = |text: &str| {
            text.parse::<HeaderName>()
                .map_err(|_| format!("signature: `{text}` is not a header's name"))
        };
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, config.secret.expose().as_bytes()),
            header: name(&config.header)?,
            timestamp_header: name(&config.timestamp_header)?,
        })
    }

    /// Adds both headers.
    pub(super) fn sign(&self, now: Timestamp, body: &[u8], headers: &mut HeaderMap) {
        let seconds = now.as_millis().div_euclid(1_000);
        let mut context = hmac::Context::with_key(&self.key);
        context.update(format!("{seconds}.").as_bytes());
        context.update(body);
        let mut digest = "sha256=".to_owned();
        for byte in context.sign().as_ref() {
            write!(digest, "{byte:02x}").expect("a string takes text");
        }
        let value = HeaderValue::try_from(digest).expect("hex digits can be in a header");
        headers.insert(self.header.clone(), value);
        headers.insert(self.timestamp_header.clone(), HeaderValue::from(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_says() {
        let signature = Signature {
            secret: Secret::from("0123456789abcdef"),
            header: Signature::HEADER.to_owned(),
            timestamp_header: Signature::TIMESTAMP_HEADER.to_owned(),
        };
        let mut headers = HeaderMap::new();
        let now = Timestamp::from_millis(1_700_000_000_999);
        Signer::new(&signature)
            .unwrap()
            .sign(now, b"[{\"id\":\"1\"}]", &mut headers);
        assert_eq!(headers[Signature::TIMESTAMP_HEADER], "1700000000");
        // printf '1700000000.[{"id":"1"}]' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(
            headers[Signature::HEADER],
            "sha256=72c874541093b040dbaefa3dbda06019cbda52cd43025e371f331ca342116fef"
        );
    }

    #[test]
    fn a_secret_that_could_be_guessed_and_headers_that_are_none_are_refused() {
        let check = |secret: &str, header: &str| {
            let signature = Signature {
                secret: Secret::from(secret),
                header: header.to_owned(),
                timestamp_header: Signature::TIMESTAMP_HEADER.to_owned(),
            };
            signature.check()
        };
        assert!(check("too short", "x-s").unwrap_err().contains("9 bytes"));
        let wrong = check("0123456789abcdef", "x s").unwrap_err();
        assert!(wrong.contains("`x s`"), "{wrong}");
        assert_eq!(check("0123456789abcdef", "x-s"), Ok(()));
    }
}
