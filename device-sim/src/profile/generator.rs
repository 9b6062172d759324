//! The values of one device: a function of its seed and the sample's number.

use std::{f64::consts::TAU, rc::Rc};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Profile,
    signal::{Kind, When},
};

/// One measured value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sample<'a> {
    Number(f64),
    Whole(u64),
    Word(&'a str),
    Flag(bool),
    Position {
        lat: f64,
        lon: f64,
        speed: f64,
        heading: f64,
    },
}

/// What a signal remembers from one sample to the next.
#[derive(Debug, Clone, Copy)]
enum Memory {
    Walk {
        home: f64,
        at: f64,
    },
    Noise,
    Counter(f64),
    State(usize),
    Flag,
    Route {
        lat: f64,
        lon: f64,
        speed: f64,
        heading: f64,
    },
}

/// Generates the samples of one device.
#[derive(Debug)]
pub(crate) struct Generator {
    profile: Rc<Profile>,
    rng: StdRng,
    memory: Vec<Memory>,
    /// For each signal the state signal that it follows, and the states in which it is active.
    follows: Vec<Option<(usize, Vec<bool>)>>,
    /// What the current sample has.
    values: Vec<Reading>,
    day_seconds: f64,
}

/// A [`Sample`] without its borrow.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Number(f64),
    Whole(u64),
    State(usize),
    Flag(bool),
    Position {
        lat: f64,
        lon: f64,
        speed: f64,
        heading: f64,
    },
}

impl Generator {
    /// A device of this profile, started from `seed`.
    pub(crate) fn new(profile: Rc<Profile>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = profile
            .signals
            .iter()
            .map(|signal| match &signal.kind {
                Kind::Walk(walk) => {
                    let home = between(&mut rng, walk.start);
                    Memory::Walk { home, at: home }
                }
                Kind::Noise(_) => Memory::Noise,
                Kind::Counter(counter) => Memory::Counter(between(&mut rng, counter.start)),
                Kind::State(state) => Memory::State(rng.random_range(0..state.states.len().max(1))),
                Kind::Flag(_) => Memory::Flag,
                Kind::Route(route) => Memory::Route {
                    lat: route.around[0] + between(&mut rng, [-0.05, 0.05]),
                    lon: route.around[1] + between(&mut rng, [-0.05, 0.05]),
                    speed: between(&mut rng, route.speed),
                    heading: between(&mut rng, [0.0, 360.0]),
                },
            })
            .collect();
        let follows = profile
            .signals
            .iter()
            .map(|signal| {
                let when = match &signal.kind {
                    Kind::Walk(walk) => walk.when.as_ref(),
                    Kind::Noise(noise) => noise.when.as_ref(),
                    Kind::Counter(counter) => counter.when.as_ref(),
                    Kind::Route(route) => route.when.as_ref(),
                    Kind::State(_) | Kind::Flag(_) => None,
                }?;
                let (index, states) = profile.states_of(&when.signal)?;
                Some((
                    index,
                    states.iter().map(|state| when.is.contains(state)).collect(),
                ))
            })
            .collect();
        Self {
            day_seconds: between(&mut rng, [0.0, 86_400.0]),
            values: Vec::with_capacity(profile.signals.len()),
            memory,
            follows,
            profile,
            rng,
        }
    }

