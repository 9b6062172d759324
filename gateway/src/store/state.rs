//! Where the journal stands: counters, cursors, the last position given.
//!
//! Written with every commit, so that it is never ahead of or behind the rows it
//! counts. The one row of table `state`, and the copy in the promises file, hold
//!
//! ```text
//! checksum (4) | version (2) | destinations (2) | counters, 8 bytes each, little endian
//! ```
//!
//! Counters only grow. Two equations hold at every commit, by construction:
//! accepted = stored + duplicate + quarantined + shed, and for each destination
//! backlog = routed - delivered - expired - evicted - damaged - dead.
//!
//! What the rules send nowhere is counted as if [`NOWHERE`] were a destination that takes
//! nothing: it is among `destinations`, has no name, and its backlog is what is held.

use super::{
    frame::{column, integer},
    mode::{Fill, Mode},
    progress::Spent,
    step::Step,
};
use crate::{
    event::Timestamp,
    record::{DestinationId, NOWHERE, Position, Routes},
};

const VERSION: u16 = 5;
const HEAD_BYTES: usize = 8;
const GLOBAL: usize = 18 + SHED;
/// Counters of versions 3 and 4: what is given up by class was not there yet.
const GLOBAL_4: usize = 18;
/// Classes of which something may be given up, the lowest first.
pub(super) const SHED: usize = 3;
/// Counters of version 2: the clock and its last step were not there yet.
const GLOBAL_2: usize = 14;
/// Counters of version 1: those of quarantine that came last were not there yet.
const GLOBAL_1: usize = 12;
const PER_DESTINATION: usize = 15;
/// Numbers of a destination before version 4: how it is run was not there yet.
const PER_DESTINATION_3: usize = 9;

/// Where the journal stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Number of the commit that wrote this.
    pub(super) commit: u64,
    /// The last position given.
    pub(super) position: Position,
    /// Everything up to here has left the journal, but for what is held for nobody.
    pub(super) trimmed: Position,
    pub(super) buffered: u64,
    pub(super) stored: u64,
    pub(super) duplicate: u64,
    pub(super) quarantined: u64,
    pub(super) refused_full: u64,
    /// The last number given in quarantine.
    pub(super) quarantine_last: u64,
    pub(super) in_quarantine: u64,
    /// The last number given to a dead letter.
    pub(super) dead_letter_last: u64,
    pub(super) dead_letters: u64,
    /// Bytes in quarantine, about.
    pub(super) quarantine_bytes: u64,
    /// Left quarantine because its share of the room was used up.
    pub(super) quarantine_evicted: u64,
    /// Given up while room was short, by class.
    pub(super) shed: [u64; SHED],
    /// The wall time of this commit; `None` where an earlier version wrote it.
    pub(super) wall: Option<Timestamp>,
    /// The last step of the wall clock.
    pub(super) step: Step,
    /// By id, ascending; [`NOWHERE`] is the last.
    pub(super) destinations: Vec<Standing>,
}

/// Where one destination stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) id: DestinationId,
    pub(super) cursor: Position,
    pub(super) routed: u64,
    pub(super) delivered: u64,
    pub(super) expired: u64,
    pub(super) evicted: u64,
    pub(super) damaged: u64,
    pub(super) dead: u64,
    /// Waiting for another attempt.
    pub(super) retrying: u64,
    /// How it is run.
    pub(super) mode: Mode,
    /// What it is yet to be given of what was kept before it was known.
    pub(super) fill: Option<Fill>,
    /// What it has spent of its budget.
    pub(super) spent: Spent,
    /// Where the destination itself said that it stands. Behind `cursor` where
    /// retention has overtaken it. Not persisted: a restart begins at the cursor.
    pub(super) reported: Position,
    /// Counted between the two. Not persisted.
    pub(super) overtaken: Overtaken,
}

/// Records that retention or damage took between a destination's last report and
/// its cursor. It may have them in flight: what it then reports as settled is
/// taken back from here, so that each record is counted once, as what truly
/// became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Overtaken {
    /// The last of them.
    pub(super) to: Position,
    pub(super) evicted: u64,
    pub(super) expired: u64,
    pub(super) damaged: u64,
}

