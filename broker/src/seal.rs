//! Values that lie sealed in a database, so that who has the disk has not what devices said.
//!
//! # Promises
//! - A sealed value opens only where it was put: table and row are bound to it. One that was
//!   moved, cut or changed is damage, and never opens as something else.
//! - Old keys and plain values may lie among new ones: each value says under which key it is.
//!   A value whose key is not there is told from one that is damaged.
//! - No two values are sealed with the same key and nonce: each process seals with a key of
//!   its own, made of the operator's and 96 random bits, and counts.
//! - A key is in no `Debug`, log or answer; its number, which is made of it and does not lead
//!   back, may be.
//!
//! # How a sealed value looks
//!
//! ```text
//! fe 50 53 01 | key (4) | epoch (12) | count (6) | ciphertext | tag (16)
//! ```
//!
//! ChaCha20-Poly1305 under HKDF-SHA-256(key, epoch); what stands before the ciphertext, the
//! table and the row are authenticated with it. A plain value that happens to begin so has
//! `fe 50 53 00` before it. Text stays text, so that strict tables take it: the same in
//! base64. Why it is so: `docs/decisions/0180-sealed-values.md`.

mod cipher;
mod key;
mod noted;
mod reseal;
mod sql;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use ring::{aead::LessSafeKey, hkdf::Prk};

pub use cipher::{OVERHEAD, key_of, key_of_text};
pub use key::{KEY_BYTES, Key, NotAKey};
pub use noted::{KeyError, check, forget, note, note_all, noted};
pub use reseal::{Column, Resealed, Tally, reseal, settle, tally, tally_column};
pub use sql::register;

/// Of values of other processes, keys that are remembered.
const OPENED_MAX: usize = 256;

/// What a key is known by: made of it, and not leading back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Where a value lies.
#[derive(Debug, Clone, Copy)]
pub struct Place<'p> {
    /// Database and table: `journal.devices`.
    pub table: &'p str,
    /// What makes the row this one, and goes where the value goes.
    pub row: &'p [u8],
}

/// Why a value does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// It is sealed with a key that is not there.
    #[error("a value is sealed with the key {0}, which is not given")]
    NoKey(KeyId),
    /// It is not as it was sealed, or not where it was put.
    #[error("a sealed value is damaged")]
    Damaged,
}

impl From<NotOpened> for rusqlite::Error {
    /// Not one that means damage of the file.
    fn from(error: NotOpened) -> Self {
        Self::UserFunctionError(Box::new(error))
    }
}

/// Seals and opens values; cheap to clone. The default seals nothing, and opens what is plain.
#[derive(Clone, Default)]
pub struct Seal(Option<Arc<Keys>>);

struct Keys {
    /// What is new is sealed with this; plain where there is none.
    current: Option<Current>,
    known: Vec<(KeyId, Prk)>,
    /// Keys of other processes' values.
    opened: Mutex<HashMap<(KeyId, Epoch), Arc<LessSafeKey>>>,
}

/// What distinguishes the key that one process seals with.
type Epoch = [u8; 12];

struct Current {
    id: KeyId,
    epoch: Epoch,
    key: LessSafeKey,
    count: AtomicU64,
}

impl Seal {
    /// Seals what is new with `key`, and opens also what is sealed with `old` ones.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(key: &Key, old: &[Key]) -> Result<Self, NoRandom> {
        let mut known = vec![(key.id(), key.derived())];
        for old in old {
            if known.iter().all(|(id, _)| *id != old.id()) {
                known.push((old.id(), old.derived()));
            }
        }
        let current = Current::new(key.id(), &known[0].1)?;
        Ok(Self(Some(Arc::new(Keys {
            current: Some(current),
            known,
            opened: Mutex::default(),
        }))))
    }

    /// Opens what this opens, and seals nothing.
    #[must_use]
    pub fn without_sealing(&self) -> Self {
        Self(self.0.as_ref().map(|keys| {
            Arc::new(Keys {
                current: None,
                known: keys.known.clone(),
                opened: Mutex::default(),
            })
        }))
    }

    /// Whether what is new is sealed.
    pub fn is_on(&self) -> bool {
        self.current().is_some()
    }

    /// The key that what is new is sealed with.
    pub fn key(&self) -> Option<KeyId> {
        self.current().map(|current| current.id)
    }

    /// Whether values of this key open.
    pub fn knows(&self, id: KeyId) -> bool {
        self.keys().any(|known| known == id)
    }

    /// All keys that it has.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        let keys = self.0.as_ref().map(|keys| keys.known.iter());
        keys.into_iter().flatten().map(|(id, _)| *id)
    }

    /// What a value takes more than it says, at most.
    pub fn overhead(&self) -> usize {
        if self.is_on() { OVERHEAD } else { 0 }
    }

    /// Says that a value's key is not there, where that is so; whatever else it may be.
    ///
    /// # Errors
    /// [`NotOpened::NoKey`].
    pub fn require(&self, stored: &[u8]) -> Result<(), NotOpened> {
        match key_of(stored) {
            Some(id) if !self.knows(id) => Err(NotOpened::NoKey(id)),
            _ => Ok(()),
        }
    }

    /// The same of a text.
    ///
    /// # Errors
    /// [`NotOpened::NoKey`].
    pub fn require_text(&self, stored: &str) -> Result<(), NotOpened> {
        match cipher::key_of_text(stored) {
            Some(id) if !self.knows(id) => Err(NotOpened::NoKey(id)),
            _ => Ok(()),
        }
    }

    /// A value as it is stored.
    pub fn seal<'v>(&self, place: Place<'_>, value: &'v [u8]) -> Cow<'v, [u8]> {
        if self.current().is_none() && !cipher::begins_sealed(value) {
            return value.into();
        }
        let mut stored = Vec::new();
        self.seal_to(&mut stored, place, value);
        stored.into()
    }

    /// The same, sealing with another of its keys.
    fn sealing_with(&self, id: KeyId) -> Option<Self> {
        let keys = self.0.as_ref()?;
        if self.key() == Some(id) {
            return Some(self.clone());
        }
        let (_, derived) = keys.known.iter().find(|(known, _)| *known == id)?;
        Some(Self(Some(Arc::new(Keys {
            current: Current::new(id, derived).ok(),
            known: keys.known.clone(),
            opened: Mutex::default(),
        }))))
    }

    fn current(&self) -> Option<&Current> {
        self.0.as_ref()?.current.as_ref()
    }

    /// The key of values of one process.
    fn key_for(&self, id: KeyId, epoch: Epoch) -> Option<Arc<LessSafeKey>> {
        let keys = self.0.as_ref()?;
        let (_, derived) = keys.known.iter().find(|(known, _)| *known == id)?;
        let mut opened = keys.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(&(id, epoch)) {
            return Some(known.clone());
        }
        let made = Arc::new(key::of_epoch(derived, &epoch)?);
        if opened.len() >= OPENED_MAX {
            opened.clear();
        }
        opened.insert((id, epoch), made.clone());
        Some(made)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key() {
            Some(id) => write!(f, "Seal({id})"),
            None => f.write_str("Seal(off)"),
        }
    }
}

/// Two that seal with the same key and open the same values are the same.
impl PartialEq for Seal {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key() && self.keys().eq(other.keys())
    }
}

impl Eq for Seal {}

/// The system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes to make a key of")]
pub struct NoRandom;

#[cfg(test)]
mod tests;
