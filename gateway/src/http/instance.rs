//! Which gateway this is, for those who have to know before they say anything.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem};

/// What the asker made up.
#[derive(Debug, Deserialize)]
pub(super) struct Challenge {
    challenge: String,
}

/// Proves that this is the gateway that wrote `gateway.key`.
pub(super) async fn instance(
    State(context): State<Context>,
    Query(Challenge { challenge }): Query<Challenge>,
) -> Result<Json<Value>, Problem> {
    let instance = context.observer.instance();
    let proof = context
        .key
        .proof(&challenge, instance)
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "a challenge has 1 to 64 bytes"))?;
    Ok(Json(json!({
        "instance": **instance,
        "proof": proof.to_hex().as_str(),
    })))
}
