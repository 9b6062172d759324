//! Closed files, compressed.
//!
//! A file is written as plain lines, so that a crash leaves what it leaves; when it is
//! closed it is compressed beside itself, synced, given its name, and only then the plain
//! one is deleted. Whatever a crash leaves of that is a plain file, perhaps with its whole
//! compressed copy beside it, and perhaps the part of one.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use super::tail::{self, LINE_BYTES_MAX, Line};
use crate::forward::format::{CHUNK, Encoder, Format, decoder};

/// What a file is called while it is compressed.
const PART: &str = "part";

/// Compresses a closed file; afterwards only that one is there, or, where that failed, only
/// the plain one: what was written in vain takes no room.
pub(super) fn pack(plain: &Path, format: Format) -> io::Result<()> {
    let packed = plain.with_extension(format.suffix());
    let part = part_of(&packed);
    let written = write(plain, &part, format).and_then(|()| fs::rename(&part, &packed));
    if written.is_err() {
        forget(&part)?;
    }
    written?;
    sync(plain)?;
    fs::remove_file(plain)?;
    sync(plain)
}

fn write(plain: &Path, part: &Path, format: Format) -> io::Result<()> {
    let mut encoder = Encoder::new(format, File::create(part)?);
    let mut reader = BufReader::with_capacity(CHUNK, File::open(plain)?);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        encoder.add(&chunk)?;
    }
    encoder.finish()?.sync_all()
}

/// What a crash left of packing: a part goes, and so does a plain file whose compressed
/// copy has all that is in it. A copy that has not is somebody else's, and both stay.
pub(super) fn tidy(dir: &Path, format: Format) -> io::Result<()> {
    if format == Format::Plain {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some((_, of_file)) = super::name::of(&path) else {
            continue;
        };
        let packed = path.with_extension(format.suffix());
        if of_file != Format::Plain {
            continue;
        }
        forget(&part_of(&packed))?;
        if !packed.try_exists()? {
            continue;
        }
        if is_same(&path, &packed, format) {
            fs::remove_file(&path)?;
        } else {
            tracing::warn!(
                file = %packed.display(),
                "does not have what the plain file beside it has; both stay"
            );
        }
    }
    Ok(())
}

/// Whether both hold the same; one that cannot be read does not.
fn is_same(plain: &Path, packed: &Path, format: Format) -> bool {
    let compare = || {
        let mut plain = BufReader::with_capacity(CHUNK, File::open(plain)?);
        let mut packed = decoder(format, File::open(packed)?);
        loop {
            let (left, right) = (plain.fill_buf()?, packed.fill_buf()?);
            let length = left.len().min(right.len());
            if left[..length] != right[..length] || length == 0 {
                return io::Result::Ok(left.len() == right.len());
            }
            plain.consume(length);
            packed.consume(length);
        }
    };
    compare().unwrap_or(false)
}

fn forget(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The last lines of a compressed file, up to the first that cannot be read.
pub(super) fn lines(path: &Path, format: Format) -> io::Result<Vec<Line>> {
    let mut reader = decoder(format, File::open(path)?);
    let mut lines = VecDeque::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut line = reader.by_ref().take(LINE_BYTES_MAX);
        if let Err(error) = line.read_until(b'\n', &mut bytes) {
            tracing::error!(file = %path.display(), %error, "the file is damaged");
        }
        let Some(line) = bytes.strip_suffix(b"\n").and_then(tail::parse) else {
            return Ok(lines.into());
        };
        if lines.len() >= tail::LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

fn part_of(packed: &Path) -> PathBuf {
    let mut name = packed.as_os_str().to_owned();
    name.push(".");
    name.push(PART);
    name.into()
}

/// Makes the names in the directory of a file durable.
fn sync(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
