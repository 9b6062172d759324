//! Which events go into which object, on disk before the object is put.
//!
//! A directory with files `plans-<n>`. Each is a row of entries, one for a batch; an entry
//! is its length (4 bytes), a CRC of what follows (4 bytes), and CBOR: a list of objects,
//! each a name and the position and key of every event in it, as one byte string of 24 bytes
//! each. What follows the last whole entry is what a crash left, and is cut off: no object
//! of it was put. A file is followed by another when it has as many events as a crash can
//! bring again, and then only the one before it is kept.
//!
//! Later entries count: an event is planned for the last object that it was written for.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Config;
use crate::{
    event::Key,
    forward::{batch::Batch, pending},
    record::Position,
};

/// Events that can come again without the journal knowing them, at most.
const EVENTS: usize = pending::RECORDS_MAX + 2 * Config::BATCH_RECORDS_MAX;
/// Bytes of an entry, at most: a batch of events, each in an object of its own.
const ENTRY_BYTES_MAX: usize = Config::BATCH_RECORDS_MAX * (1_024 + EVENT_BYTES + 64);
/// Bytes of an event in an entry.
const EVENT_BYTES: usize = 8 + 16;
const PREFIX: &str = "plans-";

/// Some events of a batch that go into one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// What it is called.
    pub(super) name: String,
    /// Which events of the batch, in order.
    pub(super) items: Vec<usize>,
    /// Whether these are all that were planned for it.
    pub(super) is_whole: bool,
}

/// A batch, as far as it was planned before.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Object>,
    /// Events that go into no object yet.
    pub(super) unplanned: Vec<usize>,
}

type Event = (Position, Key);

/// An object as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    name: String,
    #[serde(with = "serde_bytes_vec")]
    events: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plans {
    dir: PathBuf,
    open: Option<Open>,
    /// What was planned and may come again, by event: the object's place in `objects`.
    planned: HashMap<Event, u64>,
    /// Objects that have such events.
    objects: HashMap<u64, Planned>,
    /// What the next object is known by here.
    next: u64,
}

