//! What an operator does with what was kept but not delivered. Shared by the
//! API and by commands that find no running gateway.

mod alarm;
pub mod replay;
mod shown;

use std::path::Path;

use base64::Engine as _;
use penstock_broker::seal::Seal;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    archive::Replay,
    boots::Boots,
    event::{Timestamp, View, json as event_json},
    ingest::{Ingest, Raw},
    record::DestinationId,
    store::{Appended, DeadLetter, Devices, Error, Handle, Listing, Quarantined, Stopped},
};

pub use alarm::{AlarmShown, alarm_line, alarm_whole};
pub use shown::{
    DeadLetterShown, DeadLetterWhole, DevicesWaiting, QuarantinedShown, QuarantinedWhole,
    ReplayShown,
};

/// Items in one answer, at most.
pub const PAGE_MAX: usize = 1_000;

/// What became of a quarantined message that was decoded once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Retried {
    /// It is an event now, or several; some may have been there before.
    Accepted {
        /// Events stored.
        stored: usize,
        /// Events that had been stored before.
        duplicate: usize,
    },
    /// It still cannot be decoded, and stays.
    StillBad {
        /// Why.
        reason: String,
    },
    /// There is no room for it at the moment; it stays.
    Full,
    /// It is not in quarantine.
    Missing,
}

/// Decodes a quarantined message with the present mappings; a good one becomes
/// an event and leaves quarantine in one transaction.
///
/// # Errors
/// When the store has stopped.
pub async fn retry(store: &Handle, ingest: &Ingest, item: Quarantined) -> Result<Retried, Stopped> {
    if !item.intact {
        let reason = "it is damaged: what the journal has is not what was received".to_owned();
        return Ok(Retried::StillBad { reason });
    }
    let raw = Raw::from_quarantine(
        item.topic.into(),
        item.client_id.into(),
        item.payload,
        item.properties.as_deref(),
        item.received,
    );
    let entries = match raw {
        Ok(raw) => ingest.retry(&raw).map_err(|reject| reject.to_string()),
        Err(damaged) => Err(damaged.to_string()),
    };
    let crate::ingest::Retried {
        entries,
        counts,
        going,
    } = match entries {
        Ok(retried) => retried,
        Err(reason) => return Ok(Retried::StillBad { reason }),
    };
    let appended = store.retry_quarantined(item.id, entries).await?;
    drop(going);
    let Some(appended) = appended else {
        return Ok(Retried::Missing);
    };
    if appended.contains(&Appended::Full) {
        return Ok(Retried::Full);
    }
    ingest.count(&counts);
    let count = |wanted: fn(&Appended) -> bool| appended.iter().filter(|a| wanted(a)).count();
    Ok(Retried::Accepted {
        stored: count(|a| matches!(a, Appended::Stored(_))),
        duplicate: count(|a| matches!(a, Appended::Duplicate)),
    })
}

/// When a quarantined message was received: what it is stamped with, or, where the clock
/// was not set and it is known by now, when that was.
pub(crate) fn received(item: &Quarantined, boots: &Boots) -> Timestamp {
    if !item.received.is_unset() {
        return item.received;
    }
    let booted = Raw::booted_of(item.properties.as_deref());
    let repaired = booted.and_then(|booted| boots.received(&booted));
    repaired.unwrap_or(item.received)
}

/// A quarantined message for a list: everything but the payload.
pub fn quarantined_line(item: &Quarantined, boots: &Boots) -> Value {
    json!(QuarantinedShown::of(item, boots))
}

/// A quarantined message whole.
pub fn quarantined_whole(item: &Quarantined, boots: &Boots) -> Value {
    json!(QuarantinedWhole {
        line: QuarantinedShown::of(item, boots),
        payload_base64: base64(&item.payload),
        payload_text: std::str::from_utf8(&item.payload).ok().map(str::to_owned),
        properties_cbor_base64: item.properties.as_ref().map(|p| base64(p)),
    })
}

/// A dead letter for a list: everything but the event.
pub fn dead_letter_line(letter: &DeadLetter) -> Value {
    json!(DeadLetterShown::of(letter))
}

