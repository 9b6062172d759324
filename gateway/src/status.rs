//! What the gateway says of itself: one snapshot for the API, the page, the CLI
//! and readiness. Plain data; [`Sampler`] turns counts into rates and forecasts.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{actions, event::Timestamp, events, fleet, query, store};

/// The whole account. Field names are the API.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = GatewayStatus)]
pub struct Status {
    /// The gateway's version.
    #[schema(value_type = String)]
    pub version: &'static str,
    /// Random, new at each start; `gateway.json` in the data directory has the same.
    #[schema(value_type = String)]
    pub instance: Arc<str>,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// Whether events get on their way; see [`Readiness`].
    pub ready: bool,
    /// What was taken from devices: `accepted = stored + duplicate + quarantined + shed`.
    pub ledger: Ledger,
    /// Whether the ledger is what the journal has.
    #[schema(value_type = crate::audit::Report)]
    pub audit: Arc<crate::audit::Report>,
    /// The journal.
    pub store: Journal,
    /// Events that the rules sent to no destination.
    pub nowhere: Nowhere,
    /// Each destination: `routed = delivered + backlog + expired + evicted + damaged + dead`.
    pub destinations: Vec<Destination>,
    /// What rules do beside sending.
    pub rules: actions::Status,
    /// Commands to devices.
    pub commands: fleet::Account,
    /// Each remote broker whose messages come here.
    pub remotes: Vec<Remote>,
    /// The stream of events for local subscribers.
    pub events: events::Counts,
    /// The read side.
    pub read: query::Status,
    /// The broker's counters.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub broker: penstock_broker::Metrics,
}

/// Where a remote broker stands.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = RemoteStatus)]
pub struct Remote {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Arc<str>,
    /// `connecting`, `connected` or `stopped`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// The last failure, while it lasts.
    pub error: Option<String>,
    /// What came of messages.
    #[serde(flatten)]
    pub counts: RemoteCounts,
}

/// What came of the messages of a remote broker, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct RemoteCounts {
    /// Messages that came: shown + kept + circles + refused, but for those at hand.
    pub received: u64,
    /// Of those: shown to local subscribers only.
    pub shown: u64,
    /// Of those: kept in the journal, in quarantine too, or known there already.
    pub kept: u64,
    /// Of those: been here before.
    pub circles: u64,
    /// Of those: not taken, because no filter takes them, or they are for subscribers
    /// only and their topic can be none here.
    pub refused: u64,
    /// Connections that ended, or could not be made.
    pub disconnects: u64,
}

/// What was taken from devices, since the journal was begun.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Ledger {
    /// Everything acknowledged.
    pub accepted: u64,
    /// Of that: events stored.
    pub stored: u64,
    /// Of that: second copies, not stored again.
    pub duplicate: u64,
    /// Of that: messages that could not be decoded.
    pub quarantined: u64,
    /// Of that: given up by class while room was short, as configured.
    pub shed: u64,
    /// The same by class.
    pub shed_by_class: Shed,
    /// Turned away because the journal was full; not accepted.
    pub refused_full: u64,
    /// Accepted in each second, lately.
    pub accepted_per_sec: f64,
}

/// Events that were given up while room was short, by class, since the journal was begun.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct Shed {
    /// Of class `low`.
    pub low: u64,
    /// Of class `normal`.
    pub normal: u64,
    /// Of class `high`.
    pub high: u64,
}

/// Events that the rules sent to no destination, since the journal was begun:
/// `total = held + expired + evicted + damaged`.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct Nowhere {
    /// Those that were stored; part of `stored`.
    pub total: u64,
    /// Of those: in the journal now.
    pub held: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Seconds since the oldest of those that are held was received.
    pub oldest_age_secs: Option<u64>,
}

