//! The operator's key: 32 bytes, written as 64 hexadecimal digits or in base64.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::{Epoch, KeyId, NoRandom};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// What a key is extracted with: other uses of the same bytes come to other keys.
const SALT: &[u8] = b"penstock sealed values 1";

/// A key. Its bytes are wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, NoRandom> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        fill(&mut *bytes)?;
        Ok(Self(bytes))
    }

    /// Reads one as it is written in a file, with or without the end of its line.
    ///
    /// # Errors
    /// When it is none; what it is instead is not said.
    pub fn parse(text: &[u8]) -> Result<Self, NotAKey> {
        let text = text.trim_ascii_end();
        let mut key = Self(Zeroizing::new([0; KEY_BYTES]));
        if text.len() == 2 * KEY_BYTES {
            for (byte, digits) in key.0.iter_mut().zip(text.as_chunks::<2>().0) {
                *byte = digit(digits[0])? << 4 | digit(digits[1])?;
            }
            return Ok(key);
        }
        // Room for what is not a key, too: decoding into less would say only that.
        let mut decoded = Zeroizing::new([0; 3 * KEY_BYTES]);
        let length = BASE64_STANDARD.decode_slice(text, &mut *decoded);
        match length {
            Ok(KEY_BYTES) => {
                key.0.copy_from_slice(&decoded[..KEY_BYTES]);
                Ok(key)
            }
            _ => Err(NotAKey),
        }
    }

    /// As 64 hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for byte in self.0.iter() {
            text.push(DIGITS[usize::from(byte >> 4)].into());
            text.push(DIGITS[usize::from(byte & 15)].into());
        }
        text
    }

    /// What it is known by.
    pub fn id(&self) -> KeyId {
        struct Four;
        impl KeyType for Four {
            fn len(&self) -> usize {
                4
            }
        }
        let mut id = [0; 4];
        let derived = self.derived();
        let filled = derived
            .expand(&[b"identifier"], Four)
            .and_then(|okm| okm.fill(&mut id));
        debug_assert!(filled.is_ok(), "four bytes are never too many");
        KeyId(u32::from_be_bytes(id))
    }

    pub(super) fn derived(&self) -> Prk {
        Salt::new(HKDF_SHA256, SALT).extract(&*self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// It is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("should be a key of 32 bytes, as 64 hexadecimal digits or in base64")]
pub struct NotAKey;

fn digit(digit: u8) -> Result<u8, NotAKey> {
    let value = char::from(digit).to_digit(16).ok_or(NotAKey)?;
    u8::try_from(value).map_err(|_| NotAKey)
}

pub(super) fn fill(bytes: &mut [u8]) -> Result<(), NoRandom> {
    SystemRandom::new().fill(bytes).map_err(|_| NoRandom)
}

/// The key of the values that one process seals. `None` never comes.
pub(super) fn of_epoch(derived: &Prk, epoch: &Epoch) -> Option<LessSafeKey> {
    let info: [&[u8]; 2] = [b"values", epoch];
    let okm = derived.expand(&info, &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(okm)))
}
