//! Hears what devices answer, and say of themselves: an admission before that of all other
//! messages.
//!
//! A message on the topic of a reply is one, and so is one on that of reports:
//! acknowledged when what it says is on disk, and no telemetry. So is a command that
//! somebody places by a message, where the operator has said on which topic. What is of a command or device that is not known
//! goes the way of every other message, and so does everything else. Whoever answers for
//! another is refused.

use std::sync::Arc;

use penstock_broker::{Admission, Admitted, Protocol, Publish, Publisher, Receipt, Verdict};
use serde_json::Value;

use super::{
    Asked, Fleet, NotChanged, Order, Refusal,
    edits::{
        life::Node,
        progress::{Heard, Reply},
        shadow::{Report, Taken},
    },
    names::check_depth,
};
use crate::{
    event::message::KEY_PROPERTY,
    ingest::Ingest,
    normalise::protocol::Life,
    store::{self, NotEdited, Turn},
};

/// MQTT 5: reason codes.
const NOT_ACCEPTED: u8 = 0x83;
const NOT_AUTHORIZED: u8 = 0x87;
const QUOTA_EXCEEDED: u8 = 0x97;
const INVALID: u8 = 0x99;

/// What an order takes beside its payload, at most.
const ORDER_BYTES: usize = 4 * 1024;

/// What a device says.
#[derive(Debug)]
enum Said {
    Reply(Reply),
    Report(Report),
    Order(Box<Order>, Asked),
    /// It should place a command, and says none.
    NoOrder,
}

/// See the module.
pub struct Replies {
    fleet: Fleet,
    ingest: Arc<Ingest>,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}

impl Replies {
    /// Hears replies, and leaves the rest to `ingest`.
    pub const fn new(fleet: Fleet, ingest: Arc<Ingest>) -> Self {
        Self { fleet, ingest }
    }

    /// What a message says of a command, or of its device.
    fn said(&self, publisher: &Publisher, publish: &Publish, turn: &Turn) -> Option<Said> {
        if publish.retain {
            return None;
        }
        if let Some(device) = self.fleet.topics().ordered(&publish.topic) {
            let bytes_max = self.fleet.config().payload_bytes_max + ORDER_BYTES;
            return Some(match publish.payload.len() > bytes_max {
                true => Said::NoOrder,
                false => order(&device, publisher, publish),
            });
        }
        // A device is at this broker, or it would not hear commands.
        if publisher.origin.is_some() {
            return None;
        }
        let config = self.fleet.config();
        let (client_id, user) = (publisher.client_id.clone(), publisher.identity.clone());
        let bytes = publish.payload.len();
        if let Some(device) = self.fleet.topics().reporting(&publish.topic) {
            if bytes > config.shadow_bytes_max {
                return None;
            }
            let read = serde_json::from_slice(&publish.payload);
            return Some(match read {
                Ok(Value::Object(patch)) => {
                    let patch = Value::Object(patch);
                    if check_depth("what a device reports", &patch).is_err() {
                        return None;
                    }
                    let Value::Object(patch) = patch else {
                        return None;
                    };
                    Said::Report(Report {
                        device,
                        client_id,
                        user,
                        patch,
                        bytes_max: config.shadow_bytes_max,
                        is_full: self.fleet.is_full(2 * bytes),
                        turn: Some(turn.clone()),
                        announce: self.fleet.announce(),
                    })
                }
                _ => return None,
            });
        }
        let (device, id) = self.fleet.topics().replied(&publish.topic)?;
        if bytes > config.payload_bytes_max {
            return None;
        }
        let value = value(&publish.payload);
        Some(Said::Reply(Reply {
            device,
            id,
            client_id,
            user,
            done: is_done(&value),
            value,
            bytes,
        }))
    }

    /// Whether a topic is one of ours.
    fn is_ours(&self, topic: &str) -> bool {
        let topics = self.fleet.topics();
        topics.replied(topic).is_some()
            || topics.reporting(topic).is_some()
            || topics.ordered(topic).is_some()
    }

