//! Messages to a subscriber: packet identifiers of our own, a window, and the
//! acknowledgements of QoS 1 and 2.
//!
//! Acknowledgements may come in any order. One for an identifier that is not in
//! flight is counted and otherwise ignored; one of the wrong kind is a protocol
//! error. What a persistent session gets at QoS 1 and 2 comes from its queue, in order,
//! and is sent again by its next connection (`durable`).

use std::{collections::HashMap, sync::Arc};

use super::{
    aliases::Aliases,
    durable::{self, Durable},
    wire::Wire,
};
use crate::{
    Protocol, QoS,
    fanout::{Claim, Delivery, Expired, Fanout, Outbox},
    keep::{PLACE_IDS, packet_id},
    metrics::Counters,
    packet::{Ack, Error, Kind, encode, reason},
};

/// What the client owes us for an identifier: PUBACK, PUBREC, or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Acknowledged,
    Received,
    Completed,
}

#[derive(Debug)]
pub(super) struct Outbound {
    protocol: Protocol,
    outbox: Arc<Outbox>,
    in_flight: HashMap<u16, (Owed, Option<Claim>)>,
    window: usize,
    frame_max: usize,
    /// Identifiers are given from here on: those below are for the session's queue.
    first_id: u16,
    last_id: u16,
    /// Messages sent since somebody asked.
    delivered: usize,
    aliases: Aliases,
    /// Taken from the outbox, waiting for room in the window.
    held: Option<Delivery>,
}

impl Outbound {
    pub(super) fn new(
        protocol: Protocol,
        outbox: Arc<Outbox>,
        window: u16,
        frame_max: usize,
        aliases: Aliases,
        is_durable: bool,
    ) -> Self {
        // Places of the queue have their half of the identifiers across connections, so
        // that nothing else gets one that the client has an open exchange under.
        let first_id = if is_durable { PLACE_IDS + 1 } else { 1 };
        let window = if is_durable {
            window.min(PLACE_IDS)
        } else {
            window
        };
        Self {
            protocol,
            outbox,
            in_flight: HashMap::new(),
            window: window.into(),
            frame_max,
            first_id,
            last_id: first_id - 1,
            delivered: 0,
            aliases,
            held: None,
        }
    }

    /// Writes deliveries while the wire and the window have room. Whether it
    /// stopped for the wire, and should be called again once that has room.
    pub(super) fn pump(
        &mut self,
        wire: &mut Wire,
        mut durable: Option<&mut Durable>,
        fanout: &Fanout,
        counters: &Counters,
    ) -> bool {
        let (mut delivered, mut payload_bytes) = (0, 0);
        while !wire.is_congested() {
            let mut any = false;
            if let Some(durable) = durable.as_deref_mut() {
                any = self.pump_durable(wire, durable, fanout, counters);
            }
            let Some(mut delivery) = self.held.take().or_else(|| self.outbox.pop()) else {
                if any {
                    continue;
                }
                break;
            };
            let under_way = durable.as_ref().map_or(0, |durable| durable.in_flight());
            let all = self.in_flight.len() + under_way;
            if delivery.qos != QoS::AtMostOnce && all >= self.window {
                self.held = Some(delivery);
                if any {
                    continue;
                }
                break;
            }
            let Ok(expiry_secs) = fanout.lifetime_left(&delivery.message) else {
                delivery.settle();
                counters.dropped_expired.add(1);
                continue;
            };
            let id = if delivery.qos == QoS::AtMostOnce {
                0
            } else {
                self.next_id()
            };
            if !self.write(wire, &delivery, id, expiry_secs, false) {
                delivery.settle();
                counters.dropped_too_large.add(1);
                continue;
            }
            delivered += 1;
            payload_bytes += delivery.message.payload().len();
            let owed = match delivery.qos {
                QoS::AtMostOnce => {
                    delivery.settle();
                    continue;
                }
                QoS::AtLeastOnce => Owed::Acknowledged,
                QoS::ExactlyOnce => {
                    // [MQTT-4.8.2-5]: to no second client.
                    delivery.settle();
                    Owed::Received
                }
            };
            self.in_flight.insert(id, (owed, delivery.claim));
        }
        counters.delivered.add(delivered);
        counters.payload_bytes_out.add(payload_bytes);
        self.delivered += delivered;
        wire.is_congested()
    }

