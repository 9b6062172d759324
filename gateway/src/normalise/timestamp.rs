//! The device's own time: read exactly, believed only when plausible.
//!
//! Epoch times are taken from their decimal digits and never pass through a
//! float, which has too few of them for microseconds. What is below a nanosecond
//! is cut off.

use std::borrow::Cow;

use jiff::{Timestamp as Instant, civil::DateTime, tz::TimeZone};

use super::{
    decode::{Node, quoted},
    reject::{Class, Reject},
};
use crate::event::Timestamp;

/// 2015-01-01T00:00:00Z. Clocks that were never set say 1970 or 2000.
pub const PLAUSIBLE_FROM: Timestamp = Timestamp::from_millis(1_420_070_400_000);
/// How far a device's clock may be ahead of ours: a day.
pub const AHEAD_NANOS_MAX: i64 = 24 * 60 * 60 * 1_000_000_000;

/// What a number that stands for a time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unit {
    /// A number by its magnitude: below 1e11 seconds, below 1e14 milliseconds,
    /// below 1e17 microseconds, else nanoseconds. Other text is RFC 3339.
    #[default]
    Auto,
    /// Seconds since 1970, perhaps with a fraction.
    Seconds,
    /// Milliseconds since 1970.
    Millis,
    /// Microseconds since 1970.
    Micros,
    /// Nanoseconds since 1970.
    Nanos,
    /// Text such as `2026-03-01T11:59:50.5+01:00`.
    Rfc3339,
    /// Text such as `2026-03-01T11:59:50.5`, in the zone of the mapping.
    Local,
}

impl Unit {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 7] = [
        ("auto", Self::Auto),
        ("s", Self::Seconds),
        ("ms", Self::Millis),
        ("us", Self::Micros),
        ("ns", Self::Nanos),
        ("rfc3339", Self::Rfc3339),
        ("local", Self::Local),
    ];

    /// Whether numbers, also those in text, are no times.
    const fn is_text(self) -> bool {
        matches!(self, Self::Rfc3339 | Self::Local)
    }

    /// Nanoseconds in one, as a power of ten.
    const fn power(self) -> Option<i32> {
        match self {
            Self::Seconds => Some(9),
            Self::Millis => Some(6),
            Self::Micros => Some(3),
            Self::Nanos => Some(0),
            Self::Auto | Self::Rfc3339 | Self::Local => None,
        }
    }
}

/// What a device said about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing, or null.
    Nothing,
    /// A time from before 2015, from tomorrow, or beyond all calendars.
    Implausible,
    /// A time to believe.
    Plausible {
        /// When.
        at: Timestamp,
        /// Whether it tells moments within a second apart.
        fine: bool,
    },
}

/// Reads a time field.
///
/// # Errors
/// When the field is not a time at all: an operator named it, so this is worth
/// knowing. Local time without an offset is one of these, because guessing UTC
/// would be wrong by hours.
pub fn read(
    node: &Node<'_>,
    unit: Unit,
    zone: Option<&TimeZone>,
    received: Timestamp,
) -> Result<Said, Reject> {
    let (nanos, fine) = match node {
        Node::Null => return Ok(Said::Nothing),
        Node::Int(n) => epoch(Decimal::whole(i128::from(*n)), unit)?,
        Node::UInt(n) => epoch(Decimal::whole(i128::from(*n)), unit)?,
        Node::Float(float) => {
            if !float.value.is_finite() {
                return Ok(Said::Implausible);
            }
            let mut digits = zmij::Buffer::new();
            let literal = float
                .literal
                .as_deref()
                .unwrap_or_else(|| digits.format_finite(float.value));
            epoch(
                Decimal::parse(literal).ok_or_else(|| not_a_time(node))?,
                unit,
            )?
        }
        Node::Text(text) if text.trim_ascii().is_empty() => return Ok(Said::Nothing),
        Node::Text(text) => {
            let text = text.trim_ascii();
            match Decimal::parse(text) {
                Some(decimal) if !unit.is_text() => epoch(decimal, unit)?,
                _ => written(text, zone)?,
            }
        }
        Node::Bool(_) | Node::Bytes(_) | Node::Array(_) | Node::Map(_) => {
            return Err(not_a_time(node));
        }
    };
    Ok(said(nanos, fine, received))
}

/// A time in nanoseconds, `None` for one beyond all calendars, and whether to believe it.
pub(super) fn said(nanos: Option<i128>, fine: bool, received: Timestamp) -> Said {
    let latest = match received.is_unset() {
        // The gateway's own clock is not set: it cannot say what is in the future.
        true => i64::MAX,
        false => received.as_nanos().saturating_add(AHEAD_NANOS_MAX),
    };
    match nanos.and_then(|nanos| i64::try_from(nanos).ok()) {
        Some(nanos) if nanos >= PLAUSIBLE_FROM.as_nanos() && nanos <= latest => Said::Plausible {
            at: Timestamp::from_nanos(nanos),
            fine,
        },
        _ => Said::Implausible,
    }
}

