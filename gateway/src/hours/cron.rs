//! Cron patterns of five fields: minute, hour, day of the month, month, day of the week.
//!
//! As everybody's cron: `*`, numbers, lists (`1,5`), ranges (`1-5`), steps (`*/15`,
//! `8-18/2`), names of months and days (`JAN`, `MON`), Sunday as 0 or 7. Where both days
//! are said, one of them is enough. An hour that a change of the clocks leaves out has no
//! instants; one that comes twice has them twice.
//!
//! The crates that do this bring another calendar library beside the one that is here.

use jiff::{ToSpan as _, ZonedDateTime as Zoned};

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// How far the next or the last day is looked for: the 29th of February comes after eight
/// years at the latest.
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
        Ok(Self {
            minutes: field(minutes, 0..=59, &[], 0)?,
            hours: field(hours, 0..=23, &[], 0)?,
            days: field(days, 1..=31, &[], 0)?,
            months: field(months, 1..=12, &MONTHS, 1)?,
            weekdays: week,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        })
    }

    /// The first instant after `at`.
    pub(super) fn next(&self, at: &Zoned) -> Option<Zoned> {
        let mut minute = at.start_of_day().ok()?;
        for _ in 0..DAYS_MAX {
            if self.is_day(&minute) {
                let found = self.of_day(&minute).find(|one| one > at);
                if found.is_some() {
                    return found;
                }
            }
            minute = minute.checked_add(1.day()).ok()?.start_of_day().ok()?;
        }
        None
    }

    /// The last instant up to `at`, itself included.
    pub(super) fn last(&self, at: &Zoned) -> Option<Zoned> {
        let mut day = at.start_of_day().ok()?;
        for _ in 0..DAYS_MAX {
            if self.is_day(&day) {
                let found = self.of_day(&day).take_while(|one| one <= at).last();
                if found.is_some() {
                    return found;
                }
            }
            day = day.checked_sub(1.day()).ok()?.start_of_day().ok()?;
        }
        None
    }

    fn is_day(&self, day: &Zoned) -> bool {
        let has = |bits: u64, n: i8| bits >> n & 1 == 1;
        let of_month = has(self.days, day.day());
        let of_week = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        has(self.months, day.month())
            && match self.either_day {
                true => of_month || of_week,
                false => of_month && of_week,
            }
    }

    /// Its instants in a day, in order.
    fn of_day(&self, day: &Zoned) -> impl Iterator<Item = Zoned> {
        let end = day
            .checked_add(1.day())
            .and_then(|next| next.start_of_day());
        let end = end.unwrap_or_else(|_| day.clone());
        let has = |bits: u64, n: i8| bits >> n & 1 == 1;
        let minutes = std::iter::successors(Some(day.clone()), |minute| {
            minute.checked_add(1.minute()).ok()
        });
        minutes
            .take_while(move |minute| *minute < end)
            .filter(move |minute| {
                has(self.hours, minute.hour()) && has(self.minutes, minute.minute())
            })
    }
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
        let never = Cron::parse("0 0 30 2 *").expect("a pattern");
        assert_eq!(never.next(&at("2026-03-01T00:00:00+00:00[UTC]")), None);
    }
}
