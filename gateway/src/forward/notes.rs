//! What is written down of batches before they are handed over, for the next start: files
//! `plans-<n>` in a directory of a destination.
//!
//! Each is a row of entries, one for a batch; an entry is its length (4 bytes), a CRC of what
//! follows (4 bytes), and CBOR. What follows the last whole entry is what a crash left, and
//! is cut off: what it was to tell of had not begun. One that is not whole before another is
//! damage of the disk; the log says so, and the others count. A file is followed by another
//! when it has as many events as a crash can bring again, and then only the one before it is
//! kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::pending;
use crate::{
    event::Key,
    record::{Position, Record},
};

/// Records of a batch of whoever notes something, at most.
pub(super) const BATCH_RECORDS_MAX: usize = 10_000;
/// Events that can come again without the journal knowing them, at most.
pub(super) const EVENTS: usize = pending::RECORDS_MAX + 2 * BATCH_RECORDS_MAX;
/// Bytes of an event in an entry.
pub(super) const EVENT_BYTES: usize = 8 + 16;
/// Bytes of an entry, at most: a batch of events, each with a name of its own.
const ENTRY_BYTES_MAX: usize = BATCH_RECORDS_MAX * (1_024 + EVENT_BYTES + 64);
const PREFIX: &str = "plans-";

/// Which event, among those of a destination.
pub(super) type Event = (Position, Key);

/// See the module.
#[derive(Debug)]
pub(super) struct Notes {
    dir: PathBuf,
    open: Option<Open>,
}

/// The newest file.
#[derive(Debug)]
struct Open {
    file: File,
    number: u64,
    events: usize,
    /// Where the last whole entry ends; what is behind it was written in vain.
    end: u64,
}

impl Notes {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir, open: None }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the newest file, and gives the entries in it and the one before, in their
    /// order; nothing where it is open already. `events` says how many an entry has.
    pub(super) fn open<T: DeserializeOwned>(
        &mut self,
        events: impl Fn(&T) -> usize,
    ) -> io::Result<Option<Vec<T>>> {
        if self.open.is_some() {
            return Ok(None);
        }
        fs::create_dir_all(&self.dir).map_err(|error| named("create", &self.dir, &error))?;
        let mut numbers = numbers(&self.dir)?;
        numbers.sort_unstable();
        let newest = numbers.last().copied();
        let (mut all, mut newest_events, mut newest_end) = (Vec::new(), 0, 0);
        for number in numbers {
            let path = self.path(number);
            let read = read::<T>(&path).map_err(|error| named("read", &path, &error))?;
            let (entries, end) = (read.entries, read.end);
            if read.damaged > 0 {
                tracing::error!(
                    file = %path.display(),
                    bytes = read.damaged,
                    "a note of what was sent is damaged: what it was of may go once more"
                );
            }
            if Some(number) == newest {
                newest_end = end;
                newest_events = entries.iter().map(&events).sum();
                let file = OpenOptions::new().write(true).open(&path);
                let cut = file.and_then(|file| file.set_len(end).and_then(|()| file.sync_all()));
                cut.map_err(|error| named("cut", &path, &error))?;
            }
            all.extend(entries);
        }
        let number = newest.unwrap_or(1);
        self.open = Some(Open {
            file: self.file(number)?,
            number,
            events: newest_events,
            end: newest_end,
        });
        Ok(Some(all))
    }

    /// Appends an entry of so many events; on disk when this returns.
    pub(super) fn append<T: Serialize>(&mut self, written: &T, events: usize) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Err(io::Error::other("no file of plans is open"));
        };
        if open.events >= EVENTS {
            let number = open.number + 1;
            let file = self.file(number)?;
            for old in numbers(&self.dir)? {
                if old + 1 < number {
                    fs::remove_file(self.path(old))?;
                }
            }
            self.open = Some(Open {
                file,
                number,
                events: 0,
                end: 0,
            });
        }
        let mut entry = vec![0; 8];
        ciborium::into_writer(written, &mut entry).map_err(io::Error::other)?;
        let (head, body) = entry.split_at_mut(8);
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
        if let Some(open) = &mut self.open {
            if open.file.metadata()?.len() != open.end {
                open.file.set_len(open.end)?;
            }
            open.file.write_all(&entry)?;
            open.file.sync_data()?;
            open.end += entry.len() as u64;
            open.events += events;
        }
        Ok(())
    }

    /// Opens a file to append to it; a new one has its name on disk then.
    fn file(&self, number: u64) -> io::Result<File> {
        let path = self.path(number);
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        let file = opened.map_err(|error| named("open", &path, &error))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(file)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{number:020}"))
    }
}