/// The journal's size and wear.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Journal {
    /// The last committed position.
    pub committed: u64,
    /// Events in the journal that somebody waits for.
    pub buffered: u64,
    /// Events in the journal that no destination waits for, about: every one has them, or
    /// rules sent them nowhere. They give way as soon as room is needed.
    pub settled: u64,
    /// Database and write-ahead log.
    pub file_bytes: u64,
    /// The most they may take.
    pub max_bytes: u64,
    /// Whether devices are being pushed back.
    pub full: bool,
    /// Whether events are being given up by class.
    pub shedding: bool,
    /// Gaps that were counted and are not told upstream yet.
    pub gaps: u64,
    /// Seconds until the journal is full if things go on as they do; `null` if it does not grow.
    pub time_to_full_secs: Option<u64>,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Idempotency keys remembered.
    pub dedup_keys: u64,
    /// Memory that they take.
    pub dedup_bytes: u64,
    /// Keys forgotten early because the memory budget holds no more.
    pub dedup_shortened: u64,
    /// Messages in quarantine.
    pub in_quarantine: u64,
    /// Room that they take; at most an eighth of the journal.
    pub quarantine_bytes: u64,
    /// Oldest ones that made room for others, since the journal was begun.
    pub quarantine_evicted: u64,
    /// Dead letters that can be redriven or discarded.
    pub dead_letters: u64,
    /// Damaged journals that were set aside.
    pub set_aside: Vec<String>,
}

/// Where a destination stands.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = DestinationStatus)]
pub struct Destination {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Arc<str>,
    /// Whether the configuration names it. If not, its backlog is kept for its return.
    pub configured: bool,
    /// How an operator has it run: `running`, `paused` or `draining`.
    #[schema(value_type = String)]
    pub mode: &'static str,
    /// `idle`, `delivering`, `retrying`, `throttled`, `stopped`, `paused`, `waiting` (for its
    /// budget or its hours), `filling` (it is being given what was kept before it was
    /// known) or `unconfigured`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// The last failure, while it lasts.
    pub error: Option<String>,
    /// What it waits for, and until when, where that is as configured.
    pub waits: Option<String>,
    /// Bytes of its budget that are spent, of this day or month.
    pub budget_spent_bytes: u64,
    /// Everything up to this position is settled.
    pub cursor: u64,
    /// Events for it, ever.
    pub routed: u64,
    /// Of those: delivered.
    pub delivered: u64,
    /// Of those: expired by age before they could be delivered.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Of those: dead letters.
    pub dead: u64,
    /// Of those: still to be delivered.
    pub backlog: u64,
    /// Part of the backlog: waiting for another attempt.
    pub retrying: u64,
    /// Seconds since the oldest of the backlog was received.
    pub oldest_undelivered_age_secs: Option<u64>,
    /// Seconds until the backlog is gone if things go on as they do; `null` if it does not shrink.
    pub time_to_drain_secs: Option<u64>,
    /// Delivered in each second, lately.
    pub delivered_per_sec: f64,
}

/// Whether events get on their way, and if not, why.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// Whether all is well.
    pub ready: bool,
    /// What is not.
    pub reasons: Vec<String>,
}

/// A backlog that nothing was taken from for this long means not ready.
const PROGRESS_MAX: Duration = Duration::from_secs(30);
/// Rates look back this far.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples kept: one each second.
const SAMPLES_MAX: usize = 16;

/// Turns the store's counts into rates and forecasts. Fed about once a second.
#[derive(Debug, Default)]
pub struct Sampler {
    samples: VecDeque<(Instant, store::Status)>,
    /// For each destination: how many were delivered or given up, and when that last changed.
    progress: Vec<(Arc<str>, u64, Instant)>,
}

