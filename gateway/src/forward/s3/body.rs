//! What is in an object.

use std::io;

use crate::forward::{
    batch::Batch,
    format::{CHUNK, Encoder, Format},
};

/// What it is called where types of media are.
pub(super) const fn media_type(format: Format) -> &'static str {
    match format {
        Format::Gzip => "application/gzip",
        Format::Zstd => "application/zstd",
        Format::Plain => "application/x-ndjson",
    }
}

/// Lines of these events, in order. The same events are the same bytes.
pub(super) fn encode(batch: &Batch, items: &[usize], format: Format) -> io::Result<Vec<u8>> {
    let mut body = Encoder::new(format, Vec::new());
    let mut lines = Vec::with_capacity(CHUNK);
    for at in items {
        let item = &batch.items[*at];
        let mut digits = itoa::Buffer::new();
        let position = digits.format(item.position().0);
        item.view().to_json(Some(position), &mut lines);
        lines.push(b'\n');
        if lines.len() >= CHUNK {
            body.add(&lines)?;
            lines.clear();
        }
    }
    body.add(&lines)?;
    body.finish()
}
