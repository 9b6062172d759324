//! What others see of the rules' actions, and ask for.

use std::{path::Path, sync::Arc, time::Duration};

use penstock_broker::seal::Seal;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Error, Failed, Said,
    alarm::{self, Alarm, Change, Wanted},
    failed, schema,
    throttle::HeldBack,
};
use crate::{rules::ACTIONS, store};

/// How long an order may wait.
const ORDER_MAX: Duration = Duration::from_secs(10);

/// The account of the rules' actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = RulesStatus)]
pub struct Status {
    /// Rules that do something beside sending.
    pub acting: usize,
    /// Everything up to this position was acted on.
    pub position: u64,
    /// Events that rules took and have not acted on yet.
    pub backlog: u64,
    /// Events that rules took, ever: done + backlog + expired + evicted + damaged + dead.
    pub routed: u64,
    /// Of those: acted on.
    pub done: u64,
    /// Of those: expired by age before.
    pub expired: u64,
    /// Of those: evicted for room before.
    pub evicted: u64,
    /// Of those: lost with a damaged file before.
    pub damaged: u64,
    /// Of those: dead letters, because they do not read back.
    pub dead: u64,
    /// Alarms that hold.
    pub alarms: u64,
    /// Messages to local subscribers, since `rules.db` was begun.
    pub messages: u64,
    /// What rules could not do for an event, since then.
    pub failures: u64,
    /// Of those: left for want of room.
    pub failures_evicted: u64,
    /// Windows that made room for those of other devices, since then.
    pub windows_evicted: u64,
    /// How often the throttle of a rule held something back, since then.
    pub held_back: u64,
    /// The same by rule: of at most a hundred that have a throttle.
    #[schema(value_type = Vec<HeldBack>)]
    pub throttled: Arc<[HeldBack]>,
    /// Events that rules made, and failures, that were lost with a damaged `rules.db`.
    pub lost: u64,
    /// Damaged files with rules, or with what they do, that were set aside.
    #[schema(value_type = Vec<String>)]
    pub set_aside: Arc<[String]>,
    /// Why nothing is done for now.
    #[schema(value_type = Option<String>)]
    pub error: Option<Arc<str>>,
}

/// What the follower says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) position: u64,
    pub(super) alarms: u64,
    pub(super) messages: u64,
    pub(super) failures: u64,
    pub(super) failures_evicted: u64,
    pub(super) windows_evicted: u64,
    pub(super) held_back: u64,
    pub(super) throttled: Arc<[HeldBack]>,
    pub(super) lost: u64,
    pub(super) set_aside: Arc<[String]>,
    pub(super) error: Option<Arc<str>>,
}

/// What somebody wants done, and the way back.
#[derive(Debug)]
pub(super) enum Order {
    /// To try again what a rule could not do.
    Retry(u64, oneshot::Sender<Option<Result<(), String>>>),
    /// To forget it.
    Discard(u64, oneshot::Sender<bool>),
    /// To change an alarm.
    Alarm(Said, oneshot::Sender<Option<Result<Alarm, Alarm>>>),
}

/// The way to ask: cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) dir: Arc<Path>,
    pub(super) store: store::Handle,
    pub(super) ingest: Arc<crate::ingest::Ingest>,
    pub(super) told: watch::Receiver<Told>,
    pub(super) orders: mpsc::Sender<Order>,
}

impl Handle {
    /// The account, a moment old.
    pub fn status(&self) -> Status {
        let told = self.told.borrow().clone();
        let journal = self.store.status();
        let mut known = journal.destinations.iter();
        let ours = known.find(|known| &*known.name == ACTIONS);
        Status {
            acting: self.ingest.rules().acts().rules().len(),
            position: told.position,
            backlog: ours.map_or(0, |ours| ours.backlog),
            routed: ours.map_or(0, |ours| ours.routed),
            done: ours.map_or(0, |ours| ours.delivered),
            expired: ours.map_or(0, |ours| ours.expired),
            evicted: ours.map_or(0, |ours| ours.evicted),
            damaged: ours.map_or(0, |ours| ours.damaged),
            dead: ours.map_or(0, |ours| ours.dead),
            alarms: told.alarms,
            messages: told.messages,
            failures: told.failures,
            failures_evicted: told.failures_evicted,
            windows_evicted: told.windows_evicted,
            held_back: told.held_back,
            throttled: told.throttled,
            lost: told.lost,
            set_aside: told.set_aside,
            error: told.error,
        }
    }

