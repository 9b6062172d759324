//! The write side of devices: a registry, commands to devices, and a shadow of each.
//!
//! ```text
//! HTTP, upstream ─▶ Fleet ─ edit ─▶ store: row and event in one commit ─▶ answer
//!                                     │
//!                    delivery ◀── queued commands
//!                       │ one commit of the broker: queue of the device, and token
//!                       ▼
//!                    broker ─MQTT─▶ device ─ reply ─▶ replies (an admission) ─ edit ─▶ store
//! ```
//!
//! Promises: what was answered is on disk, and the event that tells of it is in the
//! journal, both or neither; the same request with the same key changes nothing twice. A
//! command that was accepted is delivered or reported expired. To a device whose session
//! outlives its connection a command of QoS 2 is delivered once, whatever is killed
//! meanwhile, and commands keep their order. Everything has a bound ([`Config`]).
//!
//! It does not promise what a device does: a command that expired after it was sent may
//! have been carried out. `docs/devices.md` has what that means, `docs/decisions/0100` why
//! it is so. Tables are in the journal's database (`rows`).

mod announce;
mod answer;
mod command;
mod config;
mod counts;
mod delivery;
mod device;
mod edits;
mod lives;
mod names;
mod online;
mod presence;
mod replies;
mod requests;
mod room;
mod rows;
mod shadow;
#[cfg(test)]
mod tests;
mod topics;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use penstock_broker::Errands;
use tokio::{
    sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    time::Instant,
};

pub use announce::Announce;
pub use answer::{Change, Refusal};
pub use command::{Command, CommandShown, Deadline, Order, State};
pub use config::{Config, Payload};
pub use counts::Account;
pub use delivery::Delivery;
pub use device::{Changes, Device, DeviceShown, Draft, Fields};
pub use edits::device::Removed;
pub use online::Online;
pub use presence::Watch;
pub use replies::Replies;
pub use rows::{Commands, command, commands, device, devices, shadow_of};
pub use shadow::{Shadow, ShadowShown};
pub use topics::Topics;
pub(crate) use topics::objection as topic_objection;

use crate::{
    clock::Clock,
    event::Timestamp,
    store::{self, Edit, NotEdited, Turn},
};
use room::Room;

use edits::{
    cancel::Cancel,
    device::{Create, Remove, Update},
    order::Place,
    progress::{Heard, Replied, Reply},
    shadow::{Desire, Report, Taken},
};