    /// Settles a batch with replies in it, one run after the other.
    async fn settle(
        &self,
        publisher: &Arc<Publisher>,
        batch: Vec<Publish>,
        turn: Turn,
    ) -> Vec<Verdict> {
        let count = batch.len();
        let mut verdicts = Vec::with_capacity(count);
        let mut batch = batch.into_iter().peekable();
        while let Some(first) = batch.next() {
            if let Some(said) = self.said(publisher, &first, &turn) {
                match self.hear(publisher, &first, said, &turn).await {
                    Some(verdict) => verdicts.push(verdict),
                    None => {
                        let ingest = &self.ingest;
                        let other = ingest.admit_in(publisher, vec![first], turn.clone()).await;
                        verdicts.extend(other.await);
                    }
                }
            } else {
                // What comes after a birth is taken after that is noted, and what came before
                // is not taken again should there be no room for it.
                let mut is_life = Life::of(&first.topic).is_some();
                let mut run = vec![first];
                while !is_life && let Some(other) = batch.next_if(|one| !self.is_ours(&one.topic)) {
                    is_life = Life::of(&other.topic).is_some();
                    run.push(other);
                }
                let lives = Self::lives(&run);
                // The run ends with the first of them.
                let node = lives.first().and_then(|(_, life)| life.node_that_is_born());
                let before =
                    node.map(|node| self.ingest.sparkplug_session(&publisher.client_id, node));
                let admitted = self.ingest.admit_in(publisher, run, turn.clone()).await;
                let mut settled = admitted.await;
                self.note(publisher, lives, before, &mut settled).await;
                verdicts.extend(settled);
            }
            // Nothing may be kept that came after what is not.
            if let Some(verdict @ (Verdict::Busy | Verdict::Lost)) = verdicts.last().cloned() {
                verdicts.resize(count, verdict);
                break;
            }
        }
        verdicts
    }

    /// Births and deaths of Sparkplug nodes and devices among publishes.
    fn lives(run: &[Publish]) -> Vec<(usize, Life)> {
        // What was retained says what was once.
        let lives = run
            .iter()
            .enumerate()
            .filter(|(_, publish)| !publish.retain);
        lives
            .filter_map(|(n, publish)| Some((n, Life::of(&publish.topic)?)))
            .collect()
    }

    /// Notes births and deaths whose messages were kept, before those are acknowledged. A node
    /// that is born had the session `before`.
    async fn note(
        &self,
        publisher: &Publisher,
        lives: Vec<(usize, Life)>,
        before: Option<Option<Option<u64>>>,
        verdicts: &mut [Verdict],
    ) {
        let client_id = &publisher.client_id;
        let counts = |(n, life): &(usize, Life)| {
            let is_kept = matches!(
                verdicts.get(*n),
                Some(Verdict::Accepted | Verdict::Duplicate)
            );
            // The death of a session that was before the one that is known ends nothing.
            let node = life.node.as_ref().filter(|_| !life.is_birth);
            is_kept && !node.is_some_and(|node| self.ingest.is_born(client_id, node))
        };
        let (numbers, lives): (Vec<usize>, Vec<Life>) = lives.into_iter().filter(counts).unzip();
        let Some(first) = numbers.first() else {
            return;
        };
        let node = Node {
            client_id: client_id.clone(),
            user: publisher.identity.clone(),
            is_elsewhere: publisher.origin.is_some(),
        };
        // Born again in the same session, all behind it are what they were.
        let begun = lives.iter().find_map(|life| {
            let born_as = life.node_that_is_born()?;
            let now = self.ingest.sparkplug_session(client_id, born_as);
            let is_same = now.is_some() && before == Some(now);
            (!is_same).then(|| life.device.clone())
        });
        let verdict = match self.fleet.live(lives, &node).await {
            Ok(()) => {
                if let Some(device) = begun {
                    self.fleet.doubt(&device, &node).await;
                }
                return;
            }
            Err(NotEdited::Full) => Verdict::Busy,
            Err(NotEdited::Stopped) => Verdict::Lost,
            // It will be no better the next time.
            Err(error @ NotEdited::Failed) => {
                tracing::error!(client.id = %client_id, %error, "could not note which devices are online");
                return;
            }
        };
        // They are known when they come again, and what they tell of is noted then.
        verdicts[*first..].fill(verdict);
    }

