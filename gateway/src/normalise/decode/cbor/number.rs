//! Numbers of CBOR beyond the plain ones: integers as bytes, and fractions.

use std::borrow::Cow;

use super::{
    super::{Fault, Float, json},
    ARRAY, BYTES, Head, NEGATIVE, Node, POSITIVE, Parser, Reject, TAG,
};

/// An integer.
#[derive(Clone, Copy)]
pub(super) enum Whole {
    /// Of 64 bits, with or without a sign.
    Exact(i128),
    /// Beyond them, where that is taken.
    Near(f64),
}

impl<'a> Parser<'a> {
    /// An integer as bytes (section 3.4.3), behind its tag. It may have leading zeros, and
    /// need not be one that is too large for less.
    pub(super) fn big(&mut self, negative: bool) -> Result<Whole, Reject> {
        self.budget.take()?;
        let head = self.head()?;
        if head.major != BYTES {
            return Err(self.bytes.syntax("a big integer that is not bytes"));
        }
        let bytes = self.bytes(head.argument)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = &bytes[zeros..];
        if digits.len() <= size_of::<u64>() {
            let size = digits.iter().fold(0, |n, byte| n << 8 | i128::from(*byte));
            return self.whole(if negative { -1 - size } else { size });
        }
        if !self.budget.lenient.allows(Fault::BigIntegers) {
            return Err(json::beyond_64_bits());
        }
        let size = digits
            .iter()
            .fold(0.0, |n, byte| n * 256.0 + f64::from(*byte));
        Ok(Whole::Near(if negative { -1.0 - size } else { size }))
    }

    /// An integer that is written in one of the three ways there are; `None` where it is
    /// something else.
    fn integer(&mut self) -> Result<Option<Whole>, Reject> {
        self.budget.take()?;
        let head = self.head()?;
        match (head.major, head.argument) {
            (POSITIVE, _) => Ok(Some(Whole::Exact(self.definite(&head)?.into()))),
            (NEGATIVE, _) => self.negative(&head).map(Some),
            (TAG, Some(sign @ (2 | 3))) => self.big(sign == 3).map(Some),
            _ => Ok(None),
        }
    }

    /// The exponent of a fraction: large ones are no use.
    fn exponent(&mut self) -> Result<Option<i64>, Reject> {
        self.budget.take()?;
        let head = self.head()?;
        let exponent = match head.major {
            POSITIVE => i64::try_from(self.definite(&head)?).ok(),
            NEGATIVE => i64::try_from(self.definite(&head)?).ok().map(|n| !n),
            _ => None,
        };
        Ok(exponent)
    }

    /// -1 less the argument.
    pub(super) fn negative(&self, head: &Head) -> Result<Whole, Reject> {
        self.whole(-1 - i128::from(self.definite(head)?))
    }

    /// An integer, exact in 64 bits, or the nearest float where that is taken.
    fn whole(&self, n: i128) -> Result<Whole, Reject> {
        #[expect(clippy::cast_precision_loss, reason = "as near as one can be")]
        match i64::try_from(n).is_ok() || u64::try_from(n).is_ok() {
            true => Ok(Whole::Exact(n)),
            false if self.budget.lenient.allows(Fault::BigIntegers) => Ok(Whole::Near(n as f64)),
            false => Err(json::beyond_64_bits()),
        }
    }

