//! Takes queued commands to the broker, device by device, in the order in which they were
//! placed; sees to deadlines; and tells devices what they should be.
//!
//! A command is handed to the broker under its id, noted as sent, and then the broker may
//! forget the id. Whatever is killed in between, at the next start the broker still knows
//! which ids are in its queues, and those are noted as sent before anything else is done.
//!
//! A device that is connected without a session that lasts has no queue: a command of
//! QoS 2 is noted as sent first, so that it never comes twice, and others are noted
//! afterwards, so that they do come.
//!
//! What a device should be is a retained message, published after each change until that
//! is noted: it may come again after a crash, with the same version.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use penstock_broker::{Errands, Look, Properties, Publish, QoS, Queued, Reach};
use serde_json::json;
use tokio::{
    pin,
    sync::OwnedRwLockWriteGuard,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, Device, Fleet, Payload, Shadow,
    edits::{
        doubt::Settle,
        press::Press,
        progress::{Expire, SLICE, Sent, Trim},
        shadow::Told,
    },
    rows,
};
use crate::{admin, event::Timestamp, event::message::KEY_PROPERTY, store};

/// Commands of one device that are handed over in one go.
const AT_ONCE: usize = 64;
/// Subscriptions that change together are looked at once.
const GATHER: Duration = Duration::from_millis(20);
/// Before what found no room is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long nothing is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Slices that are forgotten in one pass.
const TRIMS_MAX: usize = 64;
/// The user property with the id of a command.
const ID_PROPERTY: &str = "command-id";

/// See the module.
#[derive(Debug)]
pub struct Delivery {
    fleet: Fleet,
    errands: Errands,
    /// Nothing is cancelled before it is known what was in hand at the last end.
    first: Option<OwnedRwLockWriteGuard<()>>,
}

/// What one pass over the devices left.
#[derive(Debug, Default)]
struct Pass {
    /// Something found no room.
    again: bool,
}

impl Delivery {
    pub(super) const fn new(
        fleet: Fleet,
        errands: Errands,
        first: Option<OwnedRwLockWriteGuard<()>>,
    ) -> Self {
        Self {
            fleet,
            errands,
            first,
        }
    }

