//! What a device has sent and not yet seen acknowledged.
//!
//! The one owner of resending. A message is in one of three places: on the wire
//! under a packet id, waiting to be sent again after a reconnect, or put back
//! because the gateway had no room for it (MQTT 5 reason 0x97). Together they
//! never exceed the window. Whatever is sent again goes in the order in which
//! it was first sent.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

/// A message with the identity and payload that it keeps for life.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The device's counter at creation.
    pub(crate) seq: u64,
    pub(crate) payload: Bytes,
    pub(crate) malformed: bool,
}

/// One transmission of a message: its first, or a deliberate duplicate.
#[derive(Debug, Clone)]
pub(crate) struct Transmission {
    pub(crate) message: Message,
    /// A deliberate duplicate of a message that was sent before.
    pub(crate) duplicate: bool,
    /// When it was first sent.
    pub(crate) sent: Instant,
    /// Its place in the device's order of first sending.
    order: u64,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// PUBLISH is out.
    Sent(Transmission),
    /// PUBREC has come: the gateway has it, PUBCOMP is still to come.
    Released,
}

/// What PUBACK or PUBREC was for.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The gateway has the message.
    Accepted(Transmission),
    /// The gateway has no room now; it is kept here and sent again later.
    PutBack(Transmission),
    /// The gateway will not have it.
    Refused(Transmission),
}

/// An acknowledgement of something that is not in flight.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsolicited(pub(crate) u16);

/// The reason that says "not now".
const QUOTA_EXCEEDED: u8 = 0x97;

/// The books of one device.
#[derive(Debug)]
pub(crate) struct Window {
    /// By packet id less one.
    slots: Vec<Slot>,
    /// Free packet ids, the one longest out of use first.
    free: VecDeque<u16>,
    /// To be sent before anything new, in order.
    resend: VecDeque<Transmission>,
    /// Put back by the gateway, in order.
    put_back: Vec<Transmission>,
    /// The gateway's own limit on what may be on the wire.
    receive_max: u16,
    next_order: u64,
}

impl Window {
    /// An empty window of `size` messages.
    pub(crate) fn new(size: u16) -> Self {
        Self {
            slots: (0..size).map(|_| Slot::Free).collect(),
            free: (1..=size).collect(),
            resend: VecDeque::new(),
            put_back: Vec::new(),
            receive_max: u16::MAX,
            next_order: 0,
        }
    }

    /// A packet id may be taken.
    pub(crate) fn has_free_id(&self) -> bool {
        !self.free.is_empty() && self.on_wire() < usize::from(self.receive_max)
    }

    /// A new message may be sent: nothing older waits, and there is room for it.
    pub(crate) fn has_room(&self) -> bool {
        self.resend.is_empty() && self.put_back.is_empty() && self.has_free_id()
    }

    /// Nothing is unacknowledged, and every QoS 2 exchange is complete.
    pub(crate) fn is_empty(&self) -> bool {
        self.on_wire() == 0 && self.resend.is_empty() && self.put_back.is_empty()
    }

    /// Gives a first transmission its order and its packet id.
    pub(crate) fn send(&mut self, message: Message, duplicate: bool, now: Instant) -> u16 {
        let order = self.next_order;
        self.next_order += 1;
        self.occupy(Transmission {
            message,
            duplicate,
            sent: now,
            order,
        })
    }

    /// The next transmission to be repeated, if there is one and an id for it.
    pub(crate) fn next_resend(&mut self) -> Option<(u16, &Transmission)> {
        if !self.has_free_id() {
            return None;
        }
        let transmission = self.resend.pop_front()?;
        let id = self.occupy(transmission);
        match &self.slots[usize::from(id) - 1] {
            Slot::Sent(transmission) => Some((id, transmission)),
            Slot::Free | Slot::Released => None,
        }
    }

    /// Something was put back by the gateway and waits for its turn.
    pub(crate) fn has_put_back(&self) -> bool {
        !self.put_back.is_empty()
    }

    /// What was put back may be sent again.
    pub(crate) fn retry_put_back(&mut self) {
        self.resend.extend(self.put_back.drain(..));
        self.resend
            .make_contiguous()
            .sort_by_key(|transmission| transmission.order);
    }

    /// PUBACK.
    ///
    /// # Errors
    /// When nothing is on the wire under that id.
    pub(crate) fn puback(&mut self, id: u16, reason: u8) -> Result<Settled, Unsolicited> {
        let transmission = self.take_sent(id)?;
        self.free.push_back(id);
        Ok(self.settle(transmission, reason))
    }

