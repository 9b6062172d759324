//! The writer without its thread, one commit at a time.

use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::keep::{
    KeptWill, Refused, Shared,
    job::{Answer, Job, Work},
    writer::Writer,
};

pub(super) type Heard = oneshot::Receiver<Result<Answer, Refused>>;

pub(super) struct Desk {
    pub(super) writer: Writer,
    budget: Arc<Budget>,
}

impl Desk {
    pub(super) fn open(config: Config) -> Self {
        let budget = Arc::new(Budget::of(64 << 20));
        let shared = Shared::new(config, Arc::default(), Arc::clone(&budget));
        let (_, jobs) = mpsc::channel(1);
        let (failing, _) = watch::channel(false);
        let writer = Writer::open(Arc::new(shared), jobs, failing).unwrap();
        Self { writer, budget }
    }

    /// One commit with one job.
    pub(super) fn ask(&mut self, work: Work) -> Heard {
        let (reply, heard) = oneshot::channel();
        let job = Job {
            work,
            reply,
            full_since: None,
        };
        self.writer.commit(vec![job]).unwrap();
        heard
    }

    /// Commits with nothing but chores, until there are none.
    pub(super) fn idle(&mut self) {
        for _ in 0..10_000 {
            if !self.writer.has_chores() {
                return;
            }
            self.writer.commit(Vec::new()).unwrap();
        }
        panic!("it never ends");
    }

    pub(super) fn enter(&mut self, client: &str, user: Option<&str>) -> Result<Entered, Refused> {
        let enter = Enter {
            client: Arc::from(client),
            user: user.map(Arc::from),
            clean: false,
            expiry_secs: 1000,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &self.budget)),
            will: None,
        };
        match self.ask(Work::Enter(enter)).try_recv().unwrap()? {
            Answer::Entered(entered) => Ok(*entered),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn enter_with_will(&mut self, client: &str) {
        let will = self.message("will", client, false);
        self.enter_leaving(client, will);
    }

    /// Connects with a will.
    pub(super) fn enter_leaving(&mut self, client: &str, will: Message) -> SessionId {
        let enter = Enter {
            client: Arc::from(client),
            user: None,
            clean: false,
            expiry_secs: 1000,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &self.budget)),
            will: Some((will, 60)),
        };
        match self.ask(Work::Enter(enter)).try_recv().unwrap() {
            Ok(Answer::Entered(entered)) => entered.session,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn wills(&mut self) -> Vec<KeptWill> {
        match self.ask(Work::Wills).try_recv().unwrap() {
            Ok(Answer::Wills(wills)) => wills,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn leave(&mut self, session: SessionId) {
        let leave = Leave {
            session,
            sent: 0,
            expiry_secs: None,
            forget_will: true,
        };
        self.ask(Work::Leave(leave)).try_recv().unwrap().unwrap();
    }

    /// A persistent session that is away, with one subscription.
    pub(super) fn away(&mut self, client: &str, filter: &str) -> SessionId {
        let session = self.enter(client, None).unwrap().session;
        let turn = Turn {
            subscribe: vec![add(filter, QoS::AtLeastOnce)],
            ..Turn::default()
        };
        drop(self.ask(Work::Turn(session, turn)));
        self.idle();
        self.leave(session);
        session
    }

    /// A SUBSCRIBE that brings more than one slice: who hears when all is brought.
    pub(super) fn begin(&mut self, session: SessionId, turn: Turn) -> Heard {
        match self.ask(Work::Turn(session, turn)).try_recv().unwrap() {
            Ok(Answer::Begun(decided)) => decided.rest.unwrap().0,
            other => panic!("{other:?}"),
        }
    }

    /// A message of QoS 1.
    pub(super) fn message(&self, topic: &str, payload: &str, retain: bool) -> Message {
        let publish = Publish {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain,
            dup: false,
            properties: None,
            delivery: None,
        };
        let now_ms = self.writer.shared.clock.now_ms();
        Message::new(&publish, 0, now_ms, 0, &self.budget)
    }

    /// Whether there was room.
    pub(super) fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> bool {
        let op = Op {
            message: Some(self.message(topic, payload, retain)),
            from: None,
            exchange: None,
            by: None,
        };
        match self.ask(Work::Publish(vec![op])).try_recv().unwrap() {
            Ok(Answer::Kept(kept)) => matches!(kept[..], [Kept::Done(_)]),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn count(&self, sql: &str) -> i64 {
        let connection = &self.writer.connection;
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.writer.shared.counters
    }
}
