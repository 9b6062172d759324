//! What is known of every message, in eight bytes each.
//!
//! A device in one run is a [`Track`]; its messages are numbered from 0 without
//! gaps, so they are a plain array. Millions of messages take megabytes.

use std::collections::HashMap;

use anyhow::{bail, ensure};

use super::verdict::{Examples, Verdict};
use crate::identity::Identity;

const SENT: u8 = 1;
const ACKED: u8 = 2;
const MALFORMED: u8 = 4;
/// The gateway had no room at first, so the message went again behind later ones.
const DEFERRED: u8 = 8;
const REFUSED: u8 = 16;

/// No simulator leaves such a gap in its numbers; an ack log that does is not ours.
const SEQ_GAP_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, Default)]
struct Message {
    /// Order of first transmission.
    n: u32,
    flags: u8,
    /// Times that it arrived; stays at the highest number.
    arrived: u16,
}

/// One device in one run.
#[derive(Debug)]
struct Track {
    device: Box<str>,
    boot: u64,
    messages: Vec<Message>,
    /// The message furthest in the order of sending that has arrived so far.
    latest: Option<(u32, u64)>,
}

/// Everything sent, and what has arrived of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tracks: Vec<Track>,
    /// Device, then boot.
    index: HashMap<Box<str>, HashMap<u64, usize>>,
    deferred: u64,
    arrived: u64,
    unidentified: u64,
    unreadable: Examples,
    phantom: Examples,
    out_of_order: Examples,
    malformed_arrived: Examples,
}

impl Ledger {
    /// A message was sent for the first time.
    ///
    /// # Errors
    /// When it was sent before: two runs with the same names and boot.
    pub(super) fn sent(&mut self, id: Identity<'_>, n: u64, malformed: bool) -> anyhow::Result<()> {
        let message = self.entry(id)?;
        ensure!(
            message.flags & SENT == 0,
            "{id} was sent for the first time twice"
        );
        message.flags |= SENT;
        if malformed {
            message.flags |= MALFORMED;
        }
        message.n = u32::try_from(n)?;
        Ok(())
    }

    /// The gateway promised to have it.
    ///
    /// # Errors
    /// When the identity is out of all bounds.
    pub(super) fn acked(&mut self, id: Identity<'_>) -> anyhow::Result<()> {
        self.entry(id)?.flags |= ACKED;
        Ok(())
    }

    /// The gateway had no room for it.
    ///
    /// # Errors
    /// When the identity is out of all bounds.
    pub(super) fn deferred(&mut self, id: Identity<'_>) -> anyhow::Result<()> {
        self.entry(id)?.flags |= DEFERRED;
        self.deferred += 1;
        Ok(())
    }

    /// The gateway will not have it.
    ///
    /// # Errors
    /// When the identity is out of all bounds.
    pub(super) fn refused(&mut self, id: Identity<'_>) -> anyhow::Result<()> {
        self.entry(id)?.flags |= REFUSED;
        Ok(())
    }

    /// After all ack logs: none of them may have holes.
    ///
    /// # Errors
    /// When a message was acknowledged that nobody sent.
    pub(super) fn check_complete(&self) -> anyhow::Result<()> {
        for track in &self.tracks {
            for (seq, message) in (0..).zip(&track.messages) {
                if message.flags != 0 && message.flags & SENT == 0 {
                    bail!(
                        "the ack logs are not complete: {} was answered and never sent",
                        track.id(seq)
                    );
                }
            }
        }
        Ok(())
    }

    /// The event with this identity has arrived; call in the order of arrival.
    pub(super) fn arrived(&mut self, id: Identity<'_>) {
        self.arrived += 1;
        let found = self.find(id).and_then(|index| {
            let track = &mut self.tracks[index];
            let message = track.messages.get_mut(usize::try_from(id.seq).ok()?)?;
            (message.flags & SENT != 0).then_some((message, &mut track.latest))
        });
        let Some((message, latest)) = found else {
            self.phantom.add(|| id.to_string());
            return;
        };
        message.arrived = message.arrived.saturating_add(1);
        if message.flags & MALFORMED != 0 {
            self.malformed_arrived.add(|| id.to_string());
        }
        // A later copy says nothing about order, nor does what went again behind later ones.
        if message.arrived > 1 || message.flags & (DEFERRED | REFUSED) != 0 {
            return;
        }
        match *latest {
            Some((n, seq)) if message.n < n => {
                let earlier = Identity { seq, ..id };
                let place = message.n;
                self.out_of_order
                    .add(|| format!("{id} (sent as {place}) after {earlier} (sent as {n})"));
            }
            _ => *latest = Some((message.n, id.seq)),
        }
    }

