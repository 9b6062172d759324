//! Rules in force, and those that are put here.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{Context, access::Caller, answers, error::Problem};
use crate::{
    admin,
    rulebook::{self, Rulebook, Shown, Version},
};

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleLine)]
pub(super) struct Line {
    /// Its name.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// `api`, or `file` where it is of the configuration.
    #[schema(value_type = String)]
    source: &'static str,
    /// Its version, where it was put over the API.
    version: Option<u64>,
    /// When that was put.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Value>,
    /// Who put it.
    by: Option<String>,
    /// Where it sends what it takes.
    #[schema(value_type = Vec<String>)]
    destinations: Vec<Arc<str>>,
    /// Whether it is in force, in its hours where it has some.
    in_force: bool,
    /// Why it is not, or not all of it.
    #[schema(value_type = Option<String>)]
    problem: Option<Arc<str>>,
}

/// A rule, with its text where it was put over the API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rule)]
pub(super) struct Whole {
    #[serde(flatten)]
    line: Line,
    /// As it was put.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Value>,
}

/// What is in force now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RulePut)]
pub(super) struct Put {
    /// The version.
    version: u64,
    /// When it was put.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Value,
}

/// What is out of force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleDeleted)]
pub(super) struct Deleted {
    /// How many.
    deleted: u64,
}

/// A version of a rule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleVersion)]
pub(super) struct OfVersion {
    /// Its number.
    version: u64,
    /// When it was put.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Value,
    /// Who put it.
    by: String,
    /// As it was put; null where the rule was taken away.
    rule: Value,
}

/// Every rule.
#[utoipa::path(
    get,
    path = "/api/v1/rules",
    tag = "rules",
    responses(
        (status = 200, description = "Rules, by name", body = answers::All<Line>),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
) -> Result<Json<answers::All<Line>>, Problem> {
    let shown = with(&context, |book| Ok(book.list())).await?;
    let items = shown.iter().map(line).collect();
    Ok(Json(answers::All { items }))
}

/// A rule, with its text where it was put over the API.
#[utoipa::path(
    get,
    path = "/api/v1/rules/{name}",
    tag = "rules",
    params(("name" = String, Path, description = "The name of the rule")),
    responses(
        (status = 200, description = "The rule", body = Whole),
        (status = 404, description = "There is no such rule", body = Problem),
    )
)]
pub(super) async fn show(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let (shown, version) = with(&context, move |book| {
        let mut shown = book.list().into_iter();
        let found = shown.find(|one| *one.name == *name);
        let found = found.ok_or(rulebook::Error::Missing)?;
        let version = found.version.as_ref().and_then(|_| book.text(&name));
        Ok((found, version))
    })
    .await?;
    let whole = Whole {
        line: line(&shown),
        rule: version.as_ref().map(rule),
    };
    Ok((tag(version.as_ref())?, Json(whole)).into_response())
}

/// Puts a rule in force.
#[utoipa::path(
    put,
    path = "/api/v1/rules/{name}",
    tag = "rules",
    params(("name" = String, Path, description = "The name of the rule"), ("if-match" = Option<String>, Header, description = "The version that is to be changed, such as `\"3\"`")),
    request_body(content = Value, description = "The rule", content_type = "application/json"),
    responses(
        (status = 200, description = "The version that is in force now", body = Put),
        (status = 400, description = "Every mistake in it", body = Problem),
        (status = 409, description = "It is in the configuration", body = Problem),
        (status = 412, description = "If-Match says another version", body = Problem),
    )
)]
pub(super) async fn put(
    State(context): State<Context>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    text: String,
) -> Result<Response, Problem> {
    is_known(&caller)?;
    let over = over(&headers)?;
    let now = context.ingest.now();
    let version = with(&context, move |book| {
        book.put(&name, &text, over, caller.name(), now)
    })
    .await?;
    let answer = Put {
        version: version.number,
        at: admin::known(version.at),
    };
    Ok((tag(Some(&version))?, Json(answer)).into_response())
}

