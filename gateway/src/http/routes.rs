//! Every operation of the API, with its path, method and role as its handler declares them.

use axum::Router;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Context, alarms, broker, commands, dead_letters, dedup, destinations, devices,
    document::{self, Base, Document},
    health, instance, page, quarantine, read, registry, replay, rulebook, rules, shadows, status,
    stream,
};

/// The router, and the document that says the same. What is added here needs
/// `#[utoipa::path]` at its handler, with `security` for the least role that may ask.
pub(super) fn routes() -> (Router<Context>, Document) {
    let router = OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(page::html))
        .routes(routes!(page::script))
        .routes(routes!(page::style))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(instance::instance))
        .routes(routes!(document::openapi))
        .routes(routes!(status::metrics))
        .routes(routes!(status::status))
        .routes(routes!(registry::list, registry::create))
        .routes(routes!(
            registry::show,
            registry::replace,
            registry::change,
            registry::remove
        ))
        .routes(routes!(commands::list, commands::place))
        .routes(routes!(commands::show, commands::cancel))
        .routes(routes!(shadows::show, shadows::change))
        .routes(routes!(devices::waiting))
        .routes(routes!(devices::clocks))
        .routes(routes!(dedup::report))
        .routes(routes!(quarantine::list))
        .routes(routes!(quarantine::show, quarantine::discard))
        .routes(routes!(quarantine::retry))
        .routes(routes!(replay::page))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show, dead_letters::discard))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(alarms::list))
        .routes(routes!(alarms::show))
        .routes(routes!(alarms::acknowledge))
        .routes(routes!(alarms::clear))
        .routes(routes!(rulebook::list))
        .routes(routes!(rulebook::show, rulebook::put, rulebook::delete))
        .routes(routes!(rulebook::versions))
        .routes(routes!(rules::failed))
        .routes(routes!(rules::failure, rules::discard))
        .routes(routes!(rules::retry))
        .routes(routes!(destinations::list))
        .routes(routes!(destinations::show, destinations::remove))
        .routes(routes!(destinations::pause))
        .routes(routes!(destinations::resume))
        .routes(routes!(destinations::drain))
        .routes(routes!(read::status))
        .routes(routes!(read::rebuild))
        .routes(routes!(read::last))
        .routes(routes!(read::history))
        .routes(routes!(read::search))
        .routes(routes!(read::whereabouts))
        .routes(routes!(stream::events))
        .routes(routes!(broker::clients))
        .routes(routes!(broker::client, broker::kick))
        .routes(routes!(broker::retained))
        .routes(routes!(broker::clear))
        .routes(routes!(broker::subscriptions));
    let (router, openapi) = router.split_for_parts();
    (router, Document::new(&openapi))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(&routes().1.text).unwrap()
    }

    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        let mut all = Vec::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                all.push((format!("{method} {path}"), operation));
            }
        }
        all
    }

    #[test]
    fn the_document_in_docs_is_the_one_that_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let written = fs::read_to_string(path).unwrap();
        assert!(
            written == *routes().1.text,
            "docs/openapi.json is not what the handlers say; \
             write it anew with: cargo run -- openapi > docs/openapi.json"
        );
    }

    #[test]
    fn every_operation_says_whom_it_is_for_and_what_it_does_in_a_name_of_its_own() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let tags = document["tags"].as_array().unwrap();
        let tags: BTreeSet<&str> = tags.iter().filter_map(|tag| tag["name"].as_str()).collect();
        let mut names = BTreeSet::new();
        for (which, operation) in operations(&document) {
            let security = &operation["security"][0];
            let is_public = security.as_object().is_some_and(|one| one.is_empty());
            let role = security["token"][0].as_str().unwrap_or_default();
            assert!(
                is_public || ["viewer", "operator", "admin"].contains(&role),
                "{which}"
            );
            assert!(operation["summary"].as_str().is_some(), "{which}");
            let tag = operation["tags"][0].as_str().unwrap();
            assert!(tags.contains(tag), "{which}: {tag}");
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{which}: {name} is there already");
            if !which.starts_with("get ") {
                assert!(!is_public && role != "viewer", "{which} changes something");
            }
        }
    }

    #[test]
    fn what_is_gone_then_or_reaches_devices_is_an_admins() {
        let document = document();
        let admins: BTreeSet<String> = operations(&document)
            .into_iter()
            .filter(|(_, one)| one["security"][0]["token"][0] == "admin")
            .map(|(which, _)| which)
            .collect();
        let expected = [
            "delete /api/v1/broker/retained/{topic}",
            "delete /api/v1/dead-letters/{id}",
            "delete /api/v1/destinations/{name}",
            "delete /api/v1/devices/{id}",
            "delete /api/v1/quarantine/{id}",
            "delete /api/v1/rule-failures/{id}",
            "delete /api/v1/rules/{name}",
            "post /api/v1/read/rebuild",
            "put /api/v1/rules/{name}",
        ];
        assert_eq!(admins, expected.map(str::to_owned).into());
    }

    #[test]
    fn nothing_but_health_and_identity_is_for_everybody() {
        let document = document();
        let public: Vec<String> = operations(&document)
            .into_iter()
            .filter(|(_, one)| one["security"][0].as_object().unwrap().is_empty())
            .map(|(which, _)| which)
            .collect();
        assert_eq!(
            public,
            ["get /api/v1/instance", "get /healthz", "get /readyz"]
        );
    }
}
