//! Another MQTT broker: AWS IoT Core, Azure Event Grid, HiveMQ, EMQX, Mosquitto,
//! another Penstock.
//!
//! Each event is one QoS 1 message: `CloudEvents` JSON or the same in CBOR, or, once for
//! each message, the bytes that the device sent; and in
//! MQTT 5 the user property `idempotency-key`, by which another Penstock refuses a
//! second copy. Publishes are pipelined on one connection, in journal order, and
//! each waits for its PUBACK.
//!
//! A connection that breaks is not mended but replaced, and everything that was not
//! acknowledged goes again, in order ([`session`]). Every connection begins a new
//! session at the server: what a session of a publisher keeps is packet identifiers,
//! which nothing here needs. Where a server ends the connection at the same message
//! again and again, messages go one by one until it is clear which one that is
//! ([`blame`]). QoS 0 would promise nothing, and QoS 2 nothing more,
//! because its exchange does not outlive the session; neither is offered.

mod blame;
mod message;
mod session;
mod singly;

use std::{
    pin::Pin,
    sync::{Arc, Mutex as Plain, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use self::{
    blame::Blame,
    session::{Answer, Session},
};
use super::{
    batch::{Batch, Item},
    breaker::Breaker,
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    refusals::Refusals,
};
use crate::{
    dictionary::{Dictionary, Packer},
    event,
    gateway_id::GatewayId,
    mqtt::{
        Server,
        link::{Message, PACKET_BYTES_MAX},
        reason::Verdict,
        topic::Template,
    },
};

pub use message::Payload;

/// How events are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The broker.
    pub server: Server,
    /// Who we are, for the client identifier and against circles; one for this run
    /// where it is not given.
    pub gateway: Option<GatewayId>,
    /// The topic of an event; `{site}`, `{device}` and `{type}` are filled in.
    pub topic: String,
    /// What an event looks like.
    pub payload: Payload,
    /// What each event is compressed with.
    pub dictionary: Option<Dictionary>,
    /// Publishes without acknowledgement, at most.
    pub in_flight: u16,
    /// The largest packet the server takes, where it does not say so itself.
    pub packet_bytes_max: u32,
}

impl Config {
    /// The configured defaults.
    pub fn new(server: Server) -> Self {
        Self {
            server,
            gateway: None,
            topic: "telemetry/{site}/{device}/{type}".to_owned(),
            payload: Payload::Event(event::message::Payload::Json),
            dictionary: None,
            in_flight: 100,
            packet_bytes_max: PACKET_BYTES_MAX,
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        Template::parse(&self.topic)
            .map(drop)
            .map_err(|what| super::Error::Config(format!("topic `{}`: {what}", self.topic)))
    }

    /// A filter that matches every topic published on.
    pub(crate) fn pattern(&self) -> Option<String> {
        Template::parse(&self.topic)
            .ok()
            .map(|topic| topic.pattern())
    }
}

/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 1024 * 1024;
/// From a connection that the server ended to the next, where one follows at once: some
/// servers take one a second.
const CONNECT_EVERY: Duration = Duration::from_secs(1);

/// The MQTT destination.
#[derive(Debug)]
pub(super) struct Mqtt {
    name: Arc<str>,
    config: Config,
    gateway: GatewayId,
    topic: Template,
    packer: Option<Packer>,
    /// One batch at a time publishes; waiting for acknowledgements is outside.
    line: Mutex<Option<Arc<Session>>>,
    breaker: Breaker,
    blame: Plain<Blame>,
    connect_every: Duration,
}

/// A message that was published or settled without that.
enum Sent {
    Waiting(Answer),
    Settled(Outcome),
}

impl Mqtt {
    pub(super) fn new(name: Arc<str>, config: Config) -> Result<Self, super::Error> {
        config.check()?;
        let topic =
            Template::parse(&config.topic).map_err(|what| super::Error::Config(what.to_owned()))?;
        Ok(Self {
            name,
            gateway: config.gateway.clone().unwrap_or_else(GatewayId::random),
            packer: Packer::of(config.dictionary.as_ref())
                .map_err(|what| super::Error::Config(what.to_owned()))?,
            config,
            topic,
            line: Mutex::default(),
            breaker: Breaker::default(),
            blame: Plain::default(),
            connect_every: CONNECT_EVERY,
        })
    }

    async fn deliver(&self, batch: Batch) -> Outcomes {
        let _sending = self.breaker.begin();
        // First polled in journal order, and the lock is fair: batches keep that order.
        let (session, sent) = {
            let mut line = self.line.lock().await;
            if self.breaker.is_broken() {
                return Err(Error::unavailable(
                    "a batch before this one failed".to_owned(),
                ));
            }
            if self.breaker.is_tripped() {
                return Ok(vec![Outcome::Behind; batch.items.len()]);
            }
            // Whatever was in flight with them has ended.
            if let Some(suspects) = line.as_ref().and_then(|session| session.take_suspects()) {
                self.blame().struck(suspects);
            }
            if self.blame().is_sought_in(&batch) {
                let delivered = self.deliver_singly(&mut line, &batch).await;
                match &delivered {
                    Ok(outcomes) if !outcomes.iter().any(Outcome::is_open) => {
                        if outcomes.iter().any(|o| matches!(o, Outcome::Transient(_))) {
                            self.breaker.hold();
                        }
                    }
                    _ => self.breaker.trip(),
                }
                return delivered;
            }
            let published = self.publish(&mut line, &batch).await;
            published.inspect_err(|_| self.breaker.trip())?
        };
        let mut needs_person = None;
        let mut outcomes = Vec::with_capacity(batch.items.len());
        let mut answered = Vec::with_capacity(sent.len());
        for (item, sent) in batch.items.iter().zip(sent) {
            answered.push(matches!(sent, Sent::Waiting(_)));
            outcomes.push(match sent {
                Sent::Settled(outcome) => outcome,
                Sent::Waiting(answer) => match session.wait(answer).await {
                    Verdict::Kept => Outcome::Acknowledged,
                    Verdict::Throttled => Outcome::Throttled { retry_after: None },
                    Verdict::Transient(reason) => Outcome::Transient(reason),
                    Verdict::Permanent(reason) => Outcome::Permanent(reason),
                    Verdict::Forbidden(reason) => {
                        self.blame().refused(item.partition_key(), Instant::now());
                        Outcome::Permanent(reason)
                    }
                    Verdict::Doubtful(reason) => {
                        session.close(&reason);
                        Outcome::Unknown(reason)
                    }
                    Verdict::Misconfigured(reason) => {
                        needs_person.get_or_insert_with(|| reason.clone());
                        Outcome::Unknown(reason)
                    }
                },
            });
        }
        if outcomes.len() < batch.items.len() {
            let why = match (session.is_open(), self.breaker.is_broken()) {
                (true, false) => Outcome::Behind,
                (true, true) => {
                    Outcome::Unknown("held back behind a message that was not taken".to_owned())
                }
                (false, _) => Outcome::Unknown(session.reason()),
            };
            outcomes.resize(batch.items.len(), why);
        }
        if let Some(refusing) = self.weigh(&batch, &mut outcomes, &answered) {
            self.breaker.trip();
            return Err(refusing);
        }
        if outcomes.iter().any(Outcome::is_open) {
            self.breaker.trip();
            let suspect = session.first_suspect();
            // Who was refused before is sought at once, and nobody waits for a person.
            if suspect.is_some_and(|item| self.blame().was_refused(&item)) {
                needs_person = None;
            } else if session.needs_person() {
                needs_person.get_or_insert_with(|| session.reason());
            }
        }
        match needs_person {
            // What was taken is told first; the rest of the batch comes again alone.
            Some(reason) if !outcomes.contains(&Outcome::Acknowledged) => {
                Err(Error::Misconfigured(reason))
            }
            _ => Ok(outcomes),
        }
    }

    /// Counts what the server took and refused of a batch: outcomes of those that were
    /// `answered`. Where it refuses one after the other it may be at fault itself. Then
    /// those are not given up, and come again one by one; the error is for a batch of
    /// which nothing else is known.
    fn weigh(&self, batch: &Batch, outcomes: &mut [Outcome], answered: &[bool]) -> Option<Error> {
        let mut blame = self.blame();
        let refuses = |outcome: &Outcome| matches!(outcome, Outcome::Permanent(_));
        if !blame.is_any() && !outcomes.iter().any(refuses) {
            return None;
        }
        let mut before = blame.refusals.clone();
        let mut refused = Vec::new();
        for (at, item) in batch.items.iter().enumerate().take(answered.len()) {
            match &outcomes[at] {
                Outcome::Acknowledged => {
                    blame.taken(item.partition_key());
                    before = Refusals::default();
                    refused.clear();
                }
                outcome @ Outcome::Permanent(_) if answered[at] => {
                    blame.refusals.add(item.partition_key(), outcome);
                    refused.push(at);
                }
                _ => {}
            }
        }
        if !blame.refusals.are_too_many() {
            return None;
        }
        let Some(Outcome::Permanent(last)) = refused.last().map(|at| &outcomes[*at]) else {
            return None;
        };
        // A batch in flight beside this one may have found the same.
        let doubt = match blame.refusals.is_probing(Instant::now()) {
            Err(error) => {
                blame.refusals = before;
                error
            }
            Ok(_) => blame.doubt_server(before, last, Instant::now()),
        };
        for at in refused {
            outcomes[at] = Outcome::Unknown(doubt.to_string());
        }
        let is_told = |one: &Outcome| !one.is_open() && *one != Outcome::Behind;
        (!outcomes.iter().any(is_told)).then_some(doubt)
    }

    async fn connect(&self, breaker: Breaker) -> Result<Session, Error> {
        let own_id = self.gateway.client_id("to", &self.name);
        Session::open(&self.config, own_id, breaker).await
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn blame(&self) -> MutexGuard<'_, Blame> {
        self.blame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to publish on this connection, or why the record cannot be.
    fn message(&self, item: &Item, session: &Session) -> Result<Message, String> {
        let mut message = message::of_event(item, &self.topic, &self.config, &self.gateway)?;
        if let Some(packer) = &self.packer {
            message::pack(&mut message, packer, self.config.server.version);
        }
        let (bytes, most) = (message.packet_bytes(), session.packet_bytes_max());
        match bytes <= most {
            true => Ok(message),
            false => Err(format!(
                "a packet of {bytes} bytes, and the server takes {most}"
            )),
        }
    }

    /// Publishes until the end of the batch, or until something breaks.
    async fn publish(
        &self,
        line: &mut Option<Arc<Session>>,
        batch: &Batch,
    ) -> Result<(Arc<Session>, Vec<Sent>), Error> {
        let session = match line {
            Some(session) if session.is_open() => session.clone(),
            _ => {
                *line = None;
                let session = Arc::new(self.connect(self.breaker.clone()).await?);
                line.insert(session).clone()
            }
        };
        let mut sent = Vec::with_capacity(batch.items.len());
        for item in &*batch.items {
            let shunned = self.blame().shuns(item.partition_key(), Instant::now());
            let message = match shunned {
                Some(reason) => Err(reason),
                None => self.message(item, &session),
            };
            let message = match message {
                Ok(message) => message,
                Err(reason) => {
                    sent.push(Sent::Settled(Outcome::Permanent(reason)));
                    continue;
                }
            };
            match session.publish(message, item).await {
                Ok(answer) => sent.push(Sent::Waiting(answer)),
                Err(_) => {
                    // Said before another batch gets the line.
                    match session.is_open() {
                        true => self.breaker.hold(),
                        false => self.breaker.trip(),
                    }
                    break;
                }
            }
        }
        Ok((session, sent))
    }
}

impl Destination for Mqtt {
    fn limits(&self) -> Limits {
        let in_flight = usize::from(self.config.in_flight);
        Limits {
            // Two batches fill the window: one is acknowledged while the other goes.
            batch_records: (in_flight / 2).max(1),
            batch_bytes: BATCH_BYTES,
            linger: Duration::ZERO,
            in_flight: in_flight.clamp(1, 2),
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if let Some(session) = self.line.lock().await.take() {
                session.end().await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
