//! One connection, from CONNECT to its first failure, and the answers it owes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{super::breaker::Breaker, Config, Error, Item};
use crate::{
    mqtt::{
        link::{self, Announced, Client, Gone, Link, Message, Opening, Signal},
        reason::{Broken, Verdict},
    },
    record::Position,
};

/// The largest packet that a server would send to somebody who only publishes.
const INCOMING_BYTES_MAX: u32 = 64 * 1024;
/// How long an orderly end of a connection may take.
const END_MAX: Duration = Duration::from_secs(1);

/// Resolves to what became of a message; to nothing when the connection broke.
pub(super) type Answer = oneshot::Receiver<Verdict>;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    packet_bytes_max: usize,
    patience: Duration,
    /// Room for publishes without acknowledgement.
    window: Arc<Semaphore>,
    fate: Arc<Fate>,
    /// Ends, with the connection, when it is dropped.
    driver: JoinSet<()>,
}

/// What is owed, and whether the connection is still good.
#[derive(Debug)]
struct Fate {
    closed: CancellationToken,
    owed: Mutex<Owed>,
    /// Nothing more is published behind what was refused, from the moment we hear it.
    breaker: Breaker,
}

/// A message that was not answered: somebody waits, and the window for its room.
#[derive(Debug)]
struct Debt {
    item: Item,
    answer: oneshot::Sender<Verdict>,
    _room: OwnedSemaphorePermit,
}

/// The first and the last of the messages one of which the server may not take.
#[derive(Debug, Clone)]
pub(super) struct Suspects {
    pub(super) first: Item,
    pub(super) last: Position,
}

#[derive(Debug, Default)]
struct Owed {
    /// Asked for, in order, and not on the wire yet.
    asked: VecDeque<Debt>,
    /// On the wire, by packet identifier.
    sent: HashMap<u16, Debt>,
    /// Why it is over.
    broken: Option<Broken>,
    suspects: Option<Suspects>,
    /// The server has taken a message.
    has_taken: bool,
}

impl Session {
    /// Connects.
    pub(super) async fn open(
        config: &Config,
        own_id: String,
        breaker: Breaker,
    ) -> Result<Self, Error> {
        let opening = Opening {
            client_id: config.server.client_id.clone().unwrap_or(own_id),
            session_expiry: None,
            in_flight: config.in_flight,
            packet_bytes_max: INCOMING_BYTES_MAX,
        };
        let server = config.server.clone();
        let prepared = tokio::task::spawn_blocking(move || link::prepare(&server, &opening)).await;
        let (client, mut link) = prepared
            .map_err(|error| Error::unavailable(format!("connect: {error}")))?
            .map_err(failed)?;
        let connected = timeout(config.server.timeout, connected(&mut link)).await;
        let announced = connected
            .map_err(|_| Error::unavailable("no connection in time".to_owned()))?
            .map_err(failed)?;
        if announced.qos_max < 1 {
            return Err(Error::Misconfigured(
                "the server takes messages at QoS 0 only, without acknowledgement".to_owned(),
            ));
        }
        let fate = Arc::new(Fate {
            closed: CancellationToken::new(),
            owed: Mutex::default(),
            breaker,
        });
        let window = usize::from(announced.receive_max.min(config.in_flight).max(1));
        let mut driver = JoinSet::new();
        driver.spawn(drive(link, fate.clone()));
        let most = announced.packet_bytes_max.min(config.packet_bytes_max);
        Ok(Self {
            client,
            packet_bytes_max: usize::try_from(most).unwrap_or(usize::MAX),
            patience: config.server.timeout,
            window: Arc::new(Semaphore::new(window)),
            fate,
            driver,
        })
    }

