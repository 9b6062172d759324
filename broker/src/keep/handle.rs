//! The way to the writer. Cheap to clone.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, sleep},
};

use super::{
    Config, Decided, Enter, Entered, Errand, Error, Kept, KeptWill, Leave, Op, Ran, Refused,
    RetainedInfo, SessionId, SessionInfo, Shared, SubscriptionInfo, Token, Told, Turn, Wish,
    job::{Answer, Job, Work},
    will::WillId,
    writer::Writer,
};
use crate::{
    budget::Budget,
    fanout::{Homeless, Message},
    metrics::Counters,
};

/// Jobs that may wait for the writer. Each session has a few at most.
const JOBS_MAX: usize = 4096;
/// Between asking once more.
const PAUSE: Duration = Duration::from_millis(250);

/// See the module `keep`.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    /// Becomes true when the writer has given up.
    failed: watch::Receiver<bool>,
}

impl Keeper {
    /// Opens the file and starts the writer. Blocks.
    pub(crate) fn open(
        config: Config,
        counters: Arc<Counters>,
        budget: Arc<Budget>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(config, counters, budget));
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let (failing, failed) = watch::channel(false);
        let writer = Writer::open(Arc::clone(&shared), waiting, failing)?;
        std::thread::Builder::new()
            .name("broker-keep".into())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            jobs,
            failed,
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Resolves when the writer can no longer keep what it is given.
    pub(crate) async fn failed(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            // It has ended in order.
            std::future::pending().await
        }
    }

    async fn ask(&self, work: Work) -> Result<Answer, Refused> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            work,
            reply,
            full_since: None,
        };
        self.jobs.send(job).await.map_err(|_| Refused::Stopped)?;
        answer.await.unwrap_or(Err(Refused::Stopped))
    }

    /// Asks until the answer is known: what only reads may have been in one commit with
    /// something that failed.
    ///
    /// # Errors
    /// When the writer has ended: nobody will know.
    async fn find_out(&self, work: impl Fn() -> Work) -> Result<Answer, Refused> {
        loop {
            match self.ask(work()).await {
                Err(Refused::Full | Refused::Stopped) if !self.jobs.is_closed() => {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    pub(crate) async fn enter(&self, enter: Enter) -> Result<Entered, Refused> {
        match self.ask(Work::Enter(enter)).await? {
            Answer::Entered(entered) => Ok(*entered),
            _ => Err(Refused::Stopped),
        }
    }

    /// Ends a connection. What is asked for the same client later is done later.
    pub(crate) async fn leave(&self, leave: Leave) -> Result<(), Refused> {
        self.ask(Work::Leave(leave)).await.map(drop)
    }

    /// Keeps what is to be retained, and queues for persistent sessions; one
    /// answer for each, in order.
    pub(crate) async fn publish(&self, ops: Vec<Op>) -> Result<Vec<Kept>, Refused> {
        match self.ask(Work::Publish(ops)).await {
            Ok(Answer::Kept(kept)) => Ok(kept),
            Ok(_) => Err(Refused::Stopped),
            Err(refused) => {
                if refused == Refused::Full {
                    self.shared.is_short_of_room();
                }
                Err(refused)
            }
        }
    }

    /// The place of the first of `wishes` that there is no room for, if there is one.
    pub(crate) async fn room(&self, wishes: Vec<Wish>) -> Result<Option<usize>, Refused> {
        match self.ask(Work::Room(wishes)).await? {
            Answer::Room(none) => Ok(none),
            _ => Err(Refused::Stopped),
        }
    }

    /// The same for who is not to hear that a queue is full: that queue loses the
    /// message.
    pub(crate) async fn tell(&self, ops: Vec<Op>) -> Result<Vec<Kept>, Refused> {
        match self.ask(Work::Tell(ops)).await? {
            Answer::Kept(kept) => Ok(kept),
            _ => Err(Refused::Stopped),
        }
    }

    /// The same of a will. Where the disk is full, what of it is to be retained is owed.
    pub(crate) async fn will(&self, op: Op, will: Option<WillId>) -> Result<Told, Refused> {
        match self.ask(Work::Will(op, will)).await? {
            Answer::Kept(kept) => match kept.into_iter().next() {
                Some(Kept::Done(message)) => Ok(Told::Kept(message)),
                _ => Err(Refused::Stopped),
            },
            Answer::Owed(message) => Ok(Told::Owed(message)),
            _ => Err(Refused::Stopped),
        }
    }

    /// Queues a message of the gateway, unless it was queued before. A commit that failed
    /// is no room: whether it was queued, its token tells the next time.
    pub(crate) async fn errand(&self, errand: Errand) -> Result<Ran, Refused> {
        match self.ask(Work::Errand(errand)).await {
            Ok(Answer::Errand(ran)) => Ok(ran),
            Ok(_) => Err(Refused::Stopped),
            Err(refused) => Err(self.unless_over(refused)),
        }
    }

    /// Keeps what is to be retained, if there is room for it; otherwise what was retained
    /// before stays.
    pub(crate) async fn retain(&self, op: Op) -> Result<Option<Message>, Refused> {
        match self.ask(Work::Publish(vec![op])).await {
            Ok(Answer::Kept(kept)) => match kept.into_iter().next() {
                Some(Kept::Done(message)) => Ok(message),
                _ => Err(Refused::Full),
            },
            Ok(_) => Err(Refused::Stopped),
            Err(refused) => Err(self.unless_over(refused)),
        }
    }

    /// What is said of work that a failed commit took along: it can be tried again, as
    /// long as the writer is there.
    fn unless_over(&self, refused: Refused) -> Refused {
        match refused {
            Refused::Stopped if !self.jobs.is_closed() => Refused::Full,
            refused => refused,
        }
    }

    /// The tokens of errands that are not over.
    pub(crate) async fn errands(&self) -> Result<Vec<Token>, Refused> {
        match self.find_out(|| Work::Errands).await? {
            Answer::Errands(tokens) => Ok(tokens),
            _ => Err(Refused::Stopped),
        }
    }

    /// Forgets errands whose sender has noted that they were queued.
    pub(crate) async fn errands_are_over(&self, tokens: Vec<Token>) -> Result<(), Refused> {
        self.ask(Work::ErrandsAreOver(tokens)).await.map(drop)
    }

    /// Notes inbound QoS 2 exchanges, before anything is done with their messages.
    pub(crate) async fn begin(
        &self,
        session: SessionId,
        exchanges: Vec<(u16, Token)>,
    ) -> Result<(), Refused> {
        self.ask(Work::Begin(session, exchanges)).await.map(drop)
    }

    /// Does what a connected session asks for, all of it. The number from which on
    /// messages are matched with its subscriptions as they are by then.
    pub(crate) async fn turn(&self, session: SessionId, turn: Turn) -> Result<u64, Refused> {
        let decided = self.begin_turn(session, turn).await?;
        if let Some(rest) = decided.rest {
            rest.brought().await?;
        }
        Ok(decided.number)
    }

    /// The same, all but what a SUBSCRIBE brings.
    pub(crate) async fn begin_turn(
        &self,
        session: SessionId,
        turn: Turn,
    ) -> Result<Decided, Refused> {
        match self.ask(Work::Turn(session, turn)).await? {
            Answer::Decided(number) => Ok(Decided { number, rest: None }),
            Answer::Begun(decided) => Ok(decided),
            _ => Err(Refused::Stopped),
        }
    }

    /// Takes what live members of shared subscriptions left behind.
    pub(crate) async fn take_back(&self, homeless: Vec<Homeless>) -> Result<(), Refused> {
        self.ask(Work::TakeBack(homeless)).await.map(drop)
    }

    /// The wills of connections that are gone, and when they are due.
    pub(crate) async fn wills(&self) -> Result<Vec<KeptWill>, Refused> {
        match self.find_out(|| Work::Wills).await? {
            Answer::Wills(wills) => Ok(wills),
            _ => Err(Refused::Stopped),
        }
    }

    /// The will that a session's last connection left, if it is gone and left one.
    pub(crate) async fn due_will(&self, session: SessionId) -> Result<Option<WillId>, Refused> {
        match self.find_out(|| Work::DueWill(session)).await? {
            Answer::Due(will) => Ok(will),
            _ => Err(Refused::Stopped),
        }
    }

    /// Whether a will is still to be published: its client has not come back in time.
    pub(crate) async fn is_will_due(&self, will: WillId) -> Result<bool, Refused> {
        let answer = self.find_out(|| Work::IsWillDue(will)).await?;
        Ok(was(&answer))
    }

    /// Forgets wills that are published, but for those whose retained copies are owed.
    pub(crate) async fn wills_are_over(&self, wills: Vec<WillId>) -> Result<(), Refused> {
        self.ask(Work::WillsAreOver(wills)).await.map(drop)
    }

    pub(crate) async fn sessions(&self) -> Vec<SessionInfo> {
        match self.ask(Work::Sessions).await {
            Ok(Answer::Sessions(sessions)) => sessions,
            _ => Vec::new(),
        }
    }

    pub(crate) async fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        match self.ask(Work::Subscriptions).await {
            Ok(Answer::Subscriptions(subscriptions)) => subscriptions,
            _ => Vec::new(),
        }
    }

    pub(crate) fn retained(&self) -> Vec<RetainedInfo> {
        self.shared.retained.list()
    }

    /// Removes what is kept for a client; its connection ends. Whether there was something.
    pub(crate) async fn remove(&self, client: Arc<str>) -> Result<bool, Refused> {
        let answer = self.ask(Work::Remove(client)).await?;
        Ok(was(&answer))
    }

    /// Forgets the retained message of a topic; whether there was one.
    pub(crate) async fn clear_retained(&self, topic: Arc<str>) -> Result<bool, Refused> {
        let answer = self.ask(Work::ClearRetained(topic)).await?;
        Ok(was(&answer))
    }

    /// Ends the writer in order, after what was asked before.
    pub(crate) async fn close(&self) {
        // It may have ended already.
        drop(self.ask(Work::Close).await);
        self.jobs.closed().await;
    }
}

fn was(answer: &Answer) -> bool {
    matches!(answer, Answer::Was(true))
}
