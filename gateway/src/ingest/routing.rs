//! Where events go: destinations that are open, and the rules between them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    class::{Class, Classes},
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
    /// What of them goes by a lane.
    pub lanes: Lanes,
    /// Those of the lanes of what is live that are open at the moment.
    pub live: Routes,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
}

/// The lanes of destinations; those for classes come first.
#[derive(Debug, Clone, Default)]
pub struct Lanes(pub Vec<Lane>);

/// A destination at the same place as another. Each event goes by one of both, so its device
/// keeps its order in each.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// The other.
    pub of: DestinationId,
    /// This one.
    pub lane: DestinationId,
    /// What goes by it.
    pub takes: Takes,
}

/// What goes by a lane.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// Classes that do not wait.
    Classes(Classes),
    /// All that comes while the lane is [open](Routing::live).
    Live,
}

/// Whether an event comes now, or did so before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comes {
    /// It is new.
    Now,
    /// It was corrected, or was in quarantine: it belongs behind the others of its time.
    Again,
}

impl Lane {
    const fn masks(self) -> (Routes, Routes) {
        (Routes::NONE.with(self.of), Routes::NONE.with(self.lane))
    }
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

    /// Where an event of a class goes of what rules say. Where a lane is given nothing more,
    /// it goes with the rest.
    pub(super) fn by_lanes(&self, routes: Routes, class: Class, comes: Comes) -> Routes {
        let mut by_lanes = routes;
        for lane in &self.lanes.0 {
            let (of, own) = lane.masks();
            let takes = match lane.takes {
                Takes::Classes(classes) => classes.contains(class),
                Takes::Live => comes == Comes::Now && self.live.contains(lane.lane),
            };
            if takes && by_lanes.contains(lane.of) && !self.draining.contains(lane.lane) {
                by_lanes = by_lanes.without(of).union(own);
            }
        }
        by_lanes
    }

    /// All lanes.
    pub(super) fn all_lanes(&self) -> Routes {
        let lanes = self.lanes.0.iter().map(|lane| lane.lane);
        lanes.fold(Routes::NONE, Routes::with)
    }

    /// Those of `routes` that are not the same place as one of `others`.
    pub(super) fn elsewhere(&self, routes: Routes, others: Routes) -> Routes {
        let lanes = || self.lanes.0.iter();
        let is_there = |lane: &&Lane| others.contains(lane.of) || others.contains(lane.lane);
        let places = lanes().filter(is_there).map(|lane| lane.of);
        let places = places.fold(Routes::NONE, Routes::with);
        let same = lanes().filter(|lane| places.contains(lane.of));
        let same = same.map(|lane| lane.lane).fold(places, Routes::with);
        routes.without(same)
    }

    /// Who of those that missed something is told of it: by the rest, what a lane has missed
    /// that is given nothing more; nobody who is not there any more, for what is routed to
    /// such a one waits until it is back.
    pub(super) fn to_tell(&self, missed: Routes) -> Routes {
        let (mut told, mut there) = (missed, self.routes);
        for lane in &self.lanes.0 {
            let (of, own) = lane.masks();
            there = there.union(own);
            if missed.contains(lane.lane) && self.draining.contains(lane.lane) {
                told = told.without(own).union(of);
            }
        }
        // Who gets messages as they came gets none: nothing came.
        let never = self.originals.union(self.draining);
        self.once(told.intersection(there).without(never))
    }

    /// The same without a lane where the place has it by another way already.
    fn once(&self, mut routes: Routes) -> Routes {
        let mut places = routes;
        for lane in &self.lanes.0 {
            let (of, own) = lane.masks();
            if routes.contains(lane.lane) {
                if places.contains(lane.of) {
                    routes = routes.without(own);
                }
                places = places.union(of);
            }
        }
        routes
    }

    /// The destination at the same place that rules speak of.
    pub(super) fn named(&self, destination: DestinationId) -> DestinationId {
        let mut lanes = self.lanes.0.iter();
        let found = lanes.find(|lane| lane.lane == destination);
        found.map_or(destination, |lane| lane.of)
    }

    /// See [`Ingest::would_send`](super::Ingest::would_send).
    pub(super) fn would_send(&self, event: &Event, destination: DestinationId) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let only = Routes::NONE.with(self.named(destination));
        let mut scratch = self.rules.scratch();
        scratch.begin_message();
        let routed = self.rules.route(event, only, &mut scratch);
        self.rules.give_back(scratch);
        routed.map_or(true, |routed| {
            routed.routes.intersection(only) != Routes::NONE
        })
    }
}
