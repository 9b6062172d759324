//! How much a destination takes at once, found out by trying: a little more with each
//! batch that it takes, half as much when it asks to slow down, does not answer, or takes
//! long. So a destination that comes back after an outage is not run over by everybody
//! who waited for it, and a slow one gets requests that it can answer in time.
//!
//! Batches that are under way, or go again, stay what they are.

use std::time::Duration;

use super::destination::Limits;

/// So many batches, each taken whole, lead from nothing to all.
const STEPS: usize = 16;

/// How a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// Taken, or refused, record by record.
    Well(Duration),
    /// The destination was busy, or away.
    Badly,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Adapting {
    most: Limits,
    latency_max: Duration,
    records: usize,
    in_flight: usize,
    /// Batches that went well since `in_flight` grew.
    well: usize,
    /// Those that were handed over up to here say nothing that is not known.
    known_to: u64,
}

impl Adapting {
    /// All at first: most destinations take it.
    pub(super) fn new(most: Limits, latency_max: Duration) -> Self {
        Self {
            records: most.batch_records.max(1),
            in_flight: most.in_flight.max(1),
            most,
            latency_max,
            well: 0,
            known_to: 0,
        }
    }

    /// Records in the next batch, at most.
    pub(super) const fn records(&self) -> usize {
        self.records
    }

    /// Batches in flight, at most.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// A batch has landed; `latest` is the last one that was handed over so far.
    pub(super) fn landed(&mut self, sequence: u64, latest: u64, went: Went) {
        match went {
            Went::Well(took) if took <= self.latency_max => {
                let step = self.most.batch_records.div_ceil(STEPS).max(1);
                self.records = (self.records + step).min(self.most.batch_records.max(1));
                self.well += 1;
                if self.well >= self.in_flight {
                    self.well = 0;
                    self.in_flight = (self.in_flight + 1).min(self.most.in_flight.max(1));
                }
            }
            // It was under way when the last one that went badly was found out.
            _ if sequence <= self.known_to => {}
            _ => {
                // A long way is long for small batches, too: for that alone they do not
                // become ever smaller.
                let least = match went {
                    Went::Well(_) => (self.most.batch_records / STEPS).max(1),
                    Went::Badly => 1,
                };
                self.known_to = latest;
                self.well = 0;
                self.records = (self.records / 2).max(least).min(self.records);
                self.in_flight = (self.in_flight / 2).max(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Limits = Limits {
        batch_records: 500,
        batch_bytes: 1 << 20,
        linger: Duration::ZERO,
        in_flight: 8,
    };

    #[test]
    fn it_halves_once_for_all_that_was_under_way_and_grows_back_step_by_step() {
        let mut adapting = Adapting::new(MOST, Duration::from_secs(5));
        let of = |adapting: &Adapting| (adapting.records(), adapting.in_flight());
        assert_eq!(of(&adapting), (500, 8));
        for sequence in 1..=8 {
            adapting.landed(sequence, 8, Went::Badly);
        }
        assert_eq!(of(&adapting), (250, 4));
        adapting.landed(9, 9, Went::Well(Duration::from_secs(6)));
        assert_eq!(of(&adapting), (125, 2));
        for sequence in 10..=11 {
            adapting.landed(sequence, sequence, Went::Well(Duration::from_secs(1)));
        }
        assert_eq!(of(&adapting), (125 + 2 * 32, 3));
        for sequence in 12..100 {
            adapting.landed(sequence, sequence, Went::Well(Duration::ZERO));
        }
        assert_eq!(of(&adapting), (500, 8));
        for sequence in 100..200 {
            adapting.landed(sequence, sequence, Went::Well(Duration::from_secs(6)));
        }
        assert_eq!(of(&adapting), (31, 1));
        for sequence in 200..300 {
            adapting.landed(sequence, sequence, Went::Badly);
        }
        assert_eq!(of(&adapting), (1, 1));
    }
}
