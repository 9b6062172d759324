//! File names that sort in the order of writing.
//!
//! `events-20260102T030405Z-00000000000000000042.ndjson`: when the file was
//! created, and the position of its first line. Compressed it has another suffix, which
//! does not count for the order.

use std::{ffi::OsStr, path::Path};

use jiff::tz::TimeZone;

use crate::{event::Timestamp, forward::format::Format, record::Position};

const PREFIX: &str = "events-";
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// The name of a new file, without suffix. Sorts after `newest`, whatever the clock says.
pub(super) fn next(now: Timestamp, first: Position, newest: Option<&str>) -> String {
    let seconds = now.as_millis().div_euclid(1_000);
    let name = format(seconds, first);
    let Some(newest) = newest.filter(|newest| **newest >= *name) else {
        return name;
    };
    // The clock was set back, or two files began within a second.
    let same_time = format(created(newest).unwrap_or(seconds), first);
    if *same_time > *newest {
        return same_time;
    }
    format(created(newest).unwrap_or(seconds).saturating_add(1), first)
}

/// When the file was created, in seconds since the Unix epoch.
pub(super) fn created(name: &str) -> Option<i64> {
    let (time, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let time = jiff::civil::DateTime::strptime(TIME, time).ok()?;
    Some(TimeZone::UTC.to_timestamp(time).ok()?.as_second())
}

/// What one of our files is called, without suffix, and what it looks like.
pub(super) fn of(path: &Path) -> Option<(&str, Format)> {
    let (name, format) = Format::of_name(path.file_name().and_then(OsStr::to_str)?)?;
    let (_, position) = name.strip_prefix(PREFIX)?.split_once('-')?;
    (created(name).is_some() && position.len() == 20 && position.parse::<u64>().is_ok())
        .then_some((name, format))
}

fn format(seconds: i64, first: Position) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{PREFIX}{}-{:020}", at.strftime(TIME), first.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_in_the_order_of_writing_whatever_the_clock_does() {
        let mut newest: Option<String> = None;
        for (millis, first) in [
            (1_700_000_000_000, 1),
            (1_700_000_000_900, 50),
            (1_600_000_000_000, 60), // set back
            (1_600_000_000_000, 2),  // a fresh journal
            (1_800_000_000_000, 3),
        ] {
            let name = next(
                Timestamp::from_millis(millis),
                Position(first),
                newest.as_deref(),
            );
            for (suffix, format) in Format::WORDS {
                let file = format!("{name}.{suffix}");
                assert_eq!(of(Path::new(&file)), Some((&*name, format)));
            }
            assert!(newest.is_none_or(|newest| newest < name), "{name}");
            newest = Some(name);
        }
        assert_eq!(
            newest.unwrap(),
            "events-20270115T080000Z-00000000000000000003"
        );
    }

    #[test]
    fn files_of_others_are_left_alone() {
        for name in [
            "events-.ndjson",
            "events-2026-1.ndjson",
            "notes.txt",
            "events-x.damaged",
        ] {
            assert_eq!(of(Path::new(name)), None);
        }
    }
}
