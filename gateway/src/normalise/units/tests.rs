use proptest::prelude::*;

use super::*;

fn converted(value: f64, from: &str, to: &str) -> f64 {
    let (from, to) = (Unit::parse(from).unwrap(), Unit::parse(to).unwrap());
    from.to(&to).unwrap().apply(value)
}

#[test]
fn values_become_those_of_another_unit_without_the_noise_of_binary_fractions() {
    for (value, from, to, expect) in [
        (21.7, "Cel", "K", 294.85),
        (294.85, "K", "Cel", 21.7),
        (212.0, "[degF]", "Cel", 100.0),
        (-40.0, "[degF]", "Cel", -40.0),
        (98.6, "[degF]", "K", 310.15),
        (0.0, "K", "[degF]", -459.67),
        (0.1, "Cel", "[degF]", 32.18),
        (1013.25, "hPa", "atm", 1.0),
        (1.0, "bar", "kPa", 100.0),
        (1.0, "[psi]", "Pa", 6894.75729316836),
        (32.0, "[psi]", "bar", 2.20632233381388),
        (1.0, "[in_i'Hg]", "hPa", 33.863886403410),
        (760.0, "mm[Hg]", "Pa", 101_325.014_435_4),
        (3.6, "MJ", "kW.h", 1.0),
        (1.5, "kW.h", "J", 5_400_000.0),
        (100.0, "km/h", "m/s", 27.777_777_777_777_8),
        (10.0, "m/s", "km/h", 36.0),
        (1.0, "[kn_i]", "km/h", 1.852),
        (60.0, "[mi_i]/h", "km/h", 96.56064),
        (0.5, "1", "%", 50.0),
        (400.0, "[ppm]", "%", 0.04),
        (1.0, "[gal_us]/min", "L/min", 3.785411784),
        (1.0, "m3/h", "L/min", 16.666_666_666_666_7),
        (0.001, "mg/L", "ug/m3", 1000.0),
        (1.0, "MiBy", "KiBy", 1024.0),
        (36.0, "deg", "rad", 0.628_318_530_717_959),
        (90.0, "{beat}/min", "Hz", 1.5),
        (2.0, "10*3.W", "kW", 2.0),
        (1.0, "m.s-2", "m/s2", 1.0),
        (1.0, "[g]", "m/s2", 9.80665),
        (1.0, "V.A", "W", 1.0),
        (1.0, "t", "kg", 1000.0),
    ] {
        let got = converted(value, from, to);
        assert_eq!(got, expect, "{value} {from} in {to}");
    }
    // The very same value, to the last digit.
    assert_eq!(converted(0.1 + 0.2, "W", "W"), 0.1 + 0.2);
}

#[test]
fn what_measures_something_else_is_refused_with_what_would_do() {
    for (from, to, expect) in [
        (
            "Cel",
            "Pa",
            "Cel measures temperature, so it cannot become Pa; such a unit is \"Cel\", \"[degF]\", \"K\"",
        ),
        (
            "N.m",
            "kW.h",
            "N.m measures torque, so it cannot become kW.h; such a unit is \"N.m\" itself",
        ),
        (
            "[pH]",
            "1",
            "[pH] measures something else, so it cannot become 1; such a unit is \"[pH]\" itself",
        ),
        (
            "dB",
            "%",
            "dB measures something else, so it cannot become %; such a unit is \"dB\" itself",
        ),
        (
            "kW",
            "kW.h",
            "kW measures power, so it cannot become kW.h; such a unit is \"W\", \"kW\"",
        ),
    ] {
        let (unit, other) = (Unit::parse(from).unwrap(), Unit::parse(to).unwrap());
        assert_eq!(unit.to(&other).unwrap_err().to_string(), expect);
    }
}

#[test]
fn what_is_no_unit_is_refused_with_what_would_be_right() {
    for (code, expect) in [
        (
            "°C",
            "\"°C\" is no UCUM unit that is known here; did you mean \"Cel\"?",
        ),
        (
            "kWh",
            "\"kWh\" is no UCUM unit that is known here; did you mean \"kW.h\"?",
        ),
        (
            "mph",
            "\"mph\" is no UCUM unit that is known here; did you mean \"[mi_i]/h\"?",
        ),
        (
            "hpa",
            "\"hpa\" is no UCUM unit that is known here; did you mean \"hPa\"?",
        ),
        (
            "widgets",
            "\"widgets\" is no UCUM unit that is known here; write \"{widgets}\" for one that is only passed on",
        ),
        (
            "m/widget",
            "\"widget\" is no UCUM unit that is known here; write \"{m/widget}\" for one that is only passed on",
        ),
    ] {
        assert_eq!(Unit::parse(code).unwrap_err().to_string(), expect);
    }
    for code in [
        "",
        "/",
        "m/",
        "m//s",
        ".m",
        "m.",
        "{",
        "}",
        "m{",
        "{a{b}}",
        "(m)",
        "Cel/s",
        "Cel2",
        "m{a}s",
        "[degF].m",
        "kCel",
        "m0",
        "0",
        "10*99",
        "m999",
        "Ym100",
        &"m.".repeat(40),
    ] {
        assert!(Unit::parse(code).is_err(), "{code}");
    }
    for code in [
        "{widgets}",
        "m{depth}",
        "%{RH}",
        "/min",
        "1/min",
        "{rev}/min",
        "m-1",
        "Cel{wet}",
    ] {
        assert!(Unit::parse(code).is_ok(), "{code}");
    }
}

#[test]
fn a_site_gets_its_own_units_and_what_they_do_not_concern_stays() {
    let mut preferred = Preferred::default();
    for (example, unit) in [("Cel", "[degF]"), ("J", "kW.h")] {
        preferred
            .prefer(example, Unit::parse(unit).unwrap())
            .unwrap();
    }
    let instead = |code: &str, value: f64| {
        let (unit, conversion) = preferred.instead_of_code(code)?;
        Some((unit.code().to_owned(), conversion.apply(value)))
    };
    assert_eq!(instead("Cel", 100.0), Some(("[degF]".to_owned(), 212.0)));
    assert_eq!(instead("MJ", 7.2), Some(("kW.h".to_owned(), 2.0)));
    for stays in ["[degF]", "N.m", "bar", "K/s", "anything", "%"] {
        assert_eq!(instead(stays, 1.0), None, "{stays}");
    }
    let wrong = preferred.prefer("Cel", Unit::parse("bar").unwrap());
    assert!(wrong.is_err());
}

#[test]
fn every_example_and_every_correction_is_a_unit() {
    for code in atoms::EXAMPLES {
        assert!(Unit::parse(code).is_ok(), "{code}");
    }
    for (name, example) in Preferred::QUANTITIES {
        let unit = Unit::parse(example).unwrap();
        assert_eq!(quantity(&unit), Some(name));
    }
}

proptest! {
    #[test]
    fn any_text_is_a_unit_or_a_reason(code in ".{0,80}") {
        let _either = Unit::parse(&code);
    }

    #[test]
    fn there_and_back_is_the_same_to_fourteen_digits(value in -1e9..1e9f64, n in 0..atoms::EXAMPLES.len(), m in 0..atoms::EXAMPLES.len()) {
        let from = Unit::parse(atoms::EXAMPLES[n]).unwrap();
        let to = Unit::parse(atoms::EXAMPLES[m]).unwrap();
        let (Ok(there), Ok(back)) = (from.to(&to), to.to(&from)) else { return Ok(()) };
        let again = back.apply(there.apply(value));
        prop_assert!((again - value).abs() <= 1e-6_f64.max(value.abs() * 1e-12), "{value} {from} {to} {again}");
    }
}
