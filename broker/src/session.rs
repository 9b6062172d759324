//! One device: from accepted socket to its end, in one task.
//!
//! A turn of the session: take every complete packet that is here, hand the
//! gathered publishes to the gateway, settle what has its verdict, deliver to
//! the client's subscriptions, write everything in one call; then wait for any
//! of these to move. Order of acknowledgements is the order of the publishes.
//! While the client does not take our output, or the gateway has no room, the
//! session does not read.
//!
//! A session that its client wants kept outlives the connection (`durable`); any
//! other ends with it. A will is published, through the gateway like any publish,
//! when the connection ends without the client's wish, also at takeover and keep-alive
//! timeout, but not when the broker itself shuts down; one with a delay waits (`wills`).

mod aliases;
mod durable;
mod ending;
mod exchanges;
mod handshake;
mod inbound;
mod keeping;
mod live;
mod outbound;
mod packets;
mod resume;
mod subscriptions;
pub(crate) mod wills;
mod wire;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Config, Publisher,
    auth::{Auth, Rights},
    budget::{Budget, Share},
    fanout::{Fanout, Outbox},
    limits::{Doors, Entry, Pace},
    link::Link,
    listener::Peer,
    metrics::Counters,
    packet::{Error, encode, is_v5, reason},
    quiet::Quiet,
    registry::Registry,
    roster::{self, Client, Facts},
    topic::Topics,
};
use aliases::Aliases;
use durable::Durable;
pub(crate) use ending::Gauge;
use ending::count_bytes;
use handshake::Admittee;
use inbound::Inbound;
use outbound::Outbound;
use subscriptions::Subscriptions;
use wire::Wire;

/// The silence that a client without a keep-alive may keep: a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long the last bytes to a client may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The subscriptions of a session before do not fit beside those of the others.
const NO_MEMORY: Error = Error {
    reason: reason::QUOTA_EXCEEDED,
    what: "subscriptions that are more than can be kept for all sessions",
};