/// A number of seconds in nanoseconds, exact where the format has digits; `None` where
/// it is not a finite number, or one that no 128 bits hold.
pub(super) fn seconds(node: &Node<'_>) -> Option<i128> {
    let mut digits = zmij::Buffer::new();
    let decimal = match node {
        Node::Int(n) => Decimal::whole(i128::from(*n)),
        Node::UInt(n) => Decimal::whole(i128::from(*n)),
        Node::Float(float) if float.value.is_finite() => Decimal::parse(
            float
                .literal
                .as_deref()
                .unwrap_or_else(|| digits.format_finite(float.value)),
        )?,
        _ => return None,
    };
    decimal.scaled(9)
}

/// Nanoseconds, `None` where no 128 bits hold them, and whether they are finer than seconds.
type Nanos = (Option<i128>, bool);

fn epoch(decimal: Decimal, unit: Unit) -> Result<Nanos, Reject> {
    let power = match unit.power() {
        Some(power) => power,
        None if unit == Unit::Rfc3339 => {
            return Err(Reject::new(
                Class::Type,
                "the time is a number, not RFC 3339 text",
            ));
        }
        None => decimal.power_by_magnitude(),
    };
    let nanos = decimal.scaled(power);
    // A fraction of zero is what a clock of whole seconds looks like as a float.
    let fine = power < 9 || nanos.is_some_and(|nanos| nanos % 1_000_000_000 != 0);
    Ok((nanos, fine))
}

fn written(text: &str, zone: Option<&TimeZone>) -> Result<Nanos, Reject> {
    // A fraction of zero is what a clock of whole seconds looks like in some formats.
    let fine = |nanos: i128| nanos % 1_000_000_000 != 0;
    let text = &*without_more_than_nanoseconds(text);
    if let Ok(at) = text.parse::<Instant>() {
        let nanos = at.as_nanosecond();
        return Ok((Some(nanos), fine(nanos)));
    }
    let local = zone
        .filter(|_| text.contains(':'))
        .and_then(|zone| Some((zone, text.parse::<DateTime>().ok()?)));
    let Some((zone, local)) = local else {
        let wanted = match zone {
            Some(_) => "a date and time",
            None => "a time with an offset from UTC (RFC 3339)",
        };
        let reason = format!("{} is not {wanted}", quoted(text));
        return Err(Reject::new(Class::Type, reason));
    };
    // A time that clocks show twice, or never, when summer time ends or begins is not
    // one that can be told.
    let at = zone.to_ambiguous_timestamp(local).unambiguous().ok();
    let nanos = at.map(Instant::as_nanosecond);
    Ok((nanos, nanos.is_some_and(fine)))
}

/// A written time without the digits below a nanosecond, of which RFC 3339 allows any
/// number.
fn without_more_than_nanoseconds(text: &str) -> Cow<'_, str> {
    const DIGITS: usize = 9;
    let Some(point) = text.find(['.', ',']) else {
        return Cow::Borrowed(text);
    };
    let (before, fraction) = text.split_at(point + 1);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits <= DIGITS {
        return Cow::Borrowed(text);
    }
    let (digits, after) = fraction.split_at(digits);
    Cow::Owned([before, &digits[..DIGITS], after].concat())
}

fn not_a_time(node: &Node<'_>) -> Reject {
    Reject::new(Class::Type, format!("the time is {}", node.kind()))
}

