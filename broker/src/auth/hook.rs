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

use tokio::sync::Semaphore;

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

/// See the module.
#[derive(Debug)]
pub(super) struct Asked {
    hook: Arc<dyn Hook>,
    key: [u8; 32],
    places: Semaphore,
    remembered_max: usize,
    remembered: Mutex<HashMap<Fingerprint, (Option<Allowed>, Instant)>>,
    counters: Arc<Counters>,
}

impl Asked {
    pub(super) fn new(hook: Arc<dyn Hook>, config: &Config, counters: Arc<Counters>) -> Self {
        Self {
            hook,
            key: rand::random(),
            places: Semaphore::new(config.in_flight_max),
            remembered_max: config.remembered_max,
            remembered: Mutex::default(),
            counters,
        }
    }

    /// The answer to a question, if it is remembered.
    pub(super) fn known(&self, question: &Question) -> Option<Option<Allowed>> {
        let remembered = self.lock();
        let (allowed, until) = remembered.get(&self.fingerprint(question))?;
        (*until > Instant::now()).then(|| allowed.clone())
    }

    /// Asks, or remembers. An error is why there is no answer.
    pub(super) async fn ask(&self, question: &Question) -> Result<Option<Allowed>, String> {
        let Ok(_place) = self.places.acquire().await else {
            return Err("the broker ends".to_owned());
        };
        if let Some(known) = self.known(question) {
            return Ok(known);
        }
        self.counters.hook_questions.add(1);
        let answer = self.hook.ask(question).await?;
        if !answer.remember.is_zero() {
            let now = Instant::now();
            let mut remembered = self.lock();
            if remembered.len() >= self.remembered_max {
                remembered.retain(|_, (_, until)| *until > now);
            }
            if remembered.len() < self.remembered_max
                && let Some(until) = now.checked_add(answer.remember)
            {
                let entry = (answer.allowed.clone(), until);
                remembered.insert(self.fingerprint(question), entry);
            }
        }
        Ok(answer.allowed)
    }

    /// Forgets every answer.
    pub(super) fn forget(&self) {
        self.lock().clear();
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, (Option<Allowed>, Instant)>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
