//! Device profiles: which signals a kind of device has, in TOML.
//!
//! The built-in profiles are in the very format that users write; see
//! `docs/simulator.md`. A profile is checked whole before anything runs, and
//! every mistake names the file and the key.

mod generator;
mod signal;

use std::{collections::HashSet, path::Path, time::Duration};

use serde::Deserialize;

pub(crate) use generator::{Generator, Sample};
use signal::{Kind, Signal};

use crate::duration;

/// A kind of device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Profile {
    /// What devices of this kind are called: `<device>-0001` and so on.
    pub(crate) device: String,
    /// Simulated time between two samples; daily cycles and movement follow it,
    /// not the rate of sending, so that values do not depend on time.
    pub(crate) period: Duration,
    /// What is measured, in the order sent.
    pub(crate) signals: Vec<Signal>,
}

/// The profiles that come with the program.
pub(crate) const BUILT_IN: [(&str, &str); 4] = [
    ("environment", include_str!("../profiles/environment.toml")),
    ("energy", include_str!("../profiles/energy.toml")),
    ("machine", include_str!("../profiles/machine.toml")),
    ("tracker", include_str!("../profiles/tracker.toml")),
];

/// The profiles that `--profile` names: one, or all built-in ones for `mixed`.
///
/// # Errors
/// When the file cannot be read, or everything that is wrong in it.
pub(crate) fn load(name: &str) -> anyhow::Result<Vec<Profile>> {
    let built_in =
        |(name, text): &(&str, &str)| Profile::parse(name, text).map_err(anyhow::Error::msg);
    if name == "mixed" {
        return BUILT_IN.iter().map(built_in).collect();
    }
    if let Some(found) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
        return Ok(vec![built_in(found)?]);
    }
    if Path::new(name)
        .extension()
        .is_none_or(|extension| extension != "toml")
    {
        let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        anyhow::bail!(
            "there is no profile `{name}`: {}, mixed, or a file that ends in .toml",
            names.join(", ")
        );
    }
    let text = std::fs::read_to_string(name)
        .map_err(|error| anyhow::anyhow!("cannot read {name}: {error}"))?;
    Ok(vec![
        Profile::parse(name, &text).map_err(anyhow::Error::msg)?,
    ])
}

/// Field names that carry the identity and time of a message.
const RESERVED: [&str; 4] = ["id", "seq", "boot", "ts"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    device: String,
    period: String,
    #[serde(default)]
    signal: Vec<toml::Table>,
}

