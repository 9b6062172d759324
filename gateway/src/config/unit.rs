//! Durations and sizes as people write them.

use std::{fmt, time::Duration};

/// The units of durations, in milliseconds.
const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// The units of sizes, in bytes.
const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a number and a unit: 500ms, 30s, 5m, 24h or 7d")]
pub struct NotADuration;

/// Text that is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size is a number and a unit: 512KiB, 256MiB, 1GiB, or 1GB for a thousand million bytes")]
pub struct NotASize;

/// Reads a duration such as `30s`.
///
/// # Errors
/// When `text` is not a whole number and a unit.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    parse(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or(NotADuration)
}

/// Reads a size such as `256MiB`.
///
/// # Errors
/// When `text` is not a whole number and a unit.
pub fn parse_size(text: &str) -> Result<u64, NotASize> {
    parse(text, &SIZES).ok_or(NotASize)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(word, _)| *word == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A duration as one would write it.
pub(super) struct Written(pub(super) Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write(millis, &DURATIONS, f)
    }
}

/// A size as one would write it.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(
            self.0,
            &[
                ("B", 1),
                ("KiB", 1 << 10),
                ("MiB", 1 << 20),
                ("GiB", 1 << 30),
            ],
            f,
        )
    }
}

/// In the largest unit that leaves no remainder.
fn write(number: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |factor: u64| number > 0 && number.is_multiple_of(factor);
    let (unit, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| fits(*factor))
        .unwrap_or(&units[0]);
    write!(f, "{}{unit}", number / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_that_is_known() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("7d", 604_800_000),
            (" 5 m ", 300_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "1S",
            "99999999999999999999d",
            "30s ago",
            "never",
        ] {
            assert_eq!(parse_duration(text), Err(NotADuration), "{text}");
        }
        for (text, bytes) in [
            ("1B", 1),
            ("256MiB", 256 << 20),
            ("1GB", 1_000_000_000),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "12",
            "MiB",
            "1mib",
            "1M",
            "1.5GiB",
            "99999999999999GiB",
            "a lot",
        ] {
            assert_eq!(parse_size(text), Err(NotASize), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in 0u64..1 << 53) {
            let duration = Duration::from_millis(number);
            prop_assert_eq!(parse_duration(&Written(duration).to_string()), Ok(duration));
            prop_assert_eq!(parse_size(&Bytes(number).to_string()), Ok(number));
        }
    }
}
