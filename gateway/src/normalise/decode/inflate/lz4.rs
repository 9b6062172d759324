//! The LZ4 frame format, version 1.6.

use super::{Class, LZ4 as MAGIC, Reject, damaged, too_large};

const BLOCK_CHECKSUMS: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const DICTIONARY: u8 = 1;
/// Of the sizes that blocks may have, 4 MiB and 1 MiB, as they stand in a header.
const BLOCKS_OF_4_MIB: u8 = 7 << 4;
const BLOCKS_OF_1_MIB: u8 = 6 << 4;

/// One frame, whole.
pub(super) fn frame(rest: &mut &[u8]) -> Result<Vec<u8>, Reject> {
    let (length, header) = measured(rest)?;
    let (frame, after) = rest.split_at(length);
    let (described, blocks) = frame.split_at(header);
    let mut described = described.to_vec();
    smaller_blocks(&mut described);
    let whole = std::io::Read::chain(&described[..], blocks);
    let read = super::read(lz4_flex::frame::FrameDecoder::new(whole), |error| {
        let own = error.get_ref().and_then(|error| error.downcast_ref());
        match own {
            // A block has at most as much as the whole may.
            Some(
                lz4_flex::frame::Error::BlockTooBig
                | lz4_flex::frame::Error::DecompressionError(
                    lz4_flex::block::DecompressError::OutputTooSmall { .. },
                ),
            ) => too_large(),
            Some(lz4_flex::frame::Error::DictionaryNotSupported) => {
                let reason = "lz4 with a dictionary, and there are none here";
                Reject::new(Class::Unsupported, reason)
            }
            _ => damaged("lz4", error),
        }
    })?;
    *rest = after;
    Ok(read)
}

/// How long a frame is, and its header. The decoder takes the end of the bytes for the
/// end of the frame, and another frame for more of this one.
fn measured(payload: &[u8]) -> Result<(usize, usize), Reject> {
    const UNCOMPRESSED: u32 = 1 << 31;
    let wrong = || Reject::new(Class::Syntax, "not one whole lz4 frame");
    if !payload.starts_with(MAGIC) {
        return Err(Reject::new(Class::Syntax, "not an lz4 frame"));
    }
    let flags = *payload.get(MAGIC.len()).ok_or_else(wrong)?;
    let has = |flag: u8, bytes: usize| if flags & flag == 0 { 0 } else { bytes };
    // Flags, block size and header checksum, and between them what the flags say.
    let header = MAGIC.len() + 3 + has(CONTENT_SIZE, 8) + has(DICTIONARY, 4);
    let mut rest = payload.get(header..).ok_or_else(wrong)?;
    loop {
        let (size, after) = rest.split_first_chunk().ok_or_else(wrong)?;
        let size = u32::from_le_bytes(*size) & !UNCOMPRESSED;
        if size == 0 {
            let after = after.get(has(CONTENT_CHECKSUM, 4)..).ok_or_else(wrong)?;
            return Ok((payload.len() - after.len(), header));
        }
        let block = usize::try_from(size).unwrap_or(usize::MAX);
        let block = block.saturating_add(has(BLOCK_CHECKSUMS, 4));
        rest = after.get(block..).ok_or_else(wrong)?;
    }
}

/// The decoder reserves and clears as much as a block may have. Many encoders always
/// say 4 MiB; no more than 1 MiB is taken anyway. A header that is not as its checksum
/// says stays as it is, and is refused.
fn smaller_blocks(header: &mut [u8]) {
    let Some((checksum, described)) = header.split_last_mut() else {
        return;
    };
    let described = &mut described[MAGIC.len()..];
    if described[1] == BLOCKS_OF_4_MIB && *checksum == second_byte(xxh32(described)) {
        described[1] = BLOCKS_OF_1_MIB;
        *checksum = second_byte(xxh32(described));
    }
}

const fn second_byte(hash: u32) -> u8 {
    hash.to_le_bytes()[1]
}

/// The hash `XXH32` with seed 0, of less than 16 bytes.
fn xxh32(bytes: &[u8]) -> u32 {
    const PRIMES: [u32; 5] = [
        0x9e37_79b1,
        0x85eb_ca77,
        0xc2b2_ae3d,
        0x27d4_eb2f,
        0x1656_67b1,
    ];
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = PRIMES[4].wrapping_add(length);
    let (words, rest) = bytes.as_chunks();
    for word in words {
        hash = hash.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(PRIMES[2]));
        hash = hash.rotate_left(17).wrapping_mul(PRIMES[3]);
    }
    for byte in rest {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(PRIMES[4]));
        hash = hash.rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(PRIMES[1]);
    hash = (hash ^ hash >> 13).wrapping_mul(PRIMES[2]);
    hash ^ hash >> 16
}