impl Profile {
    /// Reads and checks a profile; `file` is what mistakes are reported under.
    ///
    /// # Errors
    /// Every mistake, one to a line.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, String> {
        let parsed: File = toml::from_str(text).map_err(|error| format!("{file}: {error}"))?;
        let mut mistakes = Vec::new();
        let mut mistake = |key: &str, what: String| mistakes.push(format!("{file}: {key}: {what}"));

        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if parsed.device.is_empty() || parsed.device.len() > 64 || !parsed.device.chars().all(plain)
        {
            mistake(
                "device",
                format!("`{}` is not 1 to 64 letters, digits, - or _", parsed.device),
            );
        }
        let period = duration::parse(&parsed.period).and_then(|period| {
            (!period.is_zero())
                .then_some(period)
                .ok_or_else(|| "must be above zero".to_owned())
        });
        if let Err(what) = &period {
            mistake("period", what.clone());
        }
        if parsed.signal.is_empty() {
            mistake("signal", "there is none: add a [[signal]]".to_owned());
        }
        let mut signals: Vec<Signal> = Vec::new();
        let mut names = HashSet::new();
        for (index, table) in parsed.signal.into_iter().enumerate() {
            let named = table
                .get("name")
                .and_then(|name| name.as_str())
                .unwrap_or("")
                .to_owned();
            let key = format!("signal[{index}] `{named}`");
            if RESERVED.contains(&named.as_str()) {
                mistake(
                    &key,
                    format!("name: {} are taken by the simulator", RESERVED.join(", ")),
                );
            }
            if !names.insert(named.clone()) {
                mistake(&key, "name: used twice".to_owned());
            }
            match Signal::parse(table) {
                Ok(signal) => {
                    for what in signal.mistakes(&signals) {
                        mistake(&key, what);
                    }
                    signals.push(signal);
                }
                Err(what) => mistake(&key, what),
            }
        }
        match (mistakes.is_empty(), period) {
            (true, Ok(period)) => Ok(Self {
                device: parsed.device,
                period,
                signals,
            }),
            _ => Err(mistakes.join("\n")),
        }
    }

    fn states_of(&self, name: &str) -> Option<(usize, &[String])> {
        self.signals
            .iter()
            .enumerate()
            .find_map(|(index, signal)| match &signal.kind {
                Kind::State(state) if signal.name == name => Some((index, state.states.as_slice())),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_valid() {
        assert_eq!(load("mixed").unwrap().len(), 4);
        for (name, _) in BUILT_IN {
            assert_eq!(load(name).unwrap().len(), 1, "{name}");
        }
    }

    #[test]
    fn the_example_profiles_are_valid() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/sim");
        let mut seen = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            load(path.to_str().unwrap()).unwrap();
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let error = Profile::parse("mine.toml", text).unwrap_err();
        for word in words.iter().chain(&["mine.toml"]) {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }

    const HEAD: &str = "device = 'd'\nperiod = '1s'\n";

    #[test]
    fn a_mistake_names_the_file_and_the_key() {
        refused("device = 'd'", &["period"]);
        refused(
            "device = 'a b'\nperiod = '1s'",
            &["device", "`a b`", "signal"],
        );
        refused("device = 'd'\nperiod = '1'", &["period", "`1`"]);
        refused("device = 'd'\nperiod = '0s'", &["period", "above zero"]);
        refused("device = 'd'\nperiod = '1s'\ncolour = 1", &["colour"]);
        for (signal, words) in [
            ("name = 'x'", ["signal[0] `x`", "kind"]),
            ("name = 'x'\nkind = 'wlak'", ["signal[0] `x`", "wlak"]),
            ("kind = 'flag'\nchance = 0.1", ["signal[0]", "name"]),
            (
                "name = 'seq'\nkind = 'flag'\nchance = 0.1",
                ["signal[0] `seq`", "taken"],
            ),
            (
                "name = 'x'\nkind = 'flag'\nchance = 2",
                ["signal[0] `x`", "chance"],
            ),
            (
                "name = 'x'\nkind = 'flag'\nchance = 0.5\nchange = 1",
                ["signal[0] `x`", "change"],
            ),
            (
                "name = 'x'\nkind = 'walk'\nstart = [2, 1]\nstep = 1",
                ["signal[0] `x`", "start"],
            ),
            (
                "name = 'x'\nkind = 'walk'\nstart = [1, 2]\nstep = -1",
                ["signal[0] `x`", "step"],
            ),
            (
                "name = 'x'\nkind = 'walk'\nstart = [1, 2]\nstep = 'a'",
                ["signal[0] `x`", "step"],
            ),
            (
                "name = 'x'\nkind = 'counter'\nincrease = [-1, 2]",
                ["signal[0] `x`", "increase"],
            ),
            (
                "name = 'x'\nkind = 'state'\nstates = []\nchange = 0.1",
                ["signal[0] `x`", "states"],
            ),
            (
                "name = 'x'\nkind = 'noise'\nmean = 1\ndeviation = 1\nwhen = { signal = 's', is = ['on'] }",
                ["signal[0] `x`", "when"],
            ),
        ] {
            refused(&format!("{HEAD}[[signal]]\n{signal}"), &words);
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        refused(
            "device = ''\nperiod = 'x'\n[[signal]]\nname = 'a'\nkind = 'flag'\nchance = 7\n[[signal]]\nname = 'a'\nkind = 'flag'\nchance = 0.5",
            &["device", "period", "chance", "used twice"],
        );
    }

    #[test]
    fn an_unknown_profile_lists_those_there_are() {
        let error = load("wether").unwrap_err().to_string();
        assert!(
            error.contains("`wether`") && error.contains("environment"),
            "{error}"
        );
    }
}
