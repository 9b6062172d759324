//! What the packets of a client ask for, and what is answered once it is on disk.

use tokio::time::Instant;

use super::{End, Session, durable::Pending, inbound, subscriptions::Done, wire::Wire};
use crate::{
    Protocol, QoS,
    auth::DeniedPublish,
    keep::Refused,
    packet::{self, Disconnect, Error, Kind, Packet, encode, reason},
};

/// An answer that the client would not take.
const TOO_LARGE: Error = Error {
    reason: reason::PACKET_TOO_LARGE,
    what: "an answer larger than the client's Maximum Packet Size",
};

/// Whether packets are left that may not be taken yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    UpToAPublish,
    /// It is not earned yet.
    UpToALatePublish,
    UpToASubscribe,
    /// Something is being written that has to be answered first.
    UpToAnAnswer,
}

impl Session<'_> {
    /// Takes the complete packets that are here, up to a publish that has to wait.
    pub(super) fn take(&mut self, wire: &mut Wire, heard: &mut Instant) -> Result<Taken, End> {
        let mut any = false;
        self.pace.turn();
        if let Some(durable) = &self.durable {
            if durable.is_gone() {
                return Err(End::Removed);
            }
            if durable.is_waiting() {
                return Ok(Taken::UpToAnAnswer);
            }
        }
        if self.subscriptions.is_under_way() && !self.subscribe(wire)? {
            return Ok(Taken::UpToASubscribe);
        }
        while let Some(header) = wire.peek().map_err(End::Illegal)? {
            if header.kind == Kind::Publish && self.inbound.is_blocked() {
                // One too many is to be answered, not to wait.
                let over = header.flags & 0b0110 != 0 && self.inbound.is_exceeded();
                if !over {
                    return Ok(Taken::UpToAPublish);
                }
            }
            if header.kind == Kind::Publish {
                if self.pace.holds_until().is_some() {
                    return Ok(Taken::UpToALatePublish);
                }
                if self.pace.charge(header.frame()) {
                    self.context.counters.publishes_paused.add(1);
                }
            }
            let body = wire.take(header);
            any = true;
            if let Some(durable) = &mut self.durable {
                durable.is_heard();
            }
            self.packets.took(header.kind);
            let protocol = self.protocol();
            let packet =
                packet::decode(protocol, header, &body, &mut self.topics).map_err(End::Illegal)?;
            let alias_bytes = self.topics.alias_bytes();
            if alias_bytes != self.aliases.held() && !self.aliases.try_set(alias_bytes) {
                return Err(End::Illegal(Error {
                    reason: reason::QUOTA_EXCEEDED,
                    what: "topic aliases that are more than can be kept for all sessions",
                }));
            }
            self.handle(packet, wire)?;
            if self.durable.as_ref().is_some_and(|one| one.is_waiting()) {
                *heard = Instant::now();
                return Ok(Taken::UpToAnAnswer);
            }
            if header.kind == Kind::Subscribe {
                *heard = Instant::now();
                self.subscribe(wire)?;
                // One in a turn: it may be much work.
                return Ok(Taken::UpToASubscribe);
            }
        }
        if any {
            *heard = Instant::now();
        }
        Ok(Taken::All)
    }

    /// Goes on with a SUBSCRIBE; whether it is done, and answered.
    fn subscribe(&mut self, wire: &mut Wire) -> Result<bool, End> {
        let Some(done) = self.subscriptions.go_on() else {
            return Ok(false);
        };
        let Done {
            id,
            filters,
            codes,
            adds,
        } = done;
        let count = |wanted| codes.iter().filter(|&&code| code == wanted).count();
        let counters = &self.context.counters;
        counters
            .subscriptions_refused
            .add(count(reason::QUOTA_EXCEEDED));
        counters
            .topics_refused
            .add(count(reason::TOPIC_FILTER_INVALID));
        if let Some(durable) = self.durable.as_mut().filter(|_| !adds.is_empty()) {
            durable.subscribe(id, filters, codes, adds);
            return Ok(true);
        }
        self.client.set_filters(self.subscriptions.names());
        let frame_max = self.packet_bytes_max;
        if encode::suback(wire.output(), self.protocol(), id, &codes, frame_max) {
            Ok(true)
        } else {
            Err(End::Illegal(TOO_LARGE))
        }
    }

    /// Answers what is on disk by now.
    pub(super) fn answer(&mut self, wire: &mut Wire) -> Result<(), End> {
        let protocol = self.protocol();
        let Some(durable) = self.durable.as_mut() else {
            return Ok(());
        };
        for (id, token) in self.inbound.take_abandoned() {
            durable.release(id, token, false);
        }
        let (answers, refused) = match durable.answers() {
            None => return Ok(()),
            Some(Ok(answers)) => (answers, false),
            Some(Err((Refused::Full, answers))) => (answers, true),
            Some(Err((Refused::Gone, _))) => return Err(End::Removed),
            Some(Err(_)) => return Err(End::Lost),
        };
        if refused && !(answers.release.is_empty() && answers.complete.is_empty()) {
            return Err(End::DiskFull("no room on disk to note an acknowledgement"));
        }
        let frame_max = self.packet_bytes_max;
        let out = wire.output();
        for id in answers.release {
            encode::ack(out, protocol, Kind::PubRel, id, reason::SUCCESS, None);
        }
        for id in answers.complete {
            encode::ack(out, protocol, Kind::PubComp, id, reason::SUCCESS, None);
        }
        let fits = match answers.pending {
            None => true,
            Some(Pending::Subscribe { id, codes, .. }) if refused => {
                let codes = vec![reason::QUOTA_EXCEEDED; codes.len()];
                encode::suback(out, protocol, id, &codes, frame_max)
            }
            Some(Pending::Subscribe {
                id,
                filters,
                mut codes,
                adds,
            }) => {
                let lacking = self.subscriptions.added(&adds, answers.decided);
                self.client.set_filters(self.subscriptions.names());
                if !lacking.is_empty() {
                    for (filter, code) in filters.iter().zip(&mut codes) {
                        if lacking.contains(filter) {
                            *code = reason::QUOTA_EXCEEDED;
                        }
                    }
                    durable.take_back(id, codes, lacking);
                    if let Some(rest) = answers.rest {
                        durable.wait_for(rest, None);
                    }
                    return Ok(());
                }
                if let Some(rest) = answers.rest {
                    durable.wait_for(rest, Some(Pending::Brought { id, codes }));
                    return Ok(());
                }
                encode::suback(out, protocol, id, &codes, frame_max)
            }
            Some(Pending::TakeBack { .. }) if refused => {
                return Err(End::DiskFull("no room on disk to end a subscription"));
            }
            Some(Pending::TakeBack { id, codes } | Pending::Brought { id, codes }) => {
                encode::suback(out, protocol, id, &codes, frame_max)
            }
            // The subscriptions are there still, and 3.1.1 has no word for that.
            Some(Pending::Unsubscribe(_)) if refused && !self.v5 => {
                return Err(End::DiskFull("no room on disk to end a subscription"));
            }
            Some(Pending::Unsubscribe(packet)) if refused => {
                let codes = vec![reason::NOT_WILLING; packet.filters.len()];
                encode::unsuback(out, protocol, packet.id, &codes, frame_max)
            }
            Some(Pending::Unsubscribe(packet)) => {
                let codes = self.subscriptions.unsubscribe(&packet);
                self.client.set_filters(self.subscriptions.names());
                encode::unsuback(out, protocol, packet.id, &codes, frame_max)
            }
        };
        if fits {
            Ok(())
        } else {
            Err(End::Illegal(TOO_LARGE))
        }
    }

    fn protocol(&self) -> Protocol {
        if self.v5 { Protocol::V5 } else { Protocol::V4 }
    }

    /// Marks a publish that the client has no right to. Where there is no way to tell
    /// a client of 3.1.1, and an acknowledgement would be a lie, the session ends.
    fn authorise(&mut self, packet: &mut packet::Inbound) -> Result<(), End> {
        let (rights, publish) = (self.rights, &packet.publish);
        if !rights.is_restricted() {
            return Ok(());
        }
        let permit = self.topics.permit(packet.cached, rights.version(), || {
            rights.publish(&publish.topic)
        });
        let allowed = permit.is_some_and(|permit| {
            publish.qos <= permit.qos_max && (permit.retain || !publish.retain)
        });
        if allowed {
            return Ok(());
        }
        let untellable = !self.v5 && publish.qos != QoS::AtMostOnce;
        if untellable && rights.denied_publish() == DeniedPublish::Disconnect {
            self.context.counters.publishes_denied.add(1);
            return Err(End::NotAuthorized(inbound::NOT_AUTHORIZED));
        }
        packet.denied = true;
        Ok(())
    }

    fn handle(&mut self, packet: Packet, wire: &mut Wire) -> Result<(), End> {
        let counters = &self.context.counters;
        let protocol = self.protocol();
        match packet {
            Packet::Publish(mut publish) => {
                self.authorise(&mut publish)?;
                let fanout = &self.context.fanout;
                let name = &publish.publish.topic;
                let wanted = self
                    .topics
                    .note(publish.cached, fanout.version(), || fanout.wanted(name));
                self.inbound
                    .take(publish, wanted, wire)
                    .map_err(End::Illegal)
            }
            Packet::PubAck(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubAck,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubRec(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubRec,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubComp(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubComp,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubRel(ack) => {
                self.inbound.release(ack, wire, self.durable.as_deref_mut());
                Ok(())
            }
            Packet::Subscribe(packet) => {
                self.subscriptions.subscribe(packet);
                Ok(())
            }
            Packet::Unsubscribe(packet) => {
                if let Some(durable) = &mut self.durable {
                    durable.unsubscribe(packet);
                    return Ok(());
                }
                let codes = self.subscriptions.unsubscribe(&packet);
                self.client.set_filters(self.subscriptions.names());
                let frame_max = self.packet_bytes_max;
                if encode::unsuback(wire.output(), protocol, packet.id, &codes, frame_max) {
                    Ok(())
                } else {
                    Err(End::Illegal(TOO_LARGE))
                }
            }
            Packet::PingReq => {
                encode::pingresp(wire.output());
                Ok(())
            }
            Packet::Disconnect(Disconnect {
                reason,
                session_expiry_secs,
            }) => {
                if self.session_expiry_secs == 0 && session_expiry_secs.is_some_and(|secs| secs > 0)
                {
                    return Err(End::Illegal(Error::protocol(
                        "a session expiry in DISCONNECT after none in CONNECT",
                    )));
                }
                let max = self.context.config.keep.expiry_secs_max();
                self.new_expiry_secs = session_expiry_secs.map(|secs| secs.min(max));
                Err(End::Disconnect {
                    with_will: reason != reason::SUCCESS,
                })
            }
        }
    }
}
