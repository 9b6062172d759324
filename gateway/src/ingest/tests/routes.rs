//! Where rules send events.

use super::*;

/// Rules by pattern and destination; destinations are named by their numbers.
fn rules(of: &[(&str, &str)]) -> RuleSet {
    let rule = |(pattern, destination): &(&str, &str)| {
        let parsed = rules::Pattern::parse(pattern).unwrap();
        rules::Rule::to(pattern, parsed, vec![(*destination).into()])
    };
    let rules: Vec<_> = of.iter().map(rule).collect();
    let id = |name: &str| name.parse().ok().map(crate::record::DestinationId);
    RuleSet::new(&rules, id).unwrap()
}

#[test]
fn what_only_a_rule_with_something_to_do_takes_is_held_as_what_goes_nowhere() {
    let acting = |pattern: &str, destinations: &[&str]| {
        let parsed = rules::Pattern::parse(pattern).unwrap();
        let destinations = destinations.iter().map(|name| (*name).into()).collect();
        rules::Rule::to(pattern, parsed, destinations)
    };
    let mut hot = acting(r#"{"values":{"v":[{"numeric":[">",10]}]}}"#, &[]);
    hot.actions.topic = rules::action::Topic::parse("hot", false).ok();
    let narrows = acting(r#"{"device":["b8"]}"#, &["0", "2"]);
    let id = |name: &str| match name {
        rules::ACTIONS => Some(crate::record::DestinationId(5)),
        name => name.parse().ok().map(crate::record::DestinationId),
    };
    let set = RuleSet::new(&[hot, narrows], id).unwrap();
    let group = prepare_by(
        &set,
        Config::default(),
        &[
            publish("devices/b7/t", br#"{"v":11}"#),
            publish("devices/b7/t", br#"{"v":5}"#),
            publish("devices/b8/t", br#"{"v":11}"#),
        ],
    );
    let routes: Vec<_> = group.entries.iter().map(|e| event(e).0.routes).collect();
    let acts = Routes(1 << 5);
    assert_eq!(
        routes,
        [
            acts.union(Routes::NOWHERE),
            Routes::NOWHERE,
            acts.union(Routes(5))
        ]
    );
    let Group { metrics, .. } = group;
    assert_eq!((metrics.matched(), metrics.nowhere()), (2, 2));
}

#[test]
fn rules_decide_where_each_event_of_a_message_goes_and_what_none_takes_is_counted() {
    let rules = rules(&[
        (r#"{"values":{"v":[{"numeric":[">",10]}]}}"#, "0"),
        (r#"{"device":["b8"]}"#, "2"),
    ]);
    let group = prepare_by(
        &rules,
        Config::default(),
        &[
            publish("devices/b7/t", br#"[{"v":5},{"v":10.5}]"#),
            publish("devices/b8/t", br#"{"v":11}"#),
            publish("devices/b8/t", b"{"),
        ],
    );
    let routes: Vec<_> = group.entries[..3]
        .iter()
        .map(|e| event(e).0.routes)
        .collect();
    assert_eq!(routes, [Routes::NOWHERE, Routes(1), Routes(5)]);
    assert_eq!(quarantined(&group.entries[3]).class, "syntax");
    let Group { metrics, .. } = group;
    assert_eq!(
        (metrics.matched(), metrics.unmatched(), metrics.nowhere()),
        (2, 1, 1)
    );
}
