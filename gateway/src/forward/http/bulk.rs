//! The `_bulk` interface of OpenSearch and Elasticsearch: two lines for each event, and an
//! answer that says of each what became of it.
//!
//! A document is created under the key of its delivery, so a second copy is refused (409).
//! The index is named by the event's own time: a copy that comes later, on another day,
//! must meet the first one. Measurements are members of `values` by their names, as rules
//! see them: an index keeps one type for each field, which a list of names and values of
//! any type could not have.

mod index;

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;

use crate::{
    event::{Event, Measurement, View, json},
    forward::{
        batch::Item,
        destination::{Error, Outcome, Outcomes},
    },
};

pub use index::Index;

/// How much of a reason is kept.
const REASON_CHARS_MAX: usize = 500;

/// How documents are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulk {
    /// Where each goes.
    pub index: Index,
}

impl Bulk {
    /// Appends the two lines of an event.
    pub(super) fn write(&self, item: &Item, out: &mut Vec<u8>) {
        let view = item.view();
        let attributes = &view.attributes;
        out.extend_from_slice(br#"{"create":{"_index":"#);
        json::string(&self.index.of(attributes.time), out);
        out.extend_from_slice(br#","_id":""#);
        out.extend_from_slice(attributes.delivery_key().to_string().as_bytes());
        out.extend_from_slice(b"\"}}\n");
        match item.record().event() {
            Ok(event) => write_document(&view, &event, out),
            // It was read in place; where it could not be read as a whole all of it is
            // there in another form.
            Err(_) => view.to_json(None, out),
        }
        out.push(b'\n');
    }
}

fn write_document(view: &View<'_>, event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"@timestamp":"#);
    json::time(event.time, out);
    // What follows has braces of its own.
    let brace = out.len();
    view.attributes_json(out);
    out[brace] = b',';
    out.pop();
    let named = by_name(&event.measurements);
    members("values", &named, out, |same, out| match &same[..] {
        [one] => json::value(&one.value, out),
        several => {
            for (n, one) in several.iter().enumerate() {
                out.push(if n == 0 { b'[' } else { b',' });
                json::value(&one.value, out);
            }
            out.push(b']');
        }
    });
    let units = keep(&named, |one| one.unit.as_deref());
    members("units", &units, out, |unit, out| json::string(unit, out));
    let qualities = keep(&named, |one| one.quality.word());
    members("qualities", &qualities, out, |word, out| {
        json::string(word, out)
    });
    let times = keep(&named, |one| one.time);
    members("times", &times, out, |time, out| json::time(*time, out));
    let tags: Vec<_> = event
        .tags
        .iter()
        .map(|(name, tag)| (&**name, tag))
        .collect();
    members("tags", &tags, out, |tag, out| json::string(tag, out));
    out.push(b'}');
}

/// Measurements by name, in the order of the first of each: a name is a member only once.
fn by_name(measurements: &[Measurement]) -> Vec<(&str, Vec<&Measurement>)> {
    let mut named: Vec<(&str, Vec<&Measurement>)> = Vec::with_capacity(measurements.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(measurements.len());
    for one in measurements {
        let place = *places.entry(&one.name).or_insert(named.len());
        match named.get_mut(place) {
            Some((_, same)) => same.push(one),
            None => named.push((&one.name, vec![one])),
        }
    }
    named
}

/// What the first measurement of each name says that says it.
fn keep<'a, T>(
    named: &[(&'a str, Vec<&'a Measurement>)],
    what: impl Fn(&'a Measurement) -> Option<T>,
) -> Vec<(&'a str, T)> {
    let of_name = |(name, same): &(&'a str, Vec<&'a Measurement>)| {
        let found = same.iter().find_map(|one| what(one));
        found.map(|found| (*name, found))
    };
    named.iter().filter_map(of_name).collect()
}

/// Appends an object as a member, unless it is empty.
fn members<T>(name: &str, of: &[(&str, T)], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (n, (member, value)) in of.iter().enumerate() {
        if n == 0 {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":{");
        } else {
            out.push(b',');
        }
        json::string(member, out);
        out.push(b':');
        write(value, out);
    }
    if !of.is_empty() {
        out.push(b'}');
    }
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    #[serde(default)]
    error: serde_json::Value,
}

/// How long documents wait for an index that takes none.
const ELSEWHERE_WAITS: Duration = Duration::from_secs(60);

/// What an answer says of one document.
enum Said {
    Outcome(Outcome),
    /// The index or the cluster is to blame, and no document.
    Elsewhere {
        status: u16,
        reason: String,
    },
}

/// Whether the cluster takes documents at all: an answer in which none was taken does not
/// tell, for all of it may have been for one index that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Health {
    /// It took one in the last answer that had any say in it.
    #[default]
    Well,
    /// Nothing was taken since, in one answer or after it was said.
    Doubted,
    /// And this was said.
    Said,
}

/// What an answer says of all of them.
///
/// Documents that an index or the cluster is to blame for wait, and others go on. Where
/// nothing at all is taken that is said every other time, so that what goes to other
/// indices has its turn in between.
pub(super) fn outcomes(body: &[u8], records: usize, health: &mut Health) -> Outcomes {
    let unreadable = |what: &dyn std::fmt::Display| {
        Error::unavailable(format!("an answer that is none of _bulk: {what}"))
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        // Its words may quote all of it.
        unreadable(&format!("line {}, column {}", error.line(), error.column()))
    })?;
    if answer.items.len() != records {
        let what = format!("{} of {records} documents", answer.items.len());
        return Err(unreadable(&what));
    }
    let said: Vec<Said> = answer
        .items
        .into_iter()
        .map(|one| said(one.create))
        .collect();
    let is_elsewhere = |one: &Said| matches!(one, Said::Elsewhere { .. });
    match said.first() {
        Some(Said::Elsewhere { status, reason }) if said.iter().all(is_elsewhere) => {
            if *health == Health::Doubted {
                *health = Health::Said;
                return Err(match status {
                    401 | 403 | 404 if !reason.contains(BLOCK) => {
                        Error::Misconfigured(reason.clone())
                    }
                    _ => Error::unavailable(reason.clone()),
                });
            }
            *health = Health::Doubted;
        }
        _ => *health = Health::Well,
    }
    let outcome = |said| match said {
        Said::Outcome(outcome) => outcome,
        Said::Elsewhere { reason, .. } => {
            tracing::debug!(reason, "a document waits for its index");
            Outcome::Paced {
                retry_after: ELSEWHERE_WAITS,
                reason,
            }
        }
    };
    Ok(said.into_iter().map(outcome).collect())
}

