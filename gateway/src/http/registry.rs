//! The registry of devices.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Context, access::Caller, answers, error::Problem, quarantine::read};
use crate::{
    admin::PAGE_MAX,
    fleet::{self, Asked, Changes, Device, DeviceShown, Draft, Fields, NotChanged, Refusal},
};

/// The header that makes a request the same one when it is sent again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A page of devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Where the page begins: what `next` said.
    #[serde(default)]
    after: String,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Only those at this site.
    site: Option<String>,
    /// Only those with this tag: `name`, or `name=value`.
    tag: Option<String>,
    /// Only those that are connected, or only those that are not.
    online: Option<bool>,
}

const fn default_limit() -> usize {
    100
}

/// What is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeviceRemoved)]
pub(super) struct Removed {
    /// The device as it was.
    #[schema(value_type = DeviceShown)]
    removed: Value,
    /// How many commands ended.
    commands: u64,
}

/// The devices of the registry, by id.
#[utoipa::path(
    get,
    path = "/api/v1/devices",
    tag = "devices",
    params(Page),
    responses((status = 200, description = "A page of devices", body = answers::PageByName<DeviceShown>)),
)]
pub(super) async fn list(
    State(context): State<Context>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = page.limit.min(PAGE_MAX);
    let online = context.fleet.online();
    let shown = online.clone();
    let found = read(&context.store, move |listing| {
        let wanted = |device: &Device| {
            let has_tag = page
                .tag
                .as_deref()
                .is_none_or(|tag| match tag.split_once('=') {
                    Some((name, value)) => {
                        device.fields.tags.get(name).is_some_and(|it| it == value)
                    }
                    None => device.fields.tags.contains_key(tag),
                });
            has_tag
                && (page.site.is_none() || device.fields.site == page.site)
                && page.online.is_none_or(|it| online.is_online(device) == it)
        };
        Ok(fleet::devices(
            listing.tables(),
            &page.after,
            limit,
            wanted,
        )?)
    });
    let (devices, next) = found.await?;
    let items: Vec<Value> = devices.iter().map(|device| shown.show(device)).collect();
    Ok(Json(json!(answers::PageByName { items, next })))
}

/// One device.
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(("id" = String, Path, description = "The device; a slash in its id is %2F")),
    responses(
        (status = 200, description = "The device; its version is the ETag", body = DeviceShown),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let device = find(&context, &id).await?;
    Ok(answer(&context, &device, StatusCode::OK))
}

/// Adds a device.
#[utoipa::path(
    post,
    path = "/api/v1/devices",
    tag = "devices",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one")),
    request_body(content = Value, description = "id, and of name, site, tags, user, client_id, expected_interval_secs what is known"),
    responses(
        (status = 201, description = "It was added", body = DeviceShown),
        (status = 409, description = "There is one of that id", body = Problem),
    )
)]
pub(super) async fn create(
    State(context): State<Context>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let draft = Draft::read(object(&body)?)?;
    let created = context
        .fleet
        .create(draft, asked(&caller, &headers)?)
        .await?;
    Ok(answer(&context, &created.value, StatusCode::CREATED))
}

/// Says everything of a device anew.
#[utoipa::path(
    put,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(
        ("id" = String, Path, description = "The device"),
        ("If-Match" = Option<String>, Header, description = "Only if it has this version"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one"),
    ),
    request_body(content = Value, description = "What is to be known of it; the rest goes"),
    responses(
        (status = 200, description = "The device as it is now", body = DeviceShown),
        (status = 404, description = "There is none", body = Problem),
        (status = 412, description = "It has another version", body = Problem),
    )
)]
pub(super) async fn replace(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut members = object(&body)?;
    if members.remove("id").is_some_and(|said| said != *id) {
        return Err(Refusal::Invalid("the id of a device cannot be changed".to_owned()).into());
    }
    let changes = Changes::Replace(Fields::read(members)?);
    update(&context, &id, changes, &caller, &headers).await
}

