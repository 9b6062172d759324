//! Events as they come: server-sent events.

use std::convert::Infallible;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    Context,
    access::{Caller, Tokens},
    error::Problem,
};
use crate::{
    record::Position,
    rules::Pattern,
    tail::{Filter, Shown, Tail},
};

/// Streams at a time: each has a thread, and one of the connections.
const STREAMS_MAX: usize = 16;
/// Bytes of a filter, and fields in all its alternatives.
const FILTER_BYTES_MAX: usize = 8 * 1024;
const FILTER_FIELDS_MAX: usize = 1_000;
/// How long a browser waits before it comes again, in milliseconds.
const AGAIN_AFTER_MS: u32 = 2_000;

static STREAMS: Semaphore = Semaphore::const_new(STREAMS_MAX);

/// Told to streams when the gateway ends.
#[derive(Debug, Clone)]
pub(super) struct Ending(pub(super) CancellationToken);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// An event pattern, as rules have it.
    filter: Option<String>,
    /// Only of this device; `*` stands for anything.
    device: Option<String>,
    /// Only of this type; `*` stands for anything.
    r#type: Option<String>,
    /// Begins behind this position instead of now, as far back as the journal goes.
    /// `Last-Event-ID` counts before it.
    after: Option<u64>,
}

/// Events as they are committed, as server-sent events.
///
/// The `id` of each is its position, its data the event as destinations receive it. Who
/// comes again with `Last-Event-ID` goes on there, as far as the journal still has it.
/// `event: missed` with `{"count","through"}` says how many were not shown, because
/// they had left the journal before: a stream never holds anything up. It ends when the
/// gateway does, and when the token that it was asked for with is no longer one.
#[utoipa::path(
    get,
    path = "/api/v1/events/stream",
    tag = "events",
    params(
        Which,
        ("last-event-id" = Option<u64>, Header, description = "Where an earlier stream ended")
    ),
    responses(
        (
            status = 200, description = "A stream without an end",
            body = String, content_type = "text/event-stream"
        ),
        (status = 503, description = "There are as many streams as there may be", body = Problem),
    )
)]
pub(super) async fn events(
    State(context): State<Context>,
    Extension(Ending(ending)): Extension<Ending>,
    Extension(tokens): Extension<Tokens>,
    caller: Caller,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = match headers.get("last-event-id") {
        None => which.after,
        Some(id) => Some(last_id(id.as_bytes())?),
    };
    let place = STREAMS.try_acquire().map_err(|_| {
        let what = format!("{STREAMS_MAX} streams are open, and there may be no more");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
    })?;
    // A pattern takes its time, and so does opening the journal.
    let begun = spawn_blocking(move || -> Result<Tail, Problem> {
        let (store, boots) = (&context.store, context.boots.clone());
        let filter = filter(&which)?;
        Ok(Tail::begin(
            store,
            boots,
            filter,
            after.map(Position),
            place,
        )?)
    });
    let tail = begun.await.map_err(|error| {
        tracing::error!(%error, "a live tail could not begin");
        let what = "the stream could not begin";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what)
    })??;
    // Who is cut off before the first event goes on here, too.
    let begin = Bytes::from(format!("retry: {AGAIN_AFTER_MS}\nid: {}\n\n", tail.at()));
    let pages = stream::unfold(tail, |mut tail| async move {
        let page = tail.next().await?;
        Some((page, tail))
    });
    let blocks = stream::iter([begin])
        .chain(pages.map(|page| blocks(&page)))
        .take_until(async move {
            tokio::select! {
                () = ending.cancelled() => (),
                () = tokens.expiry(&caller) => (),
            }
        })
        .map(Ok::<_, Infallible>);
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies are not to wait for the end.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((head, Body::from_stream(blocks)).into_response())
}

fn last_id(id: &[u8]) -> Result<u64, Problem> {
    let number = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    number.ok_or_else(|| {
        let what = "Last-Event-ID is the position of an event: a number";
        Problem::new(StatusCode::BAD_REQUEST, what)
    })
}

fn filter(which: &Which) -> Result<Filter, Problem> {
    let wrong = |what: String| Problem::new(StatusCode::BAD_REQUEST, what);
    let written = which.filter.iter().map(|text| ("filter", text.clone()));
    let shortcut = |name: &'static str, value: &Option<String>| {
        let value = value.as_ref()?;
        let value = match value.contains('*') {
            true => serde_json::json!({ "wildcard": value }),
            false => serde_json::json!(value),
        };
        let mut pattern = serde_json::Map::new();
        pattern.insert(name.to_owned(), serde_json::json!([value]));
        Some((name, serde_json::Value::from(pattern).to_string()))
    };
    let shortcuts = [
        shortcut("device", &which.device),
        shortcut("type", &which.r#type),
    ];
    let patterns = written.chain(shortcuts.into_iter().flatten());
    let patterns = patterns.map(|(name, text)| {
        if text.len() > FILTER_BYTES_MAX {
            return Err(wrong(format!(
                "{name} has at most {FILTER_BYTES_MAX} bytes"
            )));
        }
        let pattern = Pattern::parse(&text).map_err(|error| wrong(format!("{name}: {error}")))?;
        match pattern.fields() > FILTER_FIELDS_MAX {
            true => Err(wrong(format!(
                "{name} asks for more than {FILTER_FIELDS_MAX} fields in all its alternatives"
            ))),
            false => Ok(pattern),
        }
    });
    Ok(Filter::new(patterns.collect::<Result<Vec<_>, _>>()?))
}

/// A page as server-sent events.
fn blocks(page: &[Shown]) -> Bytes {
    let mut text = Vec::new();
    for shown in page {
        match shown {
            Shown::Event(position, event) => {
                text.extend_from_slice(format!("id: {position}\ndata: ").as_bytes());
                text.extend_from_slice(event);
            }
            Shown::Missed(through, count) => {
                let block = format!(
                    "id: {through}\nevent: missed\ndata: {{\"count\":{count},\"through\":{through}}}"
                );
                text.extend_from_slice(block.as_bytes());
            }
            // A block without data is no event, and its id counts all the same.
            Shown::Looked(position) => {
                text.extend_from_slice(format!("id: {position}").as_bytes());
            }
        }
        text.extend_from_slice(b"\n\n");
    }
    text.into()
}
