//! One signal of a profile, as written in TOML, and what may be wrong with it.

use serde::Deserialize;

/// A named measurement and how it behaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signal {
    /// The field's name in the payload.
    pub(crate) name: String,
    /// How its values come about.
    pub(crate) kind: Kind,
}

/// How values come about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Walk(Walk),
    Noise(Noise),
    Counter(Counter),
    State(State),
    Flag(Flag),
    Route(Route),
}

/// Wanders from where it starts, in random steps.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Walk {
    /// Each device starts somewhere between the two.
    pub(crate) start: [f64; 2],
    /// Standard deviation of a step.
    pub(crate) step: f64,
    /// The part of the way back to its start that it goes with every step.
    #[serde(default)]
    pub(crate) pull: f64,
    /// Never outside these.
    pub(crate) range: Option<[f64; 2]>,
    pub(crate) daily: Option<Daily>,
    #[serde(default = "two")]
    pub(crate) decimals: u8,
    pub(crate) when: Option<When>,
}

/// A swing over the simulated day, highest at `peak_hour`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Daily {
    pub(crate) amplitude: f64,
    pub(crate) peak_hour: f64,
}

/// Scatters around a mean, sometimes far.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noise {
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
    pub(crate) range: Option<[f64; 2]>,
    pub(crate) spike: Option<Spike>,
    #[serde(default = "two")]
    pub(crate) decimals: u8,
    pub(crate) when: Option<When>,
}

/// Now and then so much is added.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spike {
    pub(crate) chance: f64,
    pub(crate) size: f64,
}

/// Only grows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counter {
    #[serde(default)]
    pub(crate) start: [f64; 2],
    /// Grows by something between the two with every sample.
    pub(crate) increase: [f64; 2],
    #[serde(default)]
    pub(crate) decimals: u8,
    pub(crate) when: Option<When>,
}

/// One word of a list, that changes now and then.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) states: Vec<String>,
    /// Chance of another state with every sample.
    pub(crate) change: f64,
}

/// True now and then.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flag {
    pub(crate) chance: f64,
}

/// Drives around: an object with `lat`, `lon`, `speed` and `heading`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Latitude and longitude around which devices start.
    pub(crate) around: [f64; 2],
    /// Metres per second, from standing to top speed.
    pub(crate) speed: [f64; 2],
    pub(crate) when: Option<When>,
}

/// Behaves as described only while a state signal above says one of these;
/// otherwise it is `otherwise`, counters and routes stand still.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct When {
    pub(crate) signal: String,
    pub(crate) is: Vec<String>,
    #[serde(default)]
    pub(crate) otherwise: f64,
}

const fn two() -> u8 {
    2
}

impl Signal {
    /// Takes a `[[signal]]` apart.
    ///
    /// # Errors
    /// What is missing, misspelt or of the wrong type.
    pub(crate) fn parse(mut table: toml::Table) -> Result<Self, String> {
        let mut text = |key: &str| match table.remove(key) {
            Some(toml::Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{key}: must be text")),
            None => Err(format!("{key}: is missing")),
        };
        let name = text("name")?;
        if name.is_empty() || name.len() > 64 {
            return Err("name: must have 1 to 64 bytes".to_owned());
        }
        let kind = text("kind")?;
        let kind = match kind.as_str() {
            "walk" => Kind::Walk(fields(table)?),
            "noise" => Kind::Noise(fields(table)?),
            "counter" => Kind::Counter(fields(table)?),
            "state" => Kind::State(fields(table)?),
            "flag" => Kind::Flag(fields(table)?),
            "route" => Kind::Route(fields(table)?),
            _ => {
                return Err(format!(
                    "kind: there is no `{kind}`: walk, noise, counter, state, flag, route"
                ));
            }
        };
        Ok(Self { name, kind })
    }

    /// What is well formed and still wrong; `earlier` are the signals above it.
    pub(crate) fn mistakes(&self, earlier: &[Self]) -> Vec<String> {
        let mut found = Vec::new();
        let mut require = |holds: bool, what: &str| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        let ordered = |range: &[f64; 2]| {
            range.iter().all(|x| x.is_finite() && x.abs() <= 1e12) && range[0] <= range[1]
        };
        let size = |x: f64| (0.0..=1e12).contains(&x);
        let chance = |p: f64| (0.0..=1.0).contains(&p);
        let range_wrong = "range: must be [lowest, highest]";
        let decimals_wrong = "decimals: must be at most 9";
        let mut when = None;
        match &self.kind {
            Kind::Walk(walk) => {
                require(ordered(&walk.start), "start: must be [lowest, highest]");
                require(size(walk.step), "step: must be 0 or more");
                require(chance(walk.pull), "pull: must be from 0 to 1");
                require(walk.range.as_ref().is_none_or(ordered), range_wrong);
                require(walk.decimals <= 9, decimals_wrong);
                if let Some(daily) = &walk.daily {
                    require(size(daily.amplitude), "daily.amplitude: must be 0 or more");
                    require(
                        (0.0..24.0).contains(&daily.peak_hour),
                        "daily.peak_hour: must be from 0 to below 24",
                    );
                }
                when = walk.when.as_ref();
            }
            Kind::Noise(noise) => {
                require(
                    noise.mean.abs() <= 1e12,
                    "mean: must be a number below 1e12",
                );
                require(size(noise.deviation), "deviation: must be 0 or more");
                require(noise.range.as_ref().is_none_or(ordered), range_wrong);
                require(noise.decimals <= 9, decimals_wrong);
                if let Some(spike) = &noise.spike {
                    require(chance(spike.chance), "spike.chance: must be from 0 to 1");
                    require(
                        spike.size.abs() <= 1e12,
                        "spike.size: must be a number below 1e12",
                    );
                }
                when = noise.when.as_ref();
            }
            Kind::Counter(counter) => {
                require(ordered(&counter.start), "start: must be [lowest, highest]");
                require(
                    ordered(&counter.increase) && counter.increase[0] >= 0.0,
                    "increase: must be [least, most], and a counter never goes back",
                );
                require(counter.decimals <= 9, decimals_wrong);
                when = counter.when.as_ref();
            }
            Kind::State(state) => {
                require(!state.states.is_empty(), "states: there is none");
                require(chance(state.change), "change: must be from 0 to 1");
            }
            Kind::Flag(flag) => require(chance(flag.chance), "chance: must be from 0 to 1"),
            Kind::Route(route) => {
                let [lat, lon] = route.around;
                require(
                    lat.abs() <= 80.0 && lon.abs() <= 180.0,
                    "around: must be [latitude to 80, longitude to 180]",
                );
                require(
                    ordered(&route.speed) && route.speed[0] >= 0.0 && route.speed[1] <= 1_000.0,
                    "speed: must be [least, most] in m/s, up to 1000",
                );
                when = route.when.as_ref();
            }
        }
        if let Some(when) = when {
            let states = earlier.iter().find_map(|signal| match &signal.kind {
                Kind::State(state) if signal.name == when.signal => Some(&state.states),
                _ => None,
            });
            match states {
                None => found.push(format!(
                    "when.signal: `{}` is no state signal above this one",
                    when.signal
                )),
                Some(states) => found.extend(
                    when.is
                        .iter()
                        .filter(|word| !states.contains(word))
                        .map(|word| format!("when.is: `{word}` is no state of `{}`", when.signal)),
                ),
            }
        }
        found
    }
}

fn fields<T: serde::de::DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    T::deserialize(table).map_err(|error| error.to_string().trim_end().replace('\n', ": "))
}
