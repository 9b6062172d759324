//! What devices should be, and say that they are.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    Context,
    access::Caller,
    error::Problem,
    quarantine::read,
    registry::{asked, if_match, object},
};
use crate::fleet::{self, NotChanged, Refusal, Shadow, ShadowShown};

/// The shadow of a device.
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/shadow",
    tag = "shadows",
    params(("id" = String, Path, description = "The device")),
    responses(
        (status = 200, description = "What is desired and what is reported; the version of what is desired is the ETag", body = ShadowShown),
        (status = 404, description = "There is no such device", body = Problem),
    )
)]
pub(super) async fn show(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let name = id.clone();
    let found = read(&context.store, move |listing| {
        let tables = listing.tables();
        Ok(match fleet::device(tables, &name)? {
            Some(device) => Some(fleet::shadow_of(tables, &device)?),
            None => None,
        })
    });
    let shadow = found.await?.ok_or_else(|| Refusal::no_device(&id))?;
    Ok(answer(&shadow))
}

/// Changes what a device should be.
///
/// With If-Match it answers 412, with a version in the body 409, where what is desired has
/// another one.
#[utoipa::path(
    patch,
    path = "/api/v1/devices/{id}/shadow",
    tag = "shadows",
    params(
        ("id" = String, Path, description = "The device"),
        ("If-Match" = Option<String>, Header, description = "Only if what is desired has this version"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request the same one"),
    ),
    request_body(content = Value, description = "desired, a merge patch (RFC 7396); and version, if it has to be that one"),
    responses(
        (status = 200, description = "The shadow as it is now", body = ShadowShown),
        (status = 404, description = "There is no such device", body = Problem),
        (status = 409, description = "It has another version than the body says", body = Problem),
        (status = 412, description = "It has another version than If-Match says", body = Problem),
    )
)]
pub(super) async fn change(
    State(context): State<Context>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut members = object(&body)?;
    let Some(Value::Object(patch)) = members.remove("desired") else {
        return Err(Refusal::Invalid(
            "say in \"desired\" what is to be changed: an object, in which null takes away"
                .to_owned(),
        )
        .into());
    };
    let said =
        match members.remove("version") {
            None | Some(Value::Null) => None,
            Some(version) => Some(version.as_u64().ok_or_else(|| {
                Refusal::Invalid("version is a whole number from 0 on".to_owned())
            })?),
        };
    if let Some(unknown) = members.keys().next() {
        return Err(Refusal::Invalid(format!(
            "{unknown:?} cannot be changed here; what can is desired"
        ))
        .into());
    }
    let matched = if_match(&headers)?;
    let asked = asked(&caller, &headers)?;
    let version = matched.or(said);
    match context.fleet.desire(&id, patch, version, asked).await {
        Ok(changed) => Ok(answer(&changed.value)),
        Err(NotChanged::Refused(refusal @ Refusal::Version { .. })) if matched.is_none() => {
            Err(Problem::new(StatusCode::CONFLICT, refusal.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn answer(shadow: &Shadow) -> Response {
    let mut response = Json(shadow.show()).into_response();
    let tag = format!("\"{}\"", shadow.version);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