/// How long whoever changes a device waits for commands that are in hand.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How often the tables are counted, at most, before somebody is turned away.
const WEIGH_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
const TOO_MANY_OPEN: &str = "there are as many commands that are not over as there may be";
const NO_ROOM: &str =
    "devices, commands and shadows take as much of the journal as they may ([commands] bytes_max)";

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    topics: Topics,
    store: store::Handle,
    announce: Arc<dyn Announce>,
    clock: Arc<dyn Clock>,
    errands: Errands,
    /// Devices, and commands that are not over: about, because changes at the same moment
    /// see the same number.
    devices: AtomicU64,
    open: AtomicU64,
    /// Commands that are over.
    over: AtomicU64,
    /// How many commands entered which state.
    counts: Arc<counts::Counts>,
    /// What all tables take.
    room: Room,
    /// When that was counted last because somebody asked.
    weighed: tokio::sync::Mutex<Option<Instant>>,
    /// Devices that may have queued commands.
    waiting: Mutex<BTreeSet<Arc<str>>>,
    /// By which clients devices were born.
    born: lives::Born,
    /// There is something to deliver, or another deadline.
    wake: Notify,
    /// Held for writing from when a command is handed to the broker until that is noted,
    /// and before it is known what was in hand at the last end: nothing is cancelled then.
    in_hand: Arc<RwLock<()>>,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotChanged {
    /// By the rules; nothing was changed.
    Refused(Refusal),
    /// The journal is full, or there are as many as there may be.
    Full(&'static str),
    /// Commands are in hand, and the journal cannot note that.
    Busy,
    /// The store has stopped; whether it was changed is not known.
    Stopped,
}

impl From<NotEdited> for NotChanged {
    fn from(error: NotEdited) -> Self {
        match error {
            NotEdited::Full => Self::Full("the journal is full"),
            NotEdited::Failed => Self::Full("a table of the journal is damaged"),
            NotEdited::Stopped => Self::Stopped,
        }
    }
}

impl From<Refusal> for NotChanged {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Who asks for a change, and how it is told from others.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub actor: Arc<str>,
    /// The Idempotency-Key, if there is one.
    pub key: Option<Arc<str>>,
}

/// What came of a change that was asked for.
pub type Changed<T> = Result<Change<T>, NotChanged>;

impl Fleet {
    /// Prepares, and counts what there is; with what delivers commands. Blocking.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn open(
        config: Config,
        store: store::Handle,
        announce: Arc<dyn Announce>,
        clock: Arc<dyn Clock>,
        errands: Errands,
    ) -> Result<(Self, Delivery), store::Error> {
        let listing = store.listing()?;
        let counts = rows::counts(listing.tables())?;
        let bytes = rows::bytes(listing.tables())?;
        let waiting = rows::devices_with_queued(listing.tables())?;
        let oldest = rows::oldest_open(listing.tables())?;
        let counted = Arc::<counts::Counts>::default();
        counted.set_oldest(oldest);
        let announce: Arc<dyn Announce> = Arc::new(counts::Counting {
            announce,
            counts: counted.clone(),
        });
        let in_hand = Arc::<RwLock<()>>::default();
        let first = in_hand.clone().try_write_owned().ok();
        let fleet = Self(Arc::new(Inner {
            topics: Topics::new(
                &config.topic,
                &config.shadow_topic,
                config.orders.as_deref(),
            ),
            room: Room::new(bytes, config.bytes_max),
            weighed: tokio::sync::Mutex::default(),
            config,
            store,
            announce,
            clock,
            errands: errands.clone(),
            devices: AtomicU64::new(counts.devices),
            open: AtomicU64::new(counts.open),
            over: AtomicU64::new(counts.over),
            counts: counted,
            waiting: Mutex::new(waiting),
            born: lives::Born::default(),
            wake: Notify::new(),
            in_hand,
        }));
        let delivery = Delivery::new(fleet.clone(), errands, first);
        Ok((fleet, delivery))
    }

    /// What tells of devices that come and go.
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }

    /// How it is configured.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The topics of commands and replies.
    pub fn topics(&self) -> &Topics {
        &self.0.topics
    }

    /// Now, by the clock that deadlines count by.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Who is connected now.
    pub fn online(&self) -> Online {
        Online::of(self.connected().into_iter())
    }

    fn connected(&self) -> Vec<(Arc<str>, Option<Arc<str>>)> {
        self.0.errands.connected()
    }

    /// Adds a device.
    ///
    /// # Errors
    /// When there is one of that name, or no room.
    pub async fn create(&self, draft: Draft, asked: Asked) -> Changed<Device> {
        check(&asked)?;
        let are_all = self.0.devices.load(Relaxed) >= self.0.config.devices_max;
        let full = are_all.then_some("there are as many devices as there may be");
        let create = Create::new(draft, asked, self.announce());
        let bytes = create.cost_bytes();
        let created = self.grow(bytes, full, |full| create.where_full(full));
        let created = created.await?;
        if !created.again {
            self.0.devices.fetch_add(1, Relaxed);
        }
        Ok(created)
    }

    /// Changes a device; with `version` only if that is the version that it has.
    ///
    /// # Errors
    /// When there is none, it has another version, or what comes of it may not be.
    pub async fn update(
        &self,
        id: &str,
        changes: Changes,
        version: Option<u64>,
        asked: Asked,
    ) -> Changed<Device> {
        check(&asked)?;
        let update = Update::new(id, changes, version, asked, self.announce());
        self.grow(update.cost_bytes(), None, |full| update.where_full(full))
            .await
    }

    /// Removes a device. Its commands that are not over end.
    ///
    /// # Errors
    /// When there is none, or it has another version.
    pub async fn remove(&self, id: &str, version: Option<u64>, asked: Asked) -> Changed<Removed> {
        check(&asked)?;
        let guard = self.nothing_in_hand().await?;
        let removed = self
            .edit(Remove::new(id, version, asked, self.announce()).holding(guard))
            .await?;
        if !removed.again {
            subtract(&self.0.devices, 1);
            self.ended(removed.value.commands);
            self.0.wake.notify_one();
        }
        Ok(removed)
    }

    /// Places a command; it is on disk when this resolves.
    ///
    /// # Errors
    /// When there is no such device, the key was used for another, or there is no room.
    pub async fn order(&self, order: Order, asked: Asked) -> Changed<Command> {
        let mut place = Place::new(order, asked, self.now(), self.config(), self.announce())?;
        if self.0.open.load(Relaxed) >= self.0.config.open_max {
            place = place.only_if_known(TOO_MANY_OPEN);
        } else if !self.has_room(place.cost_bytes()).await {
            place = place.only_if_known(NO_ROOM);
        }
        let device: Arc<str> = place.device().into();
        let cost = place.cost_bytes();
        let placed = self.edit(place).await?;
        if !placed.again {
            self.0.open.fetch_add(1, Relaxed);
            self.0.counts.placed(placed.value.created_ms);
            self.0.room.added(cost);
        }
        // Whoever placed it first may not have waited for this.
        if placed.value.state == State::Queued {
            self.wait_for(device);
            self.0.wake.notify_one();
        }
        Ok(placed)
    }

    /// Takes a command back that was not sent.
    ///
    /// # Errors
    /// When there is none, or it was sent.
    pub async fn cancel(&self, device: &str, id: &str, asked: Asked) -> Changed<Command> {
        check(&asked)?;
        let guard = self.nothing_in_hand().await?;
        let cancel = Cancel {
            guard,
            device: device.to_owned(),
            id: id.to_owned(),
            asked,
            announce: self.announce(),
        };
        let cancelled = self.edit(cancel).await?;
        if !cancelled.again {
            self.ended(1);
        }
        Ok(cancelled)
    }

    /// Changes what a device should be; with `version` only if that is the version that it
    /// has.
    ///
    /// # Errors
    /// When there is no such device, it has another version, or no room.
    pub async fn desire(
        &self,
        device: &str,
        patch: serde_json::Map<String, serde_json::Value>,
        version: Option<u64>,
        asked: Asked,
    ) -> Changed<Shadow> {
        check(&asked)?;
        let patch = serde_json::Value::Object(patch);
        names::check_depth("what is desired", &patch)?;
        let serde_json::Value::Object(patch) = patch else {
            return Err(Refusal::invalid("what is desired is an object").into());
        };
        let bytes_max = self.config().shadow_bytes_max;
        // The answer to a request has all of it once more.
        let answer = match &asked.key {
            Some(_) => 2 * bytes_max,
            None => 0,
        };
        let bytes = answer + edits::cost_bytes(edits::shadow::length(&patch));
        let desire = Desire::new(device, patch, version, bytes_max, asked, self.announce());
        let desired = self.grow(bytes, None, |full| desire.where_full(full));
        let desired = desired.await?;
        self.0.wake.notify_one();
        Ok(desired)
    }

    /// Takes in what a device says that it is.
    async fn report(&self, report: Report) -> Result<Taken, NotEdited> {
        let bytes = edits::cost_bytes(edits::shadow::length(&report.patch));
        let taken = self.0.store.edit(report).await?;
        if taken == Taken::Heard(Heard::Noted { ended: false }) {
            self.0.room.added(bytes);
        }
        self.0.wake.notify_one();
        Ok(taken)
    }

    /// Takes in what a device said of a command.
    async fn hear(&self, reply: Reply, turn: Turn) -> Result<Heard, NotEdited> {
        let bytes = reply.bytes;
        let replied = Replied {
            replies: vec![reply],
            is_full: self.is_full(bytes),
            turn: Some(turn),
            announce: self.announce(),
        };
        let heard = self.0.store.edit(replied).await?;
        let heard = heard.first().copied().unwrap_or(Heard::Unknown);
        if heard == (Heard::Noted { ended: true }) {
            self.ended(1);
            self.0.room.added(bytes);
        }
        Ok(heard)
    }

    /// Whether the tables have no room for so many bytes more. Whoever delivers sees to
    /// what can be forgotten.
    fn is_full(&self, more: usize) -> bool {
        let is_full = self.0.room.is_full(more);
        if is_full || self.0.room.too_much() > 0 {
            self.0.wake.notify_one();
        }
        is_full
    }

    /// Makes a change that may add to the tables. Where they are `full`, or have no room for
    /// it, the edit is told: what was made before is answered all the same, and what adds
    /// nothing is made.
    async fn grow<T: Send + 'static, E: Edit<Answer = Result<Change<T>, Refusal>>>(
        &self,
        bytes: usize,
        full: Option<&'static str>,
        edit: impl FnOnce(bool) -> E,
    ) -> Changed<T> {
        let full = match full {
            None if !self.has_room(bytes).await => Some(NO_ROOM),
            full => full,
        };
        let changed = match (self.edit(edit(full.is_some())).await, full) {
            (Err(NotChanged::Refused(Refusal::TooMany(_))), Some(why)) => {
                return Err(NotChanged::Full(why));
            }
            (changed, _) => changed?,
        };
        if !changed.again && full.is_none() {
            self.0.room.added(bytes);
        }
        Ok(changed)
    }

    /// Whether the tables have room for so many bytes more; looks once more before it says
    /// no, at most once in a second.
    async fn has_room(&self, more: usize) -> bool {
        if !self.is_full(more) {
            return true;
        }
        let mut weighed = self.0.weighed.lock().await;
        if weighed.is_none_or(|at| at.elapsed() >= WEIGH_EVERY) {
            self.weigh().await;
            *weighed = Some(Instant::now());
        }
        !self.is_full(more)
    }

    /// Holds up delivery for as long as what is returned lives: it goes with the edit, which
    /// is made also when whoever asked for it is gone.
    async fn nothing_in_hand(&self) -> Result<OwnedRwLockReadGuard<()>, NotChanged> {
        let in_hand = self.0.in_hand.clone().read_owned();
        let guard = tokio::time::timeout(PATIENCE, in_hand).await;
        guard.map_err(|_| NotChanged::Busy)
    }

    /// Looks again which devices have commands that wait, and how much there is: whoever
    /// placed a command may have gone before that was noted in memory.
    async fn look_again(&self) {
        let read = |tables: &rusqlite::Connection| {
            let counts = rows::counts(tables)?;
            let oldest = rows::oldest_open(tables)?;
            Ok((counts, oldest, rows::devices_with_queued(tables)?))
        };
        match self.read(read).await {
            Ok((counts, oldest, waiting)) => {
                self.0.counts.set_oldest(oldest);
                self.0.devices.store(counts.devices, Relaxed);
                self.0.open.store(counts.open, Relaxed);
                self.0.over.store(counts.over, Relaxed);
                self.lock().extend(waiting);
            }
            Err(error) => tracing::warn!(%error, "could not read the tables of devices"),
        }
    }

    async fn edit<T: Send + 'static>(
        &self,
        edit: impl Edit<Answer = Result<Change<T>, Refusal>>,
    ) -> Changed<T> {
        Ok(self.0.store.edit(edit).await??)
    }

    /// Reads the tables on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, store::Error> {
        let store = self.0.store.clone();
        let read = tokio::task::spawn_blocking(move || Ok(read(store.listing()?.tables())?));
        read.await
            .unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
    }

    fn store(&self) -> &store::Handle {
        &self.0.store
    }

    fn announce(&self) -> Arc<dyn Announce> {
        self.0.announce.clone()
    }

    /// So many commands that were open are over.
    fn ended(&self, count: u64) {
        subtract(&self.0.open, count);
        self.0.over.fetch_add(count, Relaxed);
    }

    /// Counts what the tables take; how much of it should be forgotten.
    async fn weigh(&self) -> u64 {
        match self.read(rows::bytes).await {
            Ok(bytes) => self.0.room.counted(bytes),
            Err(error) => tracing::warn!(%error, "could not read the tables of devices"),
        }
        self.0.room.too_much()
    }

    /// How long commands are kept that are over, in milliseconds, and how many of them
    /// are too many.
    fn to_forget(&self) -> (i64, u64) {
        let config = &self.0.config;
        let keep_ms = i64::try_from(config.keep.as_millis()).unwrap_or(i64::MAX);
        let over = self.0.over.load(Relaxed);
        (keep_ms, over.saturating_sub(config.keep_max))
    }

    fn forgotten(&self, count: u64) {
        subtract(&self.0.over, count);
    }

    /// The devices that may have queued commands.
    fn waiting(&self) -> Vec<Arc<str>> {
        self.lock().iter().cloned().collect()
    }

    fn wait_for(&self, device: Arc<str>) {
        self.lock().insert(device);
    }

    fn wait_no_more(&self, device: &Arc<str>) {
        self.lock().remove(device);
    }

    /// Resolves when a command was placed since this was asked last.
    async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// Nothing is cancelled while this is held.
    async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.0.in_hand.clone().write_owned().await
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether who asks gave a key that may be one.
fn check(asked: &Asked) -> Result<(), Refusal> {
    asked.key.as_deref().map_or(Ok(()), names::check_key)
}

fn subtract(from: &AtomicU64, count: u64) {
    // Counts are about: none goes below zero.
    from.fetch_update(Relaxed, Relaxed, |before| {
        Some(before.saturating_sub(count))
    })
    .unwrap_or_default();
}
