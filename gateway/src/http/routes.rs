//! Every operation of the API, and whom it is for.

use axum::{Router, routing::on};
use utoipa::{OpenApi as _, Path as _};

use super::{
    Context,
    access::Role,
    alarms, backtest, broker, commands, dead_letters, dedup, destinations, devices, document,
    health, instance,
    operations::{For, Operations},
    page, quarantine, read, registry, replay, replays, rulebook, rules, shadows, status, stream,
};

/// Makes the router and the document of the same lines: the least role that may ask, and the
/// handler, whose `#[utoipa::path]` has the path and the method.
macro_rules! operations {
    ($($whom:ident $module:ident :: $handler:ident;)*) => {
        /// The router, and whom its operations are for.
        pub(super) fn routes() -> (Router<Context>, Operations) {
            let mut operations = Operations::default();
            let router = Router::new();
            $(
                let path = pastey::paste!($module::[<__path_ $handler>]::path());
                let methods = pastey::paste!($module::[<__path_ $handler>]::methods());
                operations.add(&path, &methods, whom!($whom));
                let router = router.route(&path, on(document::filter(&methods), $module::$handler));
            )*
            (router, operations)
        }

        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($module::$handler),*))]
        struct Described;
    };
}

macro_rules! whom {
    (Everybody) => {
        For::Everybody
    };
    ($role:ident) => {
        For::Role(Role::$role)
    };
}

operations! {
    Viewer page::html;
    Viewer page::script;
    Viewer page::style;
    Everybody health::healthz;
    Everybody health::readyz;
    Everybody instance::instance;
    Viewer document::openapi;
    Viewer status::metrics;
    Viewer status::status;
    Viewer registry::list;
    Operator registry::create;
    Viewer registry::show;
    Operator registry::replace;
    Operator registry::change;
    Admin registry::remove;
    Viewer commands::list;
    Operator commands::place;
    Viewer commands::show;
    Operator commands::cancel;
    Viewer shadows::show;
    Operator shadows::change;
    Viewer devices::waiting;
    Viewer devices::clocks;
    Viewer dedup::report;
    Viewer quarantine::list;
    Viewer quarantine::show;
    Admin quarantine::discard;
    Operator quarantine::retry;
    Operator replay::page;
    Viewer replays::list;
    Operator replays::begin;
    Operator replays::next;
    Viewer dead_letters::list;
    Viewer dead_letters::show;
    Admin dead_letters::discard;
    Operator dead_letters::redrive;
    Viewer alarms::list;
    Viewer alarms::show;
    Operator alarms::acknowledge;
    Operator alarms::clear;
    Viewer rulebook::list;
    Viewer rulebook::show;
    Admin rulebook::put;
    Admin rulebook::delete;
    Viewer rulebook::versions;
    Operator backtest::page;
    Viewer rules::failed;
    Viewer rules::failure;
    Admin rules::discard;
    Operator rules::retry;
    Viewer destinations::list;
    Viewer destinations::show;
    Admin destinations::remove;
    Operator destinations::pause;
    Operator destinations::resume;
    Operator destinations::drain;
    Viewer read::status;
    Admin read::rebuild;
    Viewer read::last;
    Viewer read::ledger;
    Viewer read::history;
    Viewer read::search;
    Viewer read::whereabouts;
    Viewer stream::events;
    Viewer broker::clients;
    Viewer broker::client;
    Operator broker::kick;
    Viewer broker::retained;
    Admin broker::clear;
    Viewer broker::subscriptions;
}

/// The document of the API, in JSON. It takes megabytes to make: only who asks for it pays.
pub(super) fn described() -> String {
    document::complete(Described::openapi(), &routes().1)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(&described()).unwrap()
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
            written == described(),
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
    fn what_is_gone_then_or_decides_what_leaves_is_an_admins() {
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
