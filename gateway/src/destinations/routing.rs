//! From the configuration to where events go.

use std::sync::Arc;

use crate::{
    forward,
    ingest::{Lane, Lanes, Routing},
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

/// What goes by a lane instead.
fn lanes(destinations: &[forward::Config], store: &store::Handle) -> Lanes {
    let lanes = destinations.iter().filter_map(|d| {
        Some(Lane {
            of: store.destination_id(d.lane_of.as_ref()?)?,
            lane: store.destination_id(&d.name)?,
            classes: d.urgent,
        })
    });
    Lanes(lanes.collect())
}

/// Those of them that get messages as they came.
fn originals(destinations: &[forward::Config], store: &store::Handle) -> Routes {
    let ids = destinations
        .iter()
        .filter(|d| d.sends_originals())
        .filter_map(|d| store.destination_id(&d.name));
    ids.fold(Routes::NONE, Routes::with)
}