    /// An event has arrived that is not the simulator's, or has lost its identity.
    pub(super) const fn unidentified(&mut self) {
        self.arrived += 1;
        self.unidentified += 1;
    }

    /// Something has arrived that is no event.
    pub(super) fn unreadable(&mut self, what: impl FnOnce() -> String) {
        self.unreadable.add(what);
    }

    /// The judgement.
    pub(super) fn verdict(self, allow_duplicates: bool) -> Verdict {
        let mut verdict = Verdict {
            allow_duplicates,
            devices: self.index.len() as u64,
            deferred: self.deferred,
            arrived: self.arrived,
            unidentified: self.unidentified,
            phantom: self.phantom,
            out_of_order: self.out_of_order,
            unreadable: self.unreadable,
            malformed_arrived: self.malformed_arrived,
            ..Verdict::default()
        };
        for track in &self.tracks {
            for (seq, message) in (0..).zip(&track.messages) {
                if message.flags & SENT == 0 {
                    continue;
                }
                let is = |flag: u8| message.flags & flag != 0;
                verdict.sent += 1;
                verdict.acked += u64::from(is(ACKED));
                verdict.refused += u64::from(is(REFUSED));
                verdict.malformed += u64::from(is(MALFORMED));
                verdict.malformed_acked += u64::from(is(MALFORMED) && is(ACKED));
                verdict.arrived_distinct += u64::from(message.arrived > 0);
                verdict.arrived_unacked += u64::from(message.arrived > 0 && !is(ACKED));
                if is(ACKED) && !is(MALFORMED) && message.arrived == 0 {
                    verdict.lost.add(|| track.id(seq).to_string());
                }
                if message.arrived > 1 {
                    verdict
                        .duplicated
                        .add(|| format!("{} arrived {} times", track.id(seq), message.arrived));
                    verdict.extra_copies += u64::from(message.arrived) - 1;
                }
            }
        }
        verdict
    }

    fn find(&self, id: Identity<'_>) -> Option<usize> {
        self.index.get(id.device)?.get(&id.boot).copied()
    }

    fn entry(&mut self, id: Identity<'_>) -> anyhow::Result<&mut Message> {
        let index = match self.find(id) {
            Some(index) => index,
            None => {
                self.tracks.push(Track {
                    device: id.device.into(),
                    boot: id.boot,
                    messages: Vec::new(),
                    latest: None,
                });
                let index = self.tracks.len() - 1;
                self.index
                    .entry(id.device.into())
                    .or_default()
                    .insert(id.boot, index);
                index
            }
        };
        let messages = &mut self.tracks[index].messages;
        let seq = usize::try_from(id.seq)?;
        if seq >= messages.len() {
            ensure!(
                id.seq - (messages.len() as u64) < SEQ_GAP_MAX,
                "{id} is far from any other message of its device"
            );
            messages.resize(seq + 1, Message::default());
        }
        Ok(&mut messages[seq])
    }
}

impl Track {
    const fn id(&self, seq: u64) -> Identity<'_> {
        Identity {
            device: &self.device,
            boot: self.boot,
            seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> Identity<'static> {
        Identity {
            device: "d",
            boot: 1,
            seq,
        }
    }

    fn acknowledged(count: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for seq in 0..count {
            ledger.sent(id(seq), seq, false).unwrap();
            ledger.acked(id(seq)).unwrap();
        }
        ledger.check_complete().unwrap();
        ledger
    }

    fn judge(mut ledger: Ledger, arrivals: &[u64]) -> Verdict {
        for seq in arrivals {
            ledger.arrived(id(*seq));
        }
        ledger.verdict(false)
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        let verdict = judge(acknowledged(5), &[0, 1, 2, 3, 4]);
        assert!(verdict.is_clean());
        assert_eq!(
            (
                verdict.sent,
                verdict.acked,
                verdict.arrived,
                verdict.arrived_distinct
            ),
            (5, 5, 5, 5)
        );
    }

