//! Units of measurement: which there are, which are alike, and how to get from one
//! to another.
//!
//! Codes are those of UCUM (<https://ucum.org/ucum>), case-sensitive: `Cel`, `[degF]`,
//! `kW.h`, `m/s`, `ug/m3`, `%`. A code is read into the product of powers that it is:
//! a dimension and an exact ratio to the coherent unit of that dimension. Temperatures
//! have a zero of their own besides. Annotations in braces are carried along and mean
//! nothing, as UCUM says; a unit that is only an annotation, such as `{rev}`, is 1.
//!
//! **Exactness.** Ratios are ratios of whole numbers and are reduced before they are
//! applied, one multiplication and one division for each value; what comes out is
//! rounded to 15 significant digits, which takes the noise of binary fractions away:
//! 21.7 Cel are 294.85 K. The same unit leaves a value as it is.

mod atoms;
mod ratio;

use std::fmt;

use atoms::Meant;
use ratio::Ratio;

/// A unit code has at most so many bytes.
const CODE_BYTES_MAX: usize = 64;

/// Powers of metre, gram, second, ampere, kelvin, mole, candela, and of plane angle
/// and data, which UCUM would make pure numbers and conversions must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dimension([i8; 9]);

impl Dimension {
    const fn times(self, other: Self, power: i8) -> Option<Self> {
        let mut powers = self.0;
        let mut n = 0;
        while n < powers.len() {
            let Some(more) = other.0[n].checked_mul(power) else {
                return None;
            };
            let Some(sum) = powers[n].checked_add(more) else {
                return None;
            };
            powers[n] = sum;
            n += 1;
        }
        Some(Self(powers))
    }
}

/// A unit that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    code: Box<str>,
    dimension: Dimension,
    /// How many coherent units one of these is.
    ratio: Ratio,
    /// What this unit shows at the zero of the coherent one: only temperatures have it.
    zero: f64,
    /// Newton times metre is a torque, which is no energy though it looks like one.
    torque: bool,
}

/// Text that is no unit, or a conversion that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a code of UCUM.
    #[error("{part:?} is no UCUM unit that is known here; {instead}")]
    Unknown {
        /// The part that is not understood.
        part: String,
        /// What would be right.
        instead: String,
    },
    /// Too long, or not written as codes are.
    #[error("a unit is written as in UCUM, such as \"Cel\", \"kW.h\", \"m/s\" or \"ug/m3\": {0}")]
    Form(&'static str),
    /// The two measure different things.
    #[error("{from} measures {of}, so it cannot become {to}; such a unit is {like}")]
    Unlike {
        /// The unit that is there.
        from: String,
        /// What it measures.
        of: &'static str,
        /// The unit that was asked for.
        to: String,
        /// Units that would do.
        like: String,
    },
}

impl Unit {
    /// Reads a code.
    ///
    /// # Errors
    /// When it is not one that is known here.
    pub fn parse(code: &str) -> Result<Self, Error> {
        if code.is_empty() {
            return Err(Error::Form("it is empty"));
        }
        if code.len() > CODE_BYTES_MAX {
            return Err(Error::Form("it has more than 64 bytes"));
        }
        let mut unit = Self {
            code: code.into(),
            dimension: Dimension::default(),
            ratio: Ratio::ONE,
            zero: 0.0,
            torque: false,
        };
        let parts = parts(code)?;
        let composite = parts.len() > 1;
        let (mut newton, mut metre) = (false, false);
        for (part, sign) in parts {
            let (name, power) = power(without_annotation(part)?);
            let power = sign * power;
            newton |= name == "N";
            metre |= name == "m" && power == 1;
            let Meant {
                dimension,
                ratio,
                zero,
            } = atoms::meant(name).ok_or_else(|| unknown(code, name))?;
            let alone = !composite && power == 1;
            if zero.is_some() && !alone && !name.ends_with('K') {
                return Err(Error::Form(
                    "a temperature with a zero of its own stands alone; differences are in K",
                ));
            }
            let out_of_range = || Error::Form("its powers are out of range");
            unit.dimension = unit
                .dimension
                .times(dimension, power)
                .ok_or_else(out_of_range)?;
            unit.ratio = unit.ratio.times(ratio, power).ok_or_else(out_of_range)?;
            unit.zero = zero.filter(|_| alone).unwrap_or_default();
        }
        unit.torque = newton && metre;
        Ok(unit)
    }

