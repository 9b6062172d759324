//! From a new connection to an established session: CONNECT and CONNACK.
//!
//! Who the client is, and whether it may leave its will behind, is decided before it
//! takes anybody's place. Its persistent session is
//! entered after that (`resume`).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::time::{Duration, timeout_at};
use uuid::Uuid;

use super::{Context, resume, short, wire::Wire};
use crate::{
    Protocol,
    auth::{Attempt, Refusal as Refused, Rights},
    budget::Share,
    fanout::Outbox,
    keep::Entered,
    limits::{Pass, Turned},
    listener::Peer,
    metrics::Counter,
    packet::{
        self, Connect, Kind, Refusal, Will,
        encode::{self, Announce},
        is_v5, reason,
    },
    registry::Seat,
    topic,
};

/// Longest client identifier taken, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 1024;
/// How long a refusal may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

const NO_MEMORY: packet::Error = packet::Error {
    reason: reason::QUOTA_EXCEEDED,
    what: "a CONNECT with more than can be kept for all sessions",
};

/// A client that may go on.
#[derive(Debug)]
pub(super) struct Admittee {
    pub(super) connect: Connect,
    pub(super) client_id: Arc<str>,
    pub(super) seat: Seat,
    pub(super) rights: Arc<Rights>,
    /// What CONNECT holds for as long as the session lasts.
    pub(super) kept: Share,
    /// Its place among the sessions of its user name.
    pub(super) named: Option<Box<Pass>>,
    /// Where what is for the client waits.
    pub(super) outbox: Arc<Outbox>,
    /// Its persistent session.
    pub(super) entered: Option<Box<Entered>>,
}