/// Changes some of what is known of a device.
#[utoipa::path(
    patch,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(
        ("id" = String, Path, description = "The device"),
        ("If-Match" = Option<String>, Header, description = "Only if it has this version"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one"),
    ),
    request_body(content = Value, description = "A merge patch (RFC 7396): what is null goes"),
    responses(
        (status = 200, description = "The device as it is now", body = DeviceShown),
        (status = 404, description = "There is none", body = Problem),
        (status = 412, description = "It has another version", body = Problem),
    )
)]
pub(super) async fn change(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let changes = Changes::Merge(object(&body)?);
    update(&context, &id, changes, &caller, &headers).await
}

async fn update(
    context: &Context,
    id: &str,
    changes: Changes,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (version, asked) = (if_match(headers)?, asked(caller, headers)?);
    let updated = context.fleet.update(id, changes, version, asked).await?;
    Ok(answer(context, &updated.value, StatusCode::OK))
}

/// Removes a device; its commands that are not over end.
#[utoipa::path(
    delete,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(
        ("id" = String, Path, description = "The device"),
        ("If-Match" = Option<String>, Header, description = "Only if it has this version"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one"),
    ),
    responses(
        (status = 200, description = "The device as it was, and how many commands ended", body = Removed),
        (status = 404, description = "There is none", body = Problem),
        (status = 412, description = "It has another version", body = Problem),
    )
)]
pub(super) async fn remove(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let (version, asked) = (if_match(&headers)?, asked(&caller, &headers)?);
    let removed = context.fleet.remove(&id, version, asked).await?.value;
    Ok(Json(json!(Removed {
        removed: removed.device.show(),
        commands: removed.commands,
    })))
}

/// The device of that id.
pub(super) async fn find(context: &Context, id: &str) -> Result<Device, Problem> {
    let name = id.to_owned();
    let found = read(&context.store, move |listing| {
        Ok(fleet::device(listing.tables(), &name)?)
    });
    found.await?.ok_or_else(|| Refusal::no_device(id).into())
}

fn answer(context: &Context, device: &Device, status: StatusCode) -> Response {
    let shown = context.fleet.online().show(device);
    let mut response = (status, Json(shown)).into_response();
    let tag = format!("\"{}\"", device.version);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Who asks, and with which key.
pub(super) fn asked(caller: &Caller, headers: &HeaderMap) -> Result<Asked, Problem> {
    let key = match headers.get(IDEMPOTENCY_KEY) {
        None => None,
        Some(key) => Some(key.to_str().map_err(|_| {
            Refusal::Invalid("an Idempotency-Key has printable ASCII characters".to_owned())
        })?),
    };
    Ok(Asked {
        actor: Arc::from(caller.name()),
        key: key.map(Arc::from),
    })
}

/// The version that If-Match says, where it says one.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(said) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let said = said.to_str().unwrap_or_default().trim();
    if said == "*" {
        return Ok(None);
    }
    let version = said.trim_matches('"').parse().map_err(|_| {
        Refusal::Invalid(format!(
            "If-Match says {said:?}, and should say one version, as the ETag does: \"3\""
        ))
    })?;
    Ok(Some(version))
}

/// The object in a request's body.
pub(super) fn object(body: &Bytes) -> Result<Map<String, Value>, Problem> {
    let read: Result<Value, _> = serde_json::from_slice(body);
    match read {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the body should be a JSON object",
        )),
        Err(error) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not JSON: {error}"),
        )),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Exists(_) | Refusal::Over(_) => StatusCode::CONFLICT,
            Refusal::Version { .. } => StatusCode::PRECONDITION_FAILED,
            Refusal::KeyReused | Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::NotYet(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<NotChanged> for Problem {
    fn from(error: NotChanged) -> Self {
        match error {
            NotChanged::Refused(refusal) => refusal.into(),
            NotChanged::Full(what) => Self::new(StatusCode::INSUFFICIENT_STORAGE, what),
            NotChanged::Busy => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "commands are in hand, and the journal cannot note that; try again later",
            ),
            NotChanged::Stopped => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store has stopped; whether it was changed is not known",
            ),
        }
    }
}