/// A dead letter with its event; a damaged one with its bytes as found.
pub fn dead_letter_whole(letter: &DeadLetter, boots: &Boots) -> Value {
    let (mut event, mut body_base64) = (None, None);
    match boots.repaired(letter.record.clone()).event() {
        Ok(known) if !letter.damaged => {
            let mut text = Vec::new();
            known.to_json(Some(&letter.record.position.to_string()), &mut text);
            event = Some(serde_json::from_slice(&text).unwrap_or(Value::Null));
        }
        _ => body_base64 = Some(base64(&letter.record.body)),
    }
    json!(DeadLetterWhole {
        line: DeadLetterShown::of(letter),
        event,
        body_base64,
    })
}

/// A replay for a list.
pub fn replay_line(replay: &Replay) -> Value {
    json!(ReplayShown::of(replay))
}

/// What waits, by device.
pub fn devices(devices: &Devices, names: &[(DestinationId, String)]) -> Value {
    json!(DevicesWaiting::of(devices, names))
}

/// Every dead letter's number, of one destination or of all.
///
/// # Errors
/// When the database cannot be read.
pub fn all_dead(listing: &Listing, destination: Option<DestinationId>) -> Result<Vec<u64>, Error> {
    let mut ids = Vec::new();
    loop {
        let page = listing.dead_letters(destination, ids.last().copied().unwrap_or(0), PAGE_MAX)?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.iter().map(|letter| letter.id));
    }
}

/// Every number in quarantine.
///
/// # Errors
/// When the database cannot be read.
pub fn all_quarantined(listing: &Listing) -> Result<Vec<u64>, Error> {
    let mut ids = Vec::new();
    loop {
        let page = listing.quarantine(ids.last().copied().unwrap_or(0), PAGE_MAX)?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.iter().map(|item| item.id));
    }
}

/// Opens the lists of a data directory; says in words when there is no journal.
///
/// # Errors
/// When there is no journal, its key is not given, or it cannot be read.
pub fn listing(data_dir: &Path, seal: &Seal) -> anyhow::Result<Listing> {
    Listing::open(data_dir, seal)
        .map_err(|error| anyhow::anyhow!("no journal to read in {}: {error}", data_dir.display()))
}

/// The event in a stored body, as destinations receive it.
fn listing_event(body: &[u8]) -> Value {
    let mut text = Vec::new();
    if let Ok(view) = View::parse(body) {
        view.to_json(None, &mut text);
    }
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The instant that an RFC 3339 text names.
pub fn parse_instant(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond())
        .ok()
        .map(Timestamp::from_nanos)
}

/// An instant as JSON text; null where nobody knows it, because the gateway's clock was
/// not set.
pub fn known(at: Timestamp) -> Value {
    match at.is_unset() {
        true => Value::Null,
        false => instant(at),
    }
}

/// An instant as JSON text.
pub fn instant(at: Timestamp) -> Value {
    let mut text = Vec::new();
    event_json::time(at, &mut text);
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        event::{Event, IdSource, Key, Marks, TimeSource},
        record::{Position, Record, Routes},
    };

    #[test]
    fn a_correction_that_was_given_up_is_listed_under_the_key_of_its_event() {
        let at = Timestamp::from_nanos(1_790_000_000_000_000_000);
        let event = Event {
            key: Key([7; 16]),
            id: None,
            id_source: IdSource::None,
            kind: "telemetry".into(),
            device: "press".into(),
            site: None,
            time: at,
            time_source: TimeSource::Received,
            received: at,
            sequence: None,
            partition_key: None,
            topic: "devices/press/telemetry".into(),
            traceparent: None,
            measurements: vec![],
            tags: vec![],
            marks: Marks::NONE,
            corrected: Some(at),
            replayed: None,
        };
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        let key = event.attributes().delivery_key();
        assert_ne!(key, event.key);
        let mut letter = DeadLetter {
            id: 1,
            destination: DestinationId(0),
            destination_name: "lake".to_owned(),
            record: Record {
                position: Position(1),
                key,
                received: at,
                routes: Routes(1),
                body: Bytes::from(body),
            },
            damaged: false,
            attempts: 1,
            first: None,
            at,
            reason: "no".to_owned(),
        };
        assert_eq!(dead_letter_line(&letter)["eventkey"], event.key.to_string());
        letter.damaged = true;
        assert_eq!(dead_letter_line(&letter)["eventkey"], key.to_string());
    }
}