    /// Measures once.
    pub(crate) fn advance(&mut self) {
        let profile = Rc::clone(&self.profile);
        let seconds = profile.period.as_secs_f64();
        self.day_seconds = (self.day_seconds + seconds) % 86_400.0;
        self.values.clear();
        for (index, signal) in profile.signals.iter().enumerate() {
            let active = self.is_active(index);
            let rng = &mut self.rng;
            let reading = match (&signal.kind, &mut self.memory[index]) {
                (Kind::Walk(walk), Memory::Walk { home, at }) => {
                    *at += walk.step * gaussian(rng) + walk.pull * (*home - *at);
                    *at = within(*at, walk.range);
                    let daily = walk.daily.as_ref().map_or(0.0, |daily| {
                        let hours_from_peak = self.day_seconds / 3_600.0 - daily.peak_hour;
                        daily.amplitude * (hours_from_peak / 24.0 * TAU).cos()
                    });
                    let value = within(*at + daily, walk.range);
                    Reading::Number(rounded(
                        or_otherwise(value, active, walk.when.as_ref()),
                        walk.decimals,
                    ))
                }
                (Kind::Noise(noise), Memory::Noise) => {
                    let mut value = noise.mean + noise.deviation * gaussian(rng);
                    if let Some(spike) = &noise.spike
                        && rng.random::<f64>() < spike.chance
                    {
                        value += spike.size;
                    }
                    let value = within(value, noise.range);
                    Reading::Number(rounded(
                        or_otherwise(value, active, noise.when.as_ref()),
                        noise.decimals,
                    ))
                }
                (Kind::Counter(counter), Memory::Counter(total)) => {
                    let increase = between(rng, counter.increase);
                    if active {
                        *total += increase;
                    }
                    let value = rounded_down(*total, counter.decimals);
                    if counter.decimals == 0 && value >= 0.0 {
                        Reading::Whole(whole(value))
                    } else {
                        Reading::Number(value)
                    }
                }
                (Kind::State(state), Memory::State(current)) => {
                    let (change, other) = (
                        rng.random::<f64>(),
                        rng.random_range(0..state.states.len().max(1)),
                    );
                    if change < state.change {
                        *current = other;
                    }
                    Reading::State(*current)
                }
                (Kind::Flag(flag), _) => Reading::Flag(rng.random::<f64>() < flag.chance),
                (
                    Kind::Route(route),
                    Memory::Route {
                        lat,
                        lon,
                        speed,
                        heading,
                    },
                ) => {
                    let (faster, turn) = (gaussian(rng), gaussian(rng));
                    if active {
                        *speed = within(*speed + faster, Some(route.speed));
                        *heading = (*heading + 10.0 * turn).rem_euclid(360.0);
                        // Back towards the start when it leads too far away.
                        if (*lat - route.around[0]).hypot(*lon - route.around[1]) > 0.5 {
                            *heading = (route.around[1] - *lon)
                                .atan2(route.around[0] - *lat)
                                .to_degrees()
                                .rem_euclid(360.0);
                        }
                        let metres = *speed * seconds;
                        let (east, north) = heading.to_radians().sin_cos();
                        *lat = (*lat + metres * north / 111_320.0).clamp(-85.0, 85.0);
                        *lon += metres * east / (111_320.0 * lat.to_radians().cos());
                        *lon = (*lon + 180.0).rem_euclid(360.0) - 180.0;
                    }
                    Reading::Position {
                        lat: rounded(*lat, 6),
                        lon: rounded(*lon, 6),
                        speed: if active { rounded(*speed, 1) } else { 0.0 },
                        heading: rounded(*heading, 0),
                    }
                }
                // The memory was made from the same signals, in `new`.
                _ => Reading::Flag(false),
            };
            self.values.push(reading);
        }
    }

    fn is_active(&self, index: usize) -> bool {
        self.follows[index].as_ref().is_none_or(|(state_index, active)| {
            matches!(self.values.get(*state_index), Some(Reading::State(state)) if active[*state])
        })
    }

    /// How many values a sample has.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The values measured last, with their names.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (&str, Sample<'_>)> {
        self.profile
            .signals
            .iter()
            .zip(&self.values)
            .map(|(signal, value)| {
                let sample = match *value {
                    Reading::Number(x) => Sample::Number(x),
                    Reading::Whole(n) => Sample::Whole(n),
                    Reading::Flag(flag) => Sample::Flag(flag),
                    Reading::Position {
                        lat,
                        lon,
                        speed,
                        heading,
                    } => Sample::Position {
                        lat,
                        lon,
                        speed,
                        heading,
                    },
                    Reading::State(index) => Sample::Word(match &signal.kind {
                        Kind::State(state) => state.states.get(index).map_or("", String::as_str),
                        _ => "",
                    }),
                };
                (signal.name.as_str(), sample)
            })
    }
}

