//! The document of the API (OpenAPI 3.1), made from the handlers.
//!
//! What all operations have in common is added here: whom they are for, a name, and how
//! errors look.

use std::sync::OnceLock;

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::MethodFilter,
};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        HttpMethod,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    error::Problem,
    operations::{For, Operations},
    routes,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Penstock",
        description = "An edge telemetry gateway. Errors are problem details (RFC 9457). \
            Lists come in pages: what `next` says is `after` of the next one, and null at the end.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&TokenScheme),
    tags(
        (name = "gateway", description = "The gateway as a whole"),
        (name = "devices", description = "Devices, and what they send"),
        (name = "commands", description = "What devices are told to do"),
        (name = "shadows", description = "What devices should be, and say that they are"),
        (name = "events", description = "Events as they come, and made again"),
        (name = "quarantine", description = "Messages that could not be decoded"),
        (name = "dead-letters", description = "Events that a destination will not take"),
        (name = "destinations", description = "Where events go, and how that is run"),
        (name = "alarms", description = "Alarms that rules raise"),
        (name = "rules", description = "Rules, and what they could not do"),
        (name = "read", description = "Questions to the read side"),
        (name = "broker", description = "MQTT clients, retained messages and subscriptions"),
        (name = "page", description = "The status page"),
    )
)]
struct Base;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let description = "A token of [http], as a bearer token or as the password of any user. \
            Its role is viewer, operator or admin; each may do what those before may.";
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(description));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// The method of a handler, as the router knows it.
pub(super) fn filter(methods: &[HttpMethod]) -> MethodFilter {
    let filter = |method: &HttpMethod| match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    };
    let filters = methods.iter().map(filter);
    filters
        .reduce(MethodFilter::or)
        .unwrap_or(MethodFilter::GET)
}

/// The document, with what all operations have in common.
pub(super) fn complete(described: utoipa::openapi::OpenApi, operations: &Operations) -> String {
    let mut openapi = Base::openapi();
    openapi.merge(described);
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    let mut paths = serde_json::Map::new();
    let found = document["paths"].as_object_mut().map(std::mem::take);
    for (path, mut item) in found.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let whom_for = operations.find(&path, &method.to_uppercase());
            operation["security"] = json!([match whom_for {
                Some(For::Everybody) => json!({}),
                Some(For::Role(role)) => json!({ "token": [role.word()] }),
                None => continue,
            }]);
            complete_one(operation);
        }
        // The router's way to say that the rest of a path may have slashes.
        paths.insert(path.replace("{*", "{"), item);
    }
    document["paths"] = paths.into();
    // As the registry of formats has them.
    format!("{document:#}\n").replace("\"format\": \"u-int", "\"format\": \"uint")
}

/// Adds what all operations have in common.
fn complete_one(operation: &mut Value) {
    if let (Some(tag), Some(name)) = (
        operation["tags"][0].as_str(),
        operation["operationId"].as_str(),
    ) {
        operation["operationId"] = format!("{}_{name}", tag.replace('-', "_")).into();
    }
    let mut problem = |status: &str, description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        operation["responses"][status] = json!({
            "description": description,
            "content": { "application/problem+json": { "schema": schema } },
        });
    };
    problem("default", "What went wrong");
    let described = operation["responses"].as_object_mut();
    for (status, response) in described.into_iter().flatten() {
        // Handlers name the type of a problem, not its media type.
        let content = &mut response["content"];
        let is_problem = content["application/json"]["schema"]["$ref"]
            .as_str()
            .is_some_and(|name| name.ends_with("/Problem"));
        if is_problem && status != "200" {
            *content = json!({ "application/problem+json": content["application/json"] });
        } else if content.is_null() {
            response.as_object_mut().map(|one| one.remove("content"));
        }
    }
}

/// The document of the API.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "gateway",
    responses((status = 200, description = "OpenAPI 3.1", body = Value))
)]
pub(super) async fn openapi() -> Result<impl IntoResponse, Problem> {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = spawn_blocking(|| TEXT.get_or_init(routes::described).as_str());
    let text = text.await.map_err(|error| {
        tracing::error!(%error, "the document of the API could not be made");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it could not be made")
    })?;
    Ok(([(CONTENT_TYPE, "application/json")], text))
}
