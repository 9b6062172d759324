//! Commands to devices.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{
    Context,
    access::Caller,
    answers,
    error::Problem,
    quarantine::read,
    registry::{asked, find, object},
};
use crate::{
    admin::PAGE_MAX,
    fleet::{self, CommandShown, Commands, Order, Refusal, State as Phase},
};

/// A page of commands.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Where the page begins: what `next` said.
    #[serde(default)]
    after: u64,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Only those in this state: queued, sent, acknowledged, failed, expired, cancelled.
    #[param(value_type = Option<String>)]
    state: Option<Phase>,
}

const fn default_limit() -> usize {
    100
}

/// The commands of a device, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/commands",
    tag = "commands",
    params(("id" = String, Path, description = "The device"), Page),
    responses(
        (status = 200, description = "A page of commands", body = answers::Page<CommandShown>),
        (status = 404, description = "There is no such device", body = Problem),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let device = find(&context, &id).await?;
    let wanted = Commands {
        device: device.id,
        state: page.state,
        before: page.after,
        limit: page.limit.min(PAGE_MAX),
    };
    let found = read(&context.store, move |listing| {
        Ok(fleet::commands(listing.tables(), &wanted)?)
    });
    let (commands, next) = found.await?;
    let items: Vec<Value> = commands.iter().map(fleet::Command::show).collect();
    Ok(Json(json!(answers::Page { items, next })))
}

/// One command.
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/commands/{command}",
    tag = "commands",
    params(
        ("id" = String, Path, description = "The device"),
        ("command" = String, Path, description = "The command's id"),
    ),
    responses(
        (status = 200, description = "The command", body = CommandShown),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(context): State<Context>,
    Path((id, command)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (device, name) = (id.clone(), command.clone());
    let found = read(&context.store, move |listing| {
        Ok(fleet::command(listing.tables(), &device, &name)?)
    });
    let none = || Refusal::NotFound(format!("{id:?} has no command {command:?}"));
    let found = found.await?.ok_or_else(none)?;
    Ok(Json(found.show()))
}

/// Places a command, which is delivered or expires.
#[utoipa::path(
    post,
    path = "/api/v1/devices/{id}/commands",
    tag = "commands",
    params(
        ("id" = String, Path, description = "The device"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one"),
    ),
    request_body(content = Value, description = "Of name, payload, qos, deadline or deadline_secs what is not as by default"),
    responses(
        (status = 202, description = "It is on disk; or it was, and this is what became of it", body = CommandShown),
        (status = 404, description = "There is no such device", body = Problem),
        (status = 422, description = "It may not be, or its key was used for another", body = Problem),
        (status = 429, description = "The device has as many that are not over as there may be", body = Problem),
    )
)]
pub(super) async fn place(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let order = Order::read(&id, object(&body)?)?;
    let placed = context
        .fleet
        .order(order, asked(&caller, &headers)?)
        .await?;
    Ok((StatusCode::ACCEPTED, Json(placed.value.show())).into_response())
}

/// Takes a command back that was not sent.
#[utoipa::path(
    delete,
    path = "/api/v1/devices/{id}/commands/{command}",
    tag = "commands",
    params(
        ("id" = String, Path, description = "The device"),
        ("command" = String, Path, description = "The command's id"),
    ),
    responses(
        (status = 200, description = "The command, which is cancelled", body = CommandShown),
        (status = 404, description = "There is none", body = Problem),
        (status = 409, description = "It was sent, or is over", body = Problem),
    )
)]
pub(super) async fn cancel(
    State(context): State<Context>,
    Path((id, command)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let asked = asked(&caller, &headers)?;
    let cancelled = context.fleet.cancel(&id, &command, asked).await?;
    Ok(Json(cancelled.value.show()))
}
