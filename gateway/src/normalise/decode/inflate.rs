//! Compressed payloads, inflated to a bounded size.
//!
//! Decoders are asked for one byte more than there may be, so that a bomb costs no
//! more than its bound. What a frame claims about itself is
//! checked before anything is reserved for it, and its checksums are compared.

use std::{borrow::Cow, io::Read};

use super::{Class, Reject};

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
    /// RFC 8878: known, and refused.
    Zstd,
    /// The LZ4 frame format.
    Lz4,
}

impl Compression {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("none", Self::None),
        ("gzip", Self::Gzip),
        ("lz4", Self::Lz4),
    ];
}

/// A payload without what is around it.
///
/// # Errors
/// When it is damaged, larger than [`INFLATED_BYTES_MAX`], or followed by something.
pub fn inflate(compression: Compression, payload: &[u8]) -> Result<Cow<'_, [u8]>, Reject> {
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
        Compression::Gzip => read(flate2::bufread::GzDecoder::new(&mut rest), "gzip")?,
        Compression::Zstd => {
            // What one block regenerates has to be bounded before it is.
            let reason = "zstd is not read";
            return Err(Reject::new(Class::Unsupported, reason));
        }
        Compression::Lz4 => {
            lz4_is_whole(payload)?;
            let mut frame = lz4_flex::frame::FrameDecoder::new(&mut rest);
            read(&mut frame, "lz4")?
        }
    };
    if !rest.is_empty() {
        let reason = "something follows the end of the compressed payload";
        return Err(Reject::new(Class::Syntax, reason));
    }
    Ok(Cow::Owned(inflated))
}

fn read(from: impl Read, format: &str) -> Result<Vec<u8>, Reject> {
    let mut inflated = Vec::new();
    from.take(INFLATED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| damaged(format, &error))?;
    if inflated.len() > INFLATED_BYTES_MAX {
        return Err(too_large());
    }
    Ok(inflated)
}

fn too_large() -> Reject {
    let reason = format!("inflated it has more than {INFLATED_BYTES_MAX} bytes");
    Reject::new(Class::Limit, reason)
}

/// Looks whether an LZ4 frame ends where the payload does: its decoder takes the end
/// of the bytes for the end of the frame, and another frame for more of this one.
fn lz4_is_whole(payload: &[u8]) -> Result<(), Reject> {
    const BLOCK_CHECKSUMS: u8 = 1 << 4;
    const CONTENT_SIZE: u8 = 1 << 3;
    const CONTENT_CHECKSUM: u8 = 1 << 2;
    const DICTIONARY: u8 = 1;
    const UNCOMPRESSED: u32 = 1 << 31;
    let wrong = || Reject::new(Class::Syntax, "not one whole lz4 frame");
    let flags = *payload.get(LZ4.len()).ok_or_else(wrong)?;
    let has = |flag: u8, bytes: usize| if flags & flag == 0 { 0 } else { bytes };
    // Flags, block size and header checksum, and between them what the flags say.
    let header = LZ4.len() + 3 + has(CONTENT_SIZE, 8) + has(DICTIONARY, 4);
    let mut rest = payload.get(header..).ok_or_else(wrong)?;
    loop {
        let (size, after) = rest.split_first_chunk().ok_or_else(wrong)?;
        let size = u32::from_le_bytes(*size) & !UNCOMPRESSED;
        if size == 0 {
            return match after.len() == has(CONTENT_CHECKSUM, 4) {
                true => Ok(()),
                false => Err(wrong()),
            };
        }
        let block = usize::try_from(size).unwrap_or(usize::MAX);
        let block = block.saturating_add(has(BLOCK_CHECKSUMS, 4));
        rest = after.get(block..).ok_or_else(wrong)?;
    }
}

fn damaged(format: &str, error: &dyn std::fmt::Display) -> Reject {
    let mut reason = format!("not {format}: {error}");
    reason.truncate(reason.floor_char_boundary(200));
    Reject::new(Class::Syntax, reason)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    type Compress = fn(&[u8]) -> Vec<u8>;

    const ALL: [Compress; 2] = [gzip, lz4];

    #[test]
    fn what_was_compressed_comes_back() {
        let payload = b"{\"temperature\":21.5}".repeat(50);
        for compress in ALL {
            let compressed = compress(&payload);
            assert!(compressed.len() < payload.len());
            assert_eq!(inflate(Compression::Auto, &compressed).unwrap(), payload);
            let untouched = inflate(Compression::None, &compressed).unwrap();
            assert_eq!(untouched, compressed);
        }
        assert_eq!(inflate(Compression::Auto, b"{}").unwrap(), &b"{}"[..]);
    }

    #[test]
    fn bombs_are_stopped_at_the_bound() {
        let most = vec![0; INFLATED_BYTES_MAX];
        let bomb = vec![0; INFLATED_BYTES_MAX + 1];
        for compress in ALL {
            let compressed = compress(&most);
            let fits = inflate(Compression::Auto, &compressed);
            assert_eq!(fits.unwrap().len(), INFLATED_BYTES_MAX);
            let compressed = compress(&bomb);
            assert!(compressed.len() < 20_000);
            let class = inflate(Compression::Auto, &compressed).unwrap_err().class;
            assert_eq!(class, Class::Limit);
        }
    }

    #[test]
    fn zstd_is_refused_before_anything_is_reserved() {
        let class = inflate(Compression::Auto, ZSTD).unwrap_err().class;
        assert_eq!(class, Class::Unsupported);
    }

    #[test]
    fn what_is_cut_changed_or_followed_is_refused() {
        let payload = b"{\"temperature\":21.5}".repeat(20);
        for compress in ALL {
            let compressed = compress(&payload);
            let cut = &compressed[..compressed.len() - 1];
            let followed = [&compressed[..], b"x"].concat();
            for bytes in [cut, &followed] {
                let class = inflate(Compression::Auto, bytes).unwrap_err().class;
                assert_eq!(class, Class::Syntax);
            }
        }
        for compression in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
            assert!(inflate(compression, b"{}").is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_inflate_within_the_bound_or_give_a_reason(
            which in 0usize..2,
            rest in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let mut real = ALL[which](&rest);
            let at = at.index(real.len());
            real[at] = byte;
            for payload in [[[GZIP, LZ4][which], &rest].concat(), real] {
                match inflate(Compression::Auto, &payload) {
                    Ok(inflated) => prop_assert!(inflated.len() <= INFLATED_BYTES_MAX),
                    Err(reject) => prop_assert!(reject.reason.len() < 400),
                }
            }
        }
    }
}
