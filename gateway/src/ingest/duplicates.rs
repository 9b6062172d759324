//! Who sent what twice: events and duplicates by device and by mapping, with what
//! their keys were taken from.
//!
//! Counted from what the journal says became of each event, since this start of the
//! gateway. Bounded: so many devices are told apart, and all others are one row.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    event::{IdSource, Timestamp},
    normalise::{Mapping, mapping::Dedup},
    store::Appended,
};

/// Devices that are told apart.
const DEVICES_MAX: usize = 10_000;

const SOURCES: usize = IdSource::ALL.len();

/// An event on its way into the journal.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) device: Arc<str>,
    pub(super) source: IdSource,
    pub(super) mapping: usize,
}

/// Events, by what their keys were taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    events: [u64; SOURCES],
    duplicates: [u64; SOURCES],
}

impl Counts {
    fn add(&mut self, source: IdSource, duplicate: bool) {
        self.events[source as usize] += 1;
        self.duplicates[source as usize] += u64::from(duplicate);
    }
}

/// The counts.
#[derive(Debug)]
pub struct Duplicates {
    since: Timestamp,
    mappings: Vec<(Arc<str>, Dedup)>,
    devices_max: usize,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    devices: HashMap<Arc<str>, Counts>,
    others: Counts,
    mappings: Vec<Counts>,
}

/// A row of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DuplicateCounts)]
pub struct Row {
    /// Events that came, duplicates among them.
    pub events: u64,
    /// Those that were there already.
    pub duplicates: u64,
    /// Both, by what their keys were taken from; sources that never occurred are left out.
    pub by_source: Vec<BySource>,
}

/// Part of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DuplicatesBySource)]
pub struct BySource {
    /// What the keys were taken from.
    #[schema(value_type = String)]
    pub source: &'static str,
    /// Events that came.
    pub events: u64,
    /// Those that were there already.
    pub duplicates: u64,
}

/// A device of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DuplicatesOfDevice)]
pub struct Device {
    /// Its name.
    #[schema(value_type = String)]
    pub device: Arc<str>,
    /// What it sent.
    #[serde(flatten)]
    pub row: Row,
}

/// A mapping of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DuplicatesOfMapping)]
pub struct Mapped {
    /// Its number in the configuration, from 1.
    pub mapping: usize,
    /// Its topic.
    #[schema(value_type = String)]
    pub topic: Arc<str>,
    /// What came by it.
    #[serde(flatten)]
    pub row: Row,
    /// What an operator should know of it.
    pub warnings: Vec<String>,
}

/// How often devices sent the same thing again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DuplicatesReport)]
pub struct Report {
    /// Since when it was counted: the start of the gateway.
    #[serde(serialize_with = "instant")]
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Those with the most duplicates first.
    pub devices: Vec<Device>,
    /// All other devices together.
    pub others: Row,
    /// Every mapping by which something came.
    pub mappings: Vec<Mapped>,
}

fn instant<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    crate::admin::instant(*at).serialize(to)
}

impl Duplicates {
    pub(super) fn new(mappings: &[Mapping], since: Timestamp) -> Self {
        let mappings: Vec<_> = mappings
            .iter()
            .map(|mapping| (Arc::from(mapping.topic.to_string()), mapping.dedup))
            .collect();
        let counted = Counted {
            mappings: vec![Counts::default(); mappings.len()],
            ..Counted::default()
        };
        Self {
            since,
            mappings,
            devices_max: DEVICES_MAX,
            counted: Mutex::new(counted),
        }
    }

    /// Counts what became of a group. `sent` has an entry for each of `appended`;
    /// `None` for what is no event.
    pub(super) fn count(&self, sent: &[Option<Sent>], appended: &[Appended]) {
        // Nothing panics while the lock is held.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = &mut *counted;
        for (sent, appended) in sent.iter().zip(appended) {
            let (Some(sent), duplicate) = (sent, *appended == Appended::Duplicate) else {
                continue;
            };
            if !duplicate && !matches!(appended, Appended::Stored(_)) {
                continue;
            }
            if let Some(of) = counted.mappings.get_mut(sent.mapping) {
                of.add(sent.source, duplicate);
            }
            let room = counted.devices.len() < self.devices_max;
            let of = match counted.devices.get_mut(&sent.device) {
                Some(of) => of,
                None if room => counted.devices.entry(sent.device.clone()).or_default(),
                None => &mut counted.others,
            };
            of.add(sent.source, duplicate);
        }
    }

    /// The report, with so many devices.
    pub fn report(&self, top: usize) -> Report {
        let (devices, mut others, mappings) = {
            let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let devices = counted.devices.iter();
            (
                devices.map(|(d, c)| (d.clone(), *c)).collect::<Vec<_>>(),
                counted.others,
                counted.mappings.clone(),
            )
        };
        let mut devices: Vec<Device> = devices
            .into_iter()
            .map(|(device, counts)| Device {
                device,
                row: row(&counts),
            })
            .collect();
        let most = |d: &Device| (d.row.duplicates, d.row.events);
        devices.sort_by(|a, b| most(b).cmp(&most(a)).then_with(|| a.device.cmp(&b.device)));
        for left in devices.iter().skip(top) {
            for part in &left.row.by_source {
                let known = IdSource::ALL.iter().find(|s| s.as_str() == part.source);
                if let Some(source) = known {
                    others.events[*source as usize] += part.events;
                    others.duplicates[*source as usize] += part.duplicates;
                }
            }
        }
        devices.truncate(top);
        let mappings = (1..)
            .zip(self.mappings.iter().zip(&mappings))
            .map(|(mapping, ((topic, dedup), counts))| Mapped {
                mapping,
                topic: topic.clone(),
                row: row(counts),
                warnings: warnings(*dedup, counts),
            })
            .filter(|mapped| mapped.row.events > 0)
            .collect();
        Report {
            since: self.since,
            devices,
            others: row(&others),
            mappings,
        }
    }
}

