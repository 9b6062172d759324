//! Compressed payloads, inflated to a bounded size.
//!
//! Decoders are asked for one byte more than there may be, or write into a buffer of
//! just that size, so that a bomb costs no more than its bound. What a frame claims
//! about itself is checked before anything is reserved for it, and its checksums are
//! compared. A payload is one frame: RFC 1952 and RFC 8878 let several follow each
//! other, but then bytes that were added to a payload could not be told from it
//! ([decision 52](../../../../docs/decisions/0052-zstd.md)).

mod lz4;
mod zstd;

use std::{
    borrow::Cow,
    io::{self, Read},
};

use super::{Class, Fault, Lenient, Reject};
use crate::dictionary::Known;

/// An inflated payload has at most so many bytes.
pub const INFLATED_BYTES_MAX: usize = 1024 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];

/// What is around a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// What the first bytes say: none of the formats that are read begins like these.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, within payloads of Sparkplug: no mapping names it.
    Zlib,
    /// RFC 8878.
    Zstd,
    /// The LZ4 frame format.
    Lz4,
}

impl Compression {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("none", Self::None),
        ("gzip", Self::Gzip),
        ("zstd", Self::Zstd),
        ("lz4", Self::Lz4),
    ];
}

/// A payload without what is around it.
///
/// # Errors
/// When it is damaged, larger than [`INFLATED_BYTES_MAX`], or followed by something
/// that the mapping does not take.
pub fn inflate<'a>(
    compression: Compression,
    payload: &'a [u8],
    lenient: Lenient,
    dictionaries: &Known,
) -> Result<Cow<'a, [u8]>, Reject> {
    let compression = match compression {
        Compression::Auto if payload.starts_with(GZIP) => Compression::Gzip,
        Compression::Auto if payload.starts_with(ZSTD) => Compression::Zstd,
        Compression::Auto if payload.starts_with(LZ4) => Compression::Lz4,
        Compression::Auto => Compression::None,
        said => said,
    };
    let mut rest = payload;
    let inflated = match compression {
        Compression::None | Compression::Auto => return Ok(Cow::Borrowed(payload)),
        Compression::Gzip => read(flate2::bufread::GzDecoder::new(&mut rest), |error| {
            damaged("gzip", error)
        })?,
        Compression::Zlib => read(flate2::bufread::ZlibDecoder::new(&mut rest), |error| {
            damaged("zlib", error)
        })?,
        Compression::Zstd => zstd::frame(&mut rest, dictionaries)?,
        Compression::Lz4 => lz4::frame(&mut rest)?,
    };
    if !rest.is_empty() && !lenient.allows(Fault::TrailingBytes) {
        let reason = "something follows the end of the compressed payload";
        return Err(Reject::new(Class::Syntax, reason));
    }
    Ok(Cow::Owned(inflated))
}

fn read(from: impl Read, failed: impl Fn(&io::Error) -> Reject) -> Result<Vec<u8>, Reject> {
    let mut inflated = Vec::new();
    from.take(INFLATED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| failed(&error))?;
    if inflated.len() > INFLATED_BYTES_MAX {
        return Err(too_large());
    }
    Ok(inflated)
}

fn too_large() -> Reject {
    let reason = format!("inflated it has more than {INFLATED_BYTES_MAX} bytes");
    Reject::new(Class::Limit, reason)
}

fn damaged(format: &str, error: &dyn std::fmt::Display) -> Reject {
    let mut reason = format!("not {format}: {error}");
    reason.truncate(reason.floor_char_boundary(200));
    Reject::new(Class::Syntax, reason)
}

#[cfg(test)]
mod tests;