/// An index that takes nothing for now; of status 403, or 429 where its disk is full.
const BLOCK: &str = "cluster_block_exception";

fn said(created: Created) -> Said {
    /// Of status 400, and still no document's fault.
    const ELSEWHERE: [&str; 2] = ["validation_exception", "index_closed_exception"];
    const TOO_MANY_FIELDS: &str = "Limit of total fields";

    let kind = created.error["type"].as_str().unwrap_or_default();
    let text = created.error["reason"].as_str().unwrap_or_default();
    let is_elsewhere =
        kind == BLOCK || ELSEWHERE.contains(&kind) || text.starts_with(TOO_MANY_FIELDS);
    match created.status {
        200..=299 | 409 => Said::Outcome(Outcome::Acknowledged),
        429 if !is_elsewhere => Said::Outcome(Outcome::Throttled { retry_after: None }),
        400 | 402 | 405..=407 | 410..=428 | 430..=499 if !is_elsewhere => {
            Said::Outcome(Outcome::Permanent(reason(&created)))
        }
        status => Said::Elsewhere {
            status,
            reason: reason(&created),
        },
    }
}

/// The status, and what the server says of it, with the innermost cause.
fn reason(created: &Created) -> String {
    let mut text = created.status.to_string();
    let mut add = |separator: &str, word: &serde_json::Value| {
        if let Some(word) = word.as_str() {
            text.push_str(separator);
            text.extend(word.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
    };
    let error = &created.error;
    add(" ", error);
    add(" ", &error["type"]);
    add(": ", &error["reason"]);
    let mut cause = error;
    while cause["caused_by"].is_object() {
        cause = &cause["caused_by"];
    }
    if !std::ptr::eq(cause, error) {
        add(": ", &cause["reason"]);
    }
    match text.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