    /// Delivers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let first = self.first.take();
        let work = async {
            self.recover().await;
            self.settle().await;
            drop(first);
            let (mut looked, mut weigh) = (Instant::now(), Instant::now());
            loop {
                let changed = self.errands.subscriptions_changed();
                pin!(changed);
                changed.as_mut().enable();
                if looked.elapsed() >= LOOK_EVERY {
                    // The journal may have been damaged since.
                    self.settle().await;
                    self.fleet.look_again().await;
                    looked = Instant::now();
                }
                let mut pass = Pass::default();
                self.expire(&mut pass).await;
                if Instant::now() >= weigh {
                    let wait = self.make_room().await;
                    weigh = Instant::now() + wait;
                }
                self.deliver(&mut pass).await;
                self.tell(&mut pass).await;
                let wait = match pass.again {
                    true => AGAIN,
                    false => self.next_due().await,
                };
                tokio::select! {
                    () = changed => sleep(GATHER).await,
                    () = self.fleet.woken() => {}
                    () = sleep(wait) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Notes what was handed over before the last end, and was not noted any more.
    async fn recover(&self) {
        let tokens = loop {
            match self.errands.queued().await {
                Some(tokens) => break tokens,
                None => sleep(AGAIN).await,
            }
        };
        if tokens.is_empty() {
            return;
        }
        tracing::info!(
            commands = tokens.len(),
            "were handed to the broker before the last end"
        );
        for tokens in tokens.chunks(SLICE) {
            let ids = tokens
                .iter()
                .map(|token| uuid::Uuid::from_bytes(*token).to_string());
            let ids: Vec<String> = ids.collect();
            while !self.note_sent(ids.clone()).await {
                sleep(AGAIN).await;
            }
            self.errands.over(tokens.to_vec()).await;
        }
    }

    /// Says what becomes of commands of which nobody knows whether they were sent, because
    /// the journal was damaged. What is known to be in a device's queue is not among them.
    async fn settle(&self) {
        let mut settled = 0;
        loop {
            let settle = Settle {
                announce: self.fleet.announce(),
            };
            match self.fleet.store().edit(settle).await {
                Ok(done) if done.commands == 0 => break,
                Ok(done) => settled += done.commands,
                // Once there is room.
                Err(_) => break,
            }
        }
        if settled > 0 {
            tracing::warn!(
                commands = settled,
                "were in doubt, because the journal was damaged"
            );
            self.fleet.look_again().await;
        }
    }

    /// Notes that commands were handed over; whether that is on disk.
    async fn note_sent(&self, ids: Vec<String>) -> bool {
        let sent = Sent {
            ids,
            announce: self.fleet.announce(),
        };
        self.fleet.store().edit(sent).await.is_ok()
    }

    /// Ends what is due, and forgets what was over for long enough. Neither is anything
    /// while nobody knows the time.
    async fn expire(&self, pass: &mut Pass) {
        loop {
            let expire = Expire {
                announce: self.fleet.announce(),
            };
            let Ok(expired) = self.fleet.store().edit(expire).await else {
                pass.again = true;
                break;
            };
            if expired.commands > 0 {
                tracing::info!(commands = expired.commands, "expired");
                self.fleet.ended(expired.commands as u64);
            }
            if !expired.is_more {
                break;
            }
        }
        for _ in 0..TRIMS_MAX {
            let (keep_ms, more) = self.fleet.to_forget();
            let Ok(trimmed) = self.fleet.store().edit(Trim { keep_ms, more }).await else {
                break;
            };
            self.fleet.forgotten(trimmed.commands);
            if trimmed.commands < SLICE as u64 && trimmed.requests < SLICE {
                break;
            }
        }
    }

    /// Makes room where the tables come near their bound; after how long to look again. All
    /// tables are read for it, and not each second where nothing can be forgotten.
    pub(super) async fn make_room(&self) -> Duration {
        if self.fleet.0.room.too_much() == 0 {
            return AGAIN;
        }
        let mut too_much = self.fleet.weigh().await;
        let mut forgotten = (0, 0);
        while too_much > 0
            && let Ok(pressed) = self.fleet.store().edit(Press).await
            && pressed.commands + pressed.requests > 0
        {
            self.fleet.forgotten(pressed.commands);
            forgotten.0 += pressed.commands;
            forgotten.1 += pressed.requests;
            too_much = too_much.saturating_sub(pressed.bytes);
        }
        if forgotten != (0, 0) {
            let (commands, requests) = forgotten;
            tracing::info!(
                commands,
                requests,
                "the oldest that were over were forgotten, to make room"
            );
            too_much = self.fleet.weigh().await;
        }
        match forgotten == (0, 0) && too_much > 0 {
            true => LOOK_EVERY,
            false => AGAIN,
        }
    }

    /// Tells some devices what they should be, as far as they were not told.
    async fn tell(&self, pass: &mut Pass) {
        let untold = self.read(|tables| rows::untold(tables, AT_ONCE)).await;
        let untold = untold.unwrap_or_default();
        pass.again |= untold.len() == AT_ONCE;
        for shadow in untold {
            if !self.errands.retain(&self.desired(&shadow)).await {
                tracing::debug!(device.id = %shadow.device, "there is no room to retain what it should be");
                return;
            }
            // Where it was changed meanwhile it is told once more.
            if self.fleet.store().edit(Told { shadow }).await.is_err() {
                pass.again = true;
                return;
            }
        }
    }

    /// The message with what a device should be; an empty one is to be forgotten.
    fn desired(&self, shadow: &Shadow) -> Publish {
        let payload = match shadow.is_gone {
            true => Bytes::new(),
            false => shadow.told().to_string().into(),
        };
        let properties = Properties {
            payload_is_utf8: Some(true),
            content_type: Some("application/json".into()),
            response_topic: Some(self.fleet.topics().reported(&shadow.device).into()),
            ..Properties::default()
        };
        Publish {
            topic: self.fleet.topics().desired(&shadow.device).into(),
            payload,
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            properties: (!shadow.is_gone).then(|| Arc::new(properties)),
            delivery: None,
        }
    }

    /// How long until a deadline, at most until something is looked at anyway.
    async fn next_due(&self) -> Duration {
        let due = self.read(rows::next_due).await.flatten();
        let now = self.fleet.now().as_millis();
        due.map_or(LOOK_EVERY, |due| {
            let ms = u64::try_from(due.saturating_sub(now)).unwrap_or_default();
            Duration::from_millis(ms.saturating_add(1)).clamp(GATHER, LOOK_EVERY)
        })
    }

    /// Hands over what can be handed over now.
    async fn deliver(&self, pass: &mut Pass) {
        let look = self.errands.look();
        for device in self.fleet.waiting() {
            let topic = self.fleet.topics().commands(&device);
            if !self.errands.is_wanted(&topic) {
                continue;
            }
            // What is placed from here on puts it back.
            self.fleet.wait_no_more(&device);
            if self.deliver_to(&device, &topic, &look, pass).await {
                self.fleet.wait_for(device);
            }
        }
    }

    /// Hands over the commands of a device; whether there are more.
    async fn deliver_to(
        &self,
        device: &Arc<str>,
        topic: &str,
        look: &Look<'_>,
        pass: &mut Pass,
    ) -> bool {
        loop {
            // Nothing is cancelled from when it is read until it is noted as sent.
            let _in_hand = self.fleet.hold().await;
            let name = device.clone();
            let read = move |tables: &rusqlite::Connection| {
                let known = rows::device(tables, &name)?;
                Ok((known, rows::queued(tables, &name, AT_ONCE)?))
            };
            let Some((known, commands)) = self.read(read).await else {
                pass.again = true;
                return true;
            };
            let Some(known) = known else {
                // Its commands ended with it.
                return !commands.is_empty();
            };
            if commands.is_empty() {
                return false;
            }
            let count = commands.len();
            if self.hand_over(&known, topic, commands, look, pass).await < count {
                return true;
            }
        }
    }

    /// Hands over commands of a device, in order, up to the first that cannot be; how many.
    async fn hand_over(
        &self,
        device: &Device,
        topic: &str,
        commands: Vec<Command>,
        look: &Look<'_>,
        pass: &mut Pass,
    ) -> usize {
        let to = device.addressee();
        let mut sent = Vec::new();
        let mut tokens = Vec::new();
        for command in commands {
            let Some(publish) = self.publish(topic, &command) else {
                // It is over with the next look at deadlines, or the time is not known.
                pass.again = true;
                break;
            };
            match look.reach(&publish, &to) {
                Reach::Nobody => break,
                Reach::Full => {
                    pass.again = true;
                    break;
                }
                Reach::Queue => match self.errands.queue(&publish, command.token(), &to).await {
                    Queued::Now | Queued::Before => tokens.push(command.token()),
                    Queued::Nobody => break,
                    Queued::Full => {
                        pass.again = true;
                        break;
                    }
                },
                Reach::Live if publish.qos == QoS::ExactlyOnce => {
                    if !self.note_sent(vec![command.id.clone()]).await {
                        pass.again = true;
                        break;
                    }
                    self.errands.show(&publish).await;
                }
                Reach::Live => self.errands.show(&publish).await,
            }
            sent.push(command.id);
        }
        let count = sent.len();
        if count == 0 {
            return 0;
        }
        // Until that is noted nothing else may be said of them.
        while !self.note_sent(sent.clone()).await {
            sleep(AGAIN).await;
        }
        if !tokens.is_empty() {
            self.errands.over(tokens).await;
        }
        tracing::debug!(device.id = %device.id, commands = count, "sent");
        count
    }

    /// The message of a command; `None` once there is no time left for it.
    fn publish(&self, topic: &str, command: &Command) -> Option<Publish> {
        let left_ms = command
            .deadline_ms
            .saturating_sub(self.fleet.now().as_millis());
        // While nobody knows the time, nobody knows whether it is too late.
        if left_ms <= 0 || self.fleet.now().is_unset() {
            return None;
        }
        // Whole seconds are all that a message can say.
        let left_secs = u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX).max(1);
        let reply_to = self.fleet.topics().reply(&command.device, &command.id);
        let (payload, content_type) = match self.fleet.config().payload {
            Payload::Envelope => {
                let envelope = json!({
                    "id": command.id,
                    "key": command.key,
                    "name": command.name,
                    "payload": command.payload,
                    "deadline": admin::instant(Timestamp::from_millis(command.deadline_ms)),
                    "reply_to": reply_to,
                });
                (envelope.to_string(), "application/json")
            }
            Payload::Plain => match &command.payload {
                serde_json::Value::String(text) => (text.clone(), "text/plain"),
                other => (other.to_string(), "application/json"),
            },
        };
        let mut user: Vec<(Arc<str>, Arc<str>)> = vec![
            (ID_PROPERTY.into(), (&*command.id).into()),
            (KEY_PROPERTY.into(), (&*command.key).into()),
        ];
        if let Some(name) = &command.name {
            user.push(("command-name".into(), (&**name).into()));
        }
        let properties = Properties {
            payload_is_utf8: Some(true),
            message_expiry_secs: Some(left_secs),
            content_type: Some(content_type.into()),
            response_topic: Some(reply_to.into()),
            correlation_data: Some(Bytes::copy_from_slice(command.id.as_bytes())),
            user,
        };
        Some(Publish {
            topic: topic.into(),
            payload: payload.into(),
            qos: match command.qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            retain: false,
            dup: false,
            properties: Some(Arc::new(properties)),
            delivery: None,
        })
    }

    /// Reads the tables on a thread that may block; `None` when they cannot be read.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<T> {
        let read: Result<T, store::Error> = self.fleet.read(read).await;
        read.inspect_err(|error| tracing::warn!(%error, "could not read the tables of devices"))
            .ok()
    }
}
