//! Network servers of LoRaWAN. Both give every uplink an identity, which stays the
//! same when it is published again with more receptions.

use super::{Id, Meaning, text_at};
use crate::normalise::{Message, Node, identity::text};

/// A decoder that knows nothing gives an object of nothing; the bytes say more.
fn says_something(reading: &Node<'_>) -> bool {
    match reading {
        Node::Null => false,
        Node::Map(members) => !members.is_empty(),
        _ => true,
    }
}

/// An event of `ChirpStack`: `deduplicationId` identifies it together with its kind,
/// which is in the topic. What a codec made of the payload is the reading; without
/// one, the payload itself; other events than uplinks have their own members.
pub(super) fn chirpstack<'n, 'a>(message: &Message<'_>, event: &'n Node<'a>) -> Meaning<'n, 'a> {
    let id = text_at(event, "deduplicationId").filter(|id| !id.is_empty());
    let reading = event.child("object").filter(|node| says_something(node));
    let bytes = event.child("data").filter(|node| **node != Node::Null);
    Meaning {
        id: id.map(|id| Id::protocol(&[message.topic.as_bytes(), id.as_bytes()])),
        part: reading.or(bytes),
        prefix: (reading.is_none() && bytes.is_some()).then_some("data"),
        ..Meaning::default()
    }
}

/// A message of The Things Stack: an uplink is identified by its session, its frame
/// counter, of which 0 is left out, and when it was received; a simulated one, which has neither of its own,
/// by what the application server calls it.
pub(super) fn things_stack<'n, 'a>(message: &Message<'_>, up: &'n Node<'a>) -> Meaning<'n, 'a> {
    let uplink = up.child("uplink_message");
    let simulated = up.child("simulated") == Some(&Node::Bool(true));
    let session = uplink
        .and_then(|uplink| text_at(uplink, "session_key_id"))
        .filter(|key| !simulated && !key.is_empty());
    let topic = message.topic.as_bytes();
    let by_session = || {
        let counter = match uplink?.child("f_cnt") {
            None | Some(Node::Null) => "0".to_owned(),
            Some(counter) => text(counter)?,
        };
        // A device without joins has one session for ever, and counts from 0 again
        // after a restart. The network server's clock is the same in every copy.
        let received = uplink
            .and_then(|uplink| text_at(uplink, "received_at"))
            .or_else(|| text_at(up, "received_at"))?;
        Some(Id::protocol(&[
            topic,
            b"session",
            session?.as_bytes(),
            counter.as_bytes(),
            received.as_bytes(),
        ]))
    };
    let by_correlation = || {
        let Some(Node::Array(ids)) = up.child("correlation_ids") else {
            return None;
        };
        let id = ids.iter().find_map(|id| match id {
            Node::Text(id) if id.starts_with("as:up:") => Some(id),
            _ => None,
        })?;
        Some(Id::protocol(&[topic, b"correlation", id.as_bytes()]))
    };
    let reading = uplink
        .and_then(|uplink| uplink.child("decoded_payload"))
        .filter(|node| says_something(node));
    let bytes = uplink.and_then(|uplink| uplink.child("frm_payload"));
    Meaning {
        id: by_session().or_else(by_correlation),
        part: reading.or(bytes),
        prefix: (reading.is_none() && bytes.is_some()).then_some("frm_payload"),
        ..Meaning::default()
    }
}
