//! Hours in which something is so: from each instant that a cron pattern names, for so
//! long. Time arrives as an argument.

mod cron;

use std::time::Duration;

use jiff::{SignedDuration, ZonedDateTime, tz::TimeZone};

pub use self::cron::Cron;
use crate::event::Timestamp;

/// From each instant of a pattern, for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// When it opens.
    pub opens: Cron,
    /// For how long.
    pub length: Duration,
}

/// Whether any window is open, and until when that holds.
#[derive(Debug, Default)]
pub(crate) struct Hours {
    /// Looked at then, and true until then.
    known: Option<(Timestamp, Timestamp, bool)>,
}

impl Hours {
    /// Whether a window is open now.
    ///
    /// # Errors
    /// When the next one opens.
    pub(crate) fn check(
        &mut self,
        windows: &[Window],
        now: Timestamp,
        zone: &TimeZone,
    ) -> Result<(), Timestamp> {
        if windows.is_empty() {
            return Ok(());
        }
        let known = self
            .known
            .filter(|(from, until, _)| *from <= now && now < *until);
        let (_, until, open) = known.unwrap_or_else(|| look(windows, now, zone));
        self.known = Some((known.map_or(now, |(from, ..)| from), until, open));
        if open { Ok(()) } else { Err(until) }
    }
}

/// How often a calendar was asked by this thread.
#[cfg(test)]
pub(crate) fn looks() -> usize {
    LOOKS.get()
}

#[cfg(test)]
thread_local! {
    static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn look(windows: &[Window], now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp, bool) {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    let at = zoned(now, zone);
    let closes = windows.iter().filter_map(|window| {
        let opened = window.opens.last(&at)?;
        let length = SignedDuration::try_from(window.length).ok()?;
        let closes = instant(&opened.checked_add(length).ok()?);
        (closes > now).then_some(closes)
    });
    if let Some(closes) = closes.max() {
        return (now, closes, true);
    }
    let opens = windows.iter().filter_map(|window| window.opens.next(&at));
    let opens = opens.map(|opens| instant(&opens)).min();
    // Where none is found it is looked for once a day.
    let tomorrow = Timestamp::from_nanos(now.as_nanos().saturating_add(86_400_000_000_000));
    (now, opens.unwrap_or(tomorrow), false)
}

/// An instant on the calendar of a time zone.
pub(crate) fn zoned(at: Timestamp, zone: &TimeZone) -> ZonedDateTime {
    let at = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos()));
    // 64 bits of nanoseconds are within what it takes.
    at.unwrap_or_default().to_zoned_datetime(zone.clone())
}

/// The same without one.
pub(crate) fn instant(at: &ZonedDateTime) -> Timestamp {
    let nanos = i64::try_from(at.timestamp().as_nanosecond());
    Timestamp::from_nanos(nanos.unwrap_or(i64::MAX))
}
