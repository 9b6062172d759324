//! Messages to a subscriber: packet identifiers of our own, a window, and the
//! acknowledgements of QoS 1 and 2.
//!
//! Acknowledgements may come in any order. One for an identifier that is not in
//! flight is counted and otherwise ignored; one of the wrong kind is a protocol
//! error. Sessions end with their connection, so nothing is sent again.

use std::{collections::HashMap, sync::Arc};

use super::{aliases::Aliases, wire::Wire};
use crate::{
    Protocol, QoS,
    fanout::{Claim, Delivery, Fanout, Outbox},
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
    ) -> Self {
        Self {
            protocol,
            outbox,
            in_flight: HashMap::new(),
            window: window.into(),
            frame_max,
            last_id: 0,
            delivered: 0,
            aliases,
            held: None,
        }
    }

    /// Writes deliveries while the wire and the window have room. Whether it
    /// stopped for the wire, and should be called again once that has room.
    pub(super) fn pump(&mut self, wire: &mut Wire, fanout: &Fanout, counters: &Counters) -> bool {
        let mut delivered = 0;
        while !wire.is_congested() {
            let Some(mut delivery) = self.held.take().or_else(|| self.outbox.pop()) else {
                break;
            };
            if delivery.qos != QoS::AtMostOnce && self.in_flight.len() >= self.window {
                self.held = Some(delivery);
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
            if !self.write(wire, &delivery, id, expiry_secs) {
                delivery.settle();
                counters.dropped_too_large.add(1);
                continue;
            }
            delivered += 1;
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

    /// The next identifier that is not in flight; the window is smaller than
    /// the number of identifiers, so there is one.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
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
        counters: &Counters,
    ) -> Result<(), Error> {
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