/// Reads CONNECT, decides, answers. `None` when the connection is over. Not to be dropped
/// once it is `entering` a session.
pub(super) async fn welcome(
    context: &Context,
    wire: &mut Wire,
    peer: &Peer,
    turned: Option<Turned>,
    entering: &AtomicBool,
) -> Option<Box<Admittee>> {
    let counters = &context.counters;
    let deadline = peer.connect_by;
    let mut connect = match timeout_at(deadline, read(wire)).await {
        Ok(Ok(connect)) => connect,
        Ok(Err(Ended::Closed)) => return None,
        Ok(Err(Ended::Refused(refusal))) => {
            let protocol = refusal.protocol;
            return refuse(
                context,
                wire,
                protocol,
                &counters.refused_protocol,
                refusal.error,
            )
            .await;
        }
        Err(_) => {
            counters.refused_connect_timeout.add(1);
            return None;
        }
    };
    // Not even a refusal fits into what is smaller.
    let protocol = (connect.packet_bytes_max >= encode::REFUSAL_BYTES).then_some(connect.protocol);
    if let Some(turned) = turned {
        let counter = turned.counter(counters);
        return refuse(context, wire, protocol, counter, turned.error()).await;
    }
    let (client_id, assigned) = match identify(&connect) {
        Ok(known) => known,
        Err(error) => {
            return refuse(context, wire, protocol, &counters.refused_client_id, error).await;
        }
    };
    let bounds = context.config.limits.topics();
    let refused = |will: &Will| will.refused || bounds.exceeded(&will.publish.topic);
    if connect.will.as_ref().is_some_and(refused) {
        counters.topics_refused.add(1);
        let error = packet::Error {
            reason: reason::TOPIC_NAME_INVALID,
            what: "a will on a topic that is reserved, too long or too deep",
        };
        return refuse(context, wire, protocol, &counters.refused_protocol, error).await;
    }
    // [MQTT-3.2.2-13]; 3.1.1 has no word for it, and such a will is not retained.
    let is_retained = |will: &Will| will.publish.retain && is_v5(connect.protocol);
    if !retains(context) && connect.will.as_ref().is_some_and(is_retained) {
        let error = packet::Error {
            reason: reason::RETAIN_NOT_SUPPORTED,
            what: "a will that is to be retained, and nothing is (retained_max, retained_bytes_max)",
        };
        return refuse(context, wire, protocol, &counters.refused_protocol, error).await;
    }
    let password = connect.password.take();
    // Before anything is waited for, and with the copy of the password that a service
    // is asked with: those who wait hold it all.
    let mut kept = Share::new(&context.kept_budget);
    let copy = password.as_ref().map_or(0, |password| password.0.len());
    if !kept.try_set(connect.bytes + copy) {
        return refuse(context, wire, protocol, &counters.refused_memory, NO_MEMORY).await;
    }
    let attempt = Attempt {
        client_id: &client_id,
        is_assigned: assigned,
        username: connect.username.as_ref(),
        password: password.as_ref().map(|password| &*password.0),
        address: peer.address,
        listener: &peer.listener.name,
        certificate: peer.certificate.as_deref(),
        allow_anonymous: peer.listener.allow_anonymous,
    };
    // Apart from the session, which would keep its size for good.
    let admitting = Box::pin(admit(context, &attempt, &connect));
    let rights = match timeout_at(deadline, admitting).await {
        Ok(Ok(rights)) => Arc::new(rights),
        Ok(Err(refusal)) => {
            let error = packet::Error {
                reason: refusal.reason,
                what: refusal.what,
            };
            return turn_away(wire, protocol, error).await;
        }
        Err(_) => {
            context.auth.gave_up(&attempt);
            let error = packet::Error {
                reason: reason::SERVER_BUSY,
                what: "it could not be found out in time who the client is",
            };
            return turn_away(wire, protocol, error).await;
        }
    };
    drop(password);
    kept.set(connect.bytes);
    let owner = rights.owner();
    let seated = context.registry.enter(&client_id, owner.as_ref());
    let Ok(seat) = timeout_at(deadline, seated).await else {
        let error = packet::Error {
            reason: reason::SERVER_UNAVAILABLE,
            what: "the session before under this client identifier has not ended",
        };
        return refuse(
            context,
            wire,
            protocol,
            &counters.refused_takeover_timeout,
            error,
        )
        .await;
    };
    let Ok(seat) = seat else {
        let error = packet::Error {
            reason: reason::CLIENT_ID_INVALID,
            what: "a client identifier that another user is connected with",
        };
        return refuse(context, wire, protocol, &counters.refused_client_id, error).await;
    };
    // The session before is gone by now, so a client never stands in its own way.
    let named = match &owner {
        Some(user) => match context.doors.enter_as(user) {
            Ok(pass) => pass,
            Err(turned) => {
                let counter = turned.counter(counters);
                return refuse(context, wire, protocol, counter, turned.error()).await;
            }
        },
        None => None,
    };
    let outbox = Arc::new(Outbox::new(
        context.config.outbound_queue_bytes_max,
        window(context, &connect),
        &context.output_budget,
    ));
    let asked = connect.session_expiry_secs;
    entering.store(true, Relaxed);
    // Boxed: every session would hold the room for it otherwise.
    let entered = match Box::pin(resume::enter(
        context,
        &mut connect,
        &client_id,
        &rights,
        &outbox,
    ))
    .await
    {
        Ok(entered) => entered,
        Err(why) => {
            let counter = why.counter(counters);
            return refuse(context, wire, protocol, counter, why.error()).await;
        }
    };
    let present = entered.as_ref().is_some_and(|one| one.present);
    super::wills::came(context, &client_id, present);
    let keep_alive_secs = shorten_keep_alive(&mut connect, context.config.keep_alive_max);
    let response_information = response_information(context, &connect, &client_id);
    let announced = encode::connack(
        wire.output(),
        connect.protocol,
        &Announce {
            receive_max: context.config.receive_max,
            packet_bytes_max: context.config.packet_bytes_max,
            topic_alias_max: topic::ALIASES,
            session_present: present,
            session_expiry_secs: (connect.session_expiry_secs != asked)
                .then_some(connect.session_expiry_secs),
            retains: retains(context),
            dropped: entered.as_ref().map_or(0, |one| one.dropped),
            assigned_client_id: assigned.then_some(&*client_id),
            keep_alive_secs,
            response_information: response_information.as_deref(),
        },
        connect.packet_bytes_max,
    );
    if !announced {
        if let Some(entered) = entered {
            Box::pin(resume::undo(context.fanout.keeper(), &entered)).await;
        }
        let error = packet::Error {
            reason: reason::PACKET_TOO_LARGE,
            what: "a Maximum Packet Size that no CONNACK fits into",
        };
        return refuse(context, wire, protocol, &counters.refused_protocol, error).await;
    }
    Some(Box::new(Admittee {
        connect,
        client_id,
        seat,
        rights,
        kept,
        named,
        outbox,
        entered,
    }))
}

