//! The units that others are made of, with what each of them is, and the prefixes
//! that may stand before the metric ones.
//!
//! Values are those of the SI brochure and of UCUM's table; all of them are exact but
//! the radian, which is a ratio of 180 to pi to 18 digits.

use super::{Dimension, Ratio};

/// What a factor of a code is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meant {
    pub(super) dimension: Dimension,
    pub(super) ratio: Ratio,
    /// What it shows at 0 Cel, where it is a scale of temperature.
    pub(super) zero: Option<f64>,
}

/// A unit of the table: its code, whether prefixes may stand before it, its powers, and
/// the ratio of whole numbers that it is of the coherent unit.
struct Atom(&'static str, bool, [i8; 9], u128, u128);

const NONE: [i8; 9] = [0; 9];
const METRE: [i8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];
const GRAM: [i8; 9] = [0, 1, 0, 0, 0, 0, 0, 0, 0];
const SECOND: [i8; 9] = [0, 0, 1, 0, 0, 0, 0, 0, 0];
const AMPERE: [i8; 9] = [0, 0, 0, 1, 0, 0, 0, 0, 0];
const KELVIN: [i8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 0];
const ANGLE: [i8; 9] = [0, 0, 0, 0, 0, 0, 0, 1, 0];
const DATA: [i8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
const AREA: [i8; 9] = [2, 0, 0, 0, 0, 0, 0, 0, 0];
const VOLUME: [i8; 9] = [3, 0, 0, 0, 0, 0, 0, 0, 0];
const PER_TIME: [i8; 9] = [0, 0, -1, 0, 0, 0, 0, 0, 0];
const SPEED: [i8; 9] = [1, 0, -1, 0, 0, 0, 0, 0, 0];
const FORCE: [i8; 9] = [1, 1, -2, 0, 0, 0, 0, 0, 0];
const PRESSURE: [i8; 9] = [-1, 1, -2, 0, 0, 0, 0, 0, 0];
const ENERGY: [i8; 9] = [2, 1, -2, 0, 0, 0, 0, 0, 0];
const POWER: [i8; 9] = [2, 1, -3, 0, 0, 0, 0, 0, 0];

/// The coherent unit of mass is the gram here, so what is defined by the kilogram is a
/// thousand of it.
const ATOMS: [Atom; 66] = [
    Atom("1", false, NONE, 1, 1),
    Atom("%", false, NONE, 1, 100),
    Atom("[ppth]", false, NONE, 1, 1_000),
    Atom("[ppm]", false, NONE, 1, 1_000_000),
    Atom("[ppb]", false, NONE, 1, 1_000_000_000),
    Atom("m", true, METRE, 1, 1),
    Atom("[in_i]", false, METRE, 254, 10_000),
    Atom("[ft_i]", false, METRE, 3_048, 10_000),
    Atom("[yd_i]", false, METRE, 9_144, 10_000),
    Atom("[mi_i]", false, METRE, 1_609_344, 1_000),
    Atom("[nmi_i]", false, METRE, 1_852, 1),
    Atom("g", true, GRAM, 1, 1),
    Atom("t", false, GRAM, 1_000_000, 1),
    Atom("[lb_av]", false, GRAM, 45_359_237, 100_000),
    Atom("[oz_av]", false, GRAM, 45_359_237, 1_600_000),
    Atom("s", true, SECOND, 1, 1),
    Atom("min", false, SECOND, 60, 1),
    Atom("h", false, SECOND, 3_600, 1),
    Atom("d", false, SECOND, 86_400, 1),
    Atom("wk", false, SECOND, 604_800, 1),
    Atom("A", true, AMPERE, 1, 1),
    Atom("K", true, KELVIN, 1, 1),
    Atom("mol", true, [0, 0, 0, 0, 0, 1, 0, 0, 0], 1, 1),
    Atom("cd", true, [0, 0, 0, 0, 0, 0, 1, 0, 0], 1, 1),
    Atom("deg", false, ANGLE, 1, 1),
    Atom(
        "rad",
        true,
        ANGLE,
        57_295_779_513_082_320_877,
        1_000_000_000_000_000_000,
    ),
    Atom("gon", false, ANGLE, 9, 10),
    Atom("circ", false, ANGLE, 360, 1),
    Atom("bit", true, DATA, 1, 1),
    Atom("By", true, DATA, 8, 1),
    Atom("ar", true, AREA, 100, 1),
    Atom("[sft_i]", false, AREA, 9_290_304, 100_000_000),
    Atom("l", true, VOLUME, 1, 1_000),
    Atom("L", true, VOLUME, 1, 1_000),
    Atom("[gal_us]", false, VOLUME, 3_785_411_784, 1_000_000_000_000),
    Atom("[cft_i]", false, VOLUME, 28_316_846_592, 1_000_000_000_000),
    Atom("Hz", true, PER_TIME, 1, 1),
    Atom("Bq", true, PER_TIME, 1, 1),
    Atom("[kn_i]", false, SPEED, 1_852, 3_600),
    Atom("N", true, FORCE, 1_000, 1),
    Atom("[lbf_av]", false, FORCE, 44_482_216_152_605, 10_000_000_000),
    Atom("[g]", true, [1, 0, -2, 0, 0, 0, 0, 0, 0], 980_665, 100_000),
    Atom("Pa", true, PRESSURE, 1_000, 1),
    Atom("bar", true, PRESSURE, 100_000_000, 1),
    Atom("atm", false, PRESSURE, 101_325_000, 1),
    Atom(
        "[psi]",
        false,
        PRESSURE,
        44_482_216_152_605_000,
        6_451_600_000,
    ),
    Atom("m[Hg]", true, PRESSURE, 133_322_387_415, 1_000),
    Atom("m[H2O]", true, PRESSURE, 9_806_650, 1),
    Atom("[in_i'Hg]", false, PRESSURE, 33_863_886_403_410, 10_000_000),
    Atom("J", true, ENERGY, 1_000, 1),
    Atom(
        "eV",
        true,
        ENERGY,
        1_602_176_634,
        10_000_000_000_000_000_000_000_000,
    ),
    Atom("cal_th", true, ENERGY, 4_184, 1),
    Atom("[Btu_IT]", false, ENERGY, 105_505_585_262, 100_000),
    Atom("W", true, POWER, 1_000, 1),
    Atom("[HP]", false, POWER, 7_456_998_715_822_702, 10_000_000_000),
    Atom("C", true, [0, 0, 1, 1, 0, 0, 0, 0, 0], 1, 1),
    Atom("V", true, [2, 1, -3, -1, 0, 0, 0, 0, 0], 1_000, 1),
    Atom("Ohm", true, [2, 1, -3, -2, 0, 0, 0, 0, 0], 1_000, 1),
    Atom("S", true, [-2, -1, 3, 2, 0, 0, 0, 0, 0], 1, 1_000),
    Atom("F", true, [-2, -1, 4, 2, 0, 0, 0, 0, 0], 1, 1_000),
    Atom("H", true, [2, 1, -2, -2, 0, 0, 0, 0, 0], 1_000, 1),
    Atom("Wb", true, [2, 1, -2, -1, 0, 0, 0, 0, 0], 1_000, 1),
    Atom("T", true, [0, 1, -2, -1, 0, 0, 0, 0, 0], 1_000, 1),
    Atom("lm", true, [0, 0, 0, 0, 0, 0, 1, 0, 0], 1, 1),
    Atom("lx", true, [-2, 0, 0, 0, 0, 0, 1, 0, 0], 1, 1),
    Atom("Gy", true, [2, 0, -2, 0, 0, 0, 0, 0, 0], 1, 1),
];

/// Scales with a zero of their own: the ratio of a degree to a kelvin, and what they
/// show where Celsius shows nothing. Kelvin is among them as a scale: alone it is a
/// temperature, with other factors a difference.
const SCALES: [(&str, Ratio, f64); 4] = [
    ("Cel", Ratio::ONE, 0.0),
    ("K", Ratio::ONE, 273.15),
    ("[degF]", Ratio::new(5, 9), 32.0),
    ("[degR]", Ratio::new(5, 9), 491.67),
];

/// Measured on scales that no ratio leads away from: only themselves are like them.
const ARBITRARY: [&str; 14] = [
    "[pH]", "dB", "B", "B[W]", "dB[W]", "dBm", "dB[mW]", "B[V]", "dB[V]", "[arb'U]", "[iU]",
    "[CFU]", "[NTU]", "[AQI]",
];

const PREFIXES: [(&str, i8); 20] = [
    ("da", 1),
    ("Y", 24),
    ("Z", 21),
    ("E", 18),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("h", 2),
    ("d", -1),
    ("c", -2),
    ("m", -3),
    ("u", -6),
    ("n", -9),
    ("p", -12),
    ("f", -15),
    ("a", -18),
    ("z", -21),
    ("y", -24),
];

/// Binary prefixes, for data alone.
const BINARY: [(&str, u32); 4] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];

/// Units to name in messages.
pub(super) const EXAMPLES: [&str; 44] = [
    "Cel", "[degF]", "K", "Pa", "hPa", "kPa", "bar", "[psi]", "m[H2O]", "J", "kW.h", "MJ", "W",
    "kW", "V", "mV", "A", "mA", "m", "cm", "mm", "km", "[ft_i]", "m2", "L", "m3", "g", "kg", "t",
    "m/s", "km/h", "[kn_i]", "m/s2", "[g]", "m3/h", "L/min", "ug/m3", "mg/L", "s", "ms", "h", "%",
    "[ppm]", "Hz",
];

/// What people write, and the code that they mean.
const MEANT: [(&str, &str); 47] = [
    ("°C", "Cel"),
    ("degC", "Cel"),
    ("celsius", "Cel"),
    ("Celsius", "Cel"),
    ("°F", "[degF]"),
    ("degF", "[degF]"),
    ("fahrenheit", "[degF]"),
    ("kelvin", "K"),
    ("psi", "[psi]"),
    ("PSI", "[psi]"),
    ("inHg", "[in_i'Hg]"),
    ("mmHg", "mm[Hg]"),
    ("kWh", "kW.h"),
    ("Wh", "W.h"),
    ("MWh", "MW.h"),
    ("Ah", "A.h"),
    ("mAh", "mA.h"),
    ("VA", "V.A"),
    ("kVA", "kV.A"),
    ("var", "V.A{reactive}"),
    ("mph", "[mi_i]/h"),
    ("kmh", "km/h"),
    ("kph", "km/h"),
    ("kn", "[kn_i]"),
    ("kt", "[kn_i]"),
    ("ft", "[ft_i]"),
    ("in", "[in_i]"),
    ("mi", "[mi_i]"),
    ("hp", "[HP]"),
    ("lb", "[lb_av]"),
    ("lbs", "[lb_av]"),
    ("gal", "[gal_us]"),
    ("ppm", "[ppm]"),
    ("ppb", "[ppb]"),
    ("percent", "%"),
    ("%RH", "%{RH}"),
    ("rpm", "{rev}/min"),
    ("RPM", "{rev}/min"),
    ("sec", "s"),
    ("hr", "h"),
    ("hour", "h"),
    ("liter", "L"),
    ("ohm", "Ohm"),
    ("Ω", "Ohm"),
    ("°", "deg"),
    ("pH", "[pH]"),
    ("lux", "lx"),
];

/// What a factor is, without its power; `None` where it is not known.
pub(super) fn meant(name: &str) -> Option<Meant> {
    if let Some((_, ratio, zero)) = SCALES.iter().find(|(code, ..)| *code == name) {
        return Some(Meant {
            dimension: Dimension(KELVIN),
            ratio: *ratio,
            zero: Some(*zero),
        });
    }
    if let Some(n) = ARBITRARY.iter().position(|code| *code == name) {
        // A dimension that no product of others has.
        let own = i8::try_from(n).ok()?;
        return Some(Meant {
            dimension: Dimension([0, 0, 0, 0, 0, 0, 0, 100, own]),
            ratio: Ratio::ONE,
            zero: None,
        });
    }
    let pure = |ratio| Meant {
        dimension: Dimension(NONE),
        ratio,
        zero: None,
    };
    if let Some(power) = name
        .strip_prefix("10*")
        .or_else(|| name.strip_prefix("10^"))
    {
        let power: i8 = power
            .parse()
            .ok()
            .filter(|power| (-30..=30).contains(power))?;
        return Some(pure(Ratio::ten(power)));
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: u32 = name.parse().ok().filter(|number| *number > 0)?;
        return Some(pure(Ratio::new(number.into(), 1)));
    }
    let of = |Atom(_, _, powers, over, under): &Atom| Meant {
        dimension: Dimension(*powers),
        ratio: Ratio::new(*over, *under),
        zero: None,
    };
    if let Some(atom) = ATOMS.iter().find(|atom| atom.0 == name) {
        return Some(of(atom));
    }
    let data = BINARY.iter().find_map(|(prefix, bits)| {
        let rest = name.strip_prefix(prefix)?;
        let atom = ATOMS.iter().find(|atom| atom.0 == rest && atom.2 == DATA)?;
        Some((of(atom), Ratio::new(1 << bits, 1)))
    });
    let metric = || {
        PREFIXES.iter().find_map(|(prefix, power)| {
            let rest = name.strip_prefix(prefix)?;
            let atom = ATOMS.iter().find(|atom| atom.0 == rest && atom.1)?;
            Some((of(atom), Ratio::ten(*power)))
        })
    };
    let (meant, factor) = data.or_else(metric)?;
    let ratio = meant.ratio.times(factor, 1)?;
    // Thousandths of a kelvin are a scale too.
    let kelvin = meant.dimension == Dimension(KELVIN);
    Some(Meant {
        ratio,
        zero: kelvin.then(|| 273.15 / ratio.of(1.0)),
        ..meant
    })
}

/// The code that somebody may have meant.
pub(super) fn meant_by(name: &str) -> Option<&'static str> {
    let alike = |code: &&&str| code.eq_ignore_ascii_case(name);
    written(name).or_else(|| EXAMPLES.iter().find(alike).copied())
}

/// The code of a unit that is often written in another way.
pub(super) fn written(name: &str) -> Option<&'static str> {
    let mut known = MEANT.iter();
    known
        .find(|(written, _)| *written == name)
        .map(|(_, code)| *code)
}
