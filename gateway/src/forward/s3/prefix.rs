//! What objects are called: a prefix by time and names, then what makes the name one of
//! these events only.
//!
//! `telemetry/2026/01/02/03/00000000000000000042-20260102T030405Z-0f1e2d3c4b5a6978.ndjson.gz`:
//! the prefix, the position of the first event in the journal, when it was received, and the
//! first half of the hash of all keys. Names sort in the order of writing below a prefix,
//! whatever the clock does.

use jiff::tz::TimeZone;

use super::{Config, plan::Object};
use crate::{
    event::{Attributes, Timestamp, View},
    forward::batch::{Batch, Item},
};

/// Bytes of a name, at most: what the service takes.
const NAME_BYTES_MAX: usize = 1_024;
/// Bytes between two slashes of it, at most: what servers take that keep files.
const PART_BYTES_MAX: usize = 255;

/// Which time of an event the prefix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Time {
    /// When it was received: late events make no small objects of their own.
    #[default]
    Received,
    /// Its own.
    Event,
}

/// A text with places for time and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    parts: Vec<Part>,
    time: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Year,
    Month,
    Day,
    Hour,
    Site,
    Device,
    Type,
}

impl Place {
    const ALL: [(&'static str, Self); 7] = [
        ("year", Self::Year),
        ("month", Self::Month),
        ("day", Self::Day),
        ("hour", Self::Hour),
        ("site", Self::Site),
        ("device", Self::Device),
        ("type", Self::Type),
    ];
}

impl Default for Prefix {
    fn default() -> Self {
        let text = "telemetry/{year}/{month}/{day}/{hour}/";
        Self::parse(text).expect("it has known places")
    }
}

impl Prefix {
    /// Reads a prefix.
    ///
    /// # Errors
    /// With what is wrong with its places.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with('/') || text.contains("//") || text.chars().any(char::is_control) {
            return Err(
                "a prefix does not begin with \"/\", and has no \"//\" or control characters",
            );
        }
        if text.split('/').any(|part| matches!(part, "." | "..")) {
            return Err("a part of a prefix is not \".\" or \"..\"");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("\"{\" without \"}\"")?;
            let place = Place::ALL.iter().find(|(known, _)| *known == name);
            let (_, place) = place.ok_or(
                "only {year}, {month}, {day}, {hour}, {site}, {device} and {type} can be filled in",
            )?;
            parts.extend([Part::Text(before.to_owned()), Part::Place(*place)]);
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self {
            parts,
            time: Time::Received,
        })
    }

    /// The same with another time in it.
    #[must_use]
    pub fn at(self, time: Time) -> Self {
        Self { time, ..self }
    }

    fn fill(&self, of: &Attributes<'_>) -> String {
        let at = match self.time {
            Time::Received => of.received,
            Time::Event => of.time,
        };
        let at = civil(at);
        let mut text = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Place(Place::Year) => text += &format!("{:04}", at.year()),
                Part::Place(Place::Month) => text += &format!("{:02}", at.month()),
                Part::Place(Place::Day) => text += &format!("{:02}", at.day()),
                Part::Place(Place::Hour) => text += &format!("{:02}", at.hour()),
                Part::Place(Place::Site) => escape(of.site.unwrap_or_default(), &mut text),
                Part::Place(Place::Device) => escape(of.device, &mut text),
                Part::Place(Place::Type) => escape(of.kind, &mut text),
            }
        }
        text
    }
}

fn civil(at: Timestamp) -> jiff::civil::DateTime {
    let at = jiff::Timestamp::from_millisecond(at.as_millis());
    TimeZone::UTC.to_datetime(at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// A name as one part of a path: whatever is called `..` stays a part.
fn escape(text: &str, out: &mut String) {
    let is_dots = text.chars().all(|c| c == '.');
    let plain: fn(char) -> bool = match is_dots {
        true => |_| false,
        false => |c| c.is_ascii_alphanumeric() || "-_.=".contains(c),
    };
    crate::event::template::escape(text, plain, out);
}

/// Events for which no object can be named, and why.
pub(super) type Unfit = Vec<(usize, String)>;

/// Objects for these events of the batch: one for each prefix.
pub(super) fn objects(config: &Config, batch: &Batch, items: &[usize]) -> (Vec<Object>, Unfit) {
    let mut by_prefix: Vec<(String, Vec<usize>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for at in items {
        let prefix = config.prefix.fill(&batch.items[*at].view().attributes);
        let place = *places.entry(prefix).or_insert_with_key(|prefix| {
            by_prefix.push((prefix.clone(), Vec::new()));
            by_prefix.len() - 1
        });
        by_prefix[place].1.push(*at);
    }
    let (mut objects, mut unfit) = (Vec::new(), Unfit::new());
    for (prefix, items) in by_prefix {
        let name = name(&prefix, batch, &items, config.format.suffix());
        let longest = name.split('/').map(str::len).max().unwrap_or_default();
        match name.len() > NAME_BYTES_MAX || longest > PART_BYTES_MAX {
            true => unfit.extend(items.into_iter().map(|at| {
                let bytes = name.len();
                let reason = format!(
                    "the name of its object would have {bytes} bytes, {longest} of them in one part"
                );
                (at, reason)
            })),
            false => objects.push(Object {
                name,
                items,
                is_whole: true,
            }),
        }
    }
    (objects, unfit)
}

fn name(prefix: &str, batch: &Batch, items: &[usize], suffix: &str) -> String {
    let of_object: Vec<Item> = items.iter().map(|at| batch.items[*at].clone()).collect();
    let of_object = Batch {
        items: of_object.into(),
    };
    let first = &of_object.items[0];
    let View { attributes, .. } = first.view();
    let at = civil(attributes.received).strftime("%Y%m%dT%H%M%SZ");
    let hash = of_object.fingerprint();
    let hash = u128::from_be_bytes(hash) >> 64;
    format!(
        "{prefix}{:020}-{at}-{hash:016x}.{suffix}",
        first.position().0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::record;

    #[test]
    fn a_prefix_has_time_and_names_and_no_name_becomes_another_path() {
        let fill = |text: &str, device: &str| {
            let mut event = record(1, 1).event().unwrap();
            event.device = device.into();
            let prefix = Prefix::parse(text).unwrap().at(Time::Event);
            prefix.fill(&event.attributes())
        };
        assert_eq!(
            fill("a/{year}/{month}/{day}/{hour}/", "d"),
            "a/2023/11/14/22/"
        );
        for (device, expect) in [
            ("press-7.b", "press-7.b"),
            ("..", "%2E%2E"),
            ("a/b", "a%2Fb"),
            ("ü%", "%C3%BC%25"),
            ("", "_"),
        ] {
            assert_eq!(fill("{device}/", device), format!("{expect}/"));
        }
        assert_eq!(fill("{site}-{type}/", "d"), "_-iot.telemetry.v1/");
        for wrong in ["/a", "a//b", "a/../b", "{x}", "{device", "a\n"] {
            assert!(Prefix::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