    /// What becomes of it; `None` if it is of nothing that is known.
    async fn hear(
        &self,
        publisher: &Publisher,
        publish: &Publish,
        said: Said,
        turn: &Turn,
    ) -> Option<Verdict> {
        let heard = match said {
            Said::Order(order, asked) => {
                return Some(self.place(publisher, publish, *order, asked).await);
            }
            Said::NoOrder => {
                let text = "the command is not as it should be";
                return Some(self.turn_away(publisher, publish, INVALID, text).await);
            }
            Said::Reply(reply) => {
                let heard = self.fleet.hear(reply, turn.clone()).await;
                heard.map(Taken::Heard)
            }
            Said::Report(report) => self.fleet.report(report).await,
        };
        let refused = |reason, text| Some(Verdict::Refused { reason, text });
        match heard {
            Ok(Taken::Heard(Heard::Noted { .. })) => Some(Verdict::Accepted),
            Ok(Taken::Heard(Heard::Unknown)) => None,
            Ok(Taken::TooLarge) => {
                let text = "what the device reports is larger than it may be";
                Some(
                    self.turn_away(publisher, publish, QUOTA_EXCEEDED, text)
                        .await,
                )
            }
            Ok(Taken::NoRoom) => {
                let text = "there is no room for more of what devices report";
                Some(
                    self.turn_away(publisher, publish, QUOTA_EXCEEDED, text)
                        .await,
                )
            }
            Ok(Taken::Heard(Heard::NotYours)) => {
                refused(NOT_AUTHORIZED, "only the device itself may say that")
            }
            Err(NotEdited::Full) => Some(Verdict::Busy),
            // It will be no better the next time.
            Err(NotEdited::Failed) => {
                let text = "what is known of the device is damaged";
                Some(self.turn_away(publisher, publish, NOT_ACCEPTED, text).await)
            }
            Err(NotEdited::Stopped) => Some(Verdict::Lost),
        }
    }

    /// Places a command.
    async fn place(
        &self,
        publisher: &Publisher,
        publish: &Publish,
        order: Order,
        asked: Asked,
    ) -> Verdict {
        let hears = publisher.protocol == Protocol::V5 && publisher.origin.is_none();
        let refusal = match self.fleet.order(order, asked).await {
            Ok(_) => return Verdict::Accepted,
            Err(NotChanged::Full(_) | NotChanged::Busy) => return Verdict::Busy,
            Err(NotChanged::Stopped) => return Verdict::Lost,
            // What is over makes room, and the clock will be set: whoever can wait does.
            Err(NotChanged::Refused(Refusal::TooMany(_) | Refusal::NotYet(_))) if !hears => {
                return Verdict::Busy;
            }
            Err(NotChanged::Refused(refusal)) => refusal,
        };
        tracing::warn!(topic = %publish.topic, client.id = %publisher.client_id, %refusal, "a command was not accepted");
        let (reason, text) = match refusal {
            Refusal::TooMany(_) => (QUOTA_EXCEEDED, "too many commands are not over"),
            Refusal::NotYet(_) => (QUOTA_EXCEEDED, "the gateway does not know the time yet"),
            Refusal::NotFound(_) => (NOT_ACCEPTED, "there is no such device"),
            Refusal::KeyReused => (NOT_ACCEPTED, "the key was used for another command"),
            _ => (INVALID, "the command is not as it should be"),
        };
        self.turn_away(publisher, publish, reason, text).await
    }