    pub(super) const fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max
    }

    pub(super) fn is_open(&self) -> bool {
        !self.fate.closed.is_cancelled()
    }

    /// Why it is over.
    pub(super) fn reason(&self) -> String {
        let broken = self.fate.owed().broken.clone();
        broken.map_or_else(|| "the connection was lost".to_owned(), |b| b.reason)
    }

    /// Whether it will be the same until a person changes something.
    pub(super) fn needs_person(&self) -> bool {
        self.fate
            .owed()
            .broken
            .as_ref()
            .is_some_and(|b| b.needs_person)
    }

    /// Which messages were on the wire when the server ended the connection, or were
    /// forbidden; told once.
    pub(super) fn take_suspects(&self) -> Option<Suspects> {
        self.fate.owed().suspects.take()
    }

    /// The first of them, without telling it once.
    pub(super) fn first_suspect(&self) -> Option<Item> {
        let owed = self.fate.owed();
        owed.suspects
            .as_ref()
            .map(|suspects| suspects.first.clone())
    }

    /// Publishes. One at a time: the answers are told apart by their order. Refuses
    /// when the connection is over, or something in flight was not taken.
    pub(super) async fn publish(&self, message: Message, item: &Item) -> Result<Answer, Gone> {
        let publish = async {
            let room = self.window.clone().acquire_owned();
            // Within the time that an acknowledgement may take there is room.
            let room = timeout(self.patience, room).await.map_err(|_| Gone)?;
            let room = room.map_err(|_| Gone)?;
            let (told, answer) = oneshot::channel();
            {
                let mut all = self.fate.owed();
                if all.broken.is_some() || self.fate.breaker.is_tripped() {
                    return Err(Gone);
                }
                all.asked.push_back(Debt {
                    item: item.clone(),
                    answer: told,
                    _room: room,
                });
            }
            // Whoever gives up here leaves it unknown whether the message was taken,
            // and with it whose every later answer is.
            let step = OutOfStep(&self.fate);
            self.client.publish(message).await?;
            step.kept();
            Ok(answer)
        };
        tokio::select! {
            biased;
            () = self.fate.closed.cancelled() => Err(Gone),
            published = publish => published,
        }
    }

    /// Waits for the server to answer, as long as the connection is good.
    pub(super) async fn wait(&self, answer: Answer) -> Verdict {
        match timeout(self.patience, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Verdict::Doubtful(self.reason()),
            Err(_) => Verdict::Doubtful("no acknowledgement in time".to_owned()),
        }
    }

    /// Nothing more goes over this connection.
    pub(super) fn close(&self, reason: &str) {
        self.fate.end(Broken::lost(reason));
    }

    /// Ends the connection in order; nothing should be in flight.
    pub(super) async fn end(&self) {
        let ended = async {
            self.client.disconnect().await;
            self.fate.closed.cancelled().await;
        };
        drop(timeout(END_MAX, ended).await);
        self.close("the destination was closed");
    }
}

/// Ends the connection when dropped.
struct OutOfStep<'f>(&'f Fate);

impl OutOfStep<'_> {
    /// All is well.
    fn kept(self) {
        std::mem::forget(self);
    }
}

impl Drop for OutOfStep<'_> {
    fn drop(&mut self) {
        self.0
            .end(Broken::lost("a batch was given up while it was published"));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort_all();
    }
}

impl Fate {
    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason is kept; those who wait hear that there is no answer.
    fn end(&self, broken: Broken) {
        let mut owed = self.owed();
        if owed.broken.is_none() && broken.may_be_answer {
            let items: Vec<Item> = owed.sent.values().map(|debt| debt.item.clone()).collect();
            for item in &items {
                owed.suspect(item);
            }
        }
        owed.broken.get_or_insert(broken);
        owed.asked.clear();
        owed.sent.clear();
        drop(owed);
        self.closed.cancel();
    }

    fn hear(&self, signal: Signal) -> Result<(), Broken> {
        let mut owed = self.owed();
        match signal {
            Signal::Sent(id) => {
                if let Some(next) = owed.asked.pop_front()
                    && owed.sent.insert(id, next).is_some()
                {
                    return Err(Broken::lost("a packet identifier was used twice"));
                }
            }
            Signal::Answered(id, verdict) => {
                let verdict = owed.of_its_message(verdict);
                match &verdict {
                    Verdict::Kept | Verdict::Permanent(_) | Verdict::Forbidden(_) => {}
                    Verdict::Transient(_) => self.breaker.hold(),
                    _ => self.breaker.trip(),
                }
                if let Some(debt) = owed.sent.remove(&id) {
                    if matches!(verdict, Verdict::Misconfigured(_)) {
                        owed.suspect(&debt.item);
                    }
                    // Nobody waits where the batch was abandoned.
                    drop(debt.answer.send(verdict));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Owed {
    fn suspect(&mut self, item: &Item) {
        let position = item.position();
        let suspects = self.suspects.get_or_insert_with(|| Suspects {
            first: item.clone(),
            last: position,
        });
        if position < suspects.first.position() {
            suspects.first = item.clone();
        }
        suspects.last = suspects.last.max(position);
    }

    /// A message that the server forbids, while it has taken others on this very
    /// connection, is refused by itself.
    fn of_its_message(&mut self, verdict: Verdict) -> Verdict {
        self.has_taken |= verdict == Verdict::Kept;
        match verdict {
            Verdict::Misconfigured(reason) if self.has_taken => Verdict::Forbidden(reason),
            verdict => verdict,
        }
    }
}

/// Waits for CONNACK.
async fn connected(link: &mut Link) -> Result<Announced, Broken> {
    loop {
        if let Signal::Connected(announced) = link.poll().await? {
            return Ok(announced);
        }
    }
}

/// Moves everything until the first failure, or until nobody wants it any more.
async fn drive(mut link: Link, fate: Arc<Fate>) {
    let broken = loop {
        let signal = tokio::select! {
            signal = link.poll() => signal,
            () = fate.closed.cancelled() => return,
        };
        if let Err(broken) = signal.and_then(|signal| fate.hear(signal)) {
            break broken;
        }
    };
    // Acknowledgements that came before the failure count.
    for signal in link.left() {
        drop(fate.hear(signal));
    }
    fate.end(broken);
}

fn failed(broken: Broken) -> Error {
    match broken.needs_person {
        true => Error::Misconfigured(broken.reason),
        false => Error::unavailable(broken.reason),
    }
}