    /// What rules could not do, after `after`, of one rule or of all: at most `count`, and
    /// where the next of them begin, if there are more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn failed(
        &self,
        rule: Option<String>,
        after: u64,
        count: usize,
    ) -> Result<(Vec<Failed>, Option<u64>), Error> {
        let listed = self.read(move |connection| {
            let listed = failed::list(connection, rule.as_deref(), after, count)?;
            Ok(vec![listed])
        });
        Ok(listed.await?.pop().unwrap_or_default())
    }

    /// One of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn failure(&self, id: u64) -> Result<Option<Failed>, Error> {
        self.read(move |connection| Ok(failed::find(connection, id)?.into_iter().collect()))
            .await
            .map(|found: Vec<Failed>| found.into_iter().next())
    }

    /// Tries again what a rule could not do. `None` where it is not there; else whether
    /// it is done, and why not.
    ///
    /// # Errors
    /// When the gateway ends.
    pub async fn retry(&self, id: u64) -> Result<Option<Result<(), String>>, Error> {
        self.order(|reply| Order::Retry(id, reply)).await
    }

    /// Forgets it; false where it is not there.
    ///
    /// # Errors
    /// When the gateway ends.
    pub async fn discard(&self, id: u64) -> Result<bool, Error> {
        self.order(|reply| Order::Discard(id, reply)).await
    }

    /// Alarms after a number: at most `count`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn alarms(
        &self,
        wanted: Wanted,
        after: u64,
        count: usize,
    ) -> Result<Vec<Alarm>, Error> {
        self.read(move |connection| alarm::list(connection, &wanted, after, count))
            .await
    }

    /// An alarm with its latest changes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn alarm(
        &self,
        id: u64,
        changes: usize,
    ) -> Result<Option<(Alarm, Vec<Change>)>, Error> {
        let (dir, seal) = (self.dir.clone(), self.store.seal().clone());
        let asked = spawn_blocking(move || alarm_of(&dir, &seal, id, changes)).await;
        asked.map_err(|error| Error::Io(std::io::Error::other(error)))?
    }

    /// Does what a person says about an alarm: `None` where it is not there, `Err` with
    /// the alarm where it is cleared already.
    ///
    /// # Errors
    /// When the gateway ends.
    pub async fn say(&self, said: Said) -> Result<Option<Result<Alarm, Alarm>>, Error> {
        self.order(|reply| Order::Alarm(said, reply)).await
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let sent = self.orders.send(order(reply)).await;
            sent.map_err(|_| Error::Ending)?;
            answer.await.map_err(|_| Error::Ending)
        };
        // It may be far behind, or wait for a disk.
        timeout(ORDER_MAX, asked).await.unwrap_or_else(|_| {
            let error = self.told.borrow().error.clone();
            Err(Error::Busy(
                error.map_or_else(String::new, |e| format!(": {e}")),
            ))
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&rusqlite::Connection) -> Result<Vec<T>, Error> + Send + 'static,
    ) -> Result<Vec<T>, Error> {
        let (dir, seal) = (self.dir.clone(), self.store.seal().clone());
        let asked = spawn_blocking(move || ask(&dir, &seal, question)).await;
        asked.map_err(|error| Error::Io(std::io::Error::other(error)))?
    }
}

/// Alarms of a data directory, whether a gateway runs there or not: at most `count` after
/// a number. Blocking.
///
/// # Errors
/// When the file cannot be read.
pub fn alarms_of(
    dir: &Path,
    seal: &Seal,
    wanted: &Wanted,
    after: u64,
    count: usize,
) -> Result<Vec<Alarm>, Error> {
    ask(dir, seal, |connection| {
        alarm::list(connection, wanted, after, count)
    })
}

/// One of them with its latest changes. Blocking.
///
/// # Errors
/// When the file cannot be read.
pub fn alarm_of(
    dir: &Path,
    seal: &Seal,
    id: u64,
    changes: usize,
) -> Result<Option<(Alarm, Vec<Change>)>, Error> {
    let found = ask(dir, seal, |connection| {
        let Some(alarm) = alarm::find(connection, id)? else {
            return Ok(Vec::new());
        };
        Ok(vec![(alarm, alarm::history(connection, id, changes)?)])
    })?;
    Ok(found.into_iter().next())
}

/// Asks the file; there is nothing where there is none.
fn ask<T>(
    dir: &Path,
    seal: &Seal,
    question: impl FnOnce(&rusqlite::Connection) -> Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    match schema::open_read_only(dir, seal)? {
        Some(connection) => question(&connection),
        None => Ok(Vec::new()),
    }
}
