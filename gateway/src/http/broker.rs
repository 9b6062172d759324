//! The broker's clients, retained messages and subscriptions.
//!
//! Lists are in order and come in pages: `next` is where the following page begins,
//! `null` at the end. What changes between two pages may be missed or be out of date,
//! but nothing is shown twice.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use penstock_broker::{ClientInfo, LiveSubscription, SessionInfo, is_topic_filter, topic_matches};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    Context,
    access::{Caller, Role},
    answers,
    error::Problem,
};
use crate::{
    admin::{self, PAGE_MAX},
    event::Timestamp,
};

type Answer = Result<Json<Value>, Problem>;

const fn default_limit() -> usize {
    100
}

/// A page of clients.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Clients {
    /// The `next` of the page before.
    #[serde(default)]
    after: String,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Only those that are connected.
    #[serde(default)]
    connected: bool,
}

/// How to end a client.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Kick {
    /// Ends its session too, with what waits for it. Takes an admin.
    #[serde(default)]
    session: bool,
}

/// A page of retained messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct RetainedPage {
    /// Only topics that this topic filter matches.
    filter: Option<String>,
    /// The `next` of the page before.
    #[serde(default)]
    after: String,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
}

/// A page of subscriptions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscriptions {
    /// Only of this client.
    client: Option<String>,
    /// Only with exactly this topic filter.
    filter: Option<String>,
    /// The `next` of the page before.
    #[serde(default)]
    after: String,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
}

/// A client that is connected, or has a session that waits for it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Client)]
pub(super) enum ClientLine {
    /// It is connected.
    Here(Here),
    /// It is away.
    Away(Away),
}

/// A client that is connected.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientHere)]
pub(super) struct Here {
    #[serde(flatten)]
    known: Known,
    #[serde(flatten)]
    connection: Connection,
}

/// A session that waits for its client.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientAway)]
pub(super) struct Away {
    #[serde(flatten)]
    known: Known,
    /// Since when it is away; null where nobody knows.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    disconnected_since: Option<Value>,
}

/// What is known of a client, here or not.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientKnown)]
pub(super) struct Known {
    /// Its client identifier.
    client_id: String,
    /// Its authenticated name; null for an anonymous client.
    user: Option<String>,
    /// Whether it is connected.
    connected: bool,
    /// Whether its session outlives the connection.
    persistent: bool,
    /// For how long; 4,294,967,295 for ever.
    session_expiry_secs: u32,
    /// Messages that wait for it.
    queue_messages: u64,
    /// Their bytes.
    queue_bytes: u64,
    /// Messages that it did not get because its queue was full.
    dropped: u64,
}

/// A connection of a client.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientConnection)]
pub(super) struct Connection {
    /// Where it connects from; null for one that came through a Unix socket.
    address: Option<String>,
    /// The listener that it came in by.
    #[schema(value_type = String)]
    listener: Arc<str>,
    /// `3.1.1` or `5`.
    #[schema(value_type = String)]
    protocol: &'static str,
    /// How it said who it is.
    #[schema(value_type = String)]
    method: &'static str,
    /// Since when it is connected.
    #[schema(value_type = String, format = DateTime)]
    connected_since: Value,
    /// For how long.
    connected_secs: u64,
    /// Its keep-alive; null if it has none.
    keep_alive_secs: Option<u64>,
    /// Its subscriptions.
    subscriptions: u64,
    /// QoS 1 and 2 publishes from it that are not settled.
    in_flight_in: u64,
    /// QoS 1 and 2 messages to it that it has not acknowledged.
    in_flight_out: u64,
    /// Publishes from it.
    publishes_in: u64,
    /// Messages sent to it.
    publishes_out: u64,
    /// Bytes read from it.
    bytes_in: u64,
    /// Bytes written to it.
    bytes_out: u64,
    /// Publishes from it a second, lately.
    publishes_in_per_sec: f64,
    /// Messages sent to it a second, lately.
    publishes_out_per_sec: f64,
}

/// What was ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientKicked)]
pub(super) struct Kicked {
    /// How many.
    kicked: u64,
}

/// A retained message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retained {
    /// The topic.
    topic: String,
    /// The QoS it was published with.
    qos: u8,
    /// The size of its payload.
    payload_bytes: usize,
}