    /// Writes a PUBLISH, with a topic alias where one is to be had; false if the
    /// client does not take packets of its size.
    fn write(
        &mut self,
        wire: &mut Wire,
        delivery: &Delivery,
        id: u16,
        expiry_secs: Option<u32>,
        dup: bool,
    ) -> bool {
        let Self {
            protocol,
            frame_max,
            ..
        } = *self;
        let topic = delivery.message.topic();
        let alias = self.aliases.find(topic);
        let mut packet = encode::Delivery {
            message: &delivery.message,
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            id,
            expiry_secs,
            subscription_ids: &delivery.subscription_ids,
            alias,
        };
        if encode::publish(wire.output(), protocol, &packet, frame_max) {
            if let Some(alias) = alias {
                self.aliases.sent(alias, topic);
            }
            return true;
        }
        // A new alias makes the packet longer.
        packet.alias = None;
        matches!(alias, Some(encode::Alias::New(_)))
            && encode::publish(wire.output(), protocol, &packet, frame_max)
    }

    /// Messages sent since the last time.
    pub(super) fn take_delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }

    /// Messages that the client has not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends the next of what the session's queue has; false if there is nothing, or
    /// no room in the window.
    fn pump_durable(
        &mut self,
        wire: &mut Wire,
        durable: &mut Durable,
        fanout: &Fanout,
        counters: &Counters,
    ) -> bool {
        if durable.is_waiting() {
            // SUBACK first, then what it brings.
            return false;
        }
        let all = self.in_flight.len() + durable.in_flight();
        let Some(item) = durable.next(all < self.window) else {
            for id in durable.strays() {
                counters.unknown_acks.add(1);
                self.release(wire, id, reason::PACKET_ID_NOT_FOUND);
            }
            return false;
        };
        if durable.was_early(&item) {
            return true;
        }
        let id = packet_id(item.position);
        let Some(message) = item.message else {
            self.release(wire, id, reason::SUCCESS);
            durable.sent(item.position, durable::Owed::Completed);
            return true;
        };
        if !durable.may_read(message.topic_str()) {
            durable.over(item.position);
            counters.dropped_revoked.add(1);
            return true;
        }
        let expiry_secs = match fanout.lifetime_left(&message) {
            Ok(left) => left,
            // The client may have its half of the exchange, and waits for ours.
            Err(Expired) if item.dup && item.qos == QoS::ExactlyOnce => Some(1),
            Err(Expired) => {
                durable.over(item.position);
                counters.dropped_expired.add(1);
                return true;
            }
        };
        let delivery = Delivery {
            message,
            qos: item.qos,
            retain: item.retain,
            subscription_ids: item.subscription_ids,
            claim: None,
        };
        // [MQTT-3.3.1-2], [MQTT-2.2.1-2].
        let (id, dup) = match item.qos {
            QoS::AtMostOnce => (0, false),
            _ => (id, item.dup),
        };
        if !self.write(wire, &delivery, id, expiry_secs, dup) {
            durable.over(item.position);
            counters.dropped_too_large.add(1);
            return true;
        }
        counters.delivered.add(1);
        let payload_bytes = delivery.message.payload().len();
        counters.payload_bytes_out.add(payload_bytes);
        self.delivered += 1;
        match item.qos {
            // The right to more was taken away since it was queued.
            QoS::AtMostOnce => durable.over(item.position),
            QoS::AtLeastOnce => durable.sent(item.position, durable::Owed::Acknowledged),
            QoS::ExactlyOnce => durable.sent(item.position, durable::Owed::Received),
        }
        true
    }

    /// The next identifier that is not in flight; the window is smaller than
    /// the number of identifiers, so there is one.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(self.first_id);
            if !self.in_flight.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Takes PUBACK, PUBREC or PUBCOMP.
    pub(super) fn acknowledged(
        &mut self,
        kind: Kind,
        ack: Ack,
        wire: &mut Wire,
        durable: Option<&mut Durable>,
        counters: &Counters,
    ) -> Result<(), Error> {
        if let Some(durable) = durable {
            if let Some(owed) = durable.owed(ack.id) {
                return self.acknowledged_durable(kind, ack, owed, durable, wire);
            }
            if kind == Kind::PubRec && durable.is_early(ack.id, ack.reason) {
                return Ok(());
            }
        }
        let Some(&mut (ref mut owed, _)) = self.in_flight.get_mut(&ack.id) else {
            counters.unknown_acks.add(1);
            if kind == Kind::PubRec && ack.reason < 0x80 {
                self.release(wire, ack.id, reason::PACKET_ID_NOT_FOUND);
            }
            return Ok(());
        };
        match (kind, *owed) {
            (Kind::PubAck, Owed::Acknowledged) | (Kind::PubComp, Owed::Completed) => {
                self.finish(ack.id);
            }
            // The client refuses it: the exchange is over.
            (Kind::PubRec, Owed::Received) if ack.reason >= 0x80 => self.finish(ack.id),
            (Kind::PubRec, Owed::Received | Owed::Completed) => {
                *owed = Owed::Completed;
                self.release(wire, ack.id, reason::SUCCESS);
            }
            _ => return Err(Error::protocol("an acknowledgement of the wrong kind")),
        }
        Ok(())
    }

    fn acknowledged_durable(
        &self,
        kind: Kind,
        ack: Ack,
        owed: durable::Owed,
        durable: &mut Durable,
        wire: &mut Wire,
    ) -> Result<(), Error> {
        use durable::Owed::{Acknowledged, Completed, Noting, Received};
        match (kind, owed) {
            (Kind::PubAck, Acknowledged) | (Kind::PubComp, Completed) => durable.done(ack.id),
            // The client refuses it: the exchange is over.
            (Kind::PubRec, Received) if ack.reason >= 0x80 => durable.done(ack.id),
            // PUBREL follows once that is on disk.
            (Kind::PubRec, Received) => durable.received(ack.id),
            (Kind::PubRec, Noting) => {}
            (Kind::PubRec, Completed) => self.release(wire, ack.id, reason::SUCCESS),
            _ => return Err(Error::protocol("an acknowledgement of the wrong kind")),
        }
        Ok(())
    }

    /// The client has it, or will not have it: nobody else is to get it either.
    fn finish(&mut self, id: u16) {
        if let Some((_, Some(mut claim))) = self.in_flight.remove(&id) {
            claim.settle();
        }
    }

    fn release(&self, wire: &mut Wire, id: u16, code: u8) {
        encode::ack(wire.output(), self.protocol, Kind::PubRel, id, code, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn outbound(is_durable: bool) -> Outbound {
        let budget = Arc::new(Budget::of(1 << 20));
        let outbox = Arc::new(Outbox::new(1 << 20, 64, &budget));
        let aliases = Aliases::new(0, &budget);
        Outbound::new(Protocol::V5, outbox, 65_535, 1024, aliases, is_durable)
    }

    #[test]
    fn what_comes_beside_a_queue_never_has_the_identifier_of_a_place() {
        let mut beside = outbound(true);
        let ids: Vec<u16> = (0..70_000).map(|_| beside.next_id()).collect();
        assert_eq!(
            (ids[0], ids.iter().min(), ids.iter().max()),
            (32_768, Some(&32_768), Some(&65_535))
        );
        assert!(beside.window <= 32_767, "there is always one that is free");
        let places: Vec<u16> = (0..70_000).map(packet_id).collect();
        assert_eq!(
            (places.iter().min(), places.iter().max()),
            (Some(&1), Some(&32_767))
        );
        let mut alone = outbound(false);
        let ids: Vec<u16> = (0..70_000).map(|_| alone.next_id()).collect();
        assert_eq!((ids[0], ids[65_534], ids[65_535]), (1, 65_535, 1));
    }
}
