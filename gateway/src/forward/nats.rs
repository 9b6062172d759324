//! A NATS JetStream stream.
//!
//! Each event is one message: `CloudEvents` JSON, with `Nats-Msg-Id` = its
//! idempotency key, so that the stream itself refuses a second copy within its
//! duplicate window. Publishes are pipelined on one connection, in journal
//! order, and each waits for the stream's acknowledgement.
//!
//! A connection that breaks is not mended but replaced, together with all that
//! its client still held: what is in doubt goes again from the first
//! unacknowledged message on, and nothing that was queued before can slip in
//! between. See [`session`] for how, and [`doubt`] for what happens when the
//! doubt lasts longer than the duplicate window.

mod ack;
mod doubt;
mod login;
mod session;
mod stream;
mod subject;

use std::{pin::Pin, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{context::PublishAckFuture, message::PublishMessage},
};
use tokio::{sync::Mutex, time::Instant};

use self::{ack::Verdict, doubt::Doubts, session::Session, subject::Template};
use super::{
    batch::{Batch, Item},
    breaker::Breaker,
    destination::{Destination, Error, Limits, Outcome, Outcomes},
};
use crate::{
    dictionary::{Dictionary, ENCODING, ENCODING_NAME, Packer},
    event::json::MEDIA_TYPE,
    tls::Files,
};

pub use login::Login;

/// How events are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Server addresses, such as `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The stream that keeps the events.
    pub stream: String,
    /// The subject of an event; `{site}`, `{device}` and `{type}` are filled in.
    pub subject: String,
    /// Create the stream if it is missing.
    pub create_stream: bool,
    /// How long a created stream remembers message ids.
    pub duplicate_window: Duration,
    /// Where a created stream keeps its messages.
    pub storage: Storage,
    /// Copies that a created stream keeps.
    pub replicas: usize,
    /// Publishes without acknowledgement, at most.
    pub in_flight: usize,
    /// How long to wait for an acknowledgement.
    pub timeout: Duration,
    /// Who we are.
    pub login: Login,
    /// Certificates; they count where a server's address begins with `tls://`.
    pub tls: Files,
    /// What each event is compressed with.
    pub dictionary: Option<Dictionary>,
    /// TLS begins before the server says a word (`handshake_first` there).
    pub tls_first: bool,
}

/// Where a stream keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory; gone when the server restarts.
    Memory,
}

impl Config {
    /// The configured defaults, publishing to `stream`.
    pub fn new(servers: Vec<String>, stream: impl Into<String>) -> Self {
        Self {
            servers,
            stream: stream.into(),
            subject: "telemetry.{site}.{device}.{type}".to_owned(),
            create_stream: true,
            duplicate_window: Duration::from_secs(600),
            storage: Storage::File,
            replicas: 1,
            in_flight: 1000,
            timeout: Duration::from_secs(10),
            login: Login::None,
            tls: Files::default(),
            dictionary: None,
            tls_first: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        let wrong = |what: String| Err(super::Error::Config(what));
        if self.servers.is_empty() {
            return wrong("servers: at least one address is needed".to_owned());
        }
        for server in &self.servers {
            if let Err(error) = server.parse::<async_nats::ServerAddr>() {
                return wrong(format!("servers: `{server}`: {error}"));
            }
        }
        let illegal = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
        if self.stream.is_empty() || self.stream.contains(illegal) {
            return wrong(format!("stream `{}` is not a stream's name", self.stream));
        }
        if let Err(what) = self.login.check() {
            return wrong(format!("nkey {what}"));
        }
        Template::parse(&self.subject).map_err(super::Error::Config)?;
        Ok(())
    }
}

/// How to connect as somebody else than a destination: with TLS, where its files are
/// given. Reads files.
///
/// # Errors
/// When one of them cannot be used.
pub(crate) fn options(
    login: &Login,
    tls: Option<&Files>,
) -> Result<async_nats::ConnectOptions, String> {
    let mut options = async_nats::ConnectOptions::new()
        .name("penstock")
        .connection_timeout(session::CONNECT_TIMEOUT);
    if let Some(tls) = tls {
        options = options.require_tls(true).tls_client_config(tls.client()?);
    }
    login.add_to(options)
}

impl Config {
    /// Whether connections are encrypted, all of them: who we are must not go in clear to
    /// one server because another is away.
    pub(crate) fn is_encrypted(&self) -> bool {
        let is_tls = |server: &String| server.starts_with("tls://");
        !self.tls.is_empty() || self.servers.iter().any(is_tls)
    }