    /// The code as it was written.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What it measures.
    pub fn dimension(&self) -> Dimension {
        self.dimension
    }

    /// How values of this unit become values of another.
    ///
    /// # Errors
    /// When the two measure different things.
    pub fn to(&self, other: &Self) -> Result<Conversion, Error> {
        let unlike = || Error::Unlike {
            from: self.code.to_string(),
            of: measures(self),
            to: other.code.to_string(),
            like: like(self),
        };
        if self.dimension != other.dimension || self.torque != other.torque {
            return Err(unlike());
        }
        let ratio = self.ratio.times(other.ratio, -1).ok_or_else(unlike)?;
        Ok(Conversion {
            from_zero: self.zero,
            ratio,
            to_zero: other.zero,
        })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)
    }
}

/// How values of one unit become values of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    from_zero: f64,
    ratio: Ratio,
    to_zero: f64,
}

impl Conversion {
    /// Whether values stay as they are.
    pub fn is_identity(&self) -> bool {
        self.ratio == Ratio::ONE && self.from_zero.total_cmp(&self.to_zero).is_eq()
    }

    /// One value; not finite where it is too large.
    pub fn apply(&self, value: f64) -> f64 {
        if self.is_identity() {
            return value;
        }
        rounded(self.ratio.of(value - self.from_zero) + self.to_zero)
    }
}

/// To 15 significant digits, as many as a decimal keeps through a binary float.
fn rounded(value: f64) -> f64 {
    if !value.is_finite() {
        return value;
    }
    format!("{value:.14e}").parse().unwrap_or(value)
}

/// What a site prefers: of each kind of quantity the unit that its values are in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preferred {
    units: Vec<Unit>,
}

impl Preferred {
    /// The kinds of quantity, with an example of a unit of each.
    pub const QUANTITIES: [(&'static str, &'static str); 14] = [
        ("temperature", "Cel"),
        ("pressure", "hPa"),
        ("energy", "kW.h"),
        ("power", "kW"),
        ("voltage", "V"),
        ("current", "A"),
        ("length", "m"),
        ("area", "m2"),
        ("volume", "L"),
        ("mass", "kg"),
        ("speed", "m/s"),
        ("acceleration", "m/s2"),
        ("flow", "m3/h"),
        ("concentration", "ug/m3"),
    ];

    /// Prefers a unit for a kind of quantity.
    ///
    /// # Errors
    /// When the unit measures something else.
    pub fn prefer(&mut self, example: &str, unit: Unit) -> Result<(), Error> {
        Unit::parse(example)?.to(&unit)?;
        self.units.push(unit);
        Ok(())
    }

    /// Whether nothing is preferred.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The unit that values of `unit` should be in, and how they get there; `None`
    /// where the site prefers none of this kind.
    pub fn instead_of(&self, unit: &Unit) -> Option<(&Unit, Conversion)> {
        let same = self.units.iter().find(|preferred| {
            preferred.dimension == unit.dimension && preferred.torque == unit.torque
        })?;
        Some((same, unit.to(same).ok()?))
    }

    /// The same for a unit that a device wrote, such as SenML's `kWh`; one that is not
    /// understood stays.
    pub fn instead_of_code(&self, code: &str) -> Option<(&Unit, Conversion)> {
        if self.units.is_empty() {
            return None;
        }
        let unit = Unit::parse(code).or_else(|error| match atoms::written(code) {
            Some(code) => Unit::parse(code),
            None => Err(error),
        });
        self.instead_of(&unit.ok()?)
            .filter(|(instead, _)| *instead.code != *code)
    }
}