/// What was cleared.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RetainedCleared)]
pub(super) struct Cleared {
    /// How many.
    cleared: u64,
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subscription {
    /// Whose it is.
    #[schema(value_type = String)]
    client_id: Arc<str>,
    /// The filter, with `$share/{group}/` before it if it is shared.
    #[schema(value_type = String)]
    filter: Arc<str>,
    /// The highest QoS that it gets.
    qos: u8,
}

/// Clients that are connected, or have a session that waits for them.
#[utoipa::path(
    get,
    path = "/api/v1/broker/clients",
    tag = "broker",
    params(Clients),
    responses(
        (status = 200, description = "Clients, by client identifier", body = answers::PageByName<ClientLine>),
    )
)]
pub(super) async fn clients(State(context): State<Context>, Query(page): Query<Clients>) -> Answer {
    let limit = page.limit.min(PAGE_MAX);
    let (broker, after) = (context.broker.clone(), page.after.clone());
    let live = look(move || broker.clients(&after, limit)).await?;
    let now = context.observer.now();
    let mut items: BTreeMap<String, ClientLine> = BTreeMap::new();
    for client in &live {
        items.insert(client.client_id.to_string(), client_line(client, now));
    }
    if !page.connected {
        let sessions = context.broker.sessions().await;
        for session in sessions.iter().filter(|one| one.client_id > page.after) {
            match items.get_mut(&session.client_id) {
                Some(line) => add_queue(line, session),
                None if session.connected => {}
                None => drop(items.insert(session.client_id.clone(), session_line(session))),
            }
        }
    }
    let is_more = items.len() >= limit;
    let (ids, items): (Vec<_>, Vec<_>) = items.into_iter().take(limit).unzip();
    let next = ids.last().filter(|_| is_more).cloned();
    Ok(Json(json!(answers::PageByName { items, next })))
}

/// One client.
#[utoipa::path(
    get,
    path = "/api/v1/broker/clients/{id}",
    tag = "broker",
    params(("id" = String, Path, description = "The client identifier")),
    responses(
        (status = 200, description = "The client", body = ClientLine),
        (status = 404, description = "It is not connected and has no session", body = Problem),
    )
)]
pub(super) async fn client(State(context): State<Context>, Path(id): Path<String>) -> Answer {
    let sessions = context.broker.sessions().await;
    let session = sessions.iter().find(|one| one.client_id == id);
    let mut line = match (context.broker.client(&id), session) {
        (Some(client), _) => client_line(&client, context.observer.now()),
        (None, Some(session)) => return Ok(Json(json!(session_line(session)))),
        (None, None) => return Err(no_client(&id)),
    };
    if let Some(session) = session {
        add_queue(&mut line, session);
    }
    Ok(Json(json!(line)))
}

/// Ends a client's connection, with its will.
#[utoipa::path(
    delete,
    path = "/api/v1/broker/clients/{id}",
    tag = "broker",
    params(("id" = String, Path, description = "The client identifier"), Kick),
    responses(
        (status = 200, description = "It was ended", body = Kicked),
        (status = 404, description = "It is not connected, or has no session", body = Problem),
    )
)]
pub(super) async fn kick(
    State(context): State<Context>,
    caller: Caller,
    Path(id): Path<String>,
    Query(how): Query<Kick>,
) -> Answer {
    let done = if how.session {
        caller.needs(Role::Admin)?;
        let removed = context.broker.remove_session(Arc::from(&*id)).await;
        removed.ok_or_else(unwritten)?
    } else {
        context.broker.kick(&id)
    };
    if !done {
        return Err(no_client(&id));
    }
    tracing::info!(client.id = %id, session = how.session, "an operator ended a client");
    Ok(Json(json!(Kicked { kicked: 1 })))
}

/// Retained messages.
#[utoipa::path(
    get,
    path = "/api/v1/broker/retained",
    tag = "broker",
    params(RetainedPage),
    responses(
        (status = 200, description = "Retained messages, by topic", body = answers::PageByName<Retained>),
    )
)]
pub(super) async fn retained(
    State(context): State<Context>,
    Query(page): Query<RetainedPage>,
) -> Answer {
    if let Some(filter) = &page.filter
        && !is_topic_filter(filter)
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("{filter:?} is not a topic filter"),
        ));
    }
    let limit = page.limit.min(PAGE_MAX);
    let broker = context.broker.clone();
    let found = look(move || {
        let mut all = broker.retained();
        all.retain(|one| {
            *one.topic > *page.after
                && page
                    .filter
                    .as_ref()
                    .is_none_or(|filter| topic_matches(&one.topic, filter))
        });
        all.truncate(limit);
        all
    })
    .await?;
    let last = found.last().map(|one| one.topic.clone());
    let next = last.filter(|_| found.len() == limit);
    let items = found.into_iter().map(|one| Retained {
        topic: one.topic,
        qos: one.qos,
        payload_bytes: one.payload_bytes,
    });
    let items = items.collect();
    Ok(Json(json!(answers::PageByName { items, next })))
}

/// Clears a retained message.
#[utoipa::path(
    delete,
    path = "/api/v1/broker/retained/{*topic}",
    tag = "broker",
    params(("topic" = String, Path, description = "The topic; its slashes may stay")),
    responses(
        (status = 200, description = "It was cleared", body = Cleared),
        (status = 404, description = "There is none on the topic", body = Problem),
    )
)]
pub(super) async fn clear(State(context): State<Context>, Path(topic): Path<String>) -> Answer {
    let cleared = context.broker.clear_retained(Arc::from(&*topic)).await;
    if cleared.ok_or_else(unwritten)? {
        Ok(Json(json!(Cleared { cleared: 1 })))
    } else {
        Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("there is no retained message on {topic:?}"),
        ))
    }
}

