//! Which gateway this is, for those who have to know before they say anything.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, error::Problem};

/// What the asker made up.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Challenge {
    /// 1 to 64 bytes.
    #[param(min_length = 1, max_length = 64)]
    challenge: String,
}

/// Which gateway this is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Instance {
    /// Its name for this start.
    instance: String,
    /// That it has the key of its data directory.
    proof: String,
}

/// Which gateway this is, with a proof that it wrote `gateway.key`.
#[utoipa::path(
    get,
    path = "/api/v1/instance",
    tag = "gateway",
    params(Challenge),
    responses(
        (status = 200, description = "Its name for this start, and the proof", body = Instance),
    )
)]
pub(super) async fn instance(
    State(context): State<Context>,
    Query(Challenge { challenge }): Query<Challenge>,
) -> Result<Json<Instance>, Problem> {
    let instance = context.observer.instance();
    let proof = context
        .key
        .proof(&challenge, instance)
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "a challenge has 1 to 64 bytes"))?;
    Ok(Json(Instance {
        instance: instance.to_string(),
        proof: proof.to_hex().as_str().to_owned(),
    }))
}
