//! An event as a record: structured mode of the `CloudEvents` Kafka binding, with the
//! attributes of its binary mode beside it, so that whoever routes or dedupes need not
//! look inside.

use krafka::Record;

use crate::{
    event::{
        json::MEDIA_TYPE,
        message::{KEY_PROPERTY, properties},
    },
    forward::batch::Item,
};

/// What attributes are called in headers.
const PREFIX: &str = "ce_";

pub(super) fn of_event(item: &Item, topic: &str) -> Record {
    let view = item.view();
    let mut json = Vec::with_capacity(512);
    view.to_json(None, &mut json);
    let mut record = Record::new(topic, json)
        .key(view.attributes.partition_key().as_bytes().to_vec())
        .header("content-type", MEDIA_TYPE);
    for (name, value) in properties(&view.attributes) {
        record = match name {
            KEY_PROPERTY => record.header(name, value),
            name => record.header(format!("{PREFIX}{name}"), value),
        };
    }
    record
}
