//! What is refused everywhere unless a mapping takes it, by name.
//!
//! Every decoder answers each of these in the same way: it refuses the payload with
//! the reason, or, where the mapping is lenient, does the same as every other one.

use std::borrow::Cow;

use super::{Class, Reject};

/// Something that a payload should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A name twice in one object, a column, a field: the last one counts.
    DuplicateKeys,
    /// Something after the end: it is left out.
    TrailingBytes,
    /// An integer beyond 64 bits: the nearest 64-bit float.
    BigIntegers,
    /// A NaN or an infinity in a format that cannot say it, or a number too large for
    /// a 64-bit float: a null of bad quality, as in the formats that can.
    Nan,
    /// Text that is not UTF-8, or half a surrogate pair: U+FFFD instead of it.
    InvalidUtf8,
}

impl Fault {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("duplicate-keys", Self::DuplicateKeys),
        ("trailing-bytes", Self::TrailingBytes),
        ("big-integers", Self::BigIntegers),
        ("nan", Self::Nan),
        ("invalid-utf8", Self::InvalidUtf8),
    ];
}

/// Which faults a mapping takes. None unless it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Lenient(u8);

impl Lenient {
    /// None.
    pub const STRICT: Self = Self(0);

    /// These, and one more.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u8)
    }

    /// Whether a fault is taken.
    pub const fn allows(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u8 != 0
    }

    /// Whether none is.
    pub const fn is_strict(self) -> bool {
        self.0 == 0
    }
}

/// Text of a binary format of that name.
pub(super) fn text<'a>(
    bytes: &'a [u8],
    lenient: Lenient,
    format: &str,
) -> Result<Cow<'a, str>, Reject> {
    match String::from_utf8_lossy(bytes) {
        Cow::Owned(_) if !lenient.allows(Fault::InvalidUtf8) => {
            let reason = format!("a {format} text is not UTF-8");
            Err(Reject::new(Class::Encoding, reason))
        }
        text => Ok(text),
    }
}