/// The factors of a code, each with the sign of its power.
fn parts(code: &str) -> Result<Vec<(&str, i8)>, Error> {
    let mut parts = Vec::new();
    let (mut from, mut sign, mut within) = (0, 1, false);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' if within => return Err(Error::Form("braces are within braces")),
            b'{' => within = true,
            b'}' if !within => return Err(Error::Form("a brace is not opened")),
            b'}' => within = false,
            b'(' | b')' if !within => {
                return Err(Error::Form("write it without parentheses"));
            }
            b'.' | b'/' if !within => {
                match &code[from..at] {
                    // "/min" has nothing before the slash.
                    "" if at == 0 && byte == b'/' => {}
                    "" => return Err(Error::Form("a factor is missing")),
                    part => parts.push((part, sign)),
                }
                sign = if byte == b'/' { -1 } else { 1 };
                from = at + 1;
            }
            _ => {}
        }
    }
    if within {
        return Err(Error::Form("a brace is not closed"));
    }
    match &code[from..] {
        "" => Err(Error::Form("a factor is missing")),
        part => {
            parts.push((part, sign));
            Ok(parts)
        }
    }
}

/// A factor without what it says of itself; "1" where that was all.
fn without_annotation(part: &str) -> Result<&str, Error> {
    match part.split_once('{') {
        None => Ok(part),
        Some((_, after)) if !after.ends_with('}') => {
            Err(Error::Form("braces stand at the end of a factor"))
        }
        Some(("", _)) => Ok("1"),
        Some((name, _)) => Ok(name),
    }
}

/// A factor and its power: `m3` is `m` to the third, `s-1` one by `s`.
fn power(part: &str) -> (&str, i8) {
    let is_power = |c: char| c.is_ascii_digit() || c == '-' || c == '+';
    let name = part.trim_end_matches(is_power);
    // "10*3" and plain numbers are atoms with digits of their own.
    if name.is_empty() || name.ends_with(['*', '^']) {
        return (part, 1);
    }
    match part[name.len()..].parse() {
        Ok(power) if power != 0 => (name, power),
        _ => (part, 1),
    }
}

/// What would be right instead of a code that is not known.
fn unknown(code: &str, part: &str) -> Error {
    let instead = match atoms::meant_by(part) {
        Some(right) => format!("did you mean {right:?}?"),
        None => format!(
            "write {:?} for one that is only passed on",
            format!("{{{code}}}")
        ),
    };
    Error::Unknown {
        part: part.to_owned(),
        instead,
    }
}

fn quantity(unit: &Unit) -> Option<&'static str> {
    let alike = |example: &str| {
        Unit::parse(example)
            .is_ok_and(|one| one.dimension == unit.dimension && one.torque == unit.torque)
    };
    let mut known = Preferred::QUANTITIES.iter();
    known
        .find(|(_, example)| alike(example))
        .map(|(name, _)| *name)
}

fn measures(unit: &Unit) -> &'static str {
    match quantity(unit) {
        Some(name) => name,
        None if unit.torque => "torque",
        None if unit.dimension == Dimension::default() => "a pure number",
        None => "something else",
    }
}

/// Codes that measure the same, for messages.
fn like(unit: &Unit) -> String {
    let alike = atoms::EXAMPLES.iter().filter(|code| {
        Unit::parse(code)
            .is_ok_and(|one| one.dimension == unit.dimension && one.torque == unit.torque)
    });
    let codes: Vec<_> = alike.map(|code| format!("{code:?}")).take(6).collect();
    match codes.is_empty() {
        true => format!("{:?} itself", unit.code()),
        false => codes.join(", "),
    }
}

#[cfg(test)]
mod tests;