fn row(counts: &Counts) -> Row {
    let by_source = IdSource::ALL.into_iter().map(|source| BySource {
        source: source.as_str(),
        events: counts.events[source as usize],
        duplicates: counts.duplicates[source as usize],
    });
    Row {
        events: counts.events.iter().sum(),
        duplicates: counts.duplicates.iter().sum(),
        by_source: by_source.filter(|part| part.events > 0).collect(),
    }
}

/// Where a mapping cannot tell readings apart, or may take two readings for one.
fn warnings(dedup: Dedup, counts: &Counts) -> Vec<String> {
    let mut warnings = Vec::new();
    let all: u64 = counts.events.iter().sum();
    let unknown = counts.events[IdSource::None as usize];
    if unknown > 0 && dedup != Dedup::None {
        warnings.push(format!(
            "{unknown} of {all} events have nothing that tells a resend from another reading, so a resend is a second event; name an id, a sequence with a boot id, or a time finer than a second"
        ));
    }
    let equal = counts.duplicates[IdSource::Content as usize];
    if equal > 0 && dedup == Dedup::Content {
        warnings.push(format!(
            "{equal} of {all} events were dropped because dedup = \"content\" takes equal messages for one, whatever the clock; two equal readings look like that too"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Position;

    fn sent(device: &str, source: IdSource) -> Option<Sent> {
        Some(Sent {
            device: device.into(),
            source,
            mapping: 0,
        })
    }

    fn duplicates(dedup: Dedup) -> Duplicates {
        let mut mappings = Mapping::defaults();
        mappings[0].dedup = dedup;
        Duplicates::new(&mappings, Timestamp::from_millis(0))
    }

    const STORED: Appended = Appended::Stored(Position(1));

    #[test]
    fn duplicates_are_counted_by_device_and_by_what_the_key_was_taken_from() {
        let duplicates = duplicates(Dedup::Auto);
        duplicates.count(
            &[
                sent("a", IdSource::Field),
                None,
                sent("a", IdSource::Field),
                sent("b", IdSource::None),
                sent("b", IdSource::None),
            ],
            &[
                STORED,
                Appended::Quarantined(1),
                Appended::Duplicate,
                STORED,
                Appended::Full,
            ],
        );
        let report = duplicates.report(10);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["since"], "1970-01-01T00:00:00Z");
        assert_eq!(
            json["devices"],
            serde_json::json!([
                {"device": "a", "events": 2, "duplicates": 1, "by_source": [{"source": "field", "events": 2, "duplicates": 1}]},
                {"device": "b", "events": 1, "duplicates": 0, "by_source": [{"source": "none", "events": 1, "duplicates": 0}]},
            ])
        );
        assert_eq!(json["mappings"][0]["topic"], "devices/{device}/{type...}");
        assert_eq!(report.mappings.len(), 1);
        let warning = &report.mappings[0].warnings[0];
        assert!(
            warning.starts_with("1 of 3 events have nothing"),
            "{warning}"
        );
    }

    #[test]
    fn devices_beyond_the_bound_are_one_row() {
        let duplicates = Duplicates {
            devices_max: 2,
            ..duplicates(Dedup::Auto)
        };
        for device in ["a", "b", "c", "d", "a"] {
            duplicates.count(&[sent(device, IdSource::Field)], &[Appended::Duplicate]);
        }
        let report = duplicates.report(1);
        assert_eq!((&*report.devices[0].device, report.devices.len()), ("a", 1));
        assert_eq!(report.devices[0].row.duplicates, 2);
        assert_eq!(report.others.duplicates, 3);
        assert_eq!(report.mappings[0].row.duplicates, 5);
        let all = duplicates.report(10);
        assert_eq!((all.devices.len(), all.others.duplicates), (2, 2));
    }

    #[test]
    fn equal_readings_that_were_dropped_are_warned_of() {
        let duplicates = duplicates(Dedup::Content);
        duplicates.count(&[sent("a", IdSource::Content)], &[STORED]);
        assert!(duplicates.report(1).mappings[0].warnings.is_empty());
        duplicates.count(&[sent("a", IdSource::Content)], &[Appended::Duplicate]);
        let warnings = &duplicates.report(1).mappings[0].warnings;
        assert!(
            warnings[0].starts_with("1 of 2 events were dropped"),
            "{warnings:?}"
        );
        let every = super::warnings(
            Dedup::None,
            &Counts {
                events: [1; SOURCES],
                ..Counts::default()
            },
        );
        assert!(every.is_empty(), "the operator said so: {every:?}");
    }
}