impl Overtaken {
    pub(super) const fn total(self) -> u64 {
        self.evicted + self.expired + self.damaged
    }
}

impl Standing {
    /// A destination that gets what comes after `end`.
    pub(super) const fn new(id: DestinationId, end: Position) -> Self {
        Self {
            id,
            cursor: end,
            routed: 0,
            delivered: 0,
            expired: 0,
            evicted: 0,
            damaged: 0,
            dead: 0,
            retrying: 0,
            mode: Mode::Running,
            fill: None,
            spent: Spent {
                since: Timestamp::from_nanos(0),
                bytes: 0,
            },
            reported: end,
            overtaken: Overtaken {
                to: Position(0),
                evicted: 0,
                expired: 0,
                damaged: 0,
            },
        }
    }

    /// Whether it waits for what lies at `position` and has these routes, as far as the
    /// routes tell.
    pub(super) fn waits_for(&self, position: Position, routes: Routes) -> bool {
        // What was not looked through for it has, at most, the bit of an earlier one.
        let is_told = self
            .fill
            .is_none_or(|fill| position <= fill.next || position > fill.known_from);
        self.cursor < position && is_told && routes.contains(self.id)
    }

    /// Routed and settled one way or another.
    pub(super) const fn settled(&self) -> u64 {
        self.delivered + self.expired + self.evicted + self.damaged + self.dead
    }

    /// Routed and not settled yet.
    pub(super) const fn backlog(&self) -> u64 {
        self.routed.saturating_sub(self.settled())
    }
}

impl State {
    pub(super) fn accepted(&self) -> u64 {
        self.stored + self.duplicate + self.quarantined + self.shed.iter().sum::<u64>()
    }

    pub(super) fn destination_mut(&mut self, id: DestinationId) -> Option<&mut Standing> {
        self.destinations.iter_mut().find(|d| d.id == id)
    }

    /// Those that have a name, and somebody behind it.
    pub(super) fn named(&self) -> impl Iterator<Item = &Standing> {
        self.destinations.iter().filter(|d| d.id != NOWHERE)
    }

    /// What the rules sent nowhere.
    pub(super) fn nowhere(&self) -> Option<&Standing> {
        self.destinations.iter().find(|d| d.id == NOWHERE)
    }

    /// Events that the rules sent nowhere, and that are still here.
    pub(super) fn held(&self) -> u64 {
        self.nowhere().map_or(0, Standing::backlog)
    }

    /// Everything up to here is settled by everybody. A destination that waits
    /// for no record, and is to be given none, holds nothing, wherever its cursor is: that of one which the
    /// configuration no longer names never moves again. What is held for nobody stays
    /// behind when the rest is trimmed.
    pub(super) fn settled_to(&self) -> Position {
        self.named()
            .filter(|d| d.backlog() > d.retrying || d.fill.is_some())
            .map(|d| d.cursor)
            .min()
            .unwrap_or(self.position)
    }

