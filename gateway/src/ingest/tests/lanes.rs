//! Which way an event goes while a destination is behind.

use super::*;
use crate::{
    class::{Class, Classes},
    record::DestinationId,
};

/// The destinations 0 and 2; of the first the lanes 3 for what is critical, and 4 for what is
/// live; of the second the lane 5 for what is live.
fn lanes() -> Lanes {
    let critical = Takes::Classes(Classes::NONE.with(Class::Critical));
    let all = [(0, 3, critical), (0, 4, Takes::Live), (2, 5, Takes::Live)];
    let lanes = all.map(|(of, lane, takes)| Lane {
        of: DestinationId(of),
        lane: DestinationId(lane),
        takes,
    });
    Lanes(lanes.into())
}

fn routing() -> Routing {
    let critical = rules::Rule {
        class: Some(Class::Critical),
        ..rules::Rule::to(
            "critical",
            rules::Pattern::parse("{\"device\":[\"critical\"]}").unwrap(),
            Vec::new(),
        )
    };
    Routing {
        routes: Routes(0b101),
        lanes: lanes(),
        rules: Arc::new(RuleSet::new(&[critical], |_| None).unwrap()),
        ..Routing::default()
    }
}

fn of(routing: &Routing, device: &str) -> Routes {
    let topics = Topics::new(Config::default());
    let (metrics, births) = (Metrics::default(), Births::default());
    let routes = routing.of(None);
    let mut preparing =
        Preparing::new(&topics, routes, &routing.rules, &metrics, &births).routed_by(routing);
    let topic = format!("devices/{device}/t");
    preparing.publish(&"c1".into(), &publish(&topic, b"{\"v\":1}"), RECEIVED);
    event(&preparing.entries[0]).0.routes
}

#[test]
fn what_comes_goes_by_its_lane_while_that_is_open_and_what_is_urgent_never_does() {
    let mut routing = routing();
    assert_eq!(of(&routing, "b7"), Routes(0b101));
    assert_eq!(of(&routing, "critical"), Routes(0b1100));
    routing.live = Routes(0b1_0000);
    assert_eq!(of(&routing, "b7"), Routes(0b1_0100));
    assert_eq!(of(&routing, "critical"), Routes(0b1100));
    routing.live = Routes(0b11_0000);
    assert_eq!(of(&routing, "b7"), Routes(0b11_0000));
    // A lane that is given nothing more leaves it to the rest; nothing goes to the lane of a
    // destination that is given nothing more.
    routing.draining = Routes(0b1_0000);
    assert_eq!(of(&routing, "b7"), Routes(0b10_0001));
    routing.draining = Routes(0b0001);
    assert_eq!(of(&routing, "b7"), Routes(0b10_0000));
}

#[test]
fn what_was_here_before_goes_by_the_rest() {
    let mut routing = routing();
    routing.live = Routes(0b11_0000);
    let topics = Topics::new(Config::default());
    let (metrics, births) = (Metrics::default(), Births::default());
    let payload = Bytes::from_static(b"{\"v\":1}");
    let (topic, client) = ("devices/b7/t".into(), "c1".into());
    let raw = Raw::from_quarantine(topic, client, payload, None, RECEIVED).unwrap();
    let routes = routing.of(None);
    let preparing =
        Preparing::new(&topics, routes, &routing.rules, &metrics, &births).routed_by(&routing);
    let entries = preparing.retry(&raw).unwrap();
    assert_eq!(event(&entries[0]).0.routes, Routes(0b101));
}

#[test]
fn what_tells_of_something_comes_to_a_place_once_by_whichever_of_its_lanes() {
    let routing = routing();
    for of_first in [0b1, 0b1000, 0b1_0000] {
        for others in [0b101, 0b1100, 0b1_0100] {
            let elsewhere = routing.elsewhere(Routes(others), Routes(of_first));
            assert_eq!(elsewhere, Routes(0b100), "{of_first:b} {others:b}");
        }
    }
}

#[test]
fn what_was_missed_by_several_ways_to_a_place_is_told_there_once() {
    let routing = routing();
    for (missed, told) in [
        (0b1_0001, 0b1),
        (0b1_1000, 0b1000),
        (0b1_1001, 0b1),
        (0b11_0100, 0b1_0100),
        (0b11_0000, 0b11_0000),
    ] {
        assert_eq!(routing.to_tell(Routes(missed)), Routes(told), "{missed:b}");
    }
}

#[tokio::test]
async fn other_routing_leaves_those_open_that_are_there() {
    let place = super::originals::place(Config::default());
    let of = || place.ingest.routing().live;
    place.ingest.exchange_routing(routing());
    assert_eq!(of(), Routes::NONE);
    place.ingest.set_live(Routes(0b11_0000));
    place.ingest.exchange_routing(routing());
    assert_eq!(of(), Routes(0b11_0000));
    let mut fewer = lanes();
    fewer.0.pop();
    place.ingest.exchange_routing(Routing {
        lanes: fewer,
        ..routing()
    });
    assert_eq!(of(), Routes(0b1_0000));
}

#[test]
fn a_message_as_it_came_goes_by_one_way_and_once() {
    let mut routing = routing();
    routing.originals = Routes(0b10_0100);
    routing.live = Routes(0b10_0000);
    let topics = Topics::new(super::originals::config("topic = \"devices/{device}/t\""));
    let (metrics, births) = (Metrics::default(), Births::default());
    let routes = routing.of(None);
    let mut preparing = Preparing::new(&topics, routes, &routing.rules, &metrics, &births)
        .sending_originals(routing.originals)
        .routed_by(&routing);
    let message = publish("devices/b7/t", b"[{\"v\":1},{\"v\":2}]");
    preparing.publish(&"c1".into(), &message, RECEIVED);
    for entry in &preparing.entries {
        let (new, _) = event(entry);
        assert_eq!(new.routes, Routes(0b10_0001));
        let once = new.original.as_ref().expect("the message").once;
        assert_eq!(once.intersection(new.routes), Routes(0b10_0000));
    }
    assert_eq!(preparing.entries.len(), 2);
}
