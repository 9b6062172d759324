//! Shadow documents of AWS IoT: what a thing reported is the reading.

use super::{Id, Meaning};
use crate::normalise::{Class, Message, Node, Reject, identity::text};

/// A document's version and time identify it where the service gave it: in `accepted` and
/// `documents`. In a thing's own update it says which version it expects.
pub(super) fn meaning<'n, 'a>(
    message: &Message<'_>,
    document: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let current = document.child("current").unwrap_or(document);
    let reported = current
        .child("state")
        .and_then(|state| state.child("reported"))
        .filter(|node| **node != Node::Null)
        .ok_or_else(|| {
            let reason = "there is no reported state in the document";
            Reject::new(Class::Missing, reason)
        })?;
    let topic = message.topic;
    let by_service = topic.ends_with("/accepted") || topic.ends_with("/documents");
    let version = current
        .child("version")
        .filter(|_| by_service)
        .and_then(text);
    // Versions begin again some time after a shadow was deleted.
    let time = document
        .child("timestamp")
        .and_then(text)
        .unwrap_or_default();
    let id = |version: String| {
        let parts = [topic.as_bytes(), version.as_bytes(), time.as_bytes()];
        Id::protocol(&parts)
    };
    Ok(Meaning {
        id: version.map(id),
        part: Some(reported),
        ..Meaning::default()
    })
}