impl Sampler {
    /// Takes in the counts of `now`.
    pub fn sample(&mut self, now: Instant, status: store::Status) {
        for destination in &status.destinations {
            // Expiry and eviction settle too, but are the opposite of progress.
            let settled = destination.delivered + destination.dead;
            match self
                .progress
                .iter_mut()
                .find(|(name, ..)| *name == destination.name)
            {
                Some((_, before, at)) => {
                    // With nothing to do, nothing can be late.
                    let waits = destination.mode == store::Mode::Paused || destination.filling;
                    if *before != settled || destination.backlog == 0 || waits {
                        (*before, *at) = (settled, now);
                    }
                }
                None => self.progress.push((destination.name.clone(), settled, now)),
            }
        }
        self.samples.push_back((now, status));
        while self.samples.len() > SAMPLES_MAX
            || self
                .samples
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW * 2)
        {
            self.samples.pop_front();
        }
    }

    /// Growth per second of a count within the window.
    fn rate(&self, count: impl Fn(&store::Status) -> u64) -> f64 {
        let Some((end, last)) = self.samples.back() else {
            return 0.0;
        };
        let first = self
            .samples
            .iter()
            .find(|(at, _)| end.duration_since(*at) <= WINDOW);
        let Some((start, first)) = first else {
            return 0.0;
        };
        let secs = end.duration_since(*start).as_secs_f64();
        if secs < 0.5 {
            0.0
        } else {
            (float(count(last)) - float(count(first))) / secs
        }
    }

    /// Accepted in each second, lately.
    pub fn accepted_per_sec(&self) -> f64 {
        self.rate(|status| status.accepted)
    }

    /// Delivered to `name` in each second, lately.
    pub fn delivered_per_sec(&self, name: &str) -> f64 {
        self.rate(|status| of(status, name).map_or(0, |d| d.delivered))
    }

    /// Seconds until the journal is full. `None` unless a backlog grows: without
    /// one the write-ahead log merely goes up and down between checkpoints. What every
    /// destination has is room: it leaves before anybody is turned away.
    pub fn time_to_full_secs(&self) -> Option<u64> {
        let (_, last) = self.samples.back()?;
        let growing = self.rate(|status| {
            let backlogs = status.destinations.iter().map(|d| d.backlog);
            backlogs.max().unwrap_or(0)
        });
        if growing < 1.0 {
            return None;
        }
        forecast(
            float(last.max_bytes.saturating_sub(last.needed_bytes())),
            self.rate(store::Status::needed_bytes),
        )
    }

    /// Seconds until the backlog of `name` is gone.
    pub fn time_to_drain_secs(&self, name: &str) -> Option<u64> {
        let (_, last) = self.samples.back()?;
        let backlog = of(last, name)?.backlog;
        if backlog == 0 {
            return Some(0);
        }
        // What is delivered within a second is on its way, not a backlog that must shrink.
        if float(backlog) <= self.delivered_per_sec(name) {
            return Some(1);
        }
        let shrinking = -self.rate(|status| of(status, name).map_or(0, |d| d.backlog));
        forecast(float(backlog), shrinking)
    }

    /// Whether every configured destination with a backlog makes progress, but for those
    /// that wait as they should.
    pub fn readiness(&self, now: Instant, waits: impl Fn(&str) -> bool) -> Readiness {
        let mut reasons = Vec::new();
        match self.samples.back() {
            None => reasons.push("the gateway is starting".to_owned()),
            Some((_, status)) => {
                if status.full {
                    reasons.push("the journal is full, devices are pushed back".to_owned());
                }
                reasons.extend(
                    status
                        .destinations
                        .iter()
                        .filter(|d| !waits(&d.name))
                        .filter_map(|d| self.stuck(now, d)),
                );
            }
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    fn stuck(&self, now: Instant, destination: &store::DestinationStatus) -> Option<String> {
        let (_, _, since) = self
            .progress
            .iter()
            .find(|(name, ..)| *name == destination.name)?;
        let stuck = now.duration_since(*since);
        let waits_on_purpose = destination.mode == store::Mode::Paused || destination.filling;
        let should = destination.configured && !waits_on_purpose && destination.backlog > 0;
        (should && stuck > PROGRESS_MAX).then(|| {
            format!(
                "nothing was delivered to {} for {} s, {} events wait",
                destination.name,
                stuck.as_secs(),
                destination.backlog
            )
        })
    }
}

fn of<'a>(status: &'a store::Status, name: &str) -> Option<&'a store::DestinationStatus> {
    status.destinations.iter().find(|d| &*d.name == name)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 53 bits"
)]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Whole seconds until `amount` is used up at `per_sec`; `None` where it is not being used up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded above, positive"
)]
fn forecast(amount: f64, per_sec: f64) -> Option<u64> {
    const YEAR_SECS: f64 = 31_536_000.0;
    (per_sec > 0.0 && amount / per_sec < YEAR_SECS).then(|| (amount / per_sec).ceil() as u64)
}

