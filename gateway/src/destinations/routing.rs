//! From the configuration to where events go.

use std::sync::Arc;

use crate::{
    forward::{self, Way},
    ingest::{Lane, Lanes, Routing, Takes},
    record::{Routes, is_own},
    rules::{Rule, RuleSet},
    store::{self, Mode},
};

/// Where events go with these destinations and rules, as they are run now.
///
/// # Errors
/// When a rule names a destination that the journal does not know.
pub(crate) fn routing(
    store: &store::Handle,
    destinations: &[forward::Config],
    rules: &[Rule],
    #[cfg(feature = "mqtt")] remotes: &[crate::remote::Config],
) -> anyhow::Result<Routing> {
    let rules =
        RuleSet::new(rules, |name| store.destination_id(name)).map_err(|name| {
            match is_own(&name) {
                true => anyhow::anyhow!(
                    "rules do more than send, and the journal has no number left for that: \
                 remove a destination that is no longer used, or take these rules out"
                ),
                false => anyhow::anyhow!("the journal does not know the destination {name}"),
            }
        })?;
    Ok(Routing {
        routes: routes(destinations, store),
        draining: draining(store),
        originals: originals(destinations, store),
        #[cfg(feature = "mqtt")]
        not_back: crate::remote::not_back(remotes, destinations, store),
        #[cfg(not(feature = "mqtt"))]
        not_back: std::collections::HashMap::default(),
        lanes: lanes(destinations, store),
        // Until somebody has looked who is behind.
        live: Routes::NONE,
        rules: Arc::new(rules),
    })
}

/// Those that are given nothing more.
pub(crate) fn draining(store: &store::Handle) -> Routes {
    let status = store.status();
    let draining = status
        .destinations
        .iter()
        .filter(|d| d.mode == Mode::Draining);
    draining.map(|d| d.id).fold(Routes::NONE, Routes::with)
}

/// Every configured destination: where events go until rules say otherwise.
fn routes(destinations: &[forward::Config], store: &store::Handle) -> Routes {
    let ids = destinations
        .iter()
        .filter(|d| d.lane_of.is_none())
        .filter_map(|d| store.destination_id(&d.name));
    ids.fold(Routes::NONE, Routes::with)
}

/// What goes by a lane instead. What is urgent is asked first.
fn lanes(destinations: &[forward::Config], store: &store::Handle) -> Lanes {
    let takes = |config: &forward::Config| match config.way() {
        Way::Rest => None,
        Way::Urgent => Some(Takes::Classes(config.urgent)),
        Way::Live => Some(Takes::Live),
    };
    let lanes = destinations.iter().filter_map(|d| {
        Some(Lane {
            of: store.destination_id(d.lane_of.as_ref()?)?,
            lane: store.destination_id(&d.name)?,
            takes: takes(d)?,
        })
    });
    let mut lanes: Vec<_> = lanes.collect();
    lanes.sort_by_key(|lane| matches!(lane.takes, Takes::Live));
    Lanes(lanes)
}

/// Those of them that get messages as they came.
fn originals(destinations: &[forward::Config], store: &store::Handle) -> Routes {
    let ids = destinations
        .iter()
        .filter(|d| d.sends_originals())
        .filter_map(|d| store.destination_id(&d.name));
    ids.fold(Routes::NONE, Routes::with)
}
