//! The document of the API (OpenAPI 3.1), made from the handlers.
//!
//! What all operations have in common is added here: a name, and how errors look. The
//! document is also what the [guard](super::guard) reads: an operation that it does not
//! have is not there, and one that does not say whom it is for is for admins.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Extension, http::Method, http::header::CONTENT_TYPE, response::IntoResponse};
use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{access::Role, error::Problem};

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
pub(super) struct Base;

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

/// The document, and what it says of access.
#[derive(Debug)]
pub(super) struct Document {
    /// As it is served.
    pub(super) text: Arc<str>,
    pub(super) operations: Operations,
}

/// Whom an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Everybody,
    Role(Role),
}

/// Whom the operations are for, by the path as the router has it and the method.
#[derive(Debug, Default)]
pub(super) struct Operations(HashMap<String, BTreeMap<String, For>>);

impl Operations {
    /// Whom one is for; `None` where there is none. HEAD is GET.
    pub(super) fn find(&self, path: &str, method: &Method) -> Option<For> {
        let method = match method {
            &Method::HEAD => Method::GET.as_str(),
            method => method.as_str(),
        };
        self.0.get(path)?.get(method).copied()
    }

    /// Whether everybody may ask for something there.
    pub(super) fn is_open(&self, path: &str) -> bool {
        let found = self.0.get(path);
        found.is_some_and(|methods| methods.values().any(|one| *one == For::Everybody))
    }

    /// The methods that a path has, for the header `Allow`.
    pub(super) fn methods(&self, path: &str) -> String {
        let methods = self.0.get(path).into_iter().flat_map(BTreeMap::keys);
        let mut methods: Vec<&str> = methods.map(String::as_str).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.join(", ")
    }
}

impl Document {
    pub(super) fn new(openapi: &utoipa::openapi::OpenApi) -> Self {
        let mut document = serde_json::to_value(openapi).unwrap_or_default();
        let mut operations = Operations::default();
        let mut paths = serde_json::Map::new();
        let found = document["paths"].as_object_mut().map(std::mem::take);
        for (path, mut item) in found.into_iter().flatten() {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                let methods = operations.0.entry(path.clone()).or_default();
                methods.insert(method.to_uppercase(), whom_for(operation));
                complete(operation);
            }
            // The router's way to say that the rest of a path may have slashes.
            paths.insert(path.replace("{*", "{"), item);
        }
        document["paths"] = paths.into();
        // As the registry of formats has them.
        let text = format!("{document:#}\n").replace("\"format\": \"u-int", "\"format\": \"uint");
        Self {
            text: text.into(),
            operations,
        }
    }
}

/// What the operation's `security` says.
fn whom_for(operation: &Value) -> For {
    let one = &operation["security"][0];
    if one.as_object().is_some_and(serde_json::Map::is_empty) {
        return For::Everybody;
    }
    let word = one["token"][0].as_str();
    let found = Role::WORDS.iter().find(|(name, _)| Some(*name) == word);
    For::Role(found.map_or(Role::Admin, |(_, role)| *role))
}

/// Adds what all operations have in common.
fn complete(operation: &mut Value) {
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
    security(("token" = ["viewer"])),
    responses((status = 200, description = "OpenAPI 3.1", body = Value))
)]
pub(super) async fn openapi(Extension(text): Extension<Arc<str>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], text.to_string())
}