/// Messages that may be on their way to the client.
pub(super) fn window(context: &Context, connect: &Connect) -> u16 {
    connect
        .receive_max
        .min(context.config.outbound_in_flight_max)
}

/// Whether anything is retained: the operator may want nothing to be.
fn retains(context: &Context) -> bool {
    !context.fanout.keeper().shared().retained.is_off()
}

enum Ended {
    Closed,
    Refused(Refusal),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

async fn read(wire: &mut Wire) -> Result<Connect, Ended> {
    let refused = |error| {
        Ended::Refused(Refusal {
            protocol: None,
            error,
        })
    };
    loop {
        wire.ready(true).await?;
        wire.read()?;
        if let Some(header) = wire.peek().map_err(refused)? {
            if header.kind != Kind::Connect {
                return Err(refused(packet::Error::protocol(
                    "a first packet that is not CONNECT",
                )));
            }
            let body = wire.take(header);
            return packet::decode_connect(&body).map_err(Ended::Refused);
        }
    }
}

/// The client identifier, and whether we made it up.
fn identify(connect: &Connect) -> Result<(Arc<str>, bool), packet::Error> {
    let error = |what| {
        Err(packet::Error {
            reason: reason::CLIENT_ID_INVALID,
            what,
        })
    };
    match connect.client_id.len() {
        0 if connect.protocol == Protocol::V4 && !connect.clean => {
            error("an empty client identifier without clean session")
        }
        0 => Ok((Arc::from(format!("auto-{}", Uuid::now_v7().simple())), true)),
        1..=CLIENT_ID_BYTES_MAX => Ok((Arc::clone(&connect.client_id), false)),
        _ => error("a client identifier that is too long"),
    }
}

/// Sets the client's keep-alive to the longest that may be, if it asks for more and
/// can be told: clients of 3.1.1 cannot. What it is to be told.
fn shorten_keep_alive(connect: &mut Connect, max: Option<Duration>) -> Option<u16> {
    let max = max.filter(|_| is_v5(connect.protocol))?;
    if connect.keep_alive.is_some_and(|asked| asked <= max) {
        return None;
    }
    let secs = u16::try_from(max.as_secs()).unwrap_or(u16::MAX).max(1);
    connect.keep_alive = Some(Duration::from_secs(secs.into()));
    Some(secs)
}

/// Where the client may have responses sent, if it asks and its identifier can be
/// part of a topic name.
fn response_information(context: &Context, connect: &Connect, client_id: &str) -> Option<String> {
    let template = context.config.response_information.as_deref()?;
    let fits = !template.contains("{client}") || !client_id.contains(['+', '#']);
    (connect.response_information && fits).then(|| template.replace("{client}", client_id))
}

/// Who the client is; not without the right to its will.
async fn admit(
    context: &Context,
    attempt: &Attempt<'_>,
    connect: &Connect,
) -> Result<Rights, Refused> {
    let rights = context.auth.admit(attempt).await?;
    match &connect.will {
        Some(will) if !rights.will(will) => {
            context.counters.auth_denied.add(1);
            Err(Refused {
                reason: reason::NOT_AUTHORIZED,
                what: "a will that the client has no right to publish",
            })
        }
        _ => Ok(rights),
    }
}

/// Refuses a client that has been counted, and is in the audit log, already.
async fn turn_away(
    wire: &mut Wire,
    protocol: Option<Protocol>,
    error: packet::Error,
) -> Option<Box<Admittee>> {
    if let Some(protocol) = protocol
        && encode::connack_refused(wire.output(), protocol, error.reason)
    {
        wire.part(FAREWELL).await;
    }
    None
}

async fn refuse(
    context: &Context,
    wire: &mut Wire,
    protocol: Option<Protocol>,
    counter: &Counter,
    error: packet::Error,
) -> Option<Box<Admittee>> {
    counter.add(1);
    if let Some(held_back) = context.quiet.pass() {
        tracing::warn!(reason = error.what, held_back, "a connection was refused");
    }
    turn_away(wire, protocol, error).await
}

impl std::fmt::Display for Admittee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(short(&self.client_id))
    }
}