/// Subscriptions of connected clients, and of sessions that wait.
#[utoipa::path(
    get,
    path = "/api/v1/broker/subscriptions",
    tag = "broker",
    params(Subscriptions),
    responses(
        (status = 200, description = "Subscriptions, by client and filter", body = answers::PageByName<Subscription>),
    )
)]
pub(super) async fn subscriptions(
    State(context): State<Context>,
    Query(page): Query<Subscriptions>,
) -> Answer {
    let after = cursor(&page.after)
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "after is not what next said"))?;
    let limit = page.limit.min(PAGE_MAX);
    let broker = context.broker.clone();
    let away = context.broker.persistent_subscriptions().await;
    let found = look(move || {
        let is = |only: &Option<String>, it: &str| only.as_ref().is_none_or(|only| only == it);
        let wanted =
            |client: &str, filter: &str| is(&page.client, client) && is(&page.filter, filter);
        let after = (&*after.0, &*after.1);
        let mut found = broker.live_subscriptions(after, limit, wanted);
        let away = away.iter().filter(|one| {
            (&*one.client_id, &*one.filter) > after
                && wanted(&one.client_id, &one.filter)
                && broker.client(&one.client_id).is_none()
        });
        found.extend(away.map(|one| LiveSubscription {
            client_id: Arc::from(&*one.client_id),
            filter: Arc::from(&*one.filter),
            qos: one.qos,
        }));
        found.sort();
        found.truncate(limit);
        found
    })
    .await?;
    let last = found.last().filter(|_| found.len() == limit);
    let next = last.map(|one| URL_SAFE_NO_PAD.encode(format!("{}\0{}", one.client_id, one.filter)));
    let items = found.into_iter().map(|one| Subscription {
        client_id: one.client_id,
        filter: one.filter,
        qos: one.qos,
    });
    let items = items.collect();
    Ok(Json(json!(answers::PageByName { items, next })))
}

/// The client and filter that a page begins after; neither may hold a U+0000.
fn cursor(text: &str) -> Option<(String, String)> {
    if text.is_empty() {
        return Some(Default::default());
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (client, filter) = text.split_once('\0')?;
    Some((client.to_owned(), filter.to_owned()))
}

/// A client, with the time since when it is connected as the clock says it now.
fn client_line(client: &ClientInfo, now: Timestamp) -> ClientLine {
    let ago_ms = i64::try_from(client.connected_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    let since = Timestamp::from_millis(now.as_millis().saturating_sub(ago_ms));
    ClientLine::Here(Here {
        known: Known {
            client_id: client.client_id.to_string(),
            user: client.user.as_deref().map(str::to_owned),
            connected: true,
            persistent: client.persistent,
            session_expiry_secs: client.session_expiry_secs,
            queue_messages: client.queue_messages,
            queue_bytes: client.queue_bytes,
            dropped: client.dropped,
        },
        connection: Connection {
            address: client.address.map(|address| address.to_string()),
            listener: client.listener.clone(),
            protocol: client.protocol,
            method: client.method,
            connected_since: admin::instant(since),
            connected_secs: client.connected_secs,
            keep_alive_secs: client.keep_alive_secs,
            subscriptions: client.subscriptions,
            in_flight_in: client.in_flight_in,
            in_flight_out: client.in_flight_out,
            publishes_in: client.publishes_in,
            publishes_out: client.publishes_out,
            bytes_in: client.bytes_in,
            bytes_out: client.bytes_out,
            publishes_in_per_sec: client.publishes_in_per_sec,
            publishes_out_per_sec: client.publishes_out_per_sec,
        },
    })
}

/// A persistent session whose client is away.
fn session_line(session: &SessionInfo) -> ClientLine {
    ClientLine::Away(Away {
        known: Known {
            client_id: session.client_id.clone(),
            user: session.user.clone(),
            connected: false,
            persistent: true,
            session_expiry_secs: session.expiry_secs,
            queue_messages: session.queued,
            queue_bytes: session.queued_bytes,
            dropped: session.dropped,
        },
        disconnected_since: session
            .ended_ms
            .map(|ms| admin::instant(Timestamp::from_millis(ms))),
    })
}

/// What a persistent session keeps for its client, on top of what waits for the wire.
const fn add_queue(line: &mut ClientLine, session: &SessionInfo) {
    let (ClientLine::Here(Here { known: line, .. }) | ClientLine::Away(Away { known: line, .. })) =
        line;
    line.queue_messages += session.queued;
    line.queue_bytes += session.queued_bytes;
    line.dropped += session.dropped;
}

fn no_client(id: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "no client {id:?} is connected; a session that waits for its client can be ended with session=true"
        ),
    )
}

fn unwritten() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the broker's own file could not be written",
    )
}

/// Looks through what may be much, on a thread that may take its time.
async fn look<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(look).await.map_err(|error| {
        tracing::error!(%error, "a request for a list failed");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the list could not be read",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_next_said_is_a_cursor() {
        let said = URL_SAFE_NO_PAD.encode("client\0a/#");
        assert_eq!(cursor(&said), Some(("client".into(), "a/#".into())));
        assert_eq!(cursor(""), Some(Default::default()));
        assert_eq!(cursor("client"), None);
        assert_eq!(cursor("%"), None);
    }
}
