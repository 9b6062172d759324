//! Cron patterns of five fields: minute, hour, day of the month, month, day of the week.
//!
//! As everybody's cron: `*`, numbers, lists (`1,5`), ranges (`1-5`), steps (`*/15`,
//! `8-18/2`), names of months and days (`JAN`, `MON`), Sunday as 0 or 7. Where both days
//! are said, one of them is enough. An hour that a change of the clocks leaves out has no
//! instants; one that comes twice has them twice.
//!
//! The crates that do this bring another calendar library beside the one that is here.

use jiff::{SignedDuration, ToSpan as _, ZonedDateTime as Zoned};

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// How many days and months are looked at for the next or the last day: more than eight
/// years, after which the 29th of February comes at the latest.
const DAYS_MAX: usize = 8 * 366 + 1;

/// A pattern: the numbers that each field takes, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are said, so that one of them is enough.
    either_day: bool,
}

impl Cron {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("has {} fields instead of five", fields.len()));
        };
        let mut week = field(weekdays, 0..=7, &DAYS, 0)?;
        if week >> 7 & 1 == 1 {
            week |= 1;
        }
        let cron = Self {
            minutes: field(minutes, 0..=59, &[], 0)?,
            hours: field(hours, 0..=23, &[], 0)?,
            days: field(days, 1..=31, &[], 0)?,
            months: field(months, 1..=12, &MONTHS, 1)?,
            weekdays: week,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        match cron.has_day() {
            true => Ok(cron),
            false => Err("names no day that there is".to_owned()),
        }
    }

    /// The first instant after `at`.
    pub(super) fn next(&self, at: &Zoned) -> Option<Zoned> {
        let mut day = at.start_of_day().ok()?;
        let mut from = whole_minute(at)?.checked_add(1.minute()).ok()?;
        for _ in 0..DAYS_MAX {
            let has_month = has(self.months, day.month());
            let following = match has_month {
                true => day.checked_add(1.day()),
                false => day
                    .first_of_month()
                    .and_then(|first| first.checked_add(1.month())),
            };
            let following = following.ok()?.start_of_day().ok()?;
            if has_month && self.is_day(&day) {
                let found = self.first(from, &following);
                if found.is_some() {
                    return found;
                }
            }
            from = following.clone();
            day = following;
        }
        None
    }

    /// The last instant up to `at`, itself included.
    pub(super) fn last(&self, at: &Zoned) -> Option<Zoned> {
        let mut to = whole_minute(at)?;
        for _ in 0..DAYS_MAX {
            let day = to.start_of_day().ok()?;
            let mut begin = day.clone();
            if !has(self.months, day.month()) {
                begin = day.first_of_month().ok()?.start_of_day().ok()?;
            } else if self.is_day(&day) {
                let found = self.latest(to, &day);
                if found.is_some() {
                    return found;
                }
            }
            to = begin.checked_sub(1.minute()).ok()?;
        }
        None
    }

    fn is_day(&self, day: &Zoned) -> bool {
        let of_month = has(self.days, day.day());
        let of_week = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        has(self.months, day.month())
            && match self.either_day {
                true => of_month || of_week,
                false => of_month && of_week,
            }
    }

    /// Whether there is any such day, in some year.
    fn has_day(&self) -> bool {
        const LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let first = self.days.trailing_zeros();
        let mut months = (1..).zip(LENGTHS);
        self.either_day || months.any(|(month, length)| has(self.months, month) && first <= length)
    }

    /// The first instant from a minute on and before the end of its day.
    fn first(&self, mut minute: Zoned, end: &Zoned) -> Option<Zoned> {
        while minute < *end {
            if self.is_instant(&minute) {
                return Some(minute);
            }
            let of_hour = minute.minute();
            let later = self.minutes >> of_hour & !1;
            minute = match has(self.hours, minute.hour()) && later != 0 {
                true => stepped(&minute, i64::from(later.trailing_zeros()))?,
                false => stepped(&minute, i64::from(60 - of_hour))?,
            };
        }
        None
    }

    /// The last instant up to a minute and from the begin of its day on.
    fn latest(&self, mut minute: Zoned, begin: &Zoned) -> Option<Zoned> {
        while minute >= *begin {
            if self.is_instant(&minute) {
                return Some(minute);
            }
            let of_hour = minute.minute();
            let earlier = self.minutes & ((1_u64 << of_hour) - 1);
            minute = match has(self.hours, minute.hour()) && earlier != 0 {
                true => stepped(&minute, i64::from(earlier.ilog2()) - i64::from(of_hour))?,
                false => stepped(&minute, -i64::from(of_hour) - 1)?,
            };
        }
        None
    }

    fn is_instant(&self, minute: &Zoned) -> bool {
        has(self.hours, minute.hour()) && has(self.minutes, minute.minute())
    }
}

