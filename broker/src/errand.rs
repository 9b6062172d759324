//! Messages of the gateway for one client, each delivered once.
//!
//! ```text
//! Errands::queue ─▶ keeper: places in queues and the token, in one commit
//! (the sender notes in its own file that it is queued)
//! Errands::over  ─▶ keeper: forgets the token
//! ```
//!
//! A message that is queued again under the same token before it is over is not queued
//! again, whatever happened in between. What is on the way is whoever's queue it is in:
//! it is sent at its QoS, also after a restart, until it expires or its session ends.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::futures::Notified;

use crate::{
    Publish, QoS,
    fanout::{Fanout, Room},
    keep::{Ran, Refused},
    local::NOBODY,
    registry::Registry,
    roster::Client,
};

/// How long what is shown may be on its way to an outbox.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// What an errand's properties take, about.
const PROPERTIES_BYTES: usize = 1_024;

/// Which sessions are the client's that a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// Those of a user.
    User(Arc<str>),
    /// That of a client identifier, whoever has it.
    Client(Arc<str>),
    /// Those of the user of that name, and that of an anonymous client with that
    /// identifier.
    Name(Arc<str>),
}

impl Addressee {
    /// Whether a session of this client is one of them; `user` is the authenticated name.
    pub fn is(&self, client_id: &str, user: Option<&str>) -> bool {
        match self {
            Self::User(name) => user == Some(name),
            Self::Client(id) => **id == *client_id,
            Self::Name(name) => user.unwrap_or(client_id) == &**name,
        }
    }
}

/// Who could get a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The queue of a persistent session of the addressee, connected or not.
    Queue,
    /// A connection of the addressee, and nothing that outlives it. It has room.
    Live,
    /// The same, but what waits for it already leaves no room.
    Full,
    /// Nobody: the addressee does not subscribe.
    Nobody,
}

/// What became of a message for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// It is on disk, in the queue of the addressee.
    Now,
    /// It was before.
    Before,
    /// The addressee has no persistent session that subscribes to it at QoS 1 or 2.
    Nobody,
    /// There is no room, in the queue or on disk.
    Full,
}

/// Sends errands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Errands {
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) taken: Arc<Taken>,
}

/// Who is connected at one moment.
#[derive(Debug)]
pub struct Look<'e> {
    errands: &'e Errands,
    clients: HashMap<u64, Arc<Client>>,
}

/// Room in outboxes that was taken lately, by session: when, and how many bytes. What is
/// shown takes its way, and until it has come nobody else may count on that room.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<HashMap<u64, VecDeque<(Instant, usize)>>>);

impl Taken {
    /// Without what has come by now.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<(Instant, usize)>>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, lately| {
            while lately
                .front()
                .is_some_and(|(at, _)| at.elapsed() >= ON_ITS_WAY)
            {
                lately.pop_front();
            }
            !lately.is_empty()
        });
        taken
    }
}

impl Errands {
    /// Looks who is connected, to ask about many messages.
    pub fn look(&self) -> Look<'_> {
        let clients = self.registry.clients().into_iter();
        Look {
            errands: self,
            clients: clients.map(|one| (one.facts.session, one)).collect(),
        }
    }

    /// The identifiers of the clients that are connected, and their authenticated names.
    pub fn connected(&self) -> Vec<(Arc<str>, Option<Arc<str>>)> {
        let clients = self.registry.clients();
        let clients = clients.iter().map(|one| &one.facts);
        clients
            .map(|facts| (Arc::clone(&facts.client_id), facts.user.clone()))
            .collect()
    }

    /// Queues a message for everybody who subscribes to it, if the addressee does, and
    /// shows it to live subscribers. Resolves when that is on disk.
    pub async fn queue(&self, publish: &Publish, token: [u8; 16], to: &Addressee) -> Queued {
        let ran = self.fanout.errand(publish, token, to).await;
        match ran {
            Ok(Ran::Queued(_)) => Queued::Now,
            Ok(Ran::Before) => Queued::Before,
            Ok(Ran::Nobody) => Queued::Nobody,
            Ok(Ran::Full) | Err(Refused::Full) => Queued::Full,
            Err(_) => {
                // The keeper has ended, and so does everything.
                std::future::pending().await
            }
        }
    }

    /// Shows a message to those who are connected; nothing is kept of it.
    pub async fn show(&self, publish: &Publish) {
        let publish = std::slice::from_ref(publish);
        let shown = self.fanout.show(NOBODY, None, publish, Room::Now).await;
        if let Err(refused) = shown {
            // Those who are connected have seen it all the same.
            tracing::debug!(
                ?refused,
                "a message was not kept for sessions that are away"
            );
        }
    }

    /// Shows a message to everybody who subscribes to it and keeps it as its topic's; or
    /// neither, where there is no room. Whether that was done, and is on disk.
    pub async fn retain(&self, publish: &Publish) -> bool {
        self.fanout.retain_own(publish).await
    }

    /// The tokens of messages that were queued and are not over; `None` when the broker's
    /// file cannot be read.
    pub async fn queued(&self) -> Option<Vec<[u8; 16]>> {
        self.fanout.keeper().errands().await.ok()
    }

    /// Forgets tokens: their sender has noted that their messages were queued. Whether
    /// that is on disk.
    pub async fn over(&self, tokens: Vec<[u8; 16]>) -> bool {
        self.fanout.keeper().errands_are_over(tokens).await.is_ok()
    }

    /// Whether anybody at all subscribes to `topic`, or a persistent session does.
    pub fn is_wanted(&self, topic: &str) -> bool {
        let wanted = self.fanout.wanted(topic);
        wanted.live || wanted.kept
    }

    /// Resolves when subscriptions have changed since this was called.
    pub fn subscriptions_changed(&self) -> Notified<'_> {
        self.fanout.changed()
    }
}

impl Look<'_> {
    /// How a message would reach its addressee now. Where it is [`Reach::Live`] its room is
    /// taken for a moment.
    pub fn reach(&self, publish: &Publish, to: &Addressee) -> Reach {
        let fanout = &self.errands.fanout;
        let topic = &*publish.topic;
        if publish.qos > QoS::AtMostOnce && fanout.keeper().shared().is_kept_for(topic, to) {
            return Reach::Queue;
        }
        let is_to = |session: u64| {
            let client = self.clients.get(&session);
            client.is_some_and(|one| to.is(&one.facts.client_id, one.facts.user.as_deref()))
        };
        if !fanout.is_wanted_by(topic, is_to) {
            return Reach::Nobody;
        }
        let bytes = publish.payload.len() + topic.len() + PROPERTIES_BYTES;
        let mut taken = self.errands.taken.lock();
        let found = Cell::new(None);
        let has_room = |session: u64| {
            let more = taken.get(&session).into_iter().flatten();
            let more = more.map(|(_, bytes)| bytes).sum();
            let client = self.clients.get(&session).filter(|_| is_to(session));
            let has_room = client.is_some_and(|one| one.has_room(bytes, more));
            if has_room {
                found.set(Some(session));
            }
            has_room
        };
        if !fanout.is_wanted_by(topic, has_room) {
            return Reach::Full;
        }
        if let Some(session) = found.get() {
            let lately = taken.entry(session).or_default();
            lately.push_back((Instant::now(), bytes));
        }
        Reach::Live
    }
}