    #[test]
    fn an_acknowledged_message_that_did_not_arrive_is_lost() {
        let verdict = judge(acknowledged(5), &[0, 1, 3, 4]);
        assert_eq!(
            (verdict.lost.count(), verdict.lost.first()),
            (1, Some("sim-d-1-2"))
        );
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_second_copy_is_duplicated_unless_allowed() {
        let mut ledger = acknowledged(2);
        for seq in [0, 1, 0, 0] {
            ledger.arrived(id(seq));
        }
        let mut verdict = ledger.verdict(false);
        assert_eq!(
            (
                verdict.duplicated.count(),
                verdict.extra_copies,
                verdict.out_of_order.count()
            ),
            (1, 2, 0)
        );
        assert!(!verdict.is_clean());
        verdict.allow_duplicates = true;
        assert!(verdict.is_clean());
    }

    #[test]
    fn an_event_that_nobody_sent_is_phantom() {
        for phantom in [
            id(5),
            Identity { boot: 2, ..id(0) },
            Identity {
                device: "e",
                ..id(0)
            },
            id(u64::MAX),
        ] {
            let mut ledger = acknowledged(5);
            ledger.arrived(phantom);
            let verdict = ledger.verdict(false);
            assert_eq!(
                (verdict.phantom.count(), verdict.lost.count()),
                (1, 5),
                "{phantom}"
            );
            assert!(!verdict.is_clean());
        }
    }

    #[test]
    fn a_message_behind_a_later_one_is_out_of_order() {
        let verdict = judge(acknowledged(4), &[0, 2, 1, 3]);
        assert_eq!(verdict.out_of_order.count(), 1);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn order_is_that_of_first_sending_not_of_the_counter() {
        let mut ledger = Ledger::default();
        for (n, seq) in [0, 2, 1, 3].into_iter().enumerate() {
            ledger.sent(id(seq), n as u64, false).unwrap();
        }
        assert!(judge(ledger, &[0, 2, 1, 3]).is_clean());
    }

    #[test]
    fn order_holds_within_a_device_and_a_run_only() {
        let mut ledger = acknowledged(2);
        let other = |seq| Identity { boot: 2, ..id(seq) };
        for seq in 0..2 {
            ledger.sent(other(seq), seq, false).unwrap();
        }
        for id in [other(0), id(0), other(1), id(1)] {
            ledger.arrived(id);
        }
        assert!(ledger.verdict(false).is_clean());
    }

    #[test]
    fn what_the_gateway_put_off_may_come_late_and_still_must_come() {
        let mut ledger = acknowledged(4);
        ledger.deferred(id(1)).unwrap();
        let verdict = judge(ledger, &[0, 2, 1, 3]);
        assert!(verdict.is_clean(), "{verdict:?}");
        let mut ledger = acknowledged(4);
        ledger.deferred(id(1)).unwrap();
        assert_eq!(judge(ledger, &[0, 2, 3]).lost.count(), 1);
    }

    #[test]
    fn what_was_never_acknowledged_may_arrive_or_not() {
        let mut ledger = acknowledged(2);
        ledger.sent(id(2), 2, false).unwrap();
        ledger.sent(id(3), 3, false).unwrap();
        let verdict = judge(ledger, &[0, 1, 2]);
        assert!(verdict.is_clean());
        assert_eq!(verdict.arrived_unacked, 1);
    }

    #[test]
    fn a_malformed_message_is_not_expected_at_the_destination() {
        let mut ledger = acknowledged(2);
        ledger.sent(id(2), 2, true).unwrap();
        ledger.acked(id(2)).unwrap();
        let verdict = judge(ledger, &[0, 1]);
        assert!(verdict.is_clean());
        assert_eq!(
            (
                verdict.malformed,
                verdict.malformed_acked,
                verdict.malformed_arrived.count()
            ),
            (1, 1, 0)
        );
    }

    #[test]
    fn an_unreadable_line_is_a_fault() {
        let mut ledger = acknowledged(1);
        ledger.unreadable(|| "line 1".to_owned());
        assert!(!judge(ledger, &[0]).is_clean());
    }

    #[test]
    fn an_ack_log_that_contradicts_itself_is_refused() {
        let mut ledger = acknowledged(1);
        assert!(ledger.sent(id(0), 0, false).is_err());
        ledger.acked(id(7)).unwrap();
        assert!(ledger.check_complete().is_err());
        assert!(ledger.acked(id(1 << 40)).is_err());
    }
}