fn has(bits: u64, n: i8) -> bool {
    bits >> n & 1 == 1
}

/// So many minutes on within an hour, or back; where the clocks change in between, one.
fn stepped(from: &Zoned, minutes: i64) -> Option<Zoned> {
    let to = from.checked_add(minutes.minutes()).ok()?;
    match to.offset() == from.offset() {
        true => Some(to),
        false => from.checked_add(minutes.signum().minutes()).ok(),
    }
}

fn whole_minute(at: &Zoned) -> Option<Zoned> {
    let over = SignedDuration::new(at.second().into(), at.subsec_nanosecond());
    at.checked_sub(over).ok()
}

/// The numbers that a field takes; names stand for numbers from `first` on.
fn field(
    text: &str,
    all: std::ops::RangeInclusive<u8>,
    names: &[&str],
    first: u8,
) -> Result<u64, String> {
    let number = |text: &str| {
        let named = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        let named = named
            .and_then(|at| u8::try_from(at).ok())
            .map(|at| at + first);
        let read = named.or_else(|| text.parse().ok());
        read.filter(|n| all.contains(n)).ok_or_else(|| {
            format!(
                "{text:?} is no number from {} to {}",
                all.start(),
                all.end()
            )
        })
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let step = step.parse().ok().filter(|step: &u8| *step > 0);
        let step = step.ok_or_else(|| format!("{part:?} has no number above 0 after the \"/\""))?;
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (*all.start(), *all.end()),
            (_, Some((from, to))) => (number(from)?, number(to)?),
            (one, None) if part.contains('/') => (number(one)?, *all.end()),
            (one, None) => (number(one)?, number(one)?),
        };
        if from > to {
            return Err(format!("{part:?} ends before it begins"));
        }
        for n in (from..=to).step_by(step.into()) {
            bits |= 1_u64 << n;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().expect("a time")
    }

    #[test]
    fn the_next_and_the_last_instant_are_those_of_the_calendar() {
        let check = |pattern: &str, now: &str, last: &str, next: &str| {
            let cron = Cron::parse(pattern).expect(pattern);
            let written = |at: Option<Zoned>| at.map(|at| at.to_string());
            let now = at(now);
            let expect = |text: &str| Some(at(text).to_string());
            assert_eq!(written(cron.last(&now)), expect(last), "last of {pattern}");
            assert_eq!(written(cron.next(&now)), expect(next), "next of {pattern}");
        };
        let utc = |text: &str| format!("{text}+00:00[UTC]");
        check(
            "*/15 * * * *",
            &utc("2026-03-01T10:15:00"),
            &utc("2026-03-01T10:15:00"),
            &utc("2026-03-01T10:30:00"),
        );
        check(
            "0 22 * * MON-FRI",
            &utc("2026-03-01T10:00:00"),
            &utc("2026-02-27T22:00:00"),
            &utc("2026-03-02T22:00:00"),
        );
        // Either day is enough where both are said; Sunday is 7, too.
        check(
            "5 6 13 * 7",
            &utc("2026-03-09T00:00:00"),
            &utc("2026-03-08T06:05:00"),
            &utc("2026-03-13T06:05:00"),
        );
        check(
            "0 0 29 feb *",
            &utc("2026-03-01T00:00:00"),
            &utc("2024-02-29T00:00:00"),
            &utc("2028-02-29T00:00:00"),
        );
        // 02:30 is left out on the last Sunday of March, and comes twice in October.
        let berlin = |text: &str, offset: &str| format!("{text}{offset}[Europe/Berlin]");
        check(
            "30 2 * * *",
            &berlin("2026-03-29T12:00:00", "+02:00"),
            &berlin("2026-03-28T02:30:00", "+01:00"),
            &berlin("2026-03-30T02:30:00", "+02:00"),
        );
        check(
            "30 2 * * *",
            &berlin("2026-10-25T02:30:00", "+02:00"),
            &berlin("2026-10-25T02:30:00", "+02:00"),
            &berlin("2026-10-25T02:30:00", "+01:00"),
        );
        // There it became 23:01 of the day before at one minute past midnight.
        let newfoundland = |text: &str, offset: &str| format!("{text}{offset}[America/St_Johns]");
        check(
            "30 23 * * *",
            &newfoundland("2006-10-28T23:45:00", "-02:30"),
            &newfoundland("2006-10-28T23:30:00", "-02:30"),
            &newfoundland("2006-10-28T23:30:00", "-03:30"),
        );
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let check = |text: &str, expect: &str| {
            let said = Cron::parse(text).expect_err(text);
            assert!(said.contains(expect), "{text}: {said}");
        };
        check("* * * *", "4 fields instead of five");
        check("60 * * * *", "\"60\" is no number from 0 to 59");
        check("* * 0 * *", "from 1 to 31");
        check("*/0 * * * *", "above 0");
        check("5-1 * * * *", "ends before it begins");
        check("* * * MAI *", "\"MAI\"");
        // Day and month exchanged, say: it would never open.
        check("0 0 30 2 *", "names no day that there is");
        check("0 0 31 4,6 *", "names no day that there is");
        for text in ["0 0 30 2 MON", "0 0 31 4,7 *", "0 0 29 2 *"] {
            assert!(Cron::parse(text).is_ok(), "{text}");
        }
    }

    /// Every minute of a day that a pattern names.
    fn each(cron: &Cron, day: &Zoned) -> Vec<Zoned> {
        let end = day.checked_add(1.day()).unwrap().start_of_day().unwrap();
        let minutes = std::iter::successors(Some(day.clone()), |minute| {
            minute.checked_add(1.minute()).ok()
        });
        let minutes = minutes.take_while(|minute| *minute < end);
        let is_day = cron.is_day(day);
        minutes
            .filter(|minute| is_day && cron.is_instant(minute))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_instant_is_passed_over_where_clocks_change(
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo",
                "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu",
            ]),
            // Days about changes: to summer, to winter, at midnight, and one that was none.
            day in prop::sample::select(vec![
                "2026-03-28", "2026-10-24", "2026-04-04", "2018-11-03", "2018-02-16",
                "2006-04-01", "2006-10-28", "2011-12-28", "2011-12-31", "2026-03-07",
            ]),
            minutes in prop::sample::select(vec!["*", "0", "30", "*/7", "1,29,59", "40-50"]),
            hours in prop::sample::select(vec!["*", "0", "23", "1-3", "2", "*/5", "0,23"]),
            days in prop::sample::select(vec!["*", "*/2", "1-15", "29"]),
            second in 0i64..86_400,
        ) {
            let cron = Cron::parse(&format!("{minutes} {hours} {days} * *")).unwrap();
            let day: jiff::civil::Date = day.parse().unwrap();
            let zone = jiff::tz::TimeZone::get(zone).unwrap();
            let begin = day.to_zoned_datetime(zone).unwrap().start_of_day().unwrap();
            let now = begin.checked_add(SignedDuration::from_secs(86_400 + second)).unwrap();
            let mut all = Vec::new();
            let mut one = begin;
            for _ in 0..4 {
                all.extend(each(&cron, &one));
                one = one.checked_add(1.day()).unwrap().start_of_day().unwrap();
            }
            let next = all.iter().find(|one| **one > now);
            if next.is_some() {
                prop_assert_eq!(cron.next(&now), next.cloned());
            }
            let last = all.iter().rfind(|one| **one <= now);
            if last.is_some() {
                prop_assert_eq!(cron.last(&now), last.cloned());
            }
        }
    }
}
