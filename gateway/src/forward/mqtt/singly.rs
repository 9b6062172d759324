//! Messages one by one, to find the one at which the server ends the connection.

use std::collections::HashSet;

use tokio::time::{Instant, sleep_until};

use super::{Arc, Breaker, Mqtt, Session};
use crate::{
    forward::{
        batch::{Batch, Item},
        destination::{Error, Outcome, Outcomes},
        refusals::PROBES_MAX,
    },
    mqtt::{link::Message, reason::Verdict},
};

/// Connections on which one message at a time is on the wire.
struct Single<'m> {
    mqtt: &'m Mqtt,
    session: Option<Session>,
    /// Their own, and free again after each message: what was refused holds up nothing,
    /// because nothing else is on the wire.
    breaker: Breaker,
    /// Not before then: the server ended the last one just now.
    connect_at: Option<Instant>,
}

impl Mqtt {
    /// Delivers a batch, each message when the one before it was answered.
    pub(super) async fn deliver_singly(
        &self,
        line: &mut Option<Arc<Session>>,
        batch: &Batch,
    ) -> Outcomes {
        let is_probing = self.blame().refusals.is_probing(Instant::now())?;
        if let Some(session) = line.take() {
            session.end().await;
        }
        let mut single = Single {
            mqtt: self,
            session: None,
            breaker: Breaker::default(),
            connect_at: None,
        };
        let outcomes = match is_probing {
            false => self.deliver_each(&mut single, batch).await,
            true => self.probe(&mut single, batch).await,
        };
        if let Some(session) = single.session {
            session.end().await;
        }
        outcomes
    }

    async fn deliver_each(&self, single: &mut Single<'_>, batch: &Batch) -> Outcomes {
        let before = self.blame().refusals.clone();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.items.len());
        // Nothing overtakes a message that failed by itself.
        let mut failed = HashSet::new();
        for item in &*batch.items {
            let key = item.partition_key();
            let shunned = self.blame().shuns(key, Instant::now());
            let outcome = match shunned {
                Some(reason) => {
                    outcomes.push(Outcome::Permanent(reason));
                    continue;
                }
                None if failed.contains(key) => {
                    outcomes.push(Outcome::Behind);
                    continue;
                }
                None => match single.send(item).await {
                    Ok(Ok(outcome)) => outcome,
                    // The server has not seen it.
                    Ok(Err(reason)) => {
                        outcomes.push(Outcome::Permanent(reason));
                        continue;
                    }
                    Err(error) if outcomes.is_empty() => return Err(error),
                    Err(error) => Outcome::Unknown(error.to_string()),
                },
            };
            match &outcome {
                Outcome::Acknowledged => self.blame().taken(key),
                Outcome::Transient(_) => drop(failed.insert(key)),
                _ => self.blame().refusals.add(key, &outcome),
            }
            outcomes.push(outcome);
            let mut blame = self.blame();
            if blame.refusals.are_too_many()
                && outcomes.iter().all(|o| matches!(o, Outcome::Permanent(_)))
                && let Some(Outcome::Permanent(reason)) = outcomes.last()
            {
                // None of this batch is given up: it may not be to blame.
                return Err(blame.doubt_server(before, reason, Instant::now()));
            }
            if outcomes.last().is_some_and(Outcome::is_open) {
                break;
            }
        }
        let behind = "waits behind a message that was not answered".to_owned();
        outcomes.resize(batch.items.len(), Outcome::Unknown(behind));
        Ok(outcomes)
    }

    /// The first message of one partition key after the other. One that is taken shows
    /// that the server works, and those before it were to blame.
    async fn probe(&self, single: &mut Single<'_>, batch: &Batch) -> Outcomes {
        let count = batch.items.len();
        let (mut refused, mut unfit) = (Vec::new(), Vec::new());
        let mut tried = HashSet::new();
        for (at, item) in batch.items.iter().enumerate() {
            if tried.len() >= PROBES_MAX {
                break;
            }
            if tried.contains(item.partition_key()) {
                continue;
            }
            let outcome = match single.send(item).await? {
                Ok(outcome) => outcome,
                Err(reason) => {
                    unfit.push((at, reason));
                    continue;
                }
            };
            tried.insert(item.partition_key());
            match outcome {
                Outcome::Permanent(reason) => refused.push((at, reason)),
                Outcome::Acknowledged => {
                    self.blame().taken(item.partition_key());
                    let next = "goes next: the server takes messages again".to_owned();
                    let mut outcomes = vec![Outcome::Unknown(next); count];
                    outcomes[at] = Outcome::Acknowledged;
                    for (at, reason) in refused.into_iter().chain(unfit) {
                        outcomes[at] = Outcome::Permanent(reason);
                    }
                    return Ok(outcomes);
                }
                throttled @ Outcome::Throttled { .. } => return Ok(vec![throttled; count]),
                Outcome::Transient(reason) | Outcome::Unknown(reason) => {
                    return Err(Error::unavailable(reason));
                }
                Outcome::Behind | Outcome::Paced { .. } => {
                    return Err(Error::unavailable("it was not tried".to_owned()));
                }
            }
        }
        if !unfit.is_empty() {
            // They say nothing of the server, and are out of the way.
            let next = "goes when the server is tried again".to_owned();
            let mut outcomes = vec![Outcome::Unknown(next); count];
            for (at, reason) in unfit {
                outcomes[at] = Outcome::Permanent(reason);
            }
            return Ok(outcomes);
        }
        let now = Instant::now();
        self.blame().refusals.none_taken(refused, count, now)
    }
}

