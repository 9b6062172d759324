//! So many bytes in a day or a month, by the calendar.

use jiff::{ToSpan as _, tz::TimeZone};

use crate::{
    event::Timestamp,
    hours::{instant, zoned},
    store::Spent,
};

/// How long a budget lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the first.
    Month,
}

/// So many bytes in a day or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of records.
    pub bytes: u64,
    /// In which time.
    pub period: Period,
}

impl Budget {
    /// Where another period has begun, nothing is spent yet. One that a clock says is
    /// earlier has not: a clock that was set back gives nothing twice.
    pub(super) fn begin_period(&self, spent: &mut Spent, wall: Timestamp, zone: &TimeZone) {
        let since = self.begins(wall, zone);
        if wall.is_unset() {
            return;
        }
        if since > spent.since {
            *spent = Spent { since, bytes: 0 };
        } else if self.ends(since, zone) < spent.since {
            // A clock that was far ahead was put right: the next period is the next one.
            spent.since = since;
        }
    }

    /// When the period began that an instant is in.
    fn begins(&self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        let at = zoned(at, zone);
        let day = match self.period {
            Period::Day => at.start_of_day(),
            Period::Month => at.first_of_month().and_then(|first| first.start_of_day()),
        };
        day.map_or_else(|_| Timestamp::from_nanos(0), |day| instant(&day))
    }

    /// When the period ends that began then.
    pub(super) fn ends(&self, since: Timestamp, zone: &TimeZone) -> Timestamp {
        let span = match self.period {
            Period::Day => 1.day(),
            Period::Month => 1.month(),
        };
        let end = zoned(since, zone).checked_add(span);
        end.map_or_else(|_| Timestamp::from_nanos(i64::MAX), |end| instant(&end))
    }
}