    /// How long after it was published a message that was not answered goes again at the
    /// latest, as long as a server is there: waiting for the answer, the delay before the
    /// next attempt, connecting, and looking at the stream.
    pub(super) fn resend_after_max(&self, retry_max: Duration) -> Duration {
        let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let connecting = session::CONNECT_TIMEOUT.saturating_mul(servers);
        let waiting = self.timeout.saturating_mul(2);
        waiting.saturating_add(retry_max).saturating_add(connecting)
    }

    /// What works, and is probably not what is wanted.
    pub(crate) fn warning(&self, retry_max: Duration) -> Option<String> {
        let after = self.resend_after_max(retry_max);
        (self.create_stream && self.duplicate_window / 2 < after).then(|| {
            format!(
                "duplicate_window = {:?} is less than twice the {after:?} after which a message may go again (timeout, retry_max and connecting): ordinary resends then have to ask the stream what it has, which tells nothing where several gateways share a subject",
                self.duplicate_window
            )
        })
    }
}

/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 1024 * 1024;
/// A stream that does not answer is being elected a leader, or created; for so long.
const NO_STREAM_PATIENCE: Duration = Duration::from_secs(60);

/// The NATS destination.
#[derive(Debug)]
pub(super) struct Nats {
    config: Arc<Config>,
    subject: Template,
    packer: Option<Packer>,
    resend_after_max: Duration,
    /// One batch at a time publishes; waiting for acknowledgements is outside.
    line: Mutex<Line>,
    breaker: Breaker,
}

#[derive(Debug, Default)]
struct Line {
    session: Option<Arc<Session>>,
    doubts: Doubts,
    no_stream_since: Option<Instant>,
}

/// A message that was published or settled without that.
enum Sent {
    Waiting(PublishAckFuture),
    Settled(Outcome),
}

/// What came back for a batch.
struct Answers {
    /// Of those that were published.
    outcomes: Vec<Outcome>,
    /// The first that is not about one message alone.
    failure: Option<Verdict>,
    /// Whether one was not taken, but goes again.
    refused: bool,
}

impl Nats {
    pub(super) fn new(config: Config, retry_max: Duration) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self {
            resend_after_max: config.resend_after_max(retry_max),
            subject: Template::parse(&config.subject).map_err(super::Error::Config)?,
            packer: Packer::of(config.dictionary.as_ref())
                .map_err(|what| super::Error::Config(what.to_owned()))?,
            config: Arc::new(config),
            line: Mutex::default(),
            breaker: Breaker::default(),
        })
    }

    async fn deliver(&self, batch: Batch) -> Outcomes {
        let _sending = self.breaker.begin();
        // First polled in journal order, and the lock is fair: batches keep that order.
        let (session, sent) = {
            let mut line = self.line.lock().await;
            if self.breaker.is_tripped() {
                return Err(Error::unavailable(
                    "a batch before this one failed".to_owned(),
                ));
            }
            let published = self.publish(&mut line, &batch).await;
            published.inspect_err(|_| self.breaker.trip())?
        };
        let (mut failure, mut refused) = (None, false);
        let mut outcomes = Vec::with_capacity(batch.items.len());
        for sent in sent {
            outcomes.push(match sent {
                Sent::Settled(outcome) => outcome,
                Sent::Waiting(ack) => {
                    let verdict = ack::wait(ack, &session).await;
                    if let Verdict::Silent(reason) = &verdict {
                        // Whoever waits behind it had its time too: the connection ends
                        // here, and so do they, but for those that were answered already.
                        session.close(reason);
                    }
                    let outcome = verdict.outcome();
                    refused |= verdict.is_refusal();
                    if !matches!(verdict, Verdict::Outcome(_)) {
                        failure.get_or_insert(verdict);
                    }
                    outcome
                }
            });
        }
        if outcomes.iter().any(Outcome::is_open) || outcomes.len() < batch.items.len() {
            self.breaker.trip();
        }
        let answers = Answers {
            outcomes,
            failure,
            refused,
        };
        self.after(&session, &batch, answers).await
    }

    /// Publishes until the end of the batch, or until something breaks.
    async fn publish(
        &self,
        line: &mut Line,
        batch: &Batch,
    ) -> Result<(Arc<Session>, Vec<Sent>), Error> {
        let session = match &line.session {
            Some(session) if session.is_open() => session.clone(),
            _ => {
                line.session = None;
                let session = Arc::new(
                    Session::open(&self.config, &self.subject, self.resend_after_max).await?,
                );
                line.session = Some(session.clone());
                session
            }
        };
        let known = line
            .doubts
            .resolve(&session, batch, |item| self.subject.fill(&item.view()))
            .await?;
        let mut sent = Vec::with_capacity(batch.items.len());
        for item in &*batch.items {
            if known.contains(&item.record().key) {
                sent.push(Sent::Settled(Outcome::Acknowledged));
                continue;
            }
            line.doubts.publishing(item.record().key);
            match self.publish_one(&session, item).await {
                Ok(next) => sent.push(next),
                Err(()) => {
                    // Said before another batch gets the line.
                    self.breaker.trip();
                    break;
                }
            }
        }
        Ok((session, sent))
    }

    async fn publish_one(&self, session: &Session, item: &Item) -> Result<Sent, ()> {
        let view = item.view();
        let subject = match self.subject.fill(&view) {
            Ok(subject) => subject,
            Err(reason) => return Ok(Sent::Settled(Outcome::Permanent(reason))),
        };
        let mut payload = Vec::with_capacity(512);
        view.to_json(None, &mut payload);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, item.record().key.to_string());
        headers.insert(NATS_EXPECTED_STREAM, self.config.stream.as_str());
        headers.insert("content-type", MEDIA_TYPE);
        if let Some(frame) = self
            .packer
            .as_ref()
            .and_then(|packer| packer.pack(&payload))
        {
            headers.insert(ENCODING_NAME, ENCODING);
            payload = frame;
        }
        let message = PublishMessage::build()
            .payload(payload.into())
            .headers(headers);
        tokio::select! {
            biased;
            () = session.closed() => Err(()),
            published = session.context().send_publish(subject, message) => match published {
                Ok(ack) => Ok(Sent::Waiting(ack)),
                Err(error) => match ack::of_publish(&error) {
                    Some(outcome) => Ok(Sent::Settled(outcome)),
                    None => {
                        session.close(&error.to_string());
                        Err(())
                    }
                },
            },
        }
    }

    /// Puts together what is known; what is not stays in doubt.
    async fn after(&self, session: &Session, batch: &Batch, answers: Answers) -> Outcomes {
        let Answers {
            mut outcomes,
            failure,
            refused,
        } = answers;
        let published = outcomes.len();
        if published < batch.items.len() {
            let unknown = Outcome::Unknown(session.reason());
            outcomes.resize(batch.items.len(), unknown);
        }
        let mut line = self.line.lock().await;
        let pairs = batch.items.iter().zip(&outcomes).take(published);
        line.doubts.settled(pairs.filter_map(|(item, outcome)| {
            (!matches!(outcome, Outcome::Unknown(_))).then_some(item.record().key)
        }));
        if refused {
            line.doubts.refused();
        }
        if !outcomes.iter().any(Outcome::is_open) {
            line.no_stream_since = None;
            return Ok(outcomes);
        }
        match failure {
            Some(Verdict::NoStream(reason)) => {
                // Asked for anew, and created if it is to be.
                session.close(&reason);
                let since = *line.no_stream_since.get_or_insert_with(Instant::now);
                let nothing = !outcomes.contains(&Outcome::Acknowledged);
                if nothing && since.elapsed() > NO_STREAM_PATIENCE {
                    return Err(Error::Misconfigured(reason));
                }
            }
            Some(Verdict::Misconfigured(reason)) if !outcomes.contains(&Outcome::Acknowledged) => {
                session.close(&reason);
                return Err(Error::Misconfigured(reason));
            }
            Some(Verdict::Silent(reason)) => session.close(&reason),
            _ => {}
        }
        Ok(outcomes)
    }
}

impl Destination for Nats {
    fn limits(&self) -> Limits {
        Limits {
            // Two batches fill the window: one is acknowledged while the other goes.
            batch_records: (self.config.in_flight / 2).max(1),
            batch_bytes: BATCH_BYTES,
            linger: Duration::ZERO,
            in_flight: self.config.in_flight.clamp(1, 2),
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.line.lock().await.session = None;
        })
    }
}

#[cfg(test)]
mod tests;