fn between(rng: &mut StdRng, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Nearly normal, deviation 1, never further than 3.5: the sum of four uniforms.
fn gaussian(rng: &mut StdRng) -> f64 {
    let sum: f64 = (0..4).map(|_| rng.random::<f64>()).sum();
    (sum - 2.0) * 3.0_f64.sqrt()
}

fn within(value: f64, range: Option<[f64; 2]>) -> f64 {
    range.map_or(value, |[low, high]| value.clamp(low, high))
}

fn or_otherwise(value: f64, active: bool, when: Option<&When>) -> f64 {
    match when {
        Some(when) if !active => when.otherwise,
        _ => value,
    }
}

fn rounded(value: f64, decimals: u8) -> f64 {
    let scale = 10_f64.powi(i32::from(decimals));
    (value * scale).round() / scale
}

fn rounded_down(value: f64, decimals: u8) -> f64 {
    let scale = 10_f64.powi(i32::from(decimals));
    (value * scale).floor() / scale
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and a counter starts below 1e12"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::load;

    fn values(profile: &str, seed: u64, count: usize) -> Vec<Vec<String>> {
        let profile = Rc::new(load(profile).unwrap().remove(0));
        let mut generator = Generator::new(profile, seed);
        (0..count)
            .map(|_| {
                generator.advance();
                generator
                    .samples()
                    .map(|(name, sample)| format!("{name} {sample:?}"))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_values() {
        for profile in ["environment", "energy", "machine", "tracker"] {
            assert_eq!(
                values(profile, 3, 100),
                values(profile, 3, 100),
                "{profile}"
            );
            assert_ne!(
                values(profile, 3, 100),
                values(profile, 4, 100),
                "{profile}"
            );
        }
    }

    fn check(text: &str, mut holds: impl FnMut(&str, Sample<'_>) -> bool) {
        let profile = Rc::new(Profile::parse("test", text).unwrap());
        let mut generator = Generator::new(profile, 1);
        for _ in 0..5_000 {
            generator.advance();
            for (name, sample) in generator.samples() {
                assert!(holds(name, sample), "{name} {sample:?}");
            }
        }
    }

    #[test]
    fn a_walk_stays_in_its_range() {
        check(
            "device='d'\nperiod='10m'\n[[signal]]\nname='t'\nkind='walk'\nstart=[0,1]\nstep=1\nrange=[-5,5]\ndaily={amplitude=3,peak_hour=15}",
            |_, sample| matches!(sample, Sample::Number(x) if (-5.0..=5.0).contains(&x)),
        );
    }

    #[test]
    fn a_counter_only_grows() {
        let mut last = 0;
        check(
            "device='d'\nperiod='1s'\n[[signal]]\nname='n'\nkind='counter'\nstart=[5,9]\nincrease=[0,3]",
            |_, sample| match sample {
                Sample::Whole(n) if n >= last && n >= 5 => {
                    last = n;
                    true
                }
                _ => false,
            },
        );
        assert!(last > 1_000);
    }

    #[test]
    fn a_signal_follows_the_state_that_it_names() {
        let mut running = false;
        let mut seen = [0; 2];
        check(
            "device='d'\nperiod='1s'\n[[signal]]\nname='s'\nkind='state'\nstates=['on','off']\nchange=0.1\n\
             [[signal]]\nname='rpm'\nkind='noise'\nmean=1500\ndeviation=10\nwhen={signal='s',is=['on'],otherwise=0}",
            |name, sample| match (name, sample) {
                ("s", Sample::Word(word)) => {
                    running = word == "on";
                    true
                }
                ("rpm", Sample::Number(x)) => {
                    seen[usize::from(running)] += 1;
                    (x > 1_000.0) == running
                }
                _ => false,
            },
        );
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn a_tracker_stays_on_earth_and_moves() {
        let mut places = std::collections::HashSet::new();
        let profile = Rc::new(load("tracker").unwrap().remove(0));
        let mut generator = Generator::new(profile, 1);
        for _ in 0..10_000 {
            generator.advance();
            for (_, sample) in generator.samples() {
                if let Sample::Position { lat, lon, .. } = sample {
                    assert!(lat.abs() <= 90.0 && lon.abs() <= 180.0);
                    places.insert(lat.to_bits());
                }
            }
        }
        assert!(places.len() > 1_000, "{}", places.len());
    }
}