    /// PUBREC; when it accepts, the id stays taken until PUBCOMP.
    ///
    /// # Errors
    /// When nothing is on the wire under that id.
    pub(crate) fn pubrec(&mut self, id: u16, reason: u8) -> Result<Settled, Unsolicited> {
        let transmission = self.take_sent(id)?;
        if reason < 0x80 {
            self.slots[usize::from(id) - 1] = Slot::Released;
        } else {
            self.free.push_back(id);
        }
        Ok(self.settle(transmission, reason))
    }

    /// PUBCOMP.
    ///
    /// # Errors
    /// When that id is not waiting for it.
    pub(crate) fn pubcomp(&mut self, id: u16) -> Result<(), Unsolicited> {
        match self.slot(id)? {
            slot @ Slot::Released => {
                *slot = Slot::Free;
                self.free.push_back(id);
                Ok(())
            }
            Slot::Free | Slot::Sent(_) => Err(Unsolicited(id)),
        }
    }

    /// A new connection: everything unacknowledged is to be sent again, in
    /// order. What PUBREC accepted is the gateway's, and forgotten here.
    pub(crate) fn reconnected(&mut self, receive_max: u16) {
        self.receive_max = receive_max.max(1);
        let on_wire =
            self.slots
                .iter_mut()
                .filter_map(|slot| match std::mem::replace(slot, Slot::Free) {
                    Slot::Sent(transmission) => Some(transmission),
                    Slot::Free | Slot::Released => None,
                });
        self.resend.extend(on_wire);
        self.free = (1..=u16::try_from(self.slots.len()).unwrap_or(u16::MAX)).collect();
        self.retry_put_back();
    }

