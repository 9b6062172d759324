//! Which events go into which object, on disk before the object is put ([`notes`]).
//!
//! An entry is a list of objects, each a name and the position and key of every event in it,
//! as one byte string of 24 bytes each.
//!
//! Later entries count: an event is planned for the last object that it was written for.

use std::{collections::HashMap, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::forward::{
    batch::Batch,
    notes::{self, EVENT_BYTES, Event, Notes},
};

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

/// An object as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    name: String,
    #[serde(with = "notes::as_bytes")]
    events: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plans {
    notes: Notes,
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

impl Plans {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            notes: Notes::new(dir),
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
        if let Err(error) = self.notes.append(&written, count) {
            if !notes::is_full(&error) {
                return Err(error);
            }
            tracing::warn!(
                dir = %self.notes.dir().display(),
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
            let events = notes::events_of(&object.events);
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

    /// Reads what was planned before, the first time.
    fn open(&mut self) -> io::Result<()> {
        let events = |entry: &Vec<Written>| {
            let bytes: usize = entry.iter().map(|of| of.events.len()).sum();
            bytes / EVENT_BYTES
        };
        let Some(entries) = self.notes.open(events)? else {
            return Ok(());
        };
        self.planned.clear();
        self.objects.clear();
        for written in entries {
            self.take_in(written);
        }
        Ok(())
    }
}

fn written(batch: &Batch, object: &Object) -> Written {
    let records = object.items.iter().map(|at| batch.items[*at].record());
    Written {
        name: object.name.clone(),
        events: notes::bytes_of(records),
    }
}
