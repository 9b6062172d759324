//! What rules say, and what no name and no filter gets past.

use proptest::prelude::*;

use super::*;

fn filters(texts: &[&str]) -> Vec<Filter> {
    texts
        .iter()
        .map(|text| Filter::parse(text).unwrap())
        .collect()
}

fn rule(allow: bool, publish: &[&str], subscribe: &[&str]) -> Rule {
    Rule {
        allow,
        publish: filters(publish),
        subscribe: filters(subscribe),
        ..Rule::default()
    }
}

fn names(name: &str) -> Names<'_> {
    Names {
        client: name,
        user: Some(name),
        device: Some(name),
    }
}

fn may_publish(rules: &Rules, name: &str, topic: &str) -> bool {
    matches!(rules.publish(&names(name), topic), Some(Ok(_)))
}

fn may_subscribe(rules: &Rules, name: &str, filter: &str) -> bool {
    matches!(rules.subscribe(&names(name), filter), Some(Ok(_)))
}

#[test]
fn a_placeholder_stands_for_its_client_and_for_nobody_else() {
    let rules = Rules(vec![rule(
        true,
        &["devices/{user}/#"],
        &["commands/{client}/+", "x/pre-{device}-post"],
    )]);
    assert!(may_publish(&rules, "d1", "devices/d1/temperature"));
    assert!(!may_publish(&rules, "d1", "devices/d2/temperature"));
    assert!(may_subscribe(&rules, "d1", "commands/d1/reset"));
    assert!(may_subscribe(&rules, "d1", "commands/d1/+"));
    assert!(!may_subscribe(&rules, "d1", "commands/d1/#"));
    assert!(!may_subscribe(&rules, "d1", "commands/+/reset"));
    assert!(!may_subscribe(&rules, "d1", "#"));
    assert!(may_subscribe(&rules, "d1", "x/pre-d1-post"));
}

#[test]
fn a_name_cannot_inject_topics() {
    let rules = Rules(vec![rule(
        true,
        &["devices/{client}/#", "{client}/up"],
        &["devices/{client}/#", "{client}/#"],
    )]);
    for name in ["", "+", "#", "a/b", "a/#", "+/x", "$SYS", "a\0"] {
        assert!(
            !may_publish(&rules, name, &format!("devices/{name}/x")),
            "{name:?}"
        );
        assert!(!may_publish(&rules, name, "devices/other/x"), "{name:?}");
        assert!(!may_subscribe(&rules, name, "devices/other/x"), "{name:?}");
        assert!(!may_subscribe(&rules, name, "$SYS/#"), "{name:?}");
        assert!(!may_subscribe(&rules, name, "devices/+/#"), "{name:?}");
    }
}

#[test]
fn a_name_cannot_escape_a_denial() {
    let rules = Rules(vec![
        rule(false, &["blocked/{client}/#"], &[]),
        rule(true, &["#"], &[]),
    ]);
    assert!(!may_publish(&rules, "d1", "blocked/d1/x"));
    assert!(may_publish(&rules, "d1", "blocked/d2/x"));
    assert!(!may_publish(&rules, "a/b", "blocked/a/b/x"));
}

#[test]
fn the_first_rule_that_speaks_decides() {
    let rules = Rules(vec![
        rule(true, &["a/public"], &["a/public"]),
        rule(false, &["a/#"], &["a/#"]),
        rule(true, &["#"], &["#"]),
    ]);
    assert!(may_publish(&rules, "x", "a/public"));
    assert!(!may_publish(&rules, "x", "a/secret"));
    assert!(may_publish(&rules, "x", "b"));
    assert!(may_subscribe(&rules, "x", "a/public"));
    assert!(may_subscribe(&rules, "x", "b/#"));
    // Part of what it would bring is denied.
    assert!(!may_subscribe(&rules, "x", "#"));
    assert!(!may_subscribe(&rules, "x", "+/secret"));
}

#[test]
fn what_no_rule_speaks_about_is_not_allowed() {
    let none = Rules::default();
    assert_eq!(none.publish(&names("x"), "a"), None);
    assert_eq!(none.subscribe(&names("x"), "a"), None);
    let all = Rules(vec![rule(true, &["#"], &["#"])]);
    assert!(!may_publish(&all, "x", "$other/a"));
    assert!(!may_subscribe(&all, "x", "$SYS/#"));
    assert!(!may_subscribe(&all, "x", "$penstock/events/#"));
}

#[test]
fn rules_are_for_whom_they_name() {
    let mut one = rule(true, &["#"], &[]);
    one.users = vec![Pattern::parse("plant-*").unwrap()];
    one.clients = vec![Pattern::parse("plant-1").unwrap()];
    let mut nobody = rule(true, &["open"], &[]);
    nobody.anonymous = true;
    let rules = Rules(vec![one, nobody]);
    assert!(may_publish(&rules, "plant-1", "x"));
    assert!(!may_publish(&rules, "plant-2", "x"));
    assert!(!may_publish(&rules, "plant-2", "open"));
    let anonymous = Names {
        client: "plant-1",
        user: None,
        device: None,
    };
    assert_eq!(rules.publish(&anonymous, "x"), None);
    assert_eq!(rules.publish(&anonymous, "open"), Some(Ok(Permit::ALL)));
}

#[test]
fn filters_that_cannot_be_right_are_refused() {
    for bad in [
        "",
        "a/{x}",
        "a/{client",
        "a}",
        "a/{client}+",
        "a/#/b",
        "$share/g/a",
        "a\0",
    ] {
        assert!(Filter::parse(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "a*b", "**"] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Pattern::parse("*").unwrap().takes("anyone"));
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("a"),
        Just("b"),
        Just("{user}"),
        Just("+"),
        Just("#"),
        Just("$s")
    ]
}

fn any_filter() -> impl Strategy<Value = String> {
    proptest::collection::vec(level(), 1..=3)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a filter", |text| Filter::parse(text).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the rules: a subscription that is allowed brings no topic that
    /// the same rules would not allow to be subscribed to by itself.
    #[test]
    fn a_subscription_never_brings_more_than_its_rules_allow(
        rules in proptest::collection::vec((any::<bool>(), any_filter()), 0..5),
        wanted in any_filter(),
        topic in proptest::collection::vec(
            prop_oneof![Just("a"), Just("b"), Just("d1"), Just("$s"), Just("other")], 1..=4,
        ),
    ) {
        let rules = Rules(
            rules.iter().map(|(allow, filter)| rule(*allow, &[], &[filter])).collect(),
        );
        let wanted = wanted.replace("{user}", "d1");
        let topic = topic.join("/");
        if may_subscribe(&rules, "d1", &wanted) && matches(&topic, &wanted) {
            prop_assert!(may_subscribe(&rules, "d1", &topic), "{} brings {}", wanted, topic);
        }
    }
}
