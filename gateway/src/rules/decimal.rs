//! Numbers as they are written, compared exactly at any size.
//!
//! A double cannot tell nanosecond stamps or 64-bit counters apart, and an event
//! whose number is off by one must not match. So numbers are decimals here: a sign,
//! digits without zeros at either end, and where the point stands.

use std::cmp::Ordering;

/// Digits of [`Decimal::head`].
const HEAD_DIGITS: usize = 19;

/// What [`Decimal::about`] may be off by, of a number and beside it, with room to spare.
pub(super) const NEAR: (f64, f64) = (1e-9, 1e-270);

/// A decimal number. Equal values are equal whatever way they were written:
/// `300`, `300.0` and `3e2` are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Decimal {
    negative: bool,
    /// The value is 0.d₁d₂d₃… × 10^exponent; 0 for zero.
    exponent: i64,
    /// The first digits, as if there were always 19; 0 for zero.
    head: u64,
    /// The digits after those, each as its value, the last not 0.
    rest: Option<Box<[u8]>>,
}

impl Decimal {
    /// The exponents of numbers that a pattern may name. Beyond it, what is in an
    /// event is larger, or closer to zero, than any of them, and that is all that is known.
    pub(super) const EXPONENT_MAX: i64 = 1 << 40;

    const ZERO: Self = Self {
        negative: false,
        exponent: 0,
        head: 0,
        rest: None,
    };

    /// Reads a number as JSON writes it (RFC 8259, section 6).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (mut exponent, mut head, mut count) = (0_i64, 0_u64, 0_usize);
        let mut rest = Vec::new();
        let (mut after_point, mut any) = (false, false);
        let mut bytes = digits.bytes().enumerate();
        let mut written = 0;
        for (at, byte) in &mut bytes {
            match byte {
                b'0'..=b'9' => {
                    any = true;
                    let digit = byte - b'0';
                    if head == 0 && digit == 0 {
                        exponent -= i64::from(after_point);
                        continue;
                    }
                    exponent += i64::from(!after_point);
                    if count < HEAD_DIGITS {
                        head = head * 10 + u64::from(digit);
                        count += 1;
                    } else {
                        rest.push(digit);
                    }
                }
                b'.' if !after_point => after_point = true,
                b'e' | b'E' => {
                    written = power(&digits[at + 1..])?;
                    break;
                }
                _ => return None,
            }
        }
        if !any {
            return None;
        }
        if head == 0 {
            return Some(Self::ZERO);
        }
        while rest.last() == Some(&0) {
            rest.pop();
        }
        Some(Self {
            negative,
            exponent: exponent.saturating_add(written),
            head: head * 10_u64.pow(u32::try_from(HEAD_DIGITS - count).ok()?),
            rest: (!rest.is_empty()).then(|| rest.into_boxed_slice()),
        })
    }

    /// The shortest decimal that reads as `x`, which is what [`crate::event::json`]
    /// writes; `None` where there is none.
    pub(super) fn from_f64(x: f64) -> Option<Self> {
        if !x.is_finite() {
            return None;
        }
        Self::parse(zmij::Buffer::new().format_finite(x))
    }

    fn from_magnitude(negative: bool, magnitude: u64) -> Self {
        let Some(log) = magnitude.checked_ilog10() else {
            return Self::ZERO;
        };
        let digits = log + 1;
        let (head, last) = if digits > 19 {
            (magnitude / 10, magnitude % 10)
        } else {
            (magnitude * 10_u64.pow(19 - digits), 0)
        };
        let last = u8::try_from(last).unwrap_or(0);
        Self {
            negative,
            exponent: i64::from(digits),
            head,
            rest: (last != 0).then(|| Box::from([last])),
        }
    }

    /// Whether a pattern may name it.
    pub(super) fn is_in_reach(&self) -> bool {
        self.exponent.abs() <= Self::EXPONENT_MAX
    }

    /// A double near it, never in another order than the numbers themselves by more
    /// than [`NEAR`] says: for leaving out what is far away.
    pub(super) fn about(&self) -> f64 {
        const POWER_MAX: i64 = 280;
        let magnitude = match self.exponent {
            exponent if exponent < -POWER_MAX => 0.0,
            exponent if exponent > POWER_MAX => 1e281,
            exponent => {
                let power = i32::try_from(exponent).unwrap_or(0);
                // Between 0.1 and 1, times the power.
                #[expect(clippy::cast_precision_loss, reason = "it is about")]
                let fraction = self.head as f64 / 1e19;
                fraction * 10_f64.powi(power)
            }
        };
        if self.negative { -magnitude } else { magnitude }
    }

    /// Whether it is below zero.
    pub(super) const fn is_negative(&self) -> bool {
        self.negative
    }

    /// Its digits without zeros at the end, none for zero, and how many of them stand
    /// before the point.
    pub(super) fn digits(&self) -> (String, i64) {
        if self.head == 0 {
            return (String::new(), 0);
        }
        let mut digits = format!("{:019}", self.head);
        let rest = self.rest.iter().flatten();
        digits.extend(rest.map(|digit| char::from(b'0' + digit)));
        digits.truncate(digits.trim_end_matches('0').len());
        (digits, self.exponent)
    }

    /// How it lies to zero.
    fn sign(&self) -> i8 {
        match (self.head, self.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        }
    }
}