impl Single<'_> {
    /// Sends a message, again where that shows whether it is to blame; or says why it
    /// cannot be sent at all.
    async fn send(&mut self, item: &Item) -> Result<Result<Outcome, String>, Error> {
        loop {
            let message = self.mqtt.message(item, self.session().await?);
            let message = match message {
                Ok(message) => message,
                Err(reason) => return Ok(Err(reason)),
            };
            if let Some(outcome) = self.try_once(item, message).await? {
                return Ok(Ok(outcome));
            }
        }
    }

    /// What becomes of a message; nothing yet where the server has ended the connection
    /// and it is not clear why.
    async fn try_once(&mut self, item: &Item, message: Message) -> Result<Option<Outcome>, Error> {
        let breaker = self.breaker.clone();
        let _sending = breaker.begin();
        let session = self.session().await?;
        let verdict = match session.publish(message, item).await {
            Ok(answer) => session.wait(answer).await,
            Err(_) => Verdict::Doubtful(session.reason()),
        };
        let is_suspect = session.take_suspects().is_some();
        let needs_person = session.needs_person();
        let key = item.partition_key();
        Ok(Some(match verdict {
            Verdict::Kept => Outcome::Acknowledged,
            Verdict::Throttled => Outcome::Throttled { retry_after: None },
            Verdict::Transient(reason) => Outcome::Transient(reason),
            Verdict::Permanent(reason) => Outcome::Permanent(reason),
            Verdict::Forbidden(reason) | Verdict::Misconfigured(reason) => {
                self.refused(key, reason)
            }
            Verdict::Doubtful(reason) => {
                session.close(&reason);
                self.session = None;
                self.connect_at = Some(Instant::now() + self.mqtt.connect_every);
                if is_suspect {
                    if !self.mqtt.blame().ended_alone(item.position(), key) {
                        return Ok(None);
                    }
                    let what = "the server ends the connection when it is sent this";
                    self.refused(key, format!("{what}: {reason}"))
                } else if needs_person {
                    return Err(Error::Misconfigured(reason));
                } else {
                    Outcome::Unknown(reason)
                }
            }
        }))
    }

    fn refused(&self, key: &str, reason: String) -> Outcome {
        self.mqtt.blame().refused(key, Instant::now());
        Outcome::Permanent(reason)
    }

    /// The connection, a new one where there is none.
    async fn session(&mut self) -> Result<&Session, Error> {
        let session = match self.session.take().filter(Session::is_open) {
            Some(session) => session,
            None => {
                if let Some(at) = self.connect_at.take() {
                    sleep_until(at).await;
                }
                self.mqtt.connect(self.breaker.clone()).await?
            }
        };
        Ok(self.session.insert(session))
    }
}
