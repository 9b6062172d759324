//! Whether what comes for a destination goes by the lane of what is live: while it takes
//! records again and what has waited goes out.
//!
//! It is behind when its cursor is before where the journal ended a while ago; that needs no
//! wall clock. After a start that is not known until the while has passed, and until then
//! everything goes by the destination, as it does while the destination is away: what comes
//! then waits with the rest. Once open, a lane stays so until nothing of the rest waits.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    forward::{self, State, Way},
    record::{DestinationId, Position, Routes},
    store::{DestinationStatus, Mode, Status},
};

/// How often to look.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Who has acknowledged nothing for so long is away, or for as long as it takes to be behind.
const AWAY_AFTER: Duration = Duration::from_secs(30);
/// Ends of the journal that are remembered of the time that makes one behind, about.
const SAMPLES: u32 = 8;

/// Whose lanes are open.
#[derive(Debug, Default)]
pub(super) struct Gates {
    all: Vec<Gate>,
    /// As it was told last.
    open: Routes,
}

/// Whether one lane is open.
#[derive(Debug)]
struct Gate {
    of: Arc<str>,
    lane: Arc<str>,
    after: Duration,
    /// Where the journal ended, and when.
    ends: VecDeque<(Instant, Position)>,
    /// What was delivered by both ways when that was looked at last.
    delivered: Option<u64>,
    /// When that was seen to be more.
    took_at: Option<Instant>,
    is_open: bool,
}

