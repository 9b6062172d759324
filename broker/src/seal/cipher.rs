//! One value, sealed and opened.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ring::{
    aead::{Aad, NONCE_LEN, Nonce},
    hkdf::Prk,
};

use super::{Current, Epoch, KeyId, NoRandom, NotOpened, Place, Seal, key};

/// What a sealed value begins with: no text and no CBOR does.
const MAGIC: [u8; 3] = [0xfe, b'P', b'S'];
/// A plain value that would look sealed.
const PLAIN: u8 = 0;
const SEALED: u8 = 1;
/// What text begins with that is sealed, or would look so.
const TEXT: &str = "\u{1}PS";
const TEXT_PLAIN: &str = "\u{1}PS0";
const TEXT_SEALED: &str = "\u{1}PS1";

/// Magic, form, key, epoch, count.
const HEAD: usize = 4 + 4 + 12 + COUNT;
const COUNT: usize = 6;
const TAG: usize = 16;
/// What a sealed value takes more than it says.
pub const OVERHEAD: usize = HEAD + TAG;

pub(super) fn begins_sealed(value: &[u8]) -> bool {
    value.starts_with(&MAGIC)
}

/// The key that a stored value is sealed with, if it is sealed.
pub fn key_of(stored: &[u8]) -> Option<KeyId> {
    let rest = stored.strip_prefix(&MAGIC)?.strip_prefix(&[SEALED])?;
    let (id, rest) = rest.split_first_chunk::<4>()?;
    (rest.len() >= OVERHEAD - 8).then(|| KeyId(u32::from_be_bytes(*id)))
}

/// The same of a text.
pub fn key_of_text(stored: &str) -> Option<KeyId> {
    key_of(&unarmored(stored.strip_prefix(TEXT_SEALED)?)?)
}

fn unarmored(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD_NO_PAD.decode(text).ok()
}

impl Current {
    pub(super) fn new(id: KeyId, derived: &Prk) -> Result<Self, NoRandom> {
        let mut epoch = [0; 12];
        key::fill(&mut epoch)?;
        let key = key::of_epoch(derived, &epoch).ok_or(NoRandom)?;
        Ok(Self {
            id,
            epoch,
            key,
            count: 0.into(),
        })
    }
}

/// A counter is never used twice with a key; forty-eight bits last a million values a second
/// for nine years of one process.
fn nonce(count: &[u8; COUNT]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - COUNT..].copy_from_slice(count);
    Nonce::assume_unique_for_key(nonce)
}

/// What is authenticated with a value.
fn bound(head: &[u8], place: Place<'_>) -> Vec<u8> {
    [head, place.table.as_bytes(), b"\0", place.row].concat()
}

impl Seal {
    /// Appends a value as it is stored.
    pub fn seal_to(&self, out: &mut Vec<u8>, place: Place<'_>, value: &[u8]) {
        let Some(current) = self.current() else {
            if begins_sealed(value) {
                out.extend_from_slice(&MAGIC);
                out.push(PLAIN);
            }
            out.extend_from_slice(value);
            return;
        };
        let count = current.count.fetch_add(1, Relaxed).to_be_bytes();
        let (_, count) = count.split_last_chunk::<COUNT>().expect("eight are more");
        let start = out.len();
        out.reserve(OVERHEAD + value.len());
        out.extend_from_slice(&MAGIC);
        out.push(SEALED);
        out.extend_from_slice(&current.id.0.to_be_bytes());
        out.extend_from_slice(&current.epoch);
        out.extend_from_slice(count);
        let bound = Aad::from(bound(&out[start..], place));
        out.extend_from_slice(value);
        let text = &mut out[start + HEAD..];
        let sealed = (current.key).seal_in_place_separate_tag(nonce(count), bound, text);
        let tag = sealed.expect("no value of ours has 256 GiB");
        out.extend_from_slice(tag.as_ref());
    }

    /// What a stored value says.
    ///
    /// # Errors
    /// When it does not open.
    pub fn open<'v>(&self, place: Place<'_>, stored: &'v [u8]) -> Result<Cow<'v, [u8]>, NotOpened> {
        if !begins_sealed(stored) {
            return Ok(stored.into());
        }
        if stored.get(MAGIC.len()) == Some(&PLAIN) {
            return Ok(stored[MAGIC.len() + 1..].into());
        }
        let id = key_of(stored).ok_or(NotOpened::Damaged)?;
        let (head, sealed) = stored.split_at(HEAD);
        let (epoch, count) = head[8..].split_at(12);
        let epoch: Epoch = epoch.try_into().map_err(|_| NotOpened::Damaged)?;
        let count: &[u8; COUNT] = count.try_into().map_err(|_| NotOpened::Damaged)?;
        let bound = Aad::from(bound(head, place));
        let mut opened = sealed.to_vec();
        let ours = self.current().filter(|c| c.id == id && c.epoch == epoch);
        let length = match ours {
            Some(current) => current.key.open_in_place(nonce(count), bound, &mut opened),
            None => {
                let key = self.key_for(id, epoch).ok_or(NotOpened::NoKey(id))?;
                key.open_in_place(nonce(count), bound, &mut opened)
            }
        }
        .map_err(|_| NotOpened::Damaged)?
        .len();
        opened.truncate(length);
        Ok(opened.into())
    }

    /// A text as it is stored: text again.
    pub fn seal_text<'v>(&self, place: Place<'_>, text: &'v str) -> Cow<'v, str> {
        if self.is_on() {
            let sealed = self.seal(place, text.as_bytes());
            let mut stored = TEXT_SEALED.to_owned();
            BASE64_STANDARD_NO_PAD.encode_string(sealed, &mut stored);
            return stored.into();
        }
        match text.starts_with(TEXT) {
            true => format!("{TEXT_PLAIN}{text}").into(),
            false => text.into(),
        }
    }

    /// What a stored text says.
    ///
    /// # Errors
    /// When it does not open.
    pub fn open_text<'v>(
        &self,
        place: Place<'_>,
        stored: &'v str,
    ) -> Result<Cow<'v, str>, NotOpened> {
        if let Some(plain) = stored.strip_prefix(TEXT_PLAIN) {
            return Ok(plain.into());
        }
        let Some(armored) = stored.strip_prefix(TEXT_SEALED) else {
            return Ok(stored.into());
        };
        let sealed = unarmored(armored).ok_or(NotOpened::Damaged)?;
        if key_of(&sealed).is_none() {
            return Err(NotOpened::Damaged);
        }
        let opened = self.open(place, &sealed)?.into_owned();
        let text = String::from_utf8(opened).map_err(|_| NotOpened::Damaged)?;
        Ok(text.into())
    }
}
