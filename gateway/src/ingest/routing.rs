//! Where events go: destinations that are open, and the rules between them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    event::Event,
    record::{DestinationId, Routes},
    rules::RuleSet,
};

/// Where events go. It is exchanged as a whole, so that no batch goes by half of a change.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// Every destination.
    pub routes: Routes,
    /// Those of them that are given nothing more.
    pub draining: Routes,
    /// Those of them that get messages as they came.
    pub originals: Routes,
    /// Those of them that do not get what comes from an origin.
    pub not_back: HashMap<Arc<str>, Routes>,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
}

impl Routing {
    /// Where events from an origin may go; from none, those of devices.
    pub(super) fn of(&self, origin: Option<&Arc<str>>) -> Routes {
        let same = origin.and_then(|origin| self.not_back.get(origin));
        let all = same.map_or(self.routes, |same| self.routes.without(*same));
        let open = all.without(self.draining);
        // Nobody is left to give it to, and that is not how it was meant for ever: it is
        // held, as what the rules send nowhere.
        match open == Routes::NONE && all != Routes::NONE {
            true => Routes::NOWHERE,
            false => open,
        }
    }

    /// See [`Ingest::would_send`](super::Ingest::would_send).
    pub(super) fn would_send(&self, event: &Event, destination: DestinationId) -> bool {
        let only = Routes::NONE.with(destination);
        if self.rules.is_empty() {
            return true;
        }
        let mut scratch = self.rules.scratch();
        scratch.begin_message();
        let routed = self.rules.route(event, only, &mut scratch);
        self.rules.give_back(scratch);
        routed.map_or(true, |routed| routed.routes.contains(destination))
    }
}
