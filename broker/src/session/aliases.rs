//! Topic aliases that we give: a topic that a client has been sent before goes
//! as a number from then on (MQTT 5, section 3.3.2.3.4).
//!
//! At most [`ALIASES_MAX`], and no more than the client allows; the one that was
//! not needed for longest stands for the next new topic. The names count in the
//! budget of what sessions keep; where that is spent, topics go in full.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    budget::{Budget, Share},
    packet::encode::Alias,
};

/// Aliases that one connection gets.
const ALIASES_MAX: u16 = 16;
/// An alias takes three bytes beside the topic when it is given, and instead of it
/// from then on.
const TOPIC_BYTES_MIN: usize = 4;
/// Longest topic that gets an alias.
const TOPIC_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Aliases {
    max: u16,
    /// The topic of alias 1 and so on, with when it was needed last.
    given: Vec<(Bytes, u64)>,
    turn: u64,
    /// What the names take.
    bytes: usize,
    share: Share,
}

impl Aliases {
    /// `client_max` is what the client said in CONNECT.
    pub(super) fn new(client_max: u16, budget: &Arc<Budget>) -> Self {
        Self {
            max: client_max.min(ALIASES_MAX),
            given: Vec::new(),
            turn: 0,
            bytes: 0,
            share: Share::new(budget),
        }
    }

    /// How `topic` is to be sent; `None`: in full. A new alias counts once its packet
    /// is written, which is to be said in [`Aliases::sent`].
    pub(super) fn find(&mut self, topic: &[u8]) -> Option<Alias> {
        if self.max == 0 || !(TOPIC_BYTES_MIN..=TOPIC_BYTES_MAX).contains(&topic.len()) {
            return None;
        }
        self.turn += 1;
        let number = |place: usize| u16::try_from(place + 1).ok();
        let known = self.given.iter().position(|(name, _)| *name == topic);
        if let Some(place) = known {
            self.given[place].1 = self.turn;
            return number(place).map(Alias::Known);
        }
        let place = if self.given.len() < self.max.into() {
            self.given.len()
        } else {
            (0..self.given.len()).min_by_key(|&place| self.given[place].1)?
        };
        let before = self.given.get(place).map_or(0, |(name, _)| name.len());
        let room = self.share.try_set(self.bytes + topic.len() - before);
        number(place).filter(|_| room).map(Alias::New)
    }

    /// A packet with `alias` for `topic` was written.
    pub(super) fn sent(&mut self, alias: Alias, topic: &[u8]) {
        let Alias::New(alias) = alias else { return };
        let entry = (Bytes::copy_from_slice(topic), self.turn);
        self.bytes += topic.len();
        match self.given.get_mut(usize::from(alias) - 1) {
            Some(old) => self.bytes -= std::mem::replace(old, entry).0.len(),
            None => self.given.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_get_aliases_within_what_the_client_allows() {
        let budget = Arc::new(Budget::of(1_000_000));
        let mut aliases = Aliases::new(2, &budget);
        let mut send = |topic: &[u8]| {
            let alias = aliases.find(topic);
            if let Some(alias) = alias {
                aliases.sent(alias, topic);
            }
            alias
        };
        assert_eq!(send(b"one/topic"), Some(Alias::New(1)));
        assert_eq!(send(b"one/topic"), Some(Alias::Known(1)));
        assert_eq!(send(b"other/topic"), Some(Alias::New(2)));
        assert_eq!(send(b"one/topic"), Some(Alias::Known(1)));
        assert_eq!(
            send(b"third/topic"),
            Some(Alias::New(2)),
            "needed longest ago"
        );
        assert_eq!(send(b"other/topic"), Some(Alias::New(1)));
        assert_eq!(send(b"abc"), None, "not worth it");
        assert_eq!(send(&[b'a'; TOPIC_BYTES_MAX + 1]), None);
        assert_eq!(budget.used(), "third/topic".len() + "other/topic".len());
        drop(aliases);
        assert_eq!(budget.used(), 0);
        assert_eq!(Aliases::new(0, &budget).find(b"one/topic"), None);
    }

    #[test]
    fn an_alias_whose_packet_was_not_written_is_not_remembered() {
        let mut aliases = Aliases::new(2, &Arc::new(Budget::of(1_000_000)));
        assert_eq!(aliases.find(b"one/topic"), Some(Alias::New(1)));
        assert_eq!(aliases.find(b"one/topic"), Some(Alias::New(1)));
    }
}
