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
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{
    Context,
    access::{Caller, Role},
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

/// Clients that are connected, or have a session that waits for them.
#[utoipa::path(
    get,
    path = "/api/v1/broker/clients",
    tag = "broker",
    params(Clients),
    responses(
        (status = 200, description = "Clients, by client identifier", body = Value),
    )
)]
pub(super) async fn clients(State(context): State<Context>, Query(page): Query<Clients>) -> Answer {
    let limit = page.limit.min(PAGE_MAX);
    let (broker, after) = (context.broker.clone(), page.after.clone());
    let live = look(move || broker.clients(&after, limit)).await?;
    let now = context.observer.now();
    let mut items: BTreeMap<String, Value> = BTreeMap::new();
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
    let next = ids.last().filter(|_| is_more);
    Ok(Json(json!({ "items": items, "next": next })))
}

/// One client.
#[utoipa::path(
    get,
    path = "/api/v1/broker/clients/{id}",
    tag = "broker",
    params(("id" = String, Path, description = "The client identifier")),
    responses(
        (status = 200, description = "The client", body = Value),
        (status = 404, description = "It is not connected and has no session", body = Problem),
    )
)]
pub(super) async fn client(State(context): State<Context>, Path(id): Path<String>) -> Answer {
    let sessions = context.broker.sessions().await;
    let session = sessions.iter().find(|one| one.client_id == id);
    let mut line = match (context.broker.client(&id), session) {
        (Some(client), _) => client_line(&client, context.observer.now()),
        (None, Some(session)) => return Ok(Json(session_line(session))),
        (None, None) => return Err(no_client(&id)),
    };
    if let Some(session) = session {
        add_queue(&mut line, session);
    }
    Ok(Json(line))
}

/// Ends a client's connection, with its will.
#[utoipa::path(
    delete,
    path = "/api/v1/broker/clients/{id}",
    tag = "broker",
    params(("id" = String, Path, description = "The client identifier"), Kick),
    responses(
        (status = 200, description = "It was ended", body = Value),
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
    Ok(Json(json!({ "kicked": 1 })))
}

/// Retained messages.
#[utoipa::path(
    get,
    path = "/api/v1/broker/retained",
    tag = "broker",
    params(RetainedPage),
    responses(
        (status = 200, description = "Retained messages, by topic", body = Value),
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
    Ok(Json(
        json!({ "items": found, "next": last.filter(|_| found.len() == limit) }),
    ))
}

/// Clears a retained message.
#[utoipa::path(
    delete,
    path = "/api/v1/broker/retained/{*topic}",
    tag = "broker",
    params(("topic" = String, Path, description = "The topic; its slashes may stay")),
    responses(
        (status = 200, description = "It was cleared", body = Value),
        (status = 404, description = "There is none on the topic", body = Problem),
    )
)]
pub(super) async fn clear(State(context): State<Context>, Path(topic): Path<String>) -> Answer {
    let cleared = context.broker.clear_retained(Arc::from(&*topic)).await;
    if cleared.ok_or_else(unwritten)? {
        Ok(Json(json!({ "cleared": 1 })))
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
        (status = 200, description = "Subscriptions, by client and filter", body = Value),
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
    Ok(Json(json!({ "items": found, "next": next })))
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
fn client_line(client: &ClientInfo, now: Timestamp) -> Value {
    let ago_ms = i64::try_from(client.connected_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    let since = Timestamp::from_millis(now.as_millis().saturating_sub(ago_ms));
    let mut line = json!(client);
    line["connected"] = true.into();
    line["connected_since"] = admin::instant(since);
    line
}

/// A persistent session whose client is away.
fn session_line(session: &SessionInfo) -> Value {
    json!({
        "client_id": session.client_id,
        "user": session.user,
        "connected": false,
        "disconnected_since": session
            .ended_ms
            .map(|ms| admin::instant(Timestamp::from_millis(ms))),
        "persistent": true,
        "session_expiry_secs": session.expiry_secs,
        "queue_messages": session.queued,
        "queue_bytes": session.queued_bytes,
        "dropped": session.dropped,
    })
}

/// What a persistent session keeps for its client, on top of what waits for the wire.
fn add_queue(line: &mut Value, session: &SessionInfo) {
    for (field, more) in [
        ("queue_messages", session.queued),
        ("queue_bytes", session.queued_bytes),
        ("dropped", session.dropped),
    ] {
        line[field] = (line[field].as_u64().unwrap_or_default() + more).into();
    }
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