    pub(super) fn node(&self, whole: Whole) -> Result<Node<'a>, Reject> {
        match whole {
            Whole::Exact(n) => exact(n).ok_or_else(json::beyond_64_bits),
            Whole::Near(value) => self.finite(value, None),
        }
    }

    /// An exponent of 10 or of 2 and a mantissa (section 3.4.4), behind their tag.
    pub(super) fn fraction(&mut self, decimal: bool, depth: usize) -> Result<Node<'a>, Reject> {
        let wrong = "not an exponent and a mantissa";
        self.budget.enter(depth)?;
        self.budget.take()?;
        let head = self.head()?;
        if head.major != ARRAY || !matches!(head.argument, None | Some(2)) {
            return Err(self.bytes.syntax(wrong));
        }
        let Some(exponent) = self.exponent()? else {
            return Err(self.bytes.syntax(wrong));
        };
        let Some(mantissa) = self.integer()? else {
            return Err(self.bytes.syntax(wrong));
        };
        if head.argument.is_none() && !self.at_break() {
            return Err(self.bytes.syntax(wrong));
        }
        #[expect(clippy::cast_precision_loss, reason = "as near as one can be")]
        let (whole, near) = match mantissa {
            Whole::Exact(n) => (Some(n), n as f64),
            Whole::Near(value) => (None, value),
        };
        let base: i128 = if decimal { 10 } else { 2 };
        let power = u32::try_from(exponent).ok();
        let power = power.and_then(|exponent| base.checked_pow(exponent));
        let product = match whole {
            Some(0) => Some(0),
            whole => whole.zip(power).and_then(|(n, power)| n.checked_mul(power)),
        };
        if let Some(node) = product.and_then(exact) {
            return Ok(node);
        }
        if !decimal {
            return self.finite(scaled(near, exponent), None);
        }
        // Times are read from the digits: a float has too few of them.
        let literal = whole.map(|n| written(n, exponent));
        let digits = match &literal {
            Some(literal) => literal.parse(),
            None => format!("{near}e{exponent}").parse(),
        };
        self.finite(digits.unwrap_or(f64::NAN), literal)
    }

    /// A number with its digits, where there are any.
    fn finite(&self, value: f64, digits: Option<String>) -> Result<Node<'a>, Reject> {
        match value.is_finite() {
            true => Ok(Node::Float(Float {
                value,
                literal: digits.map(Cow::Owned),
            })),
            false if self.budget.lenient.allows(Fault::Nan) => Ok(json::NAN),
            false => Err(json::too_large()),
        }
    }
}

/// An integer that fits 64 bits.
fn exact(n: i128) -> Option<Node<'static>> {
    let signed = i64::try_from(n).map(Node::Int);
    let exact = signed.or_else(|_| u64::try_from(n).map(Node::UInt));
    exact.ok()
}

/// A decimal fraction in digits, as people write it where that is not long.
fn written(mantissa: i128, exponent: i64) -> String {
    /// Digits behind the point, at most.
    const PLACES_MAX: usize = 40;
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(usize::MAX);
    if exponent >= 0 || places > PLACES_MAX {
        return format!("{mantissa}e{exponent}");
    }
    let digits = format!("{:0>width$}", mantissa.unsigned_abs(), width = places + 1);
    let (whole, rest) = digits.split_at(digits.len() - places);
    let sign = if mantissa < 0 { "-" } else { "" };
    format!("{sign}{whole}.{rest}")
}

