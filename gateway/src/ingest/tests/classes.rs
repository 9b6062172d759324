//! What classes of events decide: by which lane they go, and whether they may be given up.

use super::*;
use crate::{
    class::{Class, Classes},
    record::DestinationId,
};

/// The destinations 0 and 2, the lane 3 of the first, and 5 for what rules do.
fn routing(rules: RuleSet) -> Routing {
    Routing {
        routes: Routes(0b10_0101),
        lanes: Lanes(vec![Lane {
            of: DestinationId(0),
            lane: DestinationId(3),
            takes: Takes::Classes(Classes::NONE.with(Class::High).with(Class::Critical)),
        }]),
        rules: Arc::new(rules),
        ..Routing::default()
    }
}

fn rules() -> RuleSet {
    let rule = |device: &str, class| rules::Rule {
        class: Some(class),
        ..rules::Rule::to(
            device,
            rules::Pattern::parse(&format!("{{\"device\":[\"{device}\"]}}")).unwrap(),
            Vec::new(),
        )
    };
    let mut acting = rule("acted", Class::Low);
    acting.actions.topic = rules::action::Topic::parse("hot", false).ok();
    let all = [
        rule("low", Class::Low),
        rule("high", Class::High),
        rule("critical", Class::Critical),
        acting,
    ];
    let id = |name: &str| (name == rules::ACTIONS).then_some(DestinationId(5));
    RuleSet::new(&all, id).unwrap()
}

/// What becomes of an event of a device: where it goes, and as what it may be given up.
fn of(routing: &Routing, device: &str) -> (Routes, Option<Class>) {
    let topics = Topics::new(Config::default());
    let (metrics, births) = (Metrics::default(), Births::default());
    let routes = routing.of(None);
    let mut preparing = Preparing::new(&topics, routes, &routing.rules, &metrics, &births)
        .sending_originals(routing.originals)
        .routed_by(routing);
    let topic = format!("devices/{device}/t");
    preparing.publish(&"c1".into(), &publish(&topic, b"{\"v\":1}"), RECEIVED);
    let entry = event(&preparing.entries[0]).0;
    (entry.routes, entry.shed.map(|shed| shed.class))
}

#[test]
fn what_is_urgent_goes_by_the_lane_and_by_nothing_else_and_the_rest_does_not() {
    let mut routing = routing(rules());
    let (rest, lane) = (Routes(0b0101), Routes(0b1100));
    assert_eq!(of(&routing, "b7"), (rest, Some(Class::Normal)));
    assert_eq!(of(&routing, "low"), (rest, Some(Class::Low)));
    assert_eq!(of(&routing, "high"), (lane, Some(Class::High)));
    assert_eq!(of(&routing, "critical"), (lane, None));
    // A lane that is given nothing more leaves it to the rest.
    routing.draining = Routes(0b1000);
    assert_eq!(of(&routing, "high").0, rest);
    routing.draining = Routes(0b0001);
    assert_eq!(of(&routing, "high").0, Routes(0b0100));
}

#[test]
fn what_rules_act_on_is_not_given_up_for_they_would_take_the_device_for_silent() {
    let routing = routing(rules());
    assert_eq!(of(&routing, "acted"), (Routes(0b10_0101), None));
}

#[test]
fn what_goes_to_who_is_told_of_no_gap_is_not_given_up() {
    let mut routing = routing(rules());
    routing.originals = Routes(0b0100);
    assert_eq!(of(&routing, "low"), (Routes(0b0101), None));
    routing.originals = Routes(0b1_0000);
    assert_eq!(of(&routing, "low").1, Some(Class::Low));
}

#[test]
fn what_is_kept_goes_to_a_new_destination_whatever_its_class() {
    let routing = routing(rules());
    for device in ["b7", "high", "critical"] {
        let event = Event {
            device: device.into(),
            ..event(&prepare(Config::default(), &[publish("devices/x/t", b"1")]).entries[0]).1
        };
        assert!(routing.would_send(&event, DestinationId(0)), "{device}");
    }
}

#[test]
fn a_gap_waits_for_nobody_who_is_gone() {
    let mut routing = routing(RuleSet::default());
    assert_eq!(routing.to_tell(Routes(u64::MAX)), Routes(0b10_0101));
    routing.draining = Routes(0b1000);
    // What the lane of the first has missed is told by the first.
    assert_eq!(routing.to_tell(Routes(0b1000)), Routes(0b0001));
    routing.routes = Routes(0b0001);
    assert_eq!(routing.to_tell(Routes(0b0110)), Routes::NONE);
}

#[test]
fn what_tells_of_a_gap_comes_to_each_place_once() {
    let routing = routing(RuleSet::default());
    // By the lane as what it tells of; the rules would send it by the rest.
    let elsewhere = routing.elsewhere(Routes(0b0101), Routes(0b1000));
    assert_eq!(elsewhere, Routes(0b0100));
    assert_eq!(
        routing.elsewhere(Routes(0b0101), Routes(0b0100)),
        Routes(0b0101)
    );
}

#[tokio::test]
async fn a_gap_is_told_to_those_who_miss_something_and_to_nobody_who_gets_messages_as_they_came() {
    let place = super::originals::place(Config::default());
    let of = |routes| {
        let group = prepare(Config::default(), &[publish("devices/x/t", b"1")]);
        let event = event(&group.entries[0]).1;
        place.ingest.made_for(&event, Routes(routes)).event.routes
    };
    // Where rules say nothing everybody hears of it, but the one that gets originals.
    assert_eq!(of(0b001), Routes(0b011));
    // One that left the configuration would wait for it for ever.
    assert_eq!(of(0b1_0001), Routes(0b011));
    assert_eq!(of(0b100), Routes(0b011));
    assert_eq!(of(Routes::NOWHERE.0), Routes(0b011));
}