/// Takes a rule out of force.
#[utoipa::path(
    delete,
    path = "/api/v1/rules/{name}",
    tag = "rules",
    params(("name" = String, Path, description = "The name of the rule"), ("if-match" = Option<String>, Header, description = "The version that is to be changed, such as `\"3\"`")),
    responses(
        (status = 200, description = "It is out of force; its versions stay", body = Deleted),
        (status = 404, description = "There is no such rule", body = Problem),
        (status = 409, description = "It is in the configuration", body = Problem),
        (status = 412, description = "If-Match says another version", body = Problem),
    )
)]
pub(super) async fn delete(
    State(context): State<Context>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Deleted>, Problem> {
    is_known(&caller)?;
    let over = over(&headers)?;
    let now = context.ingest.now();
    with(&context, move |book| {
        book.delete(&name, over, caller.name(), now)
    })
    .await?;
    Ok(Json(Deleted { deleted: 1 }))
}

/// The versions of a rule.
#[utoipa::path(
    get,
    path = "/api/v1/rules/{name}/versions",
    tag = "rules",
    params(("name" = String, Path, description = "The name of the rule")),
    responses(
        (status = 200, description = "Versions, the latest first", body = answers::All<OfVersion>),
        (status = 404, description = "There is no such rule", body = Problem),
    )
)]
pub(super) async fn versions(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<answers::All<OfVersion>>, Problem> {
    let versions = with(&context, move |book| book.versions(&name)).await?;
    if versions.is_empty() {
        return Err(rulebook::Error::Missing.into());
    }
    let line = |version: &Version| OfVersion {
        version: version.number,
        at: admin::known(version.at),
        by: version.actor.clone(),
        rule: rule(version),
    };
    let items = versions.iter().map(line).collect();
    Ok(Json(answers::All { items }))
}

/// A rule publishes to devices in the gateway's own voice, and decides what leaves. So who
/// changes one has said who they are, also on this machine.
fn is_known(caller: &Caller) -> Result<(), Problem> {
    if caller.name() == Caller::ANYONE {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "rules are changed only where [http] has tokens, and with one of them",
        ));
    }
    Ok(())
}

/// Where the rule is read and matched is no place to wait in.
async fn with<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&Rulebook) -> Result<T, rulebook::Error> + Send + 'static,
) -> Result<T, Problem> {
    let book = context.rulebook.clone();
    let done = spawn_blocking(move || work(&book)).await;
    done.map_err(|error| {
        tracing::error!(%error, "a request about rules failed");
        let what = "the request failed";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what)
    })?
    .map_err(Problem::from)
}

fn line(shown: &Shown) -> Line {
    let version = shown.version.as_ref();
    Line {
        name: shown.name.clone(),
        source: if version.is_some() { "api" } else { "file" },
        version: version.map(|version| version.number),
        at: version.map(|version| admin::known(version.at)),
        by: version.map(|version| version.actor.clone()),
        destinations: shown.destinations.clone(),
        in_force: shown.in_force,
        problem: shown.problem.clone(),
    }
}

fn rule(version: &Version) -> Value {
    let text = version.text.as_deref();
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The version that is to be changed, where somebody says one.
fn over(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let number = |value: &HeaderValue| {
        let text = value.to_str().ok()?;
        text.trim().trim_matches('"').parse().ok()
    };
    if headers.contains_key(header::IF_NONE_MATCH) {
        return Ok(Some(0));
    }
    let Some(said) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let what = "If-Match has the version that is to be changed, such as \"3\"";
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, what);
    number(said).map(Some).ok_or_else(wrong)
}

fn tag(version: Option<&Version>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(version) = version {
        let tag = HeaderValue::try_from(format!("\"{}\"", version.number));
        let tag = tag.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no tag"))?;
        headers.insert(header::ETAG, tag);
    }
    Ok(headers)
}

impl From<rulebook::Error> for Problem {
    fn from(error: rulebook::Error) -> Self {
        use rulebook::Error::{Changed, Io, Missing, OfFile, Sqlite, Wrong};
        let status = match &error {
            Wrong(_) => StatusCode::BAD_REQUEST,
            OfFile => StatusCode::CONFLICT,
            Changed(_) => StatusCode::PRECONDITION_FAILED,
            Missing => StatusCode::NOT_FOUND,
            Sqlite(_) | Io(_) => {
                tracing::error!(%error, "rulebook.db could not answer a request");
                let what = "rulebook.db could not answer";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, what);
            }
        };
        Self::new(status, error.to_string())
    }
}