/// What all sessions share.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) counters: Arc<Counters>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) doors: Arc<Doors>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) quiet: Quiet,
    pub(crate) wills: Arc<wills::Wills>,
    pub(crate) auth: Arc<Auth>,
    /// For what clients send.
    pub(crate) budget: Arc<Budget>,
    /// For what waits to be sent to clients.
    pub(crate) output_budget: Arc<Budget>,
    /// For what lasts as long as its session.
    pub(crate) kept_budget: Arc<Budget>,
    pub(crate) sessions: AtomicU64,
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// The client said so; with its will, or without.
    Disconnect {
        with_will: bool,
    },
    /// The connection broke.
    Closed,
    Silent,
    /// A packet began and did not come to its end.
    Stalled,
    TakenOver,
    /// An operator said so.
    Kicked,
    Shutdown,
    Illegal(Error),
    /// Our disk is full, and there is no other way to say so.
    DiskFull(&'static str),
    /// The gateway lost a publish, or the keeper something.
    Lost,
    /// The client may not do what it does, or not be here any longer.
    NotAuthorized(&'static str),
    /// The session was removed.
    Removed,
}

/// Serves one connection to its end.
pub(crate) async fn serve(context: Arc<Context>, link: Link, peer: Peer, entry: Entry) {
    let Entry { turned, waiting } = entry;
    let mut wire = Wire::new(
        link,
        context.config.packet_bytes_max,
        context.config.connect_timeout,
        &context.budget,
        &context.output_budget,
    );
    let entering = AtomicBool::new(false);
    let welcome = handshake::welcome(&context, &mut wire, &peer, turned, &entering);
    let admittee = unless_cancelled(welcome, &context.shutdown, &entering).await;
    let Some(admittee) = admittee else {
        count_bytes(&mut wire, &context.counters);
        return;
    };
    drop(waiting);
    let _session = Gauge::new(&context.counters.sessions_open);
    context.counters.sessions_total.add(1);
    let open = context.counters.sessions_open.get();
    context.counters.sessions_max.raise(open);
    run(&context, wire, admittee, peer).await;
}

/// What `welcome` comes to; `None` if it was cancelled before it was `entering` a session,
/// which somebody has to leave again.
async fn unless_cancelled<T>(
    welcome: impl Future<Output = Option<T>>,
    cancelled: &CancellationToken,
    entering: &AtomicBool,
) -> Option<T> {
    let mut welcome = pin!(welcome);
    tokio::select! {
        biased;
        welcomed = &mut welcome => return welcomed,
        () = cancelled.cancelled() => {}
    }
    match entering.load(Relaxed) {
        true => welcome.await,
        false => None,
    }
}

async fn run(context: &Context, mut wire: Wire, admittee: Box<Admittee>, peer: Peer) {
    let Admittee {
        connect,
        client_id,
        seat,
        rights,
        kept,
        named,
        outbox,
        entered,
    } = *admittee;
    let counters = &context.counters;
    let id = context.sessions.fetch_add(1, Relaxed);
    tracing::debug!(
        client.id = %short(&client_id),
        %peer,
        listener = peer.listener.name,
        with_certificate = peer.certificate.is_some(),
        method = rights.identity().method().word(),
        "connected"
    );
    let publisher = Arc::new(Publisher {
        client_id,
        username: connect.username.clone(),
        identity: rights.owner(),
        origin: None,
        address: peer.address,
        protocol: connect.protocol,
        turn: 0.into(),
        turns_over: Arc::default(),
    });
    let window = handshake::window(context, &connect);
    let keeper = context.fanout.keeper();
    let durable = entered.as_deref();
    let restricted = rights.is_restricted().then(|| Arc::clone(&rights));
    let durable = durable.map(|entered| Box::new(Durable::new(keeper, entered, restricted)));
    let reason_text_max = match connect.problem_information {
        // An acknowledgement has at most 10 bytes beside its text.
        true => connect.packet_bytes_max.saturating_sub(10),
        false => 0,
    };
    let client = Arc::new(Client::new(
        Facts {
            session: id,
            client_id: Arc::clone(&publisher.client_id),
            address: peer.address,
            listener: Arc::from(&*peer.listener.name),
            protocol: connect.protocol,
            user: rights.owner(),
            method: rights.identity().method().word(),
            keep_alive: connect.keep_alive,
            session_expiry_secs: connect.session_expiry_secs,
            connected: Instant::now(),
        },
        Arc::clone(&outbox),
    ));
    seat.show(Arc::clone(&client));
    let mut session = Session {
        context,
        client: &client,
        packets: roster::Taken::default(),
        v5: is_v5(connect.protocol),
        session_expiry_secs: connect.session_expiry_secs,
        new_expiry_secs: None,
        packet_bytes_max: connect.packet_bytes_max,
        rights: &rights,
        topics: Topics::new(context.config.limits.topics()),
        pace: Pace::new(
            &context.config.limits,
            rights.identity().user().map(|user| &**user),
            &peer.listener.name,
        ),
        aliases: Share::new(&context.kept_budget),
        inbound: Inbound::new(context, &publisher, id, reason_text_max, entered.as_deref()),
        outbound: Outbound::new(
            connect.protocol,
            Arc::clone(&outbox),
            window,
            connect.packet_bytes_max,
            Aliases::new(connect.topic_alias_max, &context.kept_budget),
            entered.is_some(),
        ),
        subscriptions: Subscriptions::new(context, &rights, id, Arc::clone(&outbox), entered),
        durable,
    };
    // A client may be silent for one and a half times what it said.
    let silence_max = connect.keep_alive.map(|said| said * 3 / 2);
    let end = if session.subscriptions.is_complete() {
        session
            .live(&mut wire, &outbox, seat.asked_to_leave(), silence_max)
            .await
    } else {
        End::Illegal(NO_MEMORY)
    };

    let end = match end {
        End::TakenOver if seat.is_kicked() => End::Kicked,
        end => end,
    };
    let text_fits = |text: &&str| text.len() <= reason_text_max;
    let (code, text, with_will) = match &end {
        End::Disconnect { with_will } => (None, None, *with_will),
        End::Closed => (None, None, true),
        End::Silent | End::Stalled => (Some(reason::KEEP_ALIVE_TIMEOUT), None, true),
        End::Kicked => (Some(reason::ADMINISTRATIVE_ACTION), None, true),
        End::TakenOver => (Some(reason::SESSION_TAKEN_OVER), None, true),
        End::Shutdown => (Some(reason::SERVER_SHUTTING_DOWN), None, false),
        End::Illegal(error) => (Some(error.reason), Some(error.what).filter(text_fits), true),
        End::DiskFull(what) => (
            Some(reason::QUOTA_EXCEEDED),
            Some(*what).filter(text_fits),
            true,
        ),
        End::Lost => (Some(reason::SERVER_BUSY), None, true),
        End::NotAuthorized(what) => (
            Some(reason::NOT_AUTHORIZED),
            Some(*what).filter(text_fits),
            true,
        ),
        End::Removed => (Some(reason::ADMINISTRATIVE_ACTION), None, true),
    };
    if let Some(code) = code
        && session.v5
    {
        encode::disconnect(wire.output(), code, text);
    }
    let will = connect
        .will
        .filter(|will| with_will && ending::may_be_published(context, &rights, will));
    // No longer than the session lasts.
    let delay_secs = will.as_ref().map_or(0, |will| {
        let lasts = match end {
            End::Removed => 0,
            _ => session
                .new_expiry_secs
                .unwrap_or(session.session_expiry_secs),
        };
        will.delay_secs.min(lasts)
    });
    let kept_in = session.durable.as_ref().map(|durable| durable.session());
    // Boxed: every session would hold the room for it otherwise.
    Box::pin(session.leave(&outbox, will.is_some())).await;
    ending::count(context, &publisher, &end);
    // Who broke the protocol is likely to be in the middle of more.
    match end {
        End::Illegal(_) | End::NotAuthorized(_) => {
            let parted = tokio::select! {
                () = wire.part(FAREWELL) => true,
                // Its next connection does not wait for it to listen.
                () = seat.asked_to_leave() => false,
            };
            if !parted {
                wire.close();
            }
        }
        _ => wire.finish(FAREWELL).await,
    }
    count_bytes(&mut wire, counters);
    // Closes the socket before the will: the gateway may take its time.
    drop(wire);
    if let Some(will) = will {
        let left = wills::Left {
            session: kept_in,
            publisher,
            will,
            rights,
            share: kept,
        };
        Box::pin(left.publish(context, id, delay_secs, &seat)).await;
    }
    drop(named);
    drop(seat);
}

struct Session<'s> {
    context: &'s Context,
    /// How it is shown to operators.
    client: &'s Client,
    /// The packets of this turn.
    packets: roster::Taken,
    v5: bool,
    session_expiry_secs: u32,
    /// What DISCONNECT made of it.
    new_expiry_secs: Option<u32>,
    /// The largest packet the client takes.
    packet_bytes_max: usize,
    rights: &'s Rights,
    topics: Topics,
    /// How fast its publishes are read.
    pace: Pace,
    /// What the topic aliases hold.
    aliases: Share,
    inbound: Inbound<'s>,
    outbound: Outbound,
    subscriptions: Subscriptions<'s>,
    durable: Option<Box<Durable>>,
}

