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
mod outbound;
mod resume;
mod subscriptions;
pub(crate) mod wills;
mod wire;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    task::{coop::consume_budget, yield_now},
    time::{Duration, Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Config, Publisher, QoS,
    auth::{Auth, DeniedPublish, Rights},
    budget::{Budget, Share},
    fanout::{Fanout, Outbox},
    keep::Refused,
    limits::{Doors, Entry, Pace},
    link::Link,
    listener::Peer,
    metrics::Counters,
    packet::{self, Disconnect, Error, Kind, Packet, encode, is_v5, reason},
    quiet::Quiet,
    registry::Registry,
    roster::{self, Client, Facts, Turn},
    topic::Topics,
};
use aliases::Aliases;
use durable::{Durable, Pending};
pub(crate) use ending::Gauge;
use ending::count_bytes;
use handshake::Admittee;
use inbound::Inbound;
use outbound::Outbound;
use subscriptions::{Done, Subscriptions};
use wire::Wire;

/// The silence that a client without a keep-alive may keep: a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long the last bytes to a client may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// An answer that the client would not take.
const TOO_LARGE: Error = Error {
    reason: reason::PACKET_TOO_LARGE,
    what: "an answer larger than the client's Maximum Packet Size",
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
    pub(crate) wills: wills::Wills,
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
    let admittee = tokio::select! {
        admittee = handshake::welcome(&context, &mut wire, &peer, turned) => admittee,
        () = context.shutdown.cancelled() => None,
    };
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
    let durable = durable.map(|entered| Box::new(Durable::new(keeper, entered)));
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
        pace: Pace::new(&context.config.limits),
        aliases: Share::new(&context.kept_budget),
        inbound: Inbound::new(context, &publisher, id, reason_text_max, entered.as_deref()),
        outbound: Outbound::new(
            connect.protocol,
            Arc::clone(&outbox),
            window,
            connect.packet_bytes_max,
            Aliases::new(connect.topic_alias_max, &context.kept_budget),
        ),
        subscriptions: Subscriptions::new(context, &rights, id, Arc::clone(&outbox), entered),
        durable,
    };
    // A client may be silent for one and a half times what it said.
    let silence_max = connect.keep_alive.map(|said| said * 3 / 2);
    let end = session
        .live(&mut wire, &outbox, seat.asked_to_leave(), silence_max)
        .await;

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
    let waits_in = session.durable.as_ref().map(|durable| durable.session());
    let waits_in = waits_in.filter(|_| delay_secs > 0);
    // Boxed: every session would hold the room for it otherwise.
    Box::pin(session.leave(&outbox, waits_in.is_some())).await;
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
    match (will, waits_in) {
        (Some(will), Some(session)) => {
            let waiting = wills::Waiting {
                session,
                publisher: Arc::clone(&publisher),
                will,
                rights: Some(rights),
                _share: Some(kept),
            };
            let delay = Duration::from_secs(delay_secs.into());
            context.wills.hold(waiting, delay);
        }
        (Some(will), None) => {
            Box::pin(ending::publish_will(context, &publisher, id, will, &seat)).await;
        }
        (None, _) => {}
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

/// Whether packets are left that may not be taken yet.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    All,
    UpToAPublish,
    /// It is not earned yet.
    UpToALatePublish,
    UpToASubscribe,
    /// Something is being written that has to be answered first.
    UpToAnAnswer,
}