impl Gates {
    /// These destinations are in force. Those that are behind stay so.
    pub(super) fn follow(&mut self, configs: &[forward::Config]) {
        let mut known = std::mem::take(&mut self.all);
        for config in configs.iter().filter(|one| one.way() == Way::Live) {
            let after = config.live.map_or(forward::Live::AFTER, |live| live.after);
            let found = known.iter().position(|gate| gate.lane == config.name);
            self.all.push(match found {
                Some(at) => Gate {
                    after,
                    ..known.swap_remove(at)
                },
                None => Gate::new(config.place().clone(), config.name.clone(), after),
            });
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Which lanes are open now, where that has changed. `state` says what one that runs is
    /// doing.
    pub(super) fn look(
        &mut self,
        now: Instant,
        status: &Status,
        state: impl Fn(&str) -> Option<State>,
    ) -> Option<Routes> {
        let mut open = Routes::NONE;
        for gate in &mut self.all {
            open = gate
                .look(now, status, &state)
                .map_or(open, |id| open.with(id));
        }
        (std::mem::replace(&mut self.open, open) != open).then_some(open)
    }
}

impl Gate {
    const fn new(of: Arc<str>, lane: Arc<str>, after: Duration) -> Self {
        Self {
            of,
            lane,
            after,
            ends: VecDeque::new(),
            delivered: None,
            took_at: None,
            is_open: false,
        }
    }

    /// The number of the lane, if it is open.
    fn look(
        &mut self,
        now: Instant,
        status: &Status,
        state: &impl Fn(&str) -> Option<State>,
    ) -> Option<DestinationId> {
        self.note_end(now, status.committed);
        let find = |name: &Arc<str>| status.destinations.iter().find(|d| d.name == *name);
        let (Some(rest), Some(lane)) = (find(&self.of), find(&self.lane)) else {
            self.set_open(false);
            return None;
        };
        let delivered = rest.delivered + lane.delivered;
        if self.delivered.is_some_and(|before| before < delivered) {
            self.took_at = Some(now);
        }
        self.delivered = Some(delivered);
        let away_after = AWAY_AFTER.max(self.after);
        let takes = self.took_at.is_some_and(|at| at + away_after > now);
        let goes = takes && runs(rest, state) && runs(lane, state);
        let is_open = goes
            && match self.is_open {
                true => waits(rest),
                // One lane behind another is no help to what comes.
                false => {
                    state(&rest.name) != Some(State::Retrying)
                        && self.is_behind(now, rest)
                        && !self.is_behind(now, lane)
                }
            };
        self.set_open(is_open);
        is_open.then_some(lane.id)
    }

    fn set_open(&mut self, is_open: bool) {
        let (destination, lane) = (&*self.of, &*self.lane);
        match (self.is_open, is_open) {
            (false, true) => tracing::info!(
                destination,
                lane,
                "destination is behind: what comes goes by its lane while the rest goes out"
            ),
            (true, false) => tracing::info!(
                destination,
                lane,
                "what comes goes by the destination again, and no longer by its lane"
            ),
            _ => {}
        }
        self.is_open = is_open;
    }

    /// Remembers where the journal ends, now and then, as far as that is asked for.
    fn note_end(&mut self, now: Instant, end: Position) {
        let every = self.after / SAMPLES;
        if self.ends.back().is_none_or(|(at, _)| *at + every <= now) {
            self.ends.push_back((now, end));
        }
        // Of those that are old enough only the last is asked for.
        while self
            .ends
            .get(1)
            .is_some_and(|(at, _)| *at + self.after <= now)
        {
            self.ends.pop_front();
        }
    }

    /// Whether something of it waits that was stored so long ago.
    fn is_behind(&self, now: Instant, one: &DestinationStatus) -> bool {
        let then = self.ends.front().filter(|(at, _)| *at + self.after <= now);
        waits(one) && then.is_some_and(|(_, end)| one.cursor < *end)
    }
}

/// Whether something waits for its turn, and not for another attempt.
const fn waits(one: &DestinationStatus) -> bool {
    one.backlog > one.retrying
}

/// Whether it is meant to send at the moment.
fn runs(one: &DestinationStatus, state: &impl Fn(&str) -> Option<State>) -> bool {
    let shut = [State::Paused, State::Stopped, State::Waiting];
    one.mode == Mode::Running
        && !one.filling
        && state(&one.name).is_some_and(|state| !shut.contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Timestamp, store::Spent};

    const AFTER: Duration = Duration::from_secs(8);
    const OPEN: Routes = Routes(0b10);

    /// A destination and its lane, looked at once a second.
    struct Place {
        gate: Gates,
        now: Instant,
        status: Status,
        state: State,
    }

    fn destination(id: u8, name: &str) -> DestinationStatus {
        DestinationStatus {
            id: DestinationId(id),
            name: name.into(),
            configured: true,
            cursor: Position(0),
            mode: Mode::Running,
            filling: false,
            spent: Spent {
                since: Timestamp::from_nanos(0),
                bytes: 0,
            },
            routed: 0,
            delivered: 0,
            expired: 0,
            evicted: 0,
            damaged: 0,
            dead: 0,
            backlog: 0,
            retrying: 0,
            oldest: None,
        }
    }

    impl Place {
        fn new() -> Self {
            let gate = Gate::new("lake".into(), "lake.live".into(), AFTER);
            Self {
                gate: Gates {
                    all: vec![gate],
                    open: Routes::NONE,
                },
                now: Instant::now(),
                status: Status {
                    destinations: vec![destination(0, "lake"), destination(1, "lake.live")],
                    ..Status::default()
                },
                state: State::Delivering,
            }
        }

        /// A second passes, in which so many come and so many are taken by the rest.
        fn second(&mut self, come: u64, taken: u64) -> Option<Routes> {
            self.now += Duration::from_secs(1);
            self.status.committed.0 += come;
            let live = usize::from(self.gate.open == OPEN);
            self.status.destinations[live].backlog += come;
            let rest = &mut self.status.destinations[0];
            rest.cursor.0 += taken;
            rest.backlog -= taken;
            rest.delivered += taken;
            if live == 1 {
                let lane = &mut self.status.destinations[1];
                lane.delivered += lane.backlog;
                lane.backlog = 0;
                lane.cursor = self.status.committed;
            }
            self.look()
        }

        fn look(&mut self) -> Option<Routes> {
            let state = self.state;
            self.gate.look(self.now, &self.status, |_| Some(state))
        }

        /// Away for so long that it is behind.
        fn away(&mut self) {
            self.state = State::Retrying;
            for _ in 0..60 {
                assert_eq!(self.second(10, 0), None, "what comes waits with the rest");
            }
        }
    }

    #[test]
    fn it_opens_when_one_that_is_behind_takes_records_again_and_shuts_when_it_has_caught_up() {
        let mut place = Place::new();
        for _ in 0..20 {
            assert_eq!(place.second(10, 10), None, "nobody is behind");
        }
        place.away();
        // It is back: nothing was taken yet, and then something was.
        place.state = State::Delivering;
        assert_eq!(place.second(10, 0), None);
        assert_eq!(place.second(10, 1), Some(OPEN));
        while place.status.destinations[0].backlog > 100 {
            assert_eq!(place.second(10, 100), None);
        }
        // What is left waits for another attempt.
        let left = place.status.destinations[0].backlog - 1;
        place.status.destinations[0].retrying = 1;
        assert_eq!(place.second(10, left), Some(Routes::NONE));
        place.status.destinations[0].cursor = place.status.committed;
        for _ in 0..20 {
            assert_eq!(place.second(10, 10), None);
        }
    }

    #[test]
    fn after_a_start_nobody_is_behind_until_that_is_known() {
        let mut place = Place::new();
        place.status.committed = Position(1_000_000);
        place.status.destinations[0].backlog = 1_000_000;
        for _ in 0..AFTER.as_secs() {
            assert_eq!(place.second(10, 100), None);
        }
        assert_eq!(place.second(10, 100), Some(OPEN));
    }

    #[test]
    fn a_lane_is_open_for_nobody_who_is_not_to_send_or_is_away() {
        type Change = fn(&mut Place);
        let shuts: [(&str, Change); 7] = [
            ("paused", |place| place.state = State::Paused),
            ("stopped", |place| place.state = State::Stopped),
            ("no budget", |place| place.state = State::Waiting),
            ("draining", |place| {
                place.status.destinations[0].mode = Mode::Draining;
            }),
            ("the lane drains", |place| {
                place.status.destinations[1].mode = Mode::Draining;
            }),
            ("filling", |place| {
                place.status.destinations[0].filling = true
            }),
            ("away", |place| {
                place.state = State::Retrying;
                place.now += AWAY_AFTER;
            }),
        ];
        for (name, change) in shuts {
            let mut place = Place::new();
            place.away();
            place.state = State::Delivering;
            place.second(10, 1);
            place.second(10, 1);
            assert_eq!(place.gate.open, OPEN, "{name}");
            change(&mut place);
            assert_eq!(place.look(), Some(Routes::NONE), "{name}");
            assert_eq!(place.look(), None, "{name}: it stays shut");
        }
    }

    #[test]
    fn it_does_not_flap_while_a_batch_fails_now_and_then_nor_open_for_a_single_record() {
        let mut place = Place::new();
        place.away();
        place.state = State::Delivering;
        place.second(10, 1);
        place.second(10, 1);
        assert_eq!(place.gate.open, OPEN);
        for second in 0..40 {
            place.state = [State::Delivering, State::Retrying][second % 2];
            assert_eq!(place.second(10, 1), None);
        }
        // One that waits for another attempt makes nobody behind.
        let mut place = Place::new();
        place.status.destinations[0].backlog = 1;
        place.status.destinations[0].retrying = 1;
        for _ in 0..40 {
            assert_eq!(place.second(10, 10), None);
        }
    }

    #[test]
    fn a_lane_that_is_behind_itself_is_not_opened() {
        let mut place = Place::new();
        place.status.destinations[1].backlog = 5;
        place.away();
        place.state = State::Delivering;
        for _ in 0..10 {
            assert_eq!(place.second(10, 1), None);
        }
        place.status.destinations[1].backlog = 0;
        assert_eq!(place.second(10, 1), Some(OPEN));
    }
}