    /// Tells a client of MQTT 5 that its message cannot be taken. What comes from others,
    /// who would not hear it, is quarantined.
    async fn turn_away(
        &self,
        publisher: &Publisher,
        publish: &Publish,
        reason: u8,
        text: &'static str,
    ) -> Verdict {
        if publisher.protocol == Protocol::V5 && publisher.origin.is_none() {
            return Verdict::Refused { reason, text };
        }
        let (client, origin) = (&publisher.client_id, publisher.origin.as_ref());
        match self.ingest.set_aside(client, origin, publish, text).await {
            Ok(()) => Verdict::Accepted,
            Err(store::Stopped) => Verdict::Lost,
        }
    }
}

/// The command that a message places.
fn order(device: &str, publisher: &Publisher, publish: &Publish) -> Said {
    let Ok(Value::Object(mut members)) = serde_json::from_slice(&publish.payload) else {
        return Said::NoOrder;
    };
    let said = members.remove("key");
    let user = publish.properties.iter().flat_map(|known| &known.user);
    let property = user.into_iter().find(|(name, _)| **name == *KEY_PROPERTY);
    // An exchange of QoS 2 that is taken up again after a crash is the same one.
    let exchange = || {
        publish
            .delivery
            .map(|token| uuid::Uuid::from_bytes(token).to_string())
    };
    let key = match (property, said) {
        (Some((_, key)), _) => Some(key.clone()),
        (None, Some(Value::String(key))) => Some(key.into()),
        // Taken without it each copy would be a command of its own.
        (None, Some(_)) => return Said::NoOrder,
        (None, None) => exchange().map(Into::into),
    };
    let Ok(order) = Order::read(device, members) else {
        return Said::NoOrder;
    };
    let who = publisher.identity.as_ref().unwrap_or(&publisher.client_id);
    let actor = who.clone();
    Said::Order(Box::new(order), Asked { actor, key })
}

impl Admission for Replies {
    #[expect(
        clippy::async_yields_async,
        reason = "an admission resolves to a receipt"
    )]
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        let is_ours = batch.iter().any(|publish| self.is_ours(&publish.topic));
        if !is_ours && Self::lives(&batch).is_empty() {
            return self.ingest.admit(publisher, batch);
        }
        Box::pin(async move {
            let turn = Turn::of(publisher);
            let verdicts = self.settle(publisher, batch, turn).await;
            let receipt: Receipt = Box::pin(std::future::ready(verdicts));
            receipt
        })
    }
}

/// What a reply says: JSON, or else its text, or its size.
fn value(payload: &[u8]) -> Value {
    if payload.is_empty() {
        return Value::Null;
    }
    if let Ok(value) = serde_json::from_slice(payload)
        && check_depth("a reply", &value).is_ok()
    {
        return value;
    }
    std::str::from_utf8(payload).map_or_else(
        |_| {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.encode(payload);
            serde_json::json!({ "base64": bytes })
        },
        |text| Value::String(text.to_owned()),
    )
}

/// Whether a reply says that the command is done: it does, unless its `status` says
/// anything but `ok`.
fn is_done(value: &Value) -> bool {
    value
        .get("status")
        .and_then(Value::as_str)
        .is_none_or(|status| status.eq_ignore_ascii_case("ok"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reply_is_json_or_text_or_bytes_and_says_ok_unless_it_says_otherwise() {
        for (payload, expect, done) in [
            (&b""[..], json!(null), true),
            (
                br#"{"status":"ok","rpm":3}"#,
                json!({"status":"ok","rpm":3}),
                true,
            ),
            (br#"{"status":"OK"}"#, json!({"status":"OK"}), true),
            (
                br#"{"status":"failed","reason":"jam"}"#,
                json!({"status":"failed","reason":"jam"}),
                false,
            ),
            (br#"{"status":"busy"}"#, json!({"status":"busy"}), false),
            (br#"{"rpm":3}"#, json!({"rpm":3}), true),
            (b"done", json!("done"), true),
            (b"\xff\x00", json!({"base64":"/wA="}), true),
        ] {
            let value = value(payload);
            assert_eq!((is_done(&value), &value), (done, &expect), "{payload:?}");
        }
    }
}
