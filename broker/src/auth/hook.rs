//! Asking a service of the operator's own who a client is.
//!
//! The broker speaks no HTTP; whoever embeds it brings the way to ask ([`Hook`]).
//! Here is what makes it safe to use: at most so many questions at a time, an
//! answer remembered for as long as it says, and no as the answer when there is
//! none. Answers are remembered under a keyed hash of the whole question, so a
//! changed password is a new question.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{lockout::Charge, places::Places};
use crate::{acl::Rules, metrics::Counters};

/// How much is asked and remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Questions at a time; others wait.
    pub in_flight_max: usize,
    /// Answers remembered.
    pub remembered_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_flight_max: 32,
            remembered_max: 10_000,
        }
    }
}

/// What a client says of itself, and what is known of its connection.
#[derive(Clone)]
pub struct Question {
    /// The client identifier.
    pub client_id: Arc<str>,
    /// The user name of CONNECT.
    pub username: Option<Arc<str>>,
    /// The password of CONNECT. Debug output hides it.
    pub password: Option<Box<[u8]>>,
    /// The address that it comes from.
    pub address: IpAddr,
    /// The listener that it came to.
    pub listener: Arc<str>,
    /// The subject of its certificate, where TLS verified one.
    pub certificate: Option<String>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What the service says.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `None`: it may not connect.
    pub allowed: Option<Allowed>,
    /// How long the answer may be used for the same question.
    pub remember: Duration,
}

/// Who a client is that may connect.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// The user; without one, the user name of CONNECT.
    pub user: Option<Arc<str>>,
    /// The device, for `{device}`.
    pub device: Option<Arc<str>>,
    /// Rules for this client, asked before those of the configuration.
    pub rules: Option<Arc<Rules>>,
}

/// The way to an answer. An error is why there is none, for the log.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send + 'a>>;

/// Asks the service. Has to come to an end by itself: the implementation bounds
/// how long it waits.
pub trait Hook: fmt::Debug + Send + Sync + 'static {
    /// Asks about one client.
    fn ask<'a>(&'a self, question: &'a Question) -> Asking<'a>;
}

type Fingerprint = [u8; 32];

/// Refusals that are remembered: enough for devices that come again and again, and
/// never in the place of those who may connect.
const REFUSALS_MAX: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Asked {
    hook: Arc<dyn Hook>,
    key: [u8; 32],
    places: Arc<Places>,
    allowed: Mutex<Answers<Allowed>>,
    refused: Mutex<Answers<()>>,
    counters: Arc<Counters>,
}

/// How a question ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The service, or what is remembered of it, said this.
    Said(Option<Allowed>),
    /// It was not asked: too many have failed.
    NotNow,
    /// It did not answer; why.
    Unanswered(String),
}

impl Asked {
    pub(super) fn new(hook: Arc<dyn Hook>, config: &Config, counters: Arc<Counters>) -> Self {
        let count = config.in_flight_max;
        Self {
            hook,
            key: rand::random(),
            places: Places::new(count, count.div_ceil(2)),
            allowed: Mutex::new(Answers::new(config.remembered_max)),
            refused: Mutex::new(Answers::new(config.remembered_max.min(REFUSALS_MAX))),
            counters,
        }
    }

    /// The answer to a question, if it is remembered.
    pub(super) fn known(&self, question: &Question) -> Option<Option<Allowed>> {
        let fingerprint = self.fingerprint(question);
        let allowed = lock(&self.allowed).get(&fingerprint);
        allowed
            .map(Some)
            .or_else(|| lock(&self.refused).get(&fingerprint).map(|()| None))
    }

    /// Remembers, or asks. `begin` is asked when there is a place, and has what is
    /// counted as failed until it turns out right.
    pub(super) async fn ask(
        &self,
        question: &Question,
        begin: impl FnOnce() -> Result<Option<Charge>, NotNow>,
    ) -> Outcome {
        // Before the queue: whoever is known does not wait for a service that is slow.
        if let Some(known) = self.known(question) {
            return Outcome::Said(known);
        }
        let Some(_place) = self.places.take(question.address).await else {
            return Outcome::Unanswered("the broker ends".to_owned());
        };
        // Whoever was here before may have asked the same.
        if let Some(known) = self.known(question) {
            return Outcome::Said(known);
        }
        let Ok(charge) = begin() else {
            return Outcome::NotNow;
        };
        self.counters.hook_questions.add(1);
        let answer = match self.hook.ask(question).await {
            Ok(answer) => answer,
            Err(why) => return Outcome::Unanswered(why),
        };
        match (charge, &answer.allowed) {
            (Some(charge), Some(_)) => charge.right(),
            (Some(charge), None) => charge.wrong(),
            (None, _) => {}
        }
        let fingerprint = self.fingerprint(question);
        match &answer.allowed {
            Some(allowed) => {
                lock(&self.allowed).remember(fingerprint, allowed.clone(), answer.remember);
            }
            None => lock(&self.refused).remember(fingerprint, (), answer.remember),
        }
        Outcome::Said(answer.allowed)
    }

    /// Forgets every answer.
    pub(super) fn forget(&self) {
        lock(&self.allowed).known.clear();
        lock(&self.refused).known.clear();
    }

    fn fingerprint(&self, question: &Question) -> Fingerprint {
        let address = question.address.to_string();
        let parts = [
            Some(question.client_id.as_bytes()),
            question.username.as_deref().map(str::as_bytes),
            question.password.as_deref(),
            Some(address.as_bytes()),
            Some(question.listener.as_bytes()),
            question.certificate.as_deref().map(str::as_bytes),
        ];
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            // Nothing is not the same as an empty text.
            let len = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&len.to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Too many have failed for a question.
#[derive(Debug)]
pub(super) struct NotNow;

/// Answers, until each is too old.
#[derive(Debug)]
struct Answers<T> {
    max: usize,
    known: HashMap<Fingerprint, (T, Instant)>,
}

impl<T: Clone> Answers<T> {
    fn new(max: usize) -> Self {
        Self {
            max,
            known: HashMap::new(),
        }
    }

    fn get(&self, fingerprint: &Fingerprint) -> Option<T> {
        let (answer, until) = self.known.get(fingerprint)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn remember(&mut self, fingerprint: Fingerprint, answer: T, time: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(time).filter(|until| *until > now) else {
            return;
        };
        if self.known.len() >= self.max {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() >= self.max {
            // Many at once, so that the next ones do not look through everything again.
            let some: Vec<_> = self
                .known
                .keys()
                .take(self.max.div_ceil(8))
                .copied()
                .collect();
            for one in some {
                self.known.remove(&one);
            }
        }
        if self.known.len() < self.max {
            self.known.insert(fingerprint, (answer, until));
        }
    }
}

fn lock<T>(answers: &Mutex<Answers<T>>) -> MutexGuard<'_, Answers<T>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