/// `digits` times ten to the `exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    const fn whole(digits: i128) -> Self {
        Self {
            digits,
            exponent: 0,
        }
    }

    /// Reads a JSON number. Digits beyond the 30th are cut off.
    fn parse(text: &str) -> Option<Self> {
        const DIGITS_MAX: i128 = 10i128.pow(30);
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || (fraction.is_empty() && mantissa.ends_with('.')) {
            return None;
        }
        let mut decimal = Self {
            digits: 0,
            exponent,
        };
        for (byte, in_fraction) in whole
            .bytes()
            .map(|b| (b, false))
            .chain(fraction.bytes().map(|b| (b, true)))
        {
            let digit = char::from(byte).to_digit(10)?;
            if decimal.digits < DIGITS_MAX {
                decimal.digits = decimal.digits * 10 + i128::from(digit);
                decimal.exponent = decimal.exponent.saturating_sub(i32::from(in_fraction));
            } else if !in_fraction {
                decimal.exponent = decimal.exponent.saturating_add(1);
            }
        }
        if negative {
            decimal.digits = -decimal.digits;
        }
        Some(decimal)
    }

    /// Times ten to the `power`, what is below one cut off; `None` where it is too large.
    fn scaled(self, power: i32) -> Option<i128> {
        let exponent = self.exponent.saturating_add(power);
        if self.digits == 0 {
            return Some(0);
        }
        match u32::try_from(exponent) {
            Ok(up) => 10i128.checked_pow(up)?.checked_mul(self.digits),
            Err(_) => Some(
                10i128
                    .checked_pow(exponent.unsigned_abs())
                    .map_or(0, |down| self.digits.div_euclid(down)),
            ),
        }
    }

    /// What the number counts if it is a time of our days.
    fn power_by_magnitude(self) -> i32 {
        const TOO_LARGE: i128 = i128::MAX;
        match self.scaled(0).map_or(TOO_LARGE, i128::abs) {
            0..100_000_000_000 => 9,
            100_000_000_000..100_000_000_000_000 => 6,
            100_000_000_000_000..100_000_000_000_000_000 => 3,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::decode::Float, *};

    /// 2026-03-01T12:00:00Z.
    const RECEIVED: Timestamp = Timestamp::from_millis(1_772_366_400_000);

    fn plausible(nanos: i64, fine: bool) -> Said {
        Said::Plausible {
            at: Timestamp::from_nanos(nanos),
            fine,
        }
    }

    fn literal(text: &str) -> Node<'_> {
        Node::Float(Float {
            value: text.parse().unwrap(),
            literal: Some(text.into()),
        })
    }

    #[test]
    fn the_magnitude_tells_the_unit() {
        for (number, nanos, fine) in [
            (1_772_366_390, 1_772_366_390_000_000_000, false),
            (1_772_366_390_123, 1_772_366_390_123_000_000, true),
            (1_772_366_390_123_456, 1_772_366_390_123_456_000, true),
            (1_772_366_390_123_456_789, 1_772_366_390_123_456_789, true),
        ] {
            let expect = Ok(plausible(nanos, fine));
            assert_eq!(
                read(&Node::Int(number), Unit::Auto, None, RECEIVED),
                expect,
                "{number}"
            );
            assert_eq!(
                read(
                    &Node::Text(number.to_string().into()),
                    Unit::Auto,
                    None,
                    RECEIVED
                ),
                expect,
                "{number} as text"
            );
        }
    }

    #[test]
    fn every_digit_of_a_decimal_time_counts() {
        for (text, nanos) in [
            ("1772366390.123456789", 1_772_366_390_123_456_789),
            ("1772366390.1234567891", 1_772_366_390_123_456_789),
            ("1.772366390123456789e9", 1_772_366_390_123_456_789),
            ("1772366390123.456789", 1_772_366_390_123_456_789),
            ("17723663901234567.89e-7", 1_772_366_390_123_456_789),
        ] {
            assert_eq!(
                read(&literal(text), Unit::Auto, None, RECEIVED),
                Ok(plausible(nanos, true)),
                "{text}"
            );
        }
        assert_eq!(
            read(
                &Node::Float(Float {
                    value: 1_772_366_390.25,
                    literal: None
                }),
                Unit::Auto,
                None,
                RECEIVED
            ),
            Ok(plausible(1_772_366_390_250_000_000, true))
        );
        assert_eq!(
            read(&literal("1772366390.000"), Unit::Auto, None, RECEIVED),
            Ok(plausible(1_772_366_390_000_000_000, false))
        );
    }

    #[test]
    fn text_is_rfc_3339_with_an_offset() {
        for (text, nanos, fine) in [
            ("2026-03-01T11:59:50Z", 1_772_366_390_000_000_000, false),
            (
                "2026-03-01T17:29:50+05:30",
                1_772_366_390_000_000_000,
                false,
            ),
            ("2026-03-01 11:59:50.5Z", 1_772_366_390_500_000_000, true),
            (
                "2026-03-01T12:59:50.1234567899999+01:00",
                1_772_366_390_123_456_789,
                true,
            ),
            // So a clock of whole seconds is written where milliseconds are usual.
            ("2026-03-01T11:59:50.000Z", 1_772_366_390_000_000_000, false),
        ] {
            assert_eq!(
                read(&Node::Text(text.into()), Unit::Auto, None, RECEIVED),
                Ok(plausible(nanos, fine)),
                "{text}"
            );
            assert_eq!(
                read(&Node::Text(text.into()), Unit::Rfc3339, None, RECEIVED),
                Ok(plausible(nanos, fine)),
                "{text}"
            );
        }
        for text in [
            "2026-03-01T17:29:50.5",
            "2026-03-01",
            "yesterday",
            "11:59",
            "1e",
            "1.",
            "--1",
        ] {
            assert_eq!(
                read(&Node::Text(text.into()), Unit::Auto, None, RECEIVED)
                    .unwrap_err()
                    .class,
                Class::Type,
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_not_believed_but_no_error() {
        for node in [
            Node::Int(0),
            Node::Int(-1),
            Node::Int(12_345),
            Node::Int(4_102_444_800_000),
            Node::Int(i64::MIN),
            Node::UInt(u64::MAX),
            Node::Float(Float {
                value: f64::NAN,
                literal: None,
            }),
            Node::Float(Float {
                value: 1e300,
                literal: None,
            }),
            literal("1e-300"),
            literal("-0.0"),
            Node::Text("1970-01-01T00:00:10Z".into()),
            Node::Text("1e2147483647".into()),
            Node::Text("99999999999999999999999999999999999999999999999999".into()),
        ] {
            assert_eq!(
                read(&node, Unit::Auto, None, RECEIVED),
                Ok(Said::Implausible),
                "{node:?}"
            );
        }
        let tomorrow = RECEIVED.as_nanos() + AHEAD_NANOS_MAX;
        assert_eq!(
            read(&Node::Int(tomorrow), Unit::Nanos, None, RECEIVED),
            Ok(plausible(tomorrow, true))
        );
        assert_eq!(
            read(&Node::Int(tomorrow + 1), Unit::Nanos, None, RECEIVED),
            Ok(Said::Implausible)
        );
        assert_eq!(
            read(&Node::Int(253_402_300_800), Unit::Seconds, None, RECEIVED),
            Ok(Said::Implausible)
        );
    }

    #[test]
    fn null_and_empty_are_no_time_and_other_kinds_are_errors() {
        assert_eq!(
            read(&Node::Null, Unit::Auto, None, RECEIVED),
            Ok(Said::Nothing)
        );
        assert_eq!(
            read(&Node::Text(" ".into()), Unit::Auto, None, RECEIVED),
            Ok(Said::Nothing)
        );
        for node in [
            Node::Bool(true),
            Node::Array(vec![]),
            Node::Map(vec![]),
            Node::Bytes(vec![1].into()),
        ] {
            assert_eq!(
                read(&node, Unit::Auto, None, RECEIVED).unwrap_err().class,
                Class::Type
            );
        }
        assert_eq!(
            read(&Node::Int(5), Unit::Rfc3339, None, RECEIVED)
                .unwrap_err()
                .class,
            Class::Type
        );
    }

    #[test]
    fn local_times_are_those_of_the_zone_and_doubtful_ones_are_not_believed() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let read = |text: &str, zone| {
            let read = read(
                &Node::Text(text.to_owned().into()),
                Unit::Auto,
                zone,
                RECEIVED,
            );
            read.map_err(|reject| reject.class)
        };
        let summer = 1_751_364_000_500_000_000;
        let zone = Some(&zone);
        assert_eq!(
            read("2025-07-01T12:00:00.5", zone),
            Ok(plausible(summer, true))
        );
        assert_eq!(
            read("2025-07-01 12:00:00.5", zone),
            Ok(plausible(summer, true))
        );
        // An offset of its own counts.
        assert_eq!(
            read("2025-07-01T10:00:00.5Z", zone),
            Ok(plausible(summer, true))
        );
        // Clocks show the first twice and the second never.
        assert_eq!(read("2025-10-26T02:30:00.5", zone), Ok(Said::Implausible));
        assert_eq!(read("2025-03-30T02:30:00.5", zone), Ok(Said::Implausible));
        for text in ["2025-07-01T12:00:00.5", "2025-07-01", "12:00:00", "soon"] {
            assert_eq!(read(text, None), Err(Class::Type), "{text}");
        }
        for text in ["2025-07-01", "12:00:00", "soon"] {
            assert_eq!(read(text, zone), Err(Class::Type), "{text}");
        }
    }

    #[test]
    fn devices_are_believed_while_the_gateway_does_not_know_the_time() {
        let booted = Timestamp::from_millis(30_000);
        let now = i128::from(RECEIVED.as_nanos());
        let at = RECEIVED;
        assert_eq!(
            said(Some(now), true, booted),
            Said::Plausible { at, fine: true }
        );
        assert_eq!(said(Some(31_000_000_000), true, booted), Said::Implausible);
    }

    proptest! {
        #[test]
        fn times_of_our_days_are_read_back_exactly(nanos in PLAUSIBLE_FROM.as_nanos()..RECEIVED.as_nanos()) {
            let seconds = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
            let millis = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
            for text in [&seconds, &millis] {
                let Ok(Said::Plausible { at, .. }) = read(&literal(text), Unit::Auto, None, RECEIVED) else {
                    return Err(TestCaseError::fail(format!("{text} is no time")));
                };
                prop_assert_eq!(at.as_nanos(), nanos);
            }
        }

        #[test]
        fn any_text_is_a_time_or_a_reason(text in "[0-9.eE+:TZ -]{0,60}") {
            let _either = read(&Node::Text(text.into()), Unit::Auto, None, RECEIVED);
        }
    }
}
