//! What goes wrong, decided by the seed.
//!
//! Every message draws the same number of random numbers at its creation,
//! whatever comes of them, so the decisions depend on the seed, the device and
//! the message's number, and never on time or on the network.

use std::{str::FromStr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::duration;

/// How far behind its original a duplicate may come, in messages of its device.
const DUPLICATE_LAG_MAX: u64 = 16;

/// The probabilities, per message, and two sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chaos {
    /// The same identity again, later, as a publish of its own.
    pub(crate) duplicates: f64,
    /// Sent after its successor.
    pub(crate) reorder: f64,
    /// A payload that cannot be decoded.
    pub(crate) malformed: f64,
    /// The connection is cut in mid-flight after this message.
    pub(crate) disconnect: f64,
    /// The device is offline for a while after this message, and goes on sampling.
    pub(crate) offline: f64,
    /// The longest time offline.
    pub(crate) offline_for: Duration,
    /// The furthest that a device's clock is off, either way.
    pub(crate) skew: Duration,
}

impl Default for Chaos {
    fn default() -> Self {
        Self {
            duplicates: 0.0,
            reorder: 0.0,
            malformed: 0.0,
            disconnect: 0.0,
            offline: 0.0,
            offline_for: Duration::from_secs(5),
            skew: Duration::ZERO,
        }
    }
}

impl FromStr for Chaos {
    type Err = String;

    /// `duplicates=0.02,skew=5s`; what is not named does not happen.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut chaos = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` has no value: write {part}=0.01"))?;
            match key {
                "duplicates" => chaos.duplicates = probability(key, value)?,
                "reorder" => chaos.reorder = probability(key, value)?,
                "malformed" => chaos.malformed = probability(key, value)?,
                "disconnect" => chaos.disconnect = probability(key, value)?,
                "offline" => chaos.offline = probability(key, value)?,
                "offline-for" => chaos.offline_for = duration::parse(value)?,
                "skew" => chaos.skew = duration::parse(value)?,
                _ => {
                    return Err(format!(
                        "there is no chaos called `{key}`: duplicates, reorder, malformed, \
                         disconnect, offline, offline-for, skew"
                    ));
                }
            }
        }
        Ok(chaos)
    }
}

fn probability(key: &str, value: &str) -> Result<f64, String> {
    value
        .parse()
        .ok()
        .filter(|p| (0.0..=1.0).contains(p))
        .ok_or_else(|| format!("{key}={value} is not a probability from 0 to 1"))
}

/// How a connection ends deliberately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    /// Everything written, no acknowledgement waited for.
    Whole,
    /// The last packet is written up to this part of it.
    Torn(f64),
}

/// What happens to one message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fate {
    /// The payload is broken, in the manner that this number selects.
    pub(crate) malformed: Option<u32>,
    /// A duplicate follows after this many messages.
    pub(crate) duplicate_after: Option<u64>,
    /// The next message goes first.
    pub(crate) swapped: bool,
    /// The connection is cut after it.
    pub(crate) cut: Option<Cut>,
    /// The device is away for so long after it.
    pub(crate) offline: Option<Duration>,
}

/// Decides the fate of each message of one device.
#[derive(Debug)]
pub(crate) struct Fates {
    chaos: Chaos,
    rng: StdRng,
    skew_ms: i64,
}

impl Fates {
    /// The fates that `seed` holds for a device.
    pub(crate) fn new(chaos: Chaos, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let skew_ms_max = i64::try_from(chaos.skew.as_millis()).unwrap_or(i64::MAX);
        Self {
            skew_ms: rng.random_range(-skew_ms_max..=skew_ms_max),
            chaos,
            rng,
        }
    }

    /// How far this device's clock is off.
    pub(crate) const fn skew_ms(&self) -> i64 {
        self.skew_ms
    }

    /// The fate of the next message.
    pub(crate) fn next(&mut self) -> Fate {
        let chaos = self.chaos;
        let mut happens = |p: f64| self.rng.random::<f64>() < p;
        let malformed = happens(chaos.malformed);
        let duplicate = happens(chaos.duplicates);
        let swapped = happens(chaos.reorder);
        let cut = happens(chaos.disconnect);
        let offline = happens(chaos.offline);
        let (manner, lag, torn, part, away) = (
            self.rng.random(),
            self.rng.random_range(1..=DUPLICATE_LAG_MAX),
            self.rng.random(),
            self.rng.random::<f64>(),
            self.rng.random::<f64>(),
        );
        Fate {
            malformed: malformed.then_some(manner),
            duplicate_after: duplicate.then_some(lag),
            swapped,
            cut: cut.then_some(if torn { Cut::Torn(part) } else { Cut::Whole }),
            offline: offline.then(|| chaos.offline_for.mul_f64(0.2 + 0.8 * away)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chaos_is_read_from_one_line() {
        let chaos: Chaos = "duplicates=0.02, reorder=0.01,malformed=0.001,skew=5s,disconnect=0.0005,offline=0.0001,offline-for=2s"
            .parse()
            .unwrap();
        assert_eq!(
            chaos,
            Chaos {
                duplicates: 0.02,
                reorder: 0.01,
                malformed: 0.001,
                disconnect: 0.0005,
                offline: 0.0001,
                offline_for: Duration::from_secs(2),
                skew: Duration::from_secs(5),
            }
        );
        assert_eq!("".parse(), Ok(Chaos::default()));
    }

    #[test]
    fn a_mistake_in_chaos_names_the_key() {
        for (text, word) in [
            ("duplicate=0.1", "`duplicate`"),
            ("duplicates", "`duplicates`"),
            ("reorder=2", "reorder=2"),
            ("reorder=-0.1", "reorder=-0.1"),
            ("reorder=NaN", "reorder=NaN"),
            ("skew=5", "`5`"),
        ] {
            let error = text.parse::<Chaos>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_fates() {
        let chaos: Chaos =
            "duplicates=0.3,reorder=0.3,malformed=0.3,disconnect=0.3,offline=0.3,skew=5s"
                .parse()
                .unwrap();
        let fates = |seed| {
            let mut fates = Fates::new(chaos, seed);
            (
                fates.skew_ms(),
                (0..200).map(|_| fates.next()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }

    #[test]
    fn one_chaos_does_not_disturb_another() {
        let swaps = |text: &str| {
            let mut fates = Fates::new(text.parse().unwrap(), 7);
            (0..200).map(|_| fates.next().swapped).collect::<Vec<_>>()
        };
        assert_eq!(
            swaps("reorder=0.2"),
            swaps("reorder=0.2,duplicates=0.5,offline=0.5")
        );
    }
}