    /// About how many events are in the journal that no destination waits for.
    pub(super) fn buffered_settled(&self) -> u64 {
        let after = self.position.0.saturating_sub(self.settled_to().0);
        self.buffered.saturating_sub(after)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let count = u16::try_from(self.destinations.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        let mut put = |n: u64| out.extend_from_slice(&n.to_le_bytes());
        let global: [u64; GLOBAL] = [
            self.commit,
            self.position.0,
            self.trimmed.0,
            self.buffered,
            self.stored,
            self.duplicate,
            self.quarantined,
            self.refused_full,
            self.quarantine_last,
            self.in_quarantine,
            self.dead_letter_last,
            self.dead_letters,
            self.quarantine_bytes,
            self.quarantine_evicted,
            self.wall.map_or(0, |wall| integer(wall.as_nanos())),
            self.step.position.0,
            self.step.commit,
            integer(self.step.at.as_nanos()),
            self.shed[0],
            self.shed[1],
            self.shed[2],
        ];
        global.into_iter().for_each(&mut put);
        for d in &self.destinations {
            let counters: [u64; PER_DESTINATION] = [
                u64::from(d.id.0),
                d.cursor.0,
                d.routed,
                d.delivered,
                d.expired,
                d.evicted,
                d.damaged,
                d.dead,
                d.retrying,
                d.mode.number(),
                d.fill.map_or(0, |fill| fill.next.0),
                d.fill.map_or(0, |fill| fill.to.0),
                d.fill.map_or(0, |fill| fill.known_from.0),
                integer(d.spent.since.as_nanos()),
                d.spent.bytes,
            ];
            counters.into_iter().for_each(&mut put);
        }
        let checksum = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads back what [`State::encode`] wrote; bytes behind it are ignored.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk::<4>()?;
        let version = u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?);
        let count = usize::from(u16::from_le_bytes(
            bytes.get(6..HEAD_BYTES)?.try_into().ok()?,
        ));
        let global = match version {
            1 => GLOBAL_1,
            2 => GLOBAL_2,
            3 | 4 => GLOBAL_4,
            VERSION => GLOBAL,
            _ => return None,
        };
        let per_destination = match version {
            4 | VERSION => PER_DESTINATION,
            _ => PER_DESTINATION_3,
        };
        let length = HEAD_BYTES - 4 + 8 * (global + count * per_destination);
        let rest = rest.get(..length)?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (numbers, _) = rest[HEAD_BYTES - 4..].as_chunks::<8>();
        let mut numbers = numbers.iter().map(|n| u64::from_le_bytes(*n));
        let mut next = || numbers.next();
        let mut state = Self {
            commit: next()?,
            position: Position(next()?),
            trimmed: Position(next()?),
            buffered: next()?,
            stored: next()?,
            duplicate: next()?,
            quarantined: next()?,
            refused_full: next()?,
            quarantine_last: next()?,
            in_quarantine: next()?,
            dead_letter_last: next()?,
            dead_letters: next()?,
            quarantine_bytes: if global > GLOBAL_1 { next()? } else { 0 },
            quarantine_evicted: if global > GLOBAL_1 { next()? } else { 0 },
            shed: [0; SHED],
            wall: None,
            step: Step::default(),
            destinations: Vec::with_capacity(count),
        };
        if global > GLOBAL_2 {
            let wall = column(next()?);
            state.wall = (wall != 0).then_some(Timestamp::from_nanos(wall));
            state.step = Step {
                position: Position(next()?),
                commit: next()?,
                at: Timestamp::from_nanos(column(next()?)),
            };
        }
        if global > GLOBAL_4 {
            for shed in &mut state.shed {
                *shed = next()?;
            }
        }
        for _ in 0..count {
            let id = DestinationId(u8::try_from(next()?).ok()?);
            let mut standing = Standing::new(id, Position(next()?));
            standing.routed = next()?;
            standing.delivered = next()?;
            standing.expired = next()?;
            standing.evicted = next()?;
            standing.damaged = next()?;
            standing.dead = next()?;
            standing.retrying = next()?;
            if per_destination > PER_DESTINATION_3 {
                standing.mode = Mode::of_number(next()?);
                let fill = Fill {
                    next: Position(next()?),
                    to: Position(next()?),
                    known_from: Position(next()?),
                };
                standing.fill = (fill.to > Position(0)).then_some(fill);
                standing.spent = Spent {
                    since: Timestamp::from_nanos(column(next()?)),
                    bytes: next()?,
                };
            }
            state.destinations.push(standing);
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote_and_nothing_else() {
        let mut state = State {
            commit: 3,
            position: Position(9),
            stored: 7,
            shed: [4, 5, 6],
            wall: Some(Timestamp::from_nanos(-1)),
            step: Step {
                position: Position(8),
                commit: 2,
                at: Timestamp::from_nanos(i64::MAX),
            },
            ..State::default()
        };
        state
            .destinations
            .push(Standing::new(DestinationId(5), Position(2)));
        state.destinations.push(Standing {
            mode: Mode::Draining,
            spent: Spent {
                since: Timestamp::from_nanos(-1),
                bytes: 7,
            },
            fill: Some(Fill {
                next: Position(3),
                to: Position(9),
                known_from: Position(8),
            }),
            ..Standing::new(DestinationId(6), Position(2))
        });
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert_eq!(State::decode(&bytes), Some(state));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(State::decode(&flipped), None, "byte {at}");
            assert_eq!(State::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
