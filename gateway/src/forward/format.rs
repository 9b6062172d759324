//! What files and objects of events look like: NDJSON, as it is or compressed.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// What files and objects of events look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// NDJSON, gzipped.
    Gzip,
    /// NDJSON, compressed by Zstandard.
    Zstd,
    /// NDJSON as it is.
    Plain,
}

/// The library's own default.
const ZSTD_LEVEL: i32 = 3;
/// Bytes of lines in a frame of Zstandard, about.
pub(super) const CHUNK: usize = 1024 * 1024;

impl Format {
    /// What they are called, and what names end with.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("ndjson.gz", Self::Gzip),
        ("ndjson.zst", Self::Zstd),
        ("ndjson", Self::Plain),
    ];

    /// What a name ends with.
    pub(super) fn suffix(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, format)| *format == self);
        found.map_or("", |(suffix, _)| suffix)
    }

    /// That of something by its name, and what is in front of the suffix.
    pub(super) fn of_name(name: &str) -> Option<(&str, Self)> {
        Self::WORDS.iter().find_map(|(suffix, format)| {
            let stem = name.strip_suffix(suffix)?.strip_suffix('.')?;
            Some((stem, *format))
        })
    }
}

/// Writes lines. The same lines, added in the same portions, are the same bytes.
pub(super) enum Encoder<W: Write> {
    Gzip(GzEncoder<W>),
    Zstd(W),
    Plain(W),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(format: Format, to: W) -> Self {
        match format {
            Format::Gzip => Self::Gzip(GzEncoder::new(to, Compression::default())),
            Format::Zstd => Self::Zstd(to),
            Format::Plain => Self::Plain(to),
        }
    }

    /// Adds whole lines, about [`CHUNK`] at a time.
    pub(super) fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(lines),
            Self::Zstd(_) if lines.is_empty() => Ok(()),
            // Frames behind one another are one stream, as the format has it.
            Self::Zstd(to) => {
                let mut frame = Vec::with_capacity(zstd_safe::compress_bound(lines.len()));
                zstd_safe::compress(&mut frame, lines, ZSTD_LEVEL).map_err(failed)?;
                to.write_all(&frame)
            }
            Self::Plain(to) => to.write_all(lines),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(to) | Self::Plain(to) => Ok(to),
        }
    }
}

/// Reads lines back.
pub(super) fn decoder<'r>(format: Format, from: impl Read + 'r) -> Box<dyn BufRead + 'r> {
    match format {
        Format::Gzip => {
            let decoder = MultiGzDecoder::new(BufReader::new(from));
            Box::new(BufReader::with_capacity(CHUNK, decoder))
        }
        Format::Zstd => Box::new(BufReader::with_capacity(
            CHUNK,
            Zstd {
                from: BufReader::new(from),
                context: DCtx::create(),
            },
        )),
        Format::Plain => Box::new(BufReader::with_capacity(CHUNK, from)),
    }
}

/// Frames of Zstandard behind one another.
struct Zstd<R> {
    from: BufReader<R>,
    context: DCtx<'static>,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.from.fill_buf()?;
            let at_end = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(to);
            let done = self.context.decompress_stream(&mut output, &mut input);
            done.map_err(failed)?;
            let (read, written) = (input.pos(), output.pos());
            self.from.consume(read);
            if written > 0 || at_end || to.is_empty() {
                return Ok(written);
            }
        }
    }
}

fn failed(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_come_back_as_they_were(
            portions in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3_000), 0..8),
        ) {
            for (_, format) in Format::WORDS {
                let mut encoder = Encoder::new(format, Vec::new());
                for portion in &portions {
                    encoder.add(portion).unwrap();
                }
                let bytes = encoder.finish().unwrap();
                let mut back = Vec::new();
                decoder(format, &*bytes).read_to_end(&mut back).unwrap();
                prop_assert_eq!(&back, &portions.concat());
            }
        }
    }

    #[test]
    fn a_name_says_what_it_is_and_what_it_was_before() {
        assert_eq!(Format::of_name("a.ndjson"), Some(("a", Format::Plain)));
        assert_eq!(
            Format::of_name("a.b.ndjson.gz"),
            Some(("a.b", Format::Gzip))
        );
        assert_eq!(Format::of_name("a.ndjson.zst"), Some(("a", Format::Zstd)));
        assert_eq!(Format::of_name("a.ndjson.gz.part"), None);
        assert_eq!(Format::of_name("ndjson"), None);
    }
}
