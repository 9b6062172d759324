//! The records between the cursor and the end of what was read.
//!
//! The cursor moves over settled records only, in journal order, whatever the
//! order in which they were settled. What became of a record is told to the
//! journal together with the cursor that passes it, never before: after a crash
//! everything behind the cursor is read again, and must not be known already.

use std::collections::VecDeque;

use super::{batch::Item, pending::Pending};
use crate::{
    record::Position,
    store::{Dead, Retry},
};

/// What became of a record.
#[derive(Debug)]
pub(super) enum Fate {
    /// Acknowledged by the destination.
    Delivered,
    /// It waits for another attempt.
    Waits(Retry),
    /// It was given up.
    Dead(Dead),
}

/// Records read and not settled, with the cursor before them.
#[derive(Debug)]
pub(super) struct Window {
    /// Everything read after the cursor, by position.
    slots: VecDeque<Slot>,
    /// Read and not handed to the destination yet, by position.
    fresh: VecDeque<Item>,
    fresh_bytes: usize,
    held: Held,
    /// Everything up to here is settled.
    cursor: Position,
    /// Everything up to here was read.
    scanned: Position,
}

/// Fates that wait for the cursor, where they hold a record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// Bytes of those records.
    pub(super) bytes: usize,
    /// Dead letters among them.
    pub(super) dead: usize,
}

#[derive(Debug)]
struct Slot {
    position: Position,
    settled: Settled,
}

#[derive(Debug)]
enum Settled {
    No,
    /// Not a record of ours.
    Nothing,
    Yes(Fate),
}

impl Window {
    pub(super) const fn new(cursor: Position) -> Self {
        Self {
            slots: VecDeque::new(),
            fresh: VecDeque::new(),
            fresh_bytes: 0,
            held: Held { bytes: 0, dead: 0 },
            cursor,
            scanned: cursor,
        }
    }

    /// Everything up to here is settled.
    pub(super) const fn cursor(&self) -> Position {
        self.cursor
    }

    /// Everything up to here was read.
    pub(super) const fn scanned(&self) -> Position {
        self.scanned
    }

    /// Records after the cursor, settled ones among them.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is between the cursor and the end of what was read.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Records not handed to the destination yet.
    pub(super) fn fresh_len(&self) -> usize {
        self.fresh.len()
    }

    /// Bytes of records not handed to the destination yet.
    pub(super) const fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// What became of records that the cursor cannot pass yet.
    pub(super) const fn held(&self) -> Held {
        self.held
    }

    /// Another record was read.
    pub(super) fn push(&mut self, item: Item) {
        self.expect(item.position());
        self.fresh_bytes += item.record().body.len();
        self.fresh.push_back(item);
    }

    /// A record was read that will not go out by way of [`Self::take_fresh`].
    pub(super) fn expect(&mut self, position: Position) {
        assert!(position > self.scanned, "records are read in order, once");
        self.scanned = position;
        self.slots.push_back(Slot {
            position,
            settled: Settled::No,
        });
    }

    /// Everything up to `position` was read; what was not pushed is not ours.
    pub(super) fn scanned_to(&mut self, position: Position) {
        if position > self.scanned {
            self.scanned = position;
            if self.slots.is_empty() {
                self.cursor = position;
            } else {
                self.slots.push_back(Slot {
                    position,
                    settled: Settled::Nothing,
                });
            }
        }
    }

    /// The next record to hand to the destination.
    pub(super) fn peek_fresh(&self) -> Option<&Item> {
        self.fresh.front()
    }

    /// All that were not handed to the destination yet, in order.
    pub(super) fn fresh(&self) -> impl Iterator<Item = &Item> {
        self.fresh.iter()
    }

    /// Takes the next record to hand to the destination.
    pub(super) fn take_fresh(&mut self) -> Option<Item> {
        let item = self.fresh.pop_front()?;
        self.fresh_bytes -= item.record().body.len();
        Some(item)
    }

    /// Where a record is. Where no other destination's are between them it is as far from
    /// the first one as its position is.
    fn place_of(&self, position: Position) -> Option<usize> {
        let first = self.slots.front()?.position;
        let far = position.0.checked_sub(first.0)?;
        let near = usize::try_from(far).ok();
        let is_there = |at: &usize| {
            self.slots
                .get(*at)
                .is_some_and(|at| at.position == position)
        };
        near.filter(is_there).or_else(|| {
            let found = self
                .slots
                .binary_search_by_key(&position, |slot| slot.position);
            found.ok()
        })
    }

    /// A record is settled, or settled otherwise than before; the cursor moves as
    /// far as it can, and the fate of what it passes goes to `pending`. Gives
    /// back the fate of a record that is not in the window.
    pub(super) fn settle(
        &mut self,
        position: Position,
        fate: Fate,
        pending: &mut Pending,
    ) -> Result<(), Box<Fate>> {
        let Some(index) = self.place_of(position) else {
            return Err(Box::new(fate));
        };
        self.held.add(&fate);
        let before = std::mem::replace(&mut self.slots[index].settled, Settled::Yes(fate));
        if let Settled::Yes(fate) = before {
            self.held.subtract(&fate);
        }
        while let Some(slot) = self
            .slots
            .pop_front_if(|slot| !matches!(slot.settled, Settled::No))
        {
            self.cursor = slot.position;
            if let Settled::Yes(fate) = slot.settled {
                self.held.subtract(&fate);
                pending.add(fate);
            }
        }
        Ok(())
    }
}

impl Held {
    const fn add(&mut self, fate: &Fate) {
        let of = Self::of(fate);
        self.bytes += of.bytes;
        self.dead += of.dead;
    }

    const fn subtract(&mut self, fate: &Fate) {
        let of = Self::of(fate);
        self.bytes -= of.bytes;
        self.dead -= of.dead;
    }

    const fn of(fate: &Fate) -> Self {
        match fate {
            Fate::Delivered => Self { bytes: 0, dead: 0 },
            Fate::Waits(retry) => Self {
                bytes: retry.record.body.len(),
                dead: 0,
            },
            Fate::Dead(dead) => Self {
                bytes: dead.record.body.len(),
                dead: 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::DestinationId;

    proptest! {
        #[test]
        fn the_cursor_never_passes_an_unsettled_record(
            gaps in proptest::collection::vec((1u64..4, any::<bool>()), 1..60),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut window = Window::new(Position(0));
            let mut pending = Pending::new(DestinationId(0), Position(0));
            let (mut at, mut open) = (0, Vec::new());
            for (gap, ours) in gaps {
                at += gap;
                if ours {
                    window.expect(Position(at));
                    open.push(Position(at));
                } else {
                    window.scanned_to(Position(at));
                }
            }
            for pick in order {
                match open.iter().min() {
                    None => {
                        prop_assert_eq!(window.cursor(), Position(at));
                        prop_assert!(window.is_empty());
                        break;
                    }
                    Some(first) => prop_assert!(window.cursor() < *first),
                }
                let settled = open.remove(pick.index(open.len()));
                window.settle(settled, Fate::Delivered, &mut pending).unwrap();
                if let Some(first) = open.iter().min() {
                    prop_assert!(window.cursor() < *first);
                }
            }
        }
    }
}