/// Whether there is no room for a note.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Events as they are written.
pub(super) fn bytes_of<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.size_hint().0 * EVENT_BYTES);
    for record in records {
        bytes.extend_from_slice(&record.position.0.to_be_bytes());
        bytes.extend_from_slice(&record.key.0);
    }
    bytes
}

/// And as they are read.
pub(super) fn events_of(bytes: &[u8]) -> Vec<Event> {
    let event = |bytes: &[u8]| {
        let (position, key) = bytes.split_at_checked(8)?;
        let position = u64::from_be_bytes(position.try_into().ok()?);
        Some((Position(position), Key(key.try_into().ok()?)))
    };
    bytes.chunks_exact(EVENT_BYTES).filter_map(event).collect()
}

fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// What is in a file.
struct Read<T> {
    /// Those that are whole.
    entries: Vec<T>,
    /// Where the last of them ends.
    end: u64,
    /// Bytes before that which are none.
    damaged: usize,
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Read<T>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (mut read, mut at, mut skipped) = (
        Read {
            entries: Vec::new(),
            end: 0,
            damaged: 0,
        },
        0,
        0,
    );
    while let Some((entry, length)) = entry(&bytes[at..]) {
        at += length;
        match entry {
            Some(entry) => {
                read.entries.push(entry);
                read.end = at as u64;
                read.damaged += std::mem::take(&mut skipped);
            }
            None => skipped += length,
        }
    }
    Ok(read)
}

/// What stands at the beginning, where it is whole, and how long it is.
fn entry<T: DeserializeOwned>(bytes: &[u8]) -> Option<(Option<T>, usize)> {
    let (head, rest) = bytes.split_at_checked(8)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let length = usize::try_from(number(&head[..4])?).ok()?;
    let body = rest.get(..length).filter(|_| length <= ENTRY_BYTES_MAX)?;
    let is_whole = crc32fast::hash(body) == number(&head[4..])?;
    let entry = is_whole.then(|| ciborium::from_reader(body).ok()).flatten();
    Some((entry, 8 + length))
}

/// Bytes as bytes, not as a list of numbers.
pub(super) mod as_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::forward) fn serialize<S: Serializer>(
        bytes: &[u8],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(in crate::forward) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        match ciborium::Value::deserialize(from)? {
            ciborium::Value::Bytes(bytes) => Ok(bytes),
            _ => Err(serde::de::Error::custom("no bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of one event each, written one after the other.
    fn written(dir: &Path, entries: &[u32]) -> PathBuf {
        let mut notes = Notes::new(dir.to_owned());
        notes.open::<u32>(|_| 1).unwrap();
        for entry in entries {
            notes.append(entry, 1).unwrap();
        }
        notes.path(1)
    }

    fn opened(dir: &Path) -> Vec<u32> {
        Notes::new(dir.to_owned())
            .open(|_: &u32| 1)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_damaged_entry_takes_none_of_the_others_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[70_001, 70_002, 70_003]);
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len() / 3;
        bytes[2 * length - 1] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(opened(dir.path()), [70_001, 70_003]);
        assert_eq!(read::<u32>(&path).unwrap().damaged, length);
        written(dir.path(), &[70_004]);
        assert_eq!(opened(dir.path()), [70_001, 70_003, 70_004]);
    }

    #[test]
    fn what_a_crash_left_at_the_end_is_cut_off_and_is_no_damage() {
        for (torn, flipped) in [(1, false), (5, false), (9, false), (0, true)] {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path(), &[70_001, 70_002]);
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(bytes.len() - torn);
            if flipped && let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read::<u32>(&path).unwrap().damaged, 0);
            assert_eq!(opened(dir.path()), [70_001]);
            written(dir.path(), &[70_003]);
            assert_eq!(opened(dir.path()), [70_001, 70_003]);
        }
    }
}