impl Session<'_> {
    /// Ends the subscriptions, and only then gives back what shared ones had given.
    /// What was not sent of the session's queue stays there.
    async fn leave(self, outbox: &Outbox, will_waits: bool) {
        drop(self.subscriptions);
        outbox.close();
        drop(self.outbound);
        if let Some(durable) = self.durable {
            durable.leave(self.new_expiry_secs, !will_waits).await;
        }
    }

    /// Whether something is being written that has to be answered before more is taken.
    fn is_waiting(&self) -> bool {
        self.durable.as_ref().is_some_and(|one| one.is_waiting())
    }

    /// The session's turns, until nothing that was taken is unanswered.
    async fn live(
        &mut self,
        wire: &mut Wire,
        outbox: &Outbox,
        leave: impl Future<Output = ()>,
        silence_max: Option<Duration>,
    ) -> End {
        let counters = &self.context.counters;
        let mut leave = pin!(leave);
        let mut shutdown = pin!(self.context.shutdown.cancelled());
        let mut heard = Instant::now();
        // When the client is no longer who it was.
        let over = self.rights.ends().unwrap_or(heard + FAR);
        let mut alarm = pin!(sleep_until(over.min(heard + silence_max.unwrap_or(FAR))));
        let is_restricted = self.rights.is_restricted();
        // Since it was admitted, not since now: a reload may have come in between.
        let mut revised = pin!(self.rights.admitted_under().cancelled_owned());
        let mut end: Option<End> = None;
        let may_end = self.rights.ends().is_some();
        loop {
            // A socket that is always ready never lets the runtime have a turn.
            consume_budget().await;
            let mut taken = Taken::All;
            if may_end && end.is_none() && over <= Instant::now() {
                counters.sessions_revoked.add(1);
                end = Some(End::NotAuthorized(self.rights.expired()));
            }
            // First: what is answered may be what the next packet waits for.
            if let Err(why) = self.answer(wire) {
                end.get_or_insert(why);
            }
            if end.is_none() {
                match self.take(wire, &mut heard) {
                    Ok(how) => taken = how,
                    Err(why) => end = Some(why),
                }
            }
            self.inbound.submit();
            if self.inbound.settle(wire, end.is_some()).is_err() {
                return End::Lost;
            }
            let mut more = false;
            if end.is_none() {
                let durable = self.durable.as_deref_mut();
                more = self
                    .outbound
                    .pump(wire, durable, &self.context.fanout, counters)
                    || taken == Taken::UpToASubscribe;
            }
            if let Some(durable) = &mut self.durable {
                durable.submit();
            }
            if wire.write().is_err() {
                wire.close();
                end.get_or_insert(End::Closed);
            }
            self.note(wire);
            let blocked = self.inbound.is_blocked();
            match end {
                Some(end) if self.inbound.is_idle() => return end,
                None if taken == Taken::UpToAPublish && !blocked => continue,
                None if taken == Taken::UpToAnAnswer && !self.is_waiting() => continue,
                _ => wire.rest(),
            }
            let going = end.is_none();
            let more = more && !wire.is_congested();
            let read = going && taken == Taken::All && !blocked && !wire.is_congested();
            let paused = taken == Taken::UpToALatePublish;
            if blocked || paused {
                // The client may have spoken; we are the ones who do not listen.
                heard = Instant::now();
            }
            // A client that does not take our output may not hold a large packet for it.
            if blocked || paused || wire.is_congested() && !wire.holds_much() {
                wire.excuse();
            }
            let resume = self.pace.holds_until().filter(|_| paused);
            for deadline in [wire.deadline(), resume].into_iter().flatten() {
                if deadline < alarm.deadline() {
                    alarm.as_mut().reset(deadline);
                }
            }
            tokio::select! {
                biased;
                () = &mut leave, if going => end = Some(End::TakenOver),
                () = &mut shutdown, if going => end = Some(End::Shutdown),
                // Before what the client sends, or one that never stops would not hear.
                () = &mut revised, if going && is_restricted => {
                    revised.set(self.rights.revision().cancelled_owned());
                    if let Some(why) = self.rights.objection(self.subscriptions.filters()) {
                        counters.sessions_revoked.add(1);
                        end = Some(End::NotAuthorized(why));
                    }
                }
                () = self.inbound.progress() => {}
                () = durable::progress(&mut self.durable), if going => {}
                ready = wire.ready(read) => {
                    let came = ready.and_then(|()| if read { wire.read() } else { Ok(false) });
                    if came.is_err() {
                        wire.close();
                        end.get_or_insert(End::Closed);
                    }
                }
                () = outbox.filled(), if going => {}
                // Nobody tells us of what is in the outbox already; others first.
                () = yield_now(), if more => {}
                () = &mut alarm, if going => {
                    let now = Instant::now();
                    if blocked || paused {
                        heard = now;
                        wire.excuse();
                    }
                    // Bytes of a packet that is on its way are heard too.
                    heard = heard.max(wire.grown().unwrap_or(heard));
                    let silent = heard + silence_max.unwrap_or(FAR);
                    let stalled = wire.deadline();
                    if over <= now {
                        counters.sessions_revoked.add(1);
                        end = Some(End::NotAuthorized(self.rights.expired()));
                    } else if silent <= now {
                        end = Some(End::Silent);
                    } else if stalled.is_some_and(|deadline| deadline <= now) {
                        end = Some(End::Stalled);
                    } else {
                        let silent = silent.min(over);
                        alarm.as_mut().reset(stalled.map_or(silent, |one| one.min(silent)));
                    }
                }
            }
        }
    }

    /// Takes the complete packets that are here, up to a publish that has to wait.
    fn take(&mut self, wire: &mut Wire, heard: &mut Instant) -> Result<Taken, End> {
        let mut any = false;
        self.pace.turn();
        if let Some(durable) = &self.durable {
            if durable.is_gone() {
                return Err(End::Removed);
            }
            if durable.is_waiting() {
                return Ok(Taken::UpToAnAnswer);
            }
        }
        if self.subscriptions.is_under_way() && !self.subscribe(wire)? {
            return Ok(Taken::UpToASubscribe);
        }
        while let Some(header) = wire.peek().map_err(End::Illegal)? {
            if header.kind == Kind::Publish && self.inbound.is_blocked() {
                // One too many is to be answered, not to wait.
                let over = header.flags & 0b0110 != 0 && self.inbound.is_exceeded();
                if !over {
                    return Ok(Taken::UpToAPublish);
                }
            }
            if header.kind == Kind::Publish {
                if self.pace.holds_until().is_some() {
                    return Ok(Taken::UpToALatePublish);
                }
                if self.pace.charge(header.frame()) {
                    self.context.counters.publishes_paused.add(1);
                }
            }
            let body = wire.take(header);
            any = true;
            self.packets.took(header.kind);
            let protocol = self.protocol();
            let packet =
                packet::decode(protocol, header, &body, &mut self.topics).map_err(End::Illegal)?;
            let alias_bytes = self.topics.alias_bytes();
            if alias_bytes != self.aliases.held() && !self.aliases.try_set(alias_bytes) {
                return Err(End::Illegal(Error {
                    reason: reason::QUOTA_EXCEEDED,
                    what: "topic aliases that are more than can be kept for all sessions",
                }));
            }
            self.handle(packet, wire)?;
            if self.durable.as_ref().is_some_and(|one| one.is_waiting()) {
                *heard = Instant::now();
                return Ok(Taken::UpToAnAnswer);
            }
            if header.kind == Kind::Subscribe {
                *heard = Instant::now();
                self.subscribe(wire)?;
                // One in a turn: it may be much work.
                return Ok(Taken::UpToASubscribe);
            }
        }
        if any {
            *heard = Instant::now();
        }
        Ok(Taken::All)
    }

    /// Goes on with a SUBSCRIBE; whether it is done, and answered.
    fn subscribe(&mut self, wire: &mut Wire) -> Result<bool, End> {
        let Some(Done { id, codes, adds }) = self.subscriptions.go_on() else {
            return Ok(false);
        };
        if let Some(durable) = self.durable.as_mut().filter(|_| !adds.is_empty()) {
            durable.subscribe(id, codes, adds);
            return Ok(true);
        }
        self.client.set_filters(self.subscriptions.names());
        let frame_max = self.packet_bytes_max;
        let count = |wanted| codes.iter().filter(|&&code| code == wanted).count();
        let counters = &self.context.counters;
        counters
            .subscriptions_refused
            .add(count(reason::QUOTA_EXCEEDED));
        counters
            .topics_refused
            .add(count(reason::TOPIC_FILTER_INVALID));
        if encode::suback(wire.output(), self.protocol(), id, &codes, frame_max) {
            Ok(true)
        } else {
            Err(End::Illegal(TOO_LARGE))
        }
    }

    /// Writes down what this turn did.
    fn note(&mut self, wire: &mut Wire) {
        let counters = &self.context.counters;
        let (bytes_in, bytes_out) = wire.take_counts();
        counters.bytes_in.add(bytes_in);
        counters.bytes_out.add(bytes_out);
        let turn = Turn {
            bytes_in,
            bytes_out,
            publishes_out: self.outbound.take_delivered(),
            in_flight_in: self.inbound.in_flight(),
            in_flight_out: self.outbound.in_flight(),
            subscriptions: self.subscriptions.count(),
            taken: std::mem::take(&mut self.packets),
        };
        counters.packets_in.add(turn.taken.packets as usize);
        counters.answers.add(turn.taken.answers as usize);
        self.client.tally.note(turn);
    }

    /// Answers what is on disk by now.
    fn answer(&mut self, wire: &mut Wire) -> Result<(), End> {
        let protocol = self.protocol();
        let Some(durable) = self.durable.as_mut() else {
            return Ok(());
        };
        for (id, token) in self.inbound.take_abandoned() {
            durable.release(id, token, false);
        }
        let (answers, refused) = match durable.answers() {
            None => return Ok(()),
            Some(Ok(answers)) => (answers, false),
            Some(Err((Refused::Full, answers))) => (answers, true),
            Some(Err((Refused::Gone, _))) => return Err(End::Removed),
            Some(Err(_)) => return Err(End::Lost),
        };
        if refused && !(answers.release.is_empty() && answers.complete.is_empty()) {
            return Err(End::Illegal(Error {
                reason: reason::QUOTA_EXCEEDED,
                what: "acknowledgements that there is no room for on disk",
            }));
        }
        let frame_max = self.packet_bytes_max;
        let out = wire.output();
        for id in answers.release {
            encode::ack(out, protocol, Kind::PubRel, id, reason::SUCCESS, None);
        }
        for id in answers.complete {
            encode::ack(out, protocol, Kind::PubComp, id, reason::SUCCESS, None);
        }
        let fits = match answers.pending {
            None => true,
            Some(Pending::Subscribe { id, codes, adds }) => {
                let codes = match refused {
                    false => self.subscriptions.added(codes, &adds),
                    true => vec![reason::QUOTA_EXCEEDED; codes.len()],
                };
                self.client.set_filters(self.subscriptions.names());
                encode::suback(out, protocol, id, &codes, frame_max)
            }
            Some(Pending::Unsubscribe(packet)) => {
                let codes = self.subscriptions.unsubscribe(&packet);
                self.client.set_filters(self.subscriptions.names());
                encode::unsuback(out, protocol, packet.id, &codes, frame_max)
            }
        };
        if fits {
            Ok(())
        } else {
            Err(End::Illegal(TOO_LARGE))
        }
    }

    fn protocol(&self) -> crate::Protocol {
        if self.v5 {
            crate::Protocol::V5
        } else {
            crate::Protocol::V4
        }
    }

    /// Marks a publish that the client has no right to. Where there is no way to tell
    /// a client of 3.1.1, and an acknowledgement would be a lie, the session ends.
    fn authorise(&mut self, packet: &mut packet::Inbound) -> Result<(), End> {
        let (rights, publish) = (self.rights, &packet.publish);
        if !rights.is_restricted() {
            return Ok(());
        }
        let permit = self.topics.permit(packet.cached, rights.version(), || {
            rights.publish(&publish.topic)
        });
        let allowed = permit.is_some_and(|permit| {
            publish.qos <= permit.qos_max && (permit.retain || !publish.retain)
        });
        if allowed {
            return Ok(());
        }
        let untellable = !self.v5 && publish.qos != QoS::AtMostOnce;
        if untellable && rights.denied_publish() == DeniedPublish::Disconnect {
            self.context.counters.publishes_denied.add(1);
            return Err(End::NotAuthorized(inbound::NOT_AUTHORIZED));
        }
        packet.denied = true;
        Ok(())
    }

    fn handle(&mut self, packet: Packet, wire: &mut Wire) -> Result<(), End> {
        let counters = &self.context.counters;
        let protocol = self.protocol();
        match packet {
            Packet::Publish(mut publish) => {
                self.authorise(&mut publish)?;
                let fanout = &self.context.fanout;
                let name = &publish.publish.topic;
                let wanted = self
                    .topics
                    .note(publish.cached, fanout.version(), || fanout.wanted(name));
                self.inbound
                    .take(publish, wanted, wire)
                    .map_err(End::Illegal)
            }
            Packet::PubAck(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubAck,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubRec(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubRec,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubComp(ack) => self
                .outbound
                .acknowledged(
                    Kind::PubComp,
                    ack,
                    wire,
                    self.durable.as_deref_mut(),
                    counters,
                )
                .map_err(End::Illegal),
            Packet::PubRel(ack) => {
                self.inbound.release(ack, wire, self.durable.as_deref_mut());
                Ok(())
            }
            Packet::Subscribe(packet) => {
                self.subscriptions.subscribe(packet);
                Ok(())
            }
            Packet::Unsubscribe(packet) => {
                if let Some(durable) = &mut self.durable {
                    durable.unsubscribe(packet);
                    return Ok(());
                }
                let codes = self.subscriptions.unsubscribe(&packet);
                self.client.set_filters(self.subscriptions.names());
                let frame_max = self.packet_bytes_max;
                if encode::unsuback(wire.output(), protocol, packet.id, &codes, frame_max) {
                    Ok(())
                } else {
                    Err(End::Illegal(TOO_LARGE))
                }
            }
            Packet::PingReq => {
                encode::pingresp(wire.output());
                Ok(())
            }
            Packet::Disconnect(Disconnect {
                reason,
                session_expiry_secs,
            }) => {
                if self.session_expiry_secs == 0 && session_expiry_secs.is_some_and(|secs| secs > 0)
                {
                    return Err(End::Illegal(Error::protocol(
                        "a session expiry in DISCONNECT after none in CONNECT",
                    )));
                }
                let max = self.context.config.keep.expiry_secs_max();
                self.new_expiry_secs = session_expiry_secs.map(|secs| secs.min(max));
                Err(End::Disconnect {
                    with_will: reason != reason::SUCCESS,
                })
            }
        }
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

    #[test]
    fn client_ids_are_shortened_for_the_log() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short(&"ü".repeat(100)), "ü".repeat(64));
    }
}