/// A float times two to the power.
fn scaled(float: f64, exponent: i64) -> f64 {
    // Beyond this there is only zero, or nothing finite.
    let exponent = i32::try_from(exponent.clamp(-2_200, 2_200)).expect("it was just clamped");
    // In two steps, because a power alone may be out of range where the product is not.
    let half = exponent / 2;
    float * 2f64.powi(half) * 2f64.powi(exponent - half)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::Lenient, decode, float},
        *,
    };

    fn class(bytes: &[u8]) -> Result<(), &'static str> {
        decode(bytes, Lenient::STRICT)
            .map(|_| ())
            .map_err(|reject| reject.class.as_str())
    }

    #[test]
    fn a_fraction_is_one_number() {
        for (bytes, node) in [
            // Both of the RFC's, 273.15 and 1.5.
            (&b"\xc4\x82\x21\x19\x6a\xb3"[..], float(273.15)),
            (b"\xc5\x82\x20\x03", float(1.5)),
            (b"\xc4\x82\x20\x39\x01\xf3", float(-50.0)),
            (b"\xc4\x82\x02\x05", Node::Int(500)),
            (
                b"\xc4\x82\0\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
                Node::UInt(u64::MAX),
            ),
            (b"\xc5\x82\x18\x3e\x03", Node::UInt(3 << 62)),
            (b"\xc4\x82\x18\x1e\x01", float(1e30)),
            (b"\xc4\x82\x39\x01\xf3\x01", float(0.0)),
            (b"\xc5\x82\x39\x04\x31\x01", float(5e-324)),
            (b"\xc5\x82\x39\x0f\xff\x01", float(0.0)),
            (b"\xc4\x9f\x20\x01\xff", float(0.1)),
            // A mantissa as bytes that need not be.
            (b"\xc4\x82\x21\xc2\x43\0\x6a\xb3", float(273.15)),
            (b"\xc5\x82\x20\xc3\x41\x02", float(-1.5)),
            (b"\xc5\x82\x19\xff\xff\0", Node::Int(0)),
        ] {
            assert_eq!(decode(bytes, Lenient::STRICT), Ok(node), "{bytes:x?}");
        }
        for (bytes, expect) in [
            (&b"\xc4\x01"[..], "syntax"),
            (b"\xc4\x81\x01", "syntax"),
            (b"\xc4\x83\x01\x01\x01", "syntax"),
            (b"\xc4\x82\xf9\x3c\0\x01", "syntax"),
            (b"\xc4\x82\x01\x61\x31", "syntax"),
            // The mantissa is an integer: no float, and no fraction.
            (b"\xc4\x82\x20\xf9\x3e\0", "syntax"),
            (b"\xc4\x82\0\xf9\x7e\0", "syntax"),
            (b"\xc4\x82\x20\xc4\x82\x20\x01", "syntax"),
            (b"\xc5\x82\x20\xc5\x82\x20\x03", "syntax"),
            (b"\xc4\x82\x20\xc1\x01", "syntax"),
            (b"\xc4\x82\xc2\x41\x01\x01", "syntax"),
            (b"\xc4\xa1\x01\x01", "syntax"),
            (b"\xc4\x9f\x20\x01\x01\xff", "syntax"),
            (b"\xc4\x9f\x20\xff", "syntax"),
            (b"\xc4\x82\x20\xc2\x61\x31", "syntax"),
            (b"\xc4\x82\x19\x01\xf4\x01", "range"),
            (b"\xc5\x82\x19\x04\0\x01", "range"),
            (b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", "range"),
            (b"\xc4\x82\x01\xc2\x49\x01\0\0\0\0\0\0\0\0", "range"),
        ] {
            assert_eq!(class(bytes), Err(expect), "{bytes:x?}");
        }
    }

    #[test]
    fn an_integer_as_bytes_is_that_integer() {
        let big = |tag: u8, bytes: &[u8]| {
            let head = [tag, 0x40 | u8::try_from(bytes.len()).unwrap()];
            [&head[..], bytes].concat()
        };
        for (bytes, node) in [
            (big(0xc2, b""), Node::Int(0)),
            (big(0xc2, b"\x05"), Node::Int(5)),
            (big(0xc2, &[0; 20]), Node::Int(0)),
            (big(0xc2, b"\0\0\0\0\0\0\0\0\0\0\x01\0"), Node::Int(256)),
            (big(0xc2, &[0xff; 8]), Node::UInt(u64::MAX)),
            (big(0xc3, b""), Node::Int(-1)),
            (big(0xc3, b"\x04"), Node::Int(-5)),
            (
                big(0xc3, b"\x7f\xff\xff\xff\xff\xff\xff\xff"),
                Node::Int(i64::MIN),
            ),
            (b"\xc2\x5f\x41\x01\x41\0\xff".to_vec(), Node::Int(256)),
        ] {
            assert_eq!(decode(&bytes, Lenient::STRICT), Ok(node), "{bytes:x?}");
        }
        for bytes in [
            big(0xc2, b"\x01\0\0\0\0\0\0\0\0"),
            big(0xc3, b"\x80\0\0\0\0\0\0\0"),
            big(0xc3, &[0xff; 8]),
        ] {
            assert_eq!(class(&bytes), Err("range"), "{bytes:x?}");
        }
        assert_eq!(class(b"\xc2\x01"), Err("syntax"));
        assert_eq!(class(b"\xc2\x42\x01"), Err("syntax"));
    }

    #[test]
    fn a_decimal_fraction_keeps_its_digits() {
        for (bytes, digits) in [
            // -9 and 1772366390123456789.
            (
                &b"\xc4\x82\x28\x1b\x18\x98\xb5\xd7\x67\x26\x69\x15"[..],
                "1772366390.123456789",
            ),
            (b"\xc4\x82\x21\x19\x6a\xb3", "273.15"),
            (b"\xc4\x82\x22\x24", "-0.005"),
            (b"\xc4\x82\x38\x3b\x01", "1e-60"),
            (b"\xc4\x82\x18\x1e\x01", "1e30"),
        ] {
            let node = decode(bytes, Lenient::STRICT).unwrap();
            let Node::Float(Float { literal, .. }) = node else {
                panic!("{bytes:x?}: {node:?}");
            };
            assert_eq!(literal.as_deref(), Some(digits), "{bytes:x?}");
        }
    }
}