    /// Messages (not duplicates) that were sent and never acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        let on_wire = self.slots.iter().filter_map(|slot| match slot {
            Slot::Sent(transmission) => Some(transmission),
            Slot::Free | Slot::Released => None,
        });
        on_wire
            .chain(&self.resend)
            .chain(&self.put_back)
            .filter(|transmission| !transmission.duplicate)
            .count()
    }

    fn on_wire(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn occupy(&mut self, transmission: Transmission) -> u16 {
        let id = self
            .free
            .pop_front()
            .expect("callers ask `has_free_id` first");
        self.slots[usize::from(id) - 1] = Slot::Sent(transmission);
        id
    }

    fn slot(&mut self, id: u16) -> Result<&mut Slot, Unsolicited> {
        usize::from(id)
            .checked_sub(1)
            .and_then(|index| self.slots.get_mut(index))
            .ok_or(Unsolicited(id))
    }

    fn take_sent(&mut self, id: u16) -> Result<Transmission, Unsolicited> {
        let slot = self.slot(id)?;
        match std::mem::replace(slot, Slot::Free) {
            Slot::Sent(transmission) => Ok(transmission),
            other => {
                *slot = other;
                Err(Unsolicited(id))
            }
        }
    }

    fn settle(&mut self, transmission: Transmission, reason: u8) -> Settled {
        match reason {
            0..0x80 => Settled::Accepted(transmission),
            QUOTA_EXCEEDED => {
                self.put_back.push(transmission.clone());
                self.put_back.sort_by_key(|transmission| transmission.order);
                Settled::PutBack(transmission)
            }
            _ => Settled::Refused(transmission),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(seq: u64) -> Message {
        Message {
            seq,
            payload: Bytes::new(),
            malformed: false,
        }
    }

    fn sent(window: &mut Window, count: u64) -> Vec<u16> {
        (0..count)
            .map(|seq| window.send(message(seq), false, Instant::now()))
            .collect()
    }

    fn resent(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.next_resend().map(|(_, t)| t.message.seq)).collect()
    }

    #[test]
    fn an_acknowledgement_settles_the_message_under_its_packet_id() {
        let mut window = Window::new(4);
        let ids = sent(&mut window, 4);
        assert!(!window.has_room());
        for seq in [2, 0, 3, 1] {
            let Ok(Settled::Accepted(t)) = window.puback(ids[seq], 0) else {
                panic!()
            };
            assert_eq!(t.message.seq, seq as u64);
        }
        assert!(window.is_empty());
        assert_eq!(window.puback(ids[0], 0).unwrap_err(), Unsolicited(ids[0]));
        for id in [0, 5, u16::MAX] {
            assert_eq!(window.puback(id, 0).unwrap_err(), Unsolicited(id));
            assert_eq!(window.pubcomp(id), Err(Unsolicited(id)));
        }
    }

    #[test]
    fn after_a_reconnect_the_unacknowledged_go_again_in_order() {
        let mut window = Window::new(5);
        let ids = sent(&mut window, 5);
        window.puback(ids[1], 0).unwrap();
        window.puback(ids[0], 0).unwrap();
        window.send(message(5), false, Instant::now());
        window.send(message(6), false, Instant::now());
        window.reconnected(u16::MAX);
        assert!(!window.has_room(), "nothing new before the old");
        assert_eq!(resent(&mut window), [2, 3, 4, 5, 6]);
        window.reconnected(2);
        assert_eq!(
            resent(&mut window),
            [2, 3],
            "no more than the gateway takes"
        );
    }

    #[test]
    fn a_message_without_room_at_the_gateway_is_kept_and_holds_back_later_ones() {
        let mut window = Window::new(4);
        let ids = sent(&mut window, 3);
        assert!(matches!(
            window.puback(ids[1], 0x97),
            Ok(Settled::PutBack(_))
        ));
        assert!(matches!(
            window.puback(ids[0], 0x97),
            Ok(Settled::PutBack(_))
        ));
        assert!(window.has_put_back() && !window.has_room());
        assert_eq!(resent(&mut window), [] as [u64; 0], "not before its time");
        window.retry_put_back();
        assert_eq!(resent(&mut window), [0, 1]);
        assert_eq!(window.unacknowledged(), 3);
    }

    #[test]
    fn a_refused_message_is_not_kept() {
        let mut window = Window::new(1);
        let id = sent(&mut window, 1)[0];
        assert!(matches!(window.pubrec(id, 0x87), Ok(Settled::Refused(_))));
        assert!(window.is_empty() && window.has_room());
    }

    #[test]
    fn qos_2_holds_its_id_until_complete_and_is_not_repeated_after_pubrec() {
        let mut window = Window::new(2);
        let ids = sent(&mut window, 2);
        assert!(matches!(window.pubrec(ids[0], 0), Ok(Settled::Accepted(_))));
        assert!(!window.has_free_id());
        assert_eq!(window.pubcomp(ids[1]), Err(Unsolicited(ids[1])));
        assert_eq!(window.pubrec(ids[0], 0).unwrap_err(), Unsolicited(ids[0]));
        assert_eq!(window.pubcomp(ids[0]), Ok(()));
        assert!(window.has_free_id());
        window.pubrec(ids[1], 0).unwrap();
        window.reconnected(u16::MAX);
        assert!(window.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Ack(usize, u8),
        Reconnect(u16),
        Retry,
        Resend,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Send),
            4 => (0..8_usize, prop_oneof![4 => Just(0_u8), 1 => Just(0x97), 1 => Just(0x87)]).prop_map(|(n, reason)| Step::Ack(n, reason)),
            1 => (1..8_u16).prop_map(Step::Reconnect),
            1 => Just(Step::Retry),
            4 => Just(Step::Resend),
        ]
    }

    proptest! {
        #[test]
        fn no_message_is_lost_or_doubled_and_the_window_holds(steps in prop::collection::vec(step(), 0..200)) {
            const SIZE: u16 = 5;
            let mut window = Window::new(SIZE);
            let (mut next, mut on_wire, mut settled) = (0, Vec::<(u16, u64)>::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Send if window.has_room() => {
                        on_wire.push((window.send(message(next), false, Instant::now()), next));
                        next += 1;
                    }
                    Step::Ack(n, reason) if !on_wire.is_empty() => {
                        let (id, seq) = on_wire.remove(n % on_wire.len());
                        match window.puback(id, reason) {
                            Ok(Settled::Accepted(t) | Settled::Refused(t)) => {
                                prop_assert_eq!(t.message.seq, seq);
                                settled.push(seq);
                            }
                            Ok(Settled::PutBack(t)) => prop_assert_eq!(t.message.seq, seq),
                            Err(unsolicited) => prop_assert!(false, "{:?}", unsolicited),
                        }
                    }
                    Step::Reconnect(receive_max) => {
                        on_wire.clear();
                        window.reconnected(receive_max);
                    }
                    Step::Retry => window.retry_put_back(),
                    Step::Resend => {
                        if let Some((id, t)) = window.next_resend() {
                            on_wire.push((id, t.message.seq));
                        }
                    }
                    Step::Send | Step::Ack(..) => {}
                }
                prop_assert!(window.unacknowledged() <= usize::from(SIZE));
                prop_assert_eq!(window.unacknowledged() + settled.len(), usize::try_from(next).unwrap());
            }
            window.reconnected(u16::MAX);
            let rest = resent(&mut window);
            prop_assert!(rest.is_sorted());
            settled.extend(rest);
            settled.sort_unstable();
            prop_assert_eq!(settled, (0..next).collect::<Vec<_>>());
        }
    }
}