impl From<i64> for Decimal {
    fn from(n: i64) -> Self {
        Self::from_magnitude(n < 0, n.unsigned_abs())
    }
}

impl From<u64> for Decimal {
    fn from(n: u64) -> Self {
        Self::from_magnitude(false, n)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitude = || {
            let of = |d: &Self| (d.exponent, d.head);
            of(self)
                .cmp(&of(other))
                .then_with(|| self.rest.cmp(&other.rest))
        };
        self.sign()
            .cmp(&other.sign())
            .then_with(|| match self.negative {
                true => magnitude().reverse(),
                false => magnitude(),
            })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A power of ten: beyond 64 bits it stays at their end.
fn power(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().split_first()? {
        (b'-', digits) => (true, digits),
        (b'+', digits) => (false, digits),
        _ => (false, text.as_bytes()),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let power = digits.iter().fold(0_i64, |power, digit| {
        power
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    Some(if negative { -power } else { power })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn one_value_is_one_decimal_however_it_is_written() {
        for (one, other) in [
            ("300", "3.0e2"),
            ("300", "3000e-1"),
            ("0", "-0.0"),
            ("0", "0e999999999999999999999"),
            ("0.1", "0.100000"),
            ("1e-12", "0.000000000001"),
            ("-40", "-4E+1"),
            (
                "123456789012345678901234567890",
                "1.2345678901234567890123456789e29",
            ),
            ("100000000000000000000000000", "1e26"),
        ] {
            assert_eq!(d(one), d(other));
            assert_eq!(d(one).cmp(&d(other)), Ordering::Equal);
        }
    }

    #[test]
    fn decimals_stand_in_order_at_any_size() {
        let order = [
            "-1e99999999999999999999",
            "-1e400",
            "-9007199254740993",
            "-9007199254740992",
            "-10.00001",
            "-10",
            "-0.5",
            "-1e-400",
            "0",
            "1e-99999999999999999999",
            "1e-400",
            "0.1",
            "0.10000000000000001",
            "0.100000000000000010000000000001",
            "1",
            "1764000000123456788",
            "1764000000123456789",
            "18446744073709551615",
            "18446744073709551616",
            "1e400",
            "1e99999999999999999999",
        ];
        for pair in order.windows(2) {
            assert_eq!(d(pair[0]).cmp(&d(pair[1])), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_none() {
        for text in ["", "-", "1.2.3", "1e", "1e+", "0x1", "e5", ".", "1 "] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_are_the_same_as_their_text(a in any::<i64>(), b in any::<u64>()) {
            prop_assert_eq!(Decimal::from(a), d(&a.to_string()));
            prop_assert_eq!(Decimal::from(b), d(&b.to_string()));
        }

        #[test]
        fn integers_and_decimals_agree_about_order(a in any::<i128>(), b in any::<i128>(), near in -3_i128..3) {
            prop_assert_eq!(d(&a.to_string()).cmp(&d(&b.to_string())), a.cmp(&b));
            let c = a.saturating_add(near);
            prop_assert_eq!(d(&a.to_string()).cmp(&d(&c.to_string())), a.cmp(&c));
        }

        #[test]
        fn doubles_and_decimals_agree_about_order(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            let of = |x| Decimal::from_f64(x).unwrap();
            prop_assert_eq!(Some(of(a).cmp(&of(b))), a.partial_cmp(&b));
        }

        #[test]
        fn about_a_number_is_near_it(a in any::<i64>(), b in any::<i64>(), e in -340_i32..340, f in -340_i32..340) {
            let (a, b) = (d(&format!("{a}e{e}")), d(&format!("{b}e{f}")));
            let slack = |x: f64| x.abs() * NEAR.0 + NEAR.1;
            if a <= b {
                prop_assert!(a.about() - slack(a.about()) <= b.about() + slack(b.about()));
            }
        }

        #[test]
        fn moving_the_point_and_the_power_changes_nothing(n in any::<i64>(), by in 0_usize..30) {
            let text = format!("{n}{}e-{by}", "0".repeat(by));
            prop_assert_eq!(d(&text), Decimal::from(n));
        }
    }
}