/// An object with events that may come again.
#[derive(Debug)]
struct Planned {
    name: String,
    /// Events that it was planned with.
    events: usize,
    /// Those that may come again.
    left: usize,
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

impl Plans {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: None,
            planned: HashMap::new(),
            objects: HashMap::new(),
            next: 0,
        }
    }

    /// Which events of the batch were planned before.
    pub(super) fn find(&mut self, batch: &Batch) -> io::Result<Found> {
        self.open()?;
        let mut found = Found::default();
        let mut places = HashMap::new();
        for (at, item) in batch.items.iter().enumerate() {
            let event = (item.position(), item.record().key);
            let Some(object) = self.planned.get(&event) else {
                found.unplanned.push(at);
                continue;
            };
            let place = *places.entry(*object).or_insert_with(|| {
                found.objects.push(Object {
                    name: self.objects[object].name.clone(),
                    items: Vec::new(),
                    is_whole: false,
                });
                found.objects.len() - 1
            });
            found.objects[place].items.push(at);
        }
        for (object, place) in places {
            let of = &mut found.objects[place];
            of.is_whole = of.items.len() == self.objects[&object].events;
        }
        Ok(found)
    }

    /// Writes down what goes into these objects; on disk when this returns, unless the disk
    /// is full. Then delivery goes on, because nothing else may give it room again, and what
    /// a crash then brings again may be in two objects.
    pub(super) fn write(&mut self, batch: &Batch, objects: &[Object]) -> io::Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        self.open()?;
        let written: Vec<Written> = objects.iter().map(|of| written(batch, of)).collect();
        let count = objects.iter().map(|of| of.items.len()).sum();
        if let Err(error) = self.append(&written, count) {
            if !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) {
                return Err(error);
            }
            tracing::warn!(
                dir = %self.dir.display(),
                "the disk is full: objects are put without a note of what is in them"
            );
        }
        self.take_in(written);
        Ok(())
    }

    /// All of the batch is there: none of it comes again before the next start.
    pub(super) fn settled(&mut self, batch: &Batch) {
        for item in &*batch.items {
            let event = (item.position(), item.record().key);
            if let Some(object) = self.planned.remove(&event) {
                self.leave(object);
            }
        }
    }

    /// An event of the object does not come any more.
    fn leave(&mut self, object: u64) {
        if let Some(of) = self.objects.get_mut(&object) {
            of.left -= 1;
            if of.left == 0 {
                self.objects.remove(&object);
            }
        }
    }

    fn take_in(&mut self, written: Vec<Written>) {
        for object in written {
            let place = self.next;
            self.next += 1;
            let events = events(&object.events);
            let planned = Planned {
                name: object.name,
                events: events.len(),
                left: events.len(),
            };
            self.objects.insert(place, planned);
            for event in events {
                // An event that is planned anew leaves its object short of it.
                if let Some(before) = self.planned.insert(event, place) {
                    self.leave(before);
                }
            }
        }
    }

    /// Opens the newest file, and reads what is in it and the one before.
    fn open(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(|error| named("create", &self.dir, &error))?;
        let mut numbers = numbers(&self.dir)?;
        numbers.sort_unstable();
        self.planned.clear();
        self.objects.clear();
        let newest = numbers.last().copied();
        let (mut events, mut newest_end) = (0, 0);
        for number in numbers {
            let path = self.path(number);
            let (written, end) = read(&path).map_err(|error| named("read", &path, &error))?;
            if Some(number) == newest {
                newest_end = end;
                events = written.iter().map(|of| of.events.len() / EVENT_BYTES).sum();
                let file = OpenOptions::new().write(true).open(&path);
                let cut = file.and_then(|file| file.set_len(end).and_then(|()| file.sync_all()));
                cut.map_err(|error| named("cut", &path, &error))?;
            }
            self.take_in(written);
        }
        let number = newest.unwrap_or(1);
        self.open = Some(Open {
            file: self.file(number)?,
            number,
            events,
            end: newest_end,
        });
        Ok(())
    }

    fn append(&mut self, written: &[Written], count: usize) -> io::Result<()> {
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
            open.events += count;
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

/// Whole entries of a file, and where the last of them ends.
fn read(path: &Path) -> io::Result<(Vec<Written>, u64)> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some((written, length)) = entry(&bytes[at..]) {
        all.extend(written);
        at += length;
    }
    Ok((all, at as u64))
}

fn entry(bytes: &[u8]) -> Option<(Vec<Written>, usize)> {
    let (head, rest) = bytes.split_at_checked(8)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let length = usize::try_from(number(&head[..4])?).ok()?;
    let body = rest.get(..length).filter(|_| length <= ENTRY_BYTES_MAX)?;
    if crc32fast::hash(body) != number(&head[4..])? {
        return None;
    }
    Some((ciborium::from_reader(body).ok()?, 8 + length))
}

fn written(batch: &Batch, object: &Object) -> Written {
    let mut events = Vec::with_capacity(object.items.len() * EVENT_BYTES);
    for at in &object.items {
        let record = batch.items[*at].record();
        events.extend_from_slice(&record.position.0.to_be_bytes());
        events.extend_from_slice(&record.key.0);
    }
    Written {
        name: object.name.clone(),
        events,
    }
}

fn events(bytes: &[u8]) -> Vec<Event> {
    let event = |bytes: &[u8]| {
        let (position, key) = bytes.split_at_checked(8)?;
        let position = u64::from_be_bytes(position.try_into().ok()?);
        Some((Position(position), Key(key.try_into().ok()?)))
    };
    bytes.chunks_exact(EVENT_BYTES).filter_map(event).collect()
}

/// Bytes as bytes, not as a list of numbers.
mod serde_bytes_vec {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        match ciborium::Value::deserialize(from)? {
            ciborium::Value::Bytes(bytes) => Ok(bytes),
            _ => Err(serde::de::Error::custom("no bytes")),
        }
    }
}
