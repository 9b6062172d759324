//! An event as a record: structured mode of the `CloudEvents` Kafka binding, with the
//! attributes of its binary mode beside it, so that whoever routes or dedupes need not
//! look inside.

use bytes::Bytes;
use krafka::Record;

use crate::{
    event::{
        json::MEDIA_TYPE,
        message::{KEY_PROPERTY, Properties, append_properties},
    },
    forward::batch::{Batch, Item},
};

/// What attributes are called in headers.
const PREFIX: &str = "ce_";
/// Records whose keys, values and headers lie in one piece of memory: each for itself they
/// would be nine pieces. It is freed when the last of them is.
const TOGETHER: usize = 64;
/// Batches up to so many records are encoded where they are: a thread would take longer.
const AT_ONCE: usize = 16;
/// What a record has of an event, in bytes, at most: a multiple of the stored form and what
/// is there whatever the event is. Names and values grow by escapes, and names come again.
const GROWS: (usize, usize) = (64, 4_096);

/// Records of some events, made before their turn. Each can be taken once, and is made again
/// if it is wanted again.
pub(super) struct Made<'t> {
    topic: &'t str,
    records: Vec<Option<Record>>,
}

impl<'t> Made<'t> {
    /// None yet: each is made when it is taken.
    pub(super) const fn none(topic: &'t str) -> Self {
        Self {
            topic,
            records: Vec::new(),
        }
    }

    /// Those of a batch, where they are not made already. What can take long is done
    /// elsewhere.
    pub(super) async fn of_batch(batch: &Batch, topic: &'t str, made: Option<Vec<Record>>) -> Self {
        if let Some(made) = made {
            let records = made.into_iter().map(Some).collect();
            return Self { topic, records };
        }
        let (items, name) = (batch.items.clone(), topic.to_owned());
        let make = move || of_events(&items, &name);
        let made = match batch.items.len() <= AT_ONCE {
            true => make(),
            false => tokio::task::spawn_blocking(make).await.unwrap_or_default(),
        };
        let records = made.into_iter().map(Some).collect();
        Self { topic, records }
    }

    /// The record of the event that has this place in the batch.
    pub(super) fn take(&mut self, at: usize, item: &Item) -> Record {
        let made = self.records.get_mut(at).and_then(Option::take);
        made.unwrap_or_else(|| of_event(item, self.topic))
    }

    /// It was not wanted after all.
    pub(super) fn put_back(&mut self, at: usize, record: Record) {
        if let Some(place) = self.records.get_mut(at) {
            *place = Some(record);
        }
    }
}

/// Whether an event is so small that its record cannot have `most` bytes.
pub(super) fn is_smaller(item: &Item, most: usize) -> bool {
    item.record().body.len() * GROWS.0 + GROWS.1 <= most
}

pub(super) fn of_event(item: &Item, topic: &str) -> Record {
    let mut records = of_events(std::slice::from_ref(item), topic);
    records.pop().expect("a record for each event")
}

pub(super) fn of_events(items: &[Item], topic: &str) -> Vec<Record> {
    let mut records = Vec::with_capacity(items.len());
    let mut marks = Vec::with_capacity(TOGETHER.min(items.len()));
    for some in items.chunks(TOGETHER) {
        let stored: usize = some.iter().map(|item| item.record().body.len()).sum();
        let mut bytes = Vec::with_capacity(2 * stored + 192 * some.len());
        marks.clear();
        marks.extend(some.iter().map(|item| append(item, &mut bytes)));
        let bytes = Bytes::from(bytes);
        records.extend(marks.iter().map(|marks| record(marks, &bytes, topic)));
    }
    records
}

/// Where the parts of a record are.
struct Marks {
    from: usize,
    key: usize,
    value: usize,
    properties: Properties,
}

fn append(item: &Item, bytes: &mut Vec<u8>) -> Marks {
    let view = item.view();
    let from = bytes.len();
    bytes.extend_from_slice(view.attributes.partition_key().as_bytes());
    let key = bytes.len();
    view.to_json(None, bytes);
    let value = bytes.len();
    Marks {
        from,
        key,
        value,
        properties: append_properties(&view.attributes, bytes),
    }
}

fn record(marks: &Marks, bytes: &Bytes, topic: &str) -> Record {
    let mut record = Record::new(topic, bytes.slice(marks.key..marks.value))
        .key(bytes.slice(marks.from..marks.key));
    record.headers.reserve_exact(marks.properties.len() + 1);
    record = record.header("content-type", Bytes::from_static(MEDIA_TYPE.as_bytes()));
    for (name, at) in marks.properties.iter().flatten() {
        let name = match *name {
            KEY_PROPERTY => KEY_PROPERTY.to_owned(),
            name => [PREFIX, name].concat(),
        };
        record = record.header(name, bytes.slice(at.clone()));
    }
    record
}
