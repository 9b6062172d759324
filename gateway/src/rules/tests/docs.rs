//! What `docs/rules.md` shows is so.

use serde_json::Value as Json;

use crate::{
    event::{Event, Timestamp},
    normalise::{self, Births, Mapping, Message, Scratch},
    record::{DestinationId, Routes},
    rules::{Matcher, Pattern, Rule, RuleSet, Scratch as Matching, seen},
};

const TEXT: &str = include_str!("../../../../docs/rules.md");

/// What is in the block that is marked so.
fn block(mark: &str) -> &'static str {
    let (_, after) = TEXT.split_once(&format!("```json {mark}\n")).unwrap();
    after.split_once("\n```").unwrap().0
}

fn event() -> Event {
    let topic = "devices/press-7/telemetry".into();
    let mapping = Mapping::defaults().swap_remove(0);
    let message = Message {
        topic: &topic,
        client_id: &"press-7".into(),
        identity: None,
        payload: block("payload").as_bytes(),
        content_type: None,
        user: &[],
        // 2026-03-01T12:00:00Z.
        received: Timestamp::from_millis(1_772_366_400_000),
        nonce: [1; 16],
        delivery: None,
        births: &Births::default(),
    };
    let resolved = mapping.resolve(&topic, None).unwrap();
    let normalised =
        normalise::normalise(&mapping, &resolved, &message, &mut Scratch::default()).unwrap();
    normalised.events.into_iter().next().unwrap()
}

#[test]
fn the_event_of_the_documentation_is_what_patterns_see() {
    let event = event();
    let seen: Json = serde_json::from_str(&seen::of_event(&event)).unwrap();
    let documented: Json = serde_json::from_str(block("event")).unwrap_or_default();
    assert_eq!(documented, seen, "{seen:#}");
}

/// Whether a pattern takes the event: as a rule, and as text.
fn fits(pattern: &str) -> bool {
    let pattern = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let mut matcher = Matcher::default();
    matcher.add(0, &pattern);
    let mut as_text = false;
    matcher
        .each_of_json(block("event"), &mut Matching::default(), |_| as_text = true)
        .unwrap();
    let rule = Rule::to("r", pattern, vec!["d".into()]);
    let set = RuleSet::new(&[rule], |_| Some(DestinationId(0))).unwrap();
    let routed = set.route(&event(), Routes(1), &mut set.scratch()).unwrap();
    assert_eq!(routed.matched, as_text);
    as_text
}

#[test]
fn the_patterns_of_the_documentation_fit_or_do_not_as_it_says() {
    for pattern in block("fits").lines() {
        assert!(fits(pattern), "{pattern}");
    }
    for pattern in block("fits not").lines() {
        assert!(!fits(pattern), "{pattern}");
    }
}
