//! zstd (RFC 8878) by the reference decoder, which writes no further than the buffer
//! that it is given.

use std::num::NonZeroU32;

use super::{Class, INFLATED_BYTES_MAX, Reject, ZSTD as MAGIC, damaged, too_large};
use crate::dictionary::Known;

/// What zstd says when the buffer is full (`ZSTD_error_dstSize_tooSmall`; the numbers
/// of its errors are part of its interface).
const TOO_SMALL: usize = 70usize.wrapping_neg();

/// One frame, straight into a buffer that cannot grow: there is no window beside it,
/// however large a one the frame declares, and no block regenerates more than fits.
///
/// # Errors
/// When it is none, is larger, or names a dictionary that is not among `dictionaries`.
pub(super) fn frame(rest: &mut &[u8], dictionaries: &Known) -> Result<Vec<u8>, Reject> {
    let failed = |code| damaged("zstd", &zstd_safe::get_error_name(code));
    if !rest.starts_with(MAGIC) {
        return Err(Reject::new(Class::Syntax, "not a zstd frame"));
    }
    let length = zstd_safe::find_frame_compressed_size(rest).map_err(failed)?;
    let (frame, after) = rest
        .split_at_checked(length)
        .ok_or_else(|| Reject::new(Class::Syntax, "not zstd: it ends early"))?;
    let declared = zstd_safe::get_frame_content_size(frame)
        .map_err(|_| Reject::new(Class::Syntax, "not zstd: not a header"))?;
    let capacity = match declared.map(usize::try_from) {
        Some(Ok(declared)) if declared <= INFLATED_BYTES_MAX => declared,
        Some(_) => return Err(too_large()),
        None => INFLATED_BYTES_MAX,
    };
    let mut inflated = Vec::with_capacity(capacity);
    let done = match zstd_safe::get_dict_id_from_frame(frame).map(NonZeroU32::get) {
        None => zstd_safe::decompress(&mut inflated, frame),
        Some(id) => match dictionaries.inflate(id, frame, &mut inflated) {
            Some(done) => done,
            None => {
                let reason = format!("zstd with dictionary {id}, which this mapping does not have");
                return Err(Reject::new(Class::Unsupported, reason));
            }
        },
    };
    match done {
        Ok(_) => {}
        Err(TOO_SMALL) if declared.is_none() => return Err(too_large()),
        Err(code) => return Err(failed(code)),
    }
    inflated.shrink_to_fit();
    *rest = after;
    Ok(inflated)
}
