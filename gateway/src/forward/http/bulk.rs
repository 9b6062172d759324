//! The `_bulk` interface of OpenSearch and Elasticsearch: two lines for each event, and an
//! answer that says of each what became of it.
//!
//! A document is created under the key of its delivery, so a second copy is refused (409).
//! The index is named by the event's own time: a copy that comes later, on another day,
//! must meet the first one. Measurements are members of `values` by their names, as rules
//! see them: an index keeps one type for each field, which a list of names and values of
//! any type could not have.

mod index;

use std::collections::HashMap;

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

/// What an answer says of one document.
enum Said {
    Outcome(Outcome),
    /// The index or the cluster is to blame, and no document.
    Elsewhere {
        status: u16,
        reason: String,
    },
}

/// What an answer says of all of them.
pub(super) fn outcomes(body: &[u8], records: usize) -> Outcomes {
    let unreadable = |what: &dyn std::fmt::Display| {
        Error::unavailable(format!("an answer that is none of _bulk: {what}"))
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if answer.items.len() != records {
        let what = format!("{} of {records} documents", answer.items.len());
        return Err(unreadable(&what));
    }
    let said: Vec<Said> = answer
        .items
        .into_iter()
        .map(|one| said(one.create))
        .collect();
    // Where all of it is nobody's fault the cluster as a whole is not well.
    if let Some(Said::Elsewhere { status, reason }) = said.first()
        && said.iter().all(|one| matches!(one, Said::Elsewhere { .. }))
    {
        return Err(match status {
            401 | 403 | 404 if !reason.contains("cluster_block_exception") => {
                Error::Misconfigured(reason.clone())
            }
            _ => Error::unavailable(reason.clone()),
        });
    }
    let outcome = |said| match said {
        Said::Outcome(outcome) => outcome,
        Said::Elsewhere { reason, .. } => Outcome::Transient(reason),
    };
    Ok(said.into_iter().map(outcome).collect())
}

fn said(created: Created) -> Said {
    /// Of status 400, and still no document's fault.
    const ELSEWHERE: [&str; 2] = ["validation_exception", "index_closed_exception"];

    let kind = created.error["type"].as_str().unwrap_or_default();
    match created.status {
        200..=299 | 409 => Said::Outcome(Outcome::Acknowledged),
        429 => Said::Outcome(Outcome::Throttled { retry_after: None }),
        400..=499
            if !matches!(created.status, 401 | 403 | 404 | 408) && !ELSEWHERE.contains(&kind) =>
        {
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