/// Whole seconds from `then` to `now`.
pub fn age_secs(now: Timestamp, then: Timestamp) -> u64 {
    u64::try_from(now.as_millis().saturating_sub(then.as_millis()) / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{DestinationId, Position};

    const MIB: u64 = 1024 * 1024;

    fn counts(accepted: u64, delivered: u64, file_bytes: u64) -> store::Status {
        store::Status {
            accepted,
            stored: accepted,
            file_bytes,
            max_bytes: 1000 * MIB,
            destinations: vec![store::DestinationStatus {
                id: DestinationId(0),
                name: "events".into(),
                configured: true,
                mode: store::Mode::Running,
                filling: false,
                spent: store::Spent::default(),
                cursor: Position(delivered),
                routed: accepted,
                delivered,
                expired: 0,
                evicted: 0,
                damaged: 0,
                dead: 0,
                backlog: accepted - delivered,
                retrying: 0,
                oldest: None,
            }],
            ..store::Status::default()
        }
    }

    /// A sampler that saw `of(second)` for so many seconds, and the last instant.
    fn after(secs: u64, of: impl Fn(u64) -> store::Status) -> (Sampler, Instant) {
        let start = Instant::now();
        let mut sampler = Sampler::default();
        for second in 0..=secs {
            sampler.sample(start + Duration::from_secs(second), of(second));
        }
        (sampler, start + Duration::from_secs(secs))
    }

    #[test]
    fn a_growing_backlog_is_forecast_to_fill_the_journal_and_never_to_drain() {
        let (sampler, _) = after(10, |s| counts(100 * s, 0, 10 * MIB * s));
        assert!((sampler.accepted_per_sec() - 100.0).abs() < 1e-6);
        assert_eq!(sampler.time_to_full_secs(), Some(90));
        assert_eq!(sampler.time_to_drain_secs("events"), None);
    }

    #[test]
    fn what_every_destination_has_is_room_until_it_has_gone() {
        // The journal is half full all the time; what was delivered gives way.
        let (sampler, _) = after(10, |s| store::Status {
            buffered: 1_000,
            buffered_settled: 900 - 10 * s,
            ..counts(10_000 + 10 * s, 10_000, 500 * MIB)
        });
        // 100 MiB wait of 500, and 5 MiB more in each second.
        assert_eq!(sampler.time_to_full_secs(), Some(180));
    }

    #[test]
    fn a_shrinking_backlog_is_forecast_to_drain_and_never_to_fill() {
        let (sampler, _) = after(10, |s| counts(10_000 + 100 * s, 600 * s, 500 * MIB));
        assert_eq!(sampler.time_to_full_secs(), None);
        // 5,000 left, 500 fewer each second.
        assert_eq!(sampler.time_to_drain_secs("events"), Some(10));
    }

    #[test]
    fn the_log_growing_between_checkpoints_fills_nothing() {
        let (sampler, _) = after(10, |s| counts(100 * s, 100 * s, MIB * s));
        assert_eq!(sampler.time_to_full_secs(), None);
        assert_eq!(sampler.time_to_drain_secs("events"), Some(0));
    }

    #[test]
    fn a_backlog_that_nothing_is_taken_from_is_not_ready_however_connected() {
        let (sampler, now) = after(29, |_| counts(10, 0, MIB));
        assert!(sampler.readiness(now, |_| false).ready, "give it 30 s");
        let (sampler, now) = after(31, |_| counts(10, 0, MIB));
        let readiness = sampler.readiness(now, |_| false);
        assert_eq!(
            readiness.reasons,
            ["nothing was delivered to events for 31 s, 10 events wait"]
        );
    }

    #[test]
    fn nothing_to_deliver_is_ready_and_slow_delivery_too() {
        let (sampler, now) = after(100, |_| counts(10, 10, MIB));
        assert!(sampler.readiness(now, |_| false).ready);
        let (sampler, now) = after(100, |s| counts(1000, s / 20, MIB));
        assert!(sampler.readiness(now, |_| false).ready);
    }

    #[test]
    fn eviction_is_no_progress() {
        let (sampler, now) = after(31, |s| {
            let mut status = counts(1000, 0, MIB);
            status.destinations[0].evicted = s;
            status.destinations[0].backlog -= s;
            status
        });
        assert!(!sampler.readiness(now, |_| false).ready);
    }

    #[test]
    fn a_full_journal_is_not_ready() {
        let (sampler, now) = after(1, |_| store::Status {
            full: true,
            ..counts(1, 1, MIB)
        });
        assert!(!sampler.readiness(now, |_| false).ready);
    }
}