impl Session<'_> {
    /// Ends the subscriptions, and only then gives back what shared ones had given.
    /// What was not sent of the session's queue stays there.
    async fn leave(self, outbox: &Outbox, has_will: bool) {
        drop(self.subscriptions);
        outbox.close();
        drop(self.outbound);
        if let Some(durable) = self.durable {
            durable.leave(self.new_expiry_secs, !has_will).await;
        }
    }

    /// Whether something is being written that has to be answered before more is taken.
    fn is_waiting(&self) -> bool {
        self.durable.as_ref().is_some_and(|one| one.is_waiting())
    }
}

/// A client identifier for the log: its beginning.
fn short(client_id: &str) -> &str {
    let end = client_id
        .char_indices()
        .nth(64)
        .map_or(client_id.len(), |(end, _)| end);
    &client_id[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Arc<Context>, Link, Peer, Entry) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        let bytes = size(serve);
        assert!(
            bytes < 4 * 1024,
            "a session takes {bytes} bytes before its buffers"
        );
    }

    #[tokio::test]
    async fn who_is_entering_a_session_at_shutdown_leaves_it_in_order() {
        let (cancelled, entering) = (CancellationToken::new(), AtomicBool::new(false));
        cancelled.cancel();
        let never = std::future::pending::<Option<()>>();
        assert_eq!(unless_cancelled(never, &cancelled, &entering).await, None);
        let entered = async {
            entering.store(true, Relaxed);
            tokio::task::yield_now().await;
            Some(1)
        };
        let welcomed = unless_cancelled(entered, &cancelled, &entering).await;
        assert_eq!(welcomed, Some(1));
    }

    #[test]
    fn client_ids_are_shortened_for_the_log() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short(&"ü".repeat(100)), "ü".repeat(64));
    }
}
