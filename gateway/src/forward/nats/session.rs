//! One connection, from connecting to its first failure.
//!
//! The client would reconnect by itself and then publish what it still holds,
//! out of order with what is sent again. So it lives in a runtime of its own,
//! never reconnects, and is dropped with everything in it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_nats::{
    ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError,
    jetstream::{Context, context::ContextBuilder},
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{Config, Error, stream, subject::Template};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands that the client may hold; beyond them publishing waits.
const CLIENT_COMMANDS: usize = 256;

/// A connection with its stream looked at.
#[derive(Debug)]
pub(super) struct Session {
    context: Context,
    stream: stream::Known,
    fate: Arc<Fate>,
    runtime: Option<Runtime>,
}

/// Whether the connection is still good.
#[derive(Debug, Default)]
struct Fate {
    connected: AtomicBool,
    closed: CancellationToken,
    reason: Mutex<Option<String>>,
}

impl Fate {
    /// Keeps the first reason only.
    fn tell(&self, reason: &str) {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_with(|| reason.to_owned());
    }
}

impl Session {
    pub(super) async fn open(
        config: &Arc<Config>,
        subject: &Template,
        resend_after_max: Duration,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("penstock-nats")
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable(format!("start a thread for NATS: {error}")))?;
        let fate = Arc::new(Fate::default());
        // Dropped on every way out, and with it whatever runs in it.
        let runtime = Owned(Some(runtime));
        let connecting = connect(
            config.clone(),
            subject.pattern(),
            resend_after_max,
            fate.clone(),
        );
        let connected = runtime.handle().spawn(connecting).await;
        let (context, stream) =
            connected.map_err(|error| Error::unavailable(format!("connect: {error}")))??;
        fate.connected.store(true, SeqCst);
        Ok(Self {
            context,
            stream,
            fate,
            runtime: runtime.release(),
        })
    }

    pub(super) const fn context(&self) -> &Context {
        &self.context
    }

    pub(super) const fn stream(&self) -> &stream::Known {
        &self.stream
    }

    pub(super) fn is_open(&self) -> bool {
        !self.fate.closed.is_cancelled()
    }

    /// Resolves when the connection is no longer good.
    pub(super) async fn closed(&self) {
        self.fate.closed.cancelled().await;
    }

    /// Nothing more goes over this connection.
    pub(super) fn close(&self, reason: &str) {
        self.fate.tell(reason);
        self.fate.closed.cancel();
    }

    /// Why it was closed, or what the server complained of.
    pub(super) fn reason(&self) -> String {
        let reason = self
            .fate
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        reason
            .clone()
            .unwrap_or_else(|| "the connection was lost".to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime that may be dropped inside of another.
struct Owned(Option<Runtime>);

impl Owned {
    fn handle(&self) -> &tokio::runtime::Handle {
        self.0.as_ref().expect("only `release` takes it").handle()
    }

    fn release(mut self) -> Option<Runtime> {
        self.0.take()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connect(
    config: Arc<Config>,
    pattern: String,
    resend_after_max: Duration,
    fate: Arc<Fate>,
) -> Result<(Context, stream::Known), Error> {
    let options = options(&config, &fate).map_err(Error::Misconfigured)?;
    let connecting = options.connect(&config.servers[..]).await;
    let client = connecting.map_err(|error| not_connected(&error))?;
    let context = ContextBuilder::new()
        .timeout(config.timeout)
        .max_ack_inflight(config.in_flight.max(1))
        .backpressure_on_inflight(true)
        .build(client);
    let stream = stream::look_at(&context, &config, pattern, resend_after_max).await?;
    Ok((context, stream))
}

/// The server is away, or a person is needed: it does not know us, or one side does not
/// take the other's certificate.
fn not_connected(error: &ConnectError) -> Error {
    let reason = error.to_string();
    let words = reason.to_ascii_lowercase();
    let is_refused = matches!(
        error.kind(),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
    );
    // Expired and revoked users, and alerts of TLS, come as errors of the connection.
    let is_known = [
        "certificate",
        "fatal alert",
        "authentication",
        "authorization",
    ];
    if is_refused || is_known.iter().any(|word| words.contains(word)) {
        Error::Misconfigured(reason)
    } else {
        Error::unavailable(reason)
    }
}

/// Reads files: blocking, for a moment.
fn options(config: &Config, fate: &Arc<Fate>) -> Result<ConnectOptions, String> {
    let (events, gone) = (fate.clone(), fate.clone());
    let mut options = ConnectOptions::new()
        .name("penstock")
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(config.timeout))
        .client_capacity(CLIENT_COMMANDS)
        .event_callback(move |event| {
            let fate = events.clone();
            async move { on_event(&fate, &event) }
        })
        .reconnect_to_server_callback(move |_, _| {
            let fate = gone.clone();
            async move {
                if fate.connected.load(SeqCst) {
                    fate.tell("the connection was lost");
                    fate.closed.cancel();
                    std::future::pending::<()>().await;
                }
                None
            }
        });
    if config.is_encrypted() {
        options = options
            .require_tls(true)
            .tls_client_config(config.tls.client()?);
    }
    if config.tls_first {
        options = options.tls_first();
    }
    config.login.add_to(options)
}

fn on_event(fate: &Fate, event: &Event) {
    match event {
        Event::ServerError(ServerError::Other(text)) => fate.tell(text),
        Event::ServerError(error) => fate.tell(&error.to_string()),
        Event::Disconnected | Event::Closed => {
            fate.tell("the connection was lost");
            fate.closed.cancel();
        }
        _ => {}
    }
}
