//! What a crash can have left at the end of a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use memchr::memmem;

use super::BATCH_RECORDS;
use crate::{event::Key, forward::pending, record::Position};

/// Lines that can have been written without the journal knowing, at most.
pub(super) const LINES: usize = pending::RECORDS_MAX + 2 * BATCH_RECORDS;
/// A line longer than this is not ours.
pub(super) const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// A line that was written.
pub(super) type Line = (Position, Key);

/// The last lines of a file.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) lines: Vec<Line>,
    /// Where the last good line ends.
    pub(super) end: u64,
    /// Where the file ends.
    pub(super) file_end: u64,
}

impl Tail {
    /// Whether all that follows the last good line is one without an end.
    pub(super) fn is_torn_only(&self, file: &mut File) -> io::Result<bool> {
        file.seek(SeekFrom::Start(self.end))?;
        let mut bytes = Vec::new();
        let length = file.take(LINE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(length as u64 == self.file_end - self.end && memchr::memchr(b'\n', &bytes).is_none())
    }
}

/// Reads up to [`LINES`] lines from the end of `file`, up to the first that is not ours.
pub(super) fn read(file: &mut File) -> io::Result<Tail> {
    let file_end = file.seek(SeekFrom::End(0))?;
    let start = start(file, file_end)?;
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Tail {
        lines: Vec::new(),
        end: start,
        file_end,
    };
    let mut reader = BufReader::with_capacity(CHUNK, file);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let length = reader
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut bytes)?;
        let Some(line) = bytes.strip_suffix(b"\n").and_then(parse) else {
            return Ok(tail);
        };
        tail.lines.push(line);
        tail.end += length as u64;
    }
}

/// Where the last [`LINES`] lines begin; a torn one counts too.
fn start(file: &mut File, end: u64) -> io::Result<u64> {
    let (mut at, mut newlines) = (end, 0);
    let mut chunk = vec![0; CHUNK];
    while at > 0 {
        let from = at.saturating_sub(CHUNK as u64);
        let length = usize::try_from(at - from).expect("a chunk at most");
        let chunk = &mut chunk[..length];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(chunk)?;
        for newline in memchr::memrchr_iter(b'\n', chunk) {
            if newlines > LINES {
                return Ok(from + newline as u64 + 1);
            }
            newlines += 1;
        }
        at = from;
    }
    Ok(0)
}

/// Position and key of a line of ours. Both stand before `data`, and quotes
/// within strings are escaped, so that the first match is the attribute.
pub(super) fn parse(line: &[u8]) -> Option<Line> {
    const KEY: &[u8] = br#","eventkey":""#;
    const POSITION: &[u8] = br#"","position":""#;
    let whole = line.starts_with(br#"{"specversion":"#) && line.ends_with(b"}}");
    if !whole || memchr::memchr(0, line).is_some() {
        return None;
    }
    let rest = &line[memmem::find(line, KEY)? + KEY.len()..];
    let (key, rest) = rest.split_at_checked(32)?;
    let rest = rest.strip_prefix(POSITION)?;
    let position = str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()?;
    Some((Position(position.parse().ok()?), hex(key)?))
}

fn hex(digits: &[u8]) -> Option<Key> {
    let number = u128::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some(Key(number.to_be_bytes()))
}

/// Keeps what comes after the last good line in a file beside it, for a person
/// to look at.
pub(super) fn set_aside(path: &Path, file: &mut File, from: u64) -> io::Result<()> {
    let name = path.as_os_str();
    for n in 1..=u32::MAX {
        let mut aside = name.to_owned();
        aside.push(format!(".damaged-{n}"));
        match OpenOptions::new().write(true).create_new(true).open(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(mut out) => {
                file.seek(SeekFrom::Start(from))?;
                io::copy(file, &mut out)?;
                return out.sync_all();
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
