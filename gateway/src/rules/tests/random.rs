//! Random patterns and events: the matcher, with all its patterns at once, agrees with
//! the simple one about each.

use proptest::prelude::*;

use super::simple;
use crate::rules::{
    Matcher, Pattern, Scratch,
    explain::{Verdict, explain},
};

/// Few names and values, so that they meet; some that sort oddly.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "a-b", "a.b", "", "𐀀", "\u{e000}"])
}

fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1",
        "1.0",
        "2",
        "-0.0",
        "0",
        "1e3",
        "9007199254740993",
        "9007199254740992",
        "true",
        "false",
        "null",
        r#""""#,
        r#""x""#,
        r#""xy""#,
        r#""X""#,
        r#""yx""#,
        r#""10.0.0.1""#,
        r#""10.0.0.001""#,
        r#""10.1.2.3""#,
        r#""1""#,
        r#""äx""#,
    ])
    .prop_map(str::to_owned)
}

fn object(
    members: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec((name(), members), count).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{:?}:{value}", name))
            .collect();
        format!("{{{}}}", members.join(",").replace("\\u{e000}", "\u{e000}"))
    })
}

fn array(
    items: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec(items, count).prop_map(|items| format!("[{}]", items.join(",")))
}

fn event() -> impl Strategy<Value = String> {
    let value = scalar().prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            2 => object(inner.clone(), 0..4),
            3 => array(object(inner.clone(), 0..4), 0..4),
            1 => array(inner, 0..4),
        ]
    });
    object(value, 0..4)
}

/// Arrays of objects of a few names, with arrays of such within them.
fn rows() -> impl Strategy<Value = String> {
    let inner = array(object(scalar(), 1..4), 1..4);
    let row = prop_oneof![3 => scalar().boxed(), 1 => inner.boxed()];
    let rows = array(object(row, 1..5), 1..5);
    object(prop_oneof![1 => scalar().boxed(), 3 => rows.boxed()], 1..4)
}

fn term() -> impl Strategy<Value = String> {
    let operators = prop::sample::select(vec![
        r#"{"exists":true}"#,
        r#"{"exists":false}"#,
        r#"{"prefix":"x"}"#,
        r#"{"prefix":""}"#,
        r#"{"suffix":"x"}"#,
        r#"{"prefix":{"equals-ignore-case":"X"}}"#,
        r#"{"equals-ignore-case":"x"}"#,
        r#"{"wildcard":"x*"}"#,
        r#"{"wildcard":"*x*"}"#,
        r#"{"numeric":[">",0,"<=",1000]}"#,
        r#"{"numeric":["=",1]}"#,
        r#"{"numeric":["<",9007199254740993]}"#,
        r#"{"cidr":"10.0.0.0/16"}"#,
        r#"{"anything-but":"x"}"#,
        r#"{"anything-but":["x","10.0.0.1"]}"#,
        r#"{"anything-but":[1,0]}"#,
        r#"{"anything-but":{"prefix":"x"}}"#,
        r#"{"exactly":"10.0.0.1"}"#,
    ]);
    prop_oneof![scalar(), operators.prop_map(str::to_owned)]
}

/// A pattern, `$or` among its names.
fn pattern() -> impl Strategy<Value = String> {
    let leaf = array(term(), 1..3);
    let node = leaf.prop_recursive(4, 24, 4, |inner| {
        let plain = object(inner.clone(), 1..4).boxed();
        let or = (
            object(inner.clone(), 0..2),
            array(object(inner, 1..3), 2..4),
        )
            .prop_map(|(beside, or)| {
                let beside = beside[1..beside.len() - 1].to_owned();
                let comma = if beside.is_empty() { "" } else { "," };
                format!("{{{beside}{comma}\"$or\":{or}}}")
            });
        prop_oneof![4 => plain, 1 => or]
    });
    object(node, 1..4)
}

fn found(matcher: &Matcher, event: &str, scratch: &mut Scratch) -> Vec<u32> {
    let mut found = Vec::new();
    matcher
        .each_of_json(event, scratch, |rule| found.push(rule))
        .unwrap();
    found.sort_unstable();
    found
}

/// What the explanation comes to; it says so of every way and its clauses alike.
fn explained(pattern: &Pattern, event: &str) -> bool {
    let explained = explain(pattern, event).unwrap();
    for way in &explained.alternatives {
        let all = way.clauses.iter().all(|one| one.verdict == Verdict::Fits);
        assert_eq!(way.fits, all, "{event} {way:?}");
    }
    explained.fits
}

/// Whether the simple matcher would take too long: it tries every combination.
fn is_small(event: &str) -> bool {
    event.len() < 2_000
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    #[test]
    fn the_matcher_agrees_with_the_simple_one(
        texts in prop::collection::vec(pattern(), 1..12),
        events in prop::collection::vec(event(), 1..6),
    ) {
        let patterns: Vec<_> = texts.iter().map(|text| Pattern::parse(text)).collect();
        let mut matcher = Matcher::default();
        for (n, pattern) in (0..).zip(&patterns) {
            if let Ok(pattern) = pattern {
                matcher.add(n, pattern);
            }
        }
        let mut scratch = Scratch::default();
        for event in events.iter().filter(|event| is_small(event)) {
            let mut expected = Vec::new();
            for (n, pattern) in (0..).zip(&patterns) {
                let Ok(pattern) = pattern else { continue };
                let fits = simple::fits(pattern, event);
                prop_assert_eq!(explained(pattern, event), fits, "{}", event);
                if fits {
                    expected.push(n);
                }
            }
            prop_assert_eq!(found(&matcher, event, &mut scratch), expected, "{} {:?}", event, texts);
        }
    }

    #[test]
    fn the_matcher_agrees_with_the_simple_one_about_patterns_that_nearly_fit(
        event in rows(),
        picked in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), prop::option::weighted(0.3, term())), 2..5),
            1..8,
        ),
    ) {
        let leaves = simple::leaves(&event);
        prop_assume!(!leaves.is_empty());
        let field = |(at, other): &(prop::sample::Index, Option<String>)| {
            let (path, own) = at.get(&leaves);
            let path = serde_json::to_string(path).unwrap();
            format!("{path}:[{}]", other.as_ref().unwrap_or(own))
        };
        let mut matcher = Matcher::default();
        let mut expected = Vec::new();
        for (n, picked) in (0..).zip(&picked) {
            let fields: Vec<_> = picked.iter().map(field).collect();
            let pattern = Pattern::parse(&format!("{{{}}}", fields.join(","))).unwrap();
            let fits = simple::fits(&pattern, &event);
            if fits {
                expected.push(n);
            }
            prop_assert_eq!(explained(&pattern, &event), fits, "{} {:?}", event, picked);
            matcher.add(n, &pattern);
        }
        prop_assert_eq!(found(&matcher, &event, &mut Scratch::default()), expected, "{} {:?}", event, picked);
    }

    #[test]
    fn ranges_take_what_lies_between_their_ends_however_many_there_are(
        numbers in prop::collection::vec((-20_i64..20, -400_i32..400), 3..12),
        at in any::<prop::sample::Index>(),
    ) {
        let mut texts: Vec<_> = numbers.iter().map(|(n, e)| format!("{n}e{e}")).collect();
        texts.extend(numbers.iter().map(|(n, _)| n.to_string()));
        let number = |text: &String| crate::rules::decimal::Decimal::parse(text).unwrap();
        let value = at.get(&texts).clone();
        let mut matcher = Matcher::default();
        let mut expected = Vec::new();
        for (n, pair) in (0..).zip(texts.windows(2)) {
            let mut ends = [&pair[0], &pair[1]];
            ends.sort_by_key(|text| number(text));
            let [lower, upper] = ends;
            if number(lower) == number(upper) {
                continue;
            }
            let pattern = format!(r#"{{"a":[{{"numeric":[">=",{lower},"<",{upper}]}}]}}"#);
            matcher.add(n, &Pattern::parse(&pattern).unwrap());
            if number(lower) <= number(&value) && number(&value) < number(upper) {
                expected.push(n);
            }
        }
        let event = format!(r#"{{"a":{value}}}"#);
        prop_assert_eq!(found(&matcher, &event, &mut Scratch::default()), expected, "{} {:?}", event, texts);
    }

    #[test]
    fn any_text_is_a_pattern_or_a_mistake_within_it(text in "[{}\\[\\]\",:a1$or\\\\ \n-]{0,40}") {
        if let Err(error) = Pattern::parse(&text) {
            let lines: Vec<_> = text.split('\n').collect();
            prop_assert!(error.line >= 1 && error.line <= lines.len());
            prop_assert!(error.column <= lines[error.line - 1].chars().count() + 1);
        }
    }

    #[test]
    fn what_is_no_json_for_serde_json_is_none_here(text in "[{}\\[\\]\",:a1e.+\\\\u0nul -]{0,24}") {
        let event = format!("{{\"a\":{text}}}");
        let ours = Matcher::default().each_of_json(&event, &mut Scratch::default(), |_| {});
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&event);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}", event);
    }
}

#[test]
fn many_elements_are_joined_by_their_array_and_not_one_by_one() {
    let elements: Vec<_> = (0..9_000)
        .map(|n| format!(r#"{{"n":"n{n}","v":{n}}}"#))
        .collect();
    let event = format!(r#"{{"m":[{}]}}"#, elements.join(","));
    let mut matcher = Matcher::default();
    let texts = [
        r#"{"m":{"n":[{"anything-but":"n5"}],"v":[5]}}"#,
        r#"{"m":{"n":[{"anything-but":"n5"}],"v":[6]}}"#,
        r#"{"m":{"a":[{"exists":false}],"n":[{"prefix":"n"}],"v":[{"numeric":[">",10]}]}}"#,
    ];
    for (n, text) in (0..).zip(texts) {
        matcher.add(n, &Pattern::parse(text).unwrap());
    }
    assert_eq!(found(&matcher, &event, &mut Scratch::default()), [1, 2]);
}

#[test]
fn elements_of_arrays_within_arrays_are_led_to_their_own() {
    let inner = |n: usize| {
        format!(
            "[{}]",
            vec![format!(r#"{{"x":{n},"z":{n}}}"#); 300].join(",")
        )
    };
    let event = format!(
        r#"{{"a":[{}]}}"#,
        (0..30).map(inner).collect::<Vec<_>>().join(",")
    );
    let mut matcher = Matcher::default();
    let pattern =
        r#"{"a":{"x":[{"anything-but":29}],"z":[{"anything-but":30}],"z2":[{"exists":false}]}}"#;
    matcher.add(0, &Pattern::parse(pattern).unwrap());
    assert_eq!(found(&matcher, &event, &mut Scratch::default()), [0]);
}

#[test]
fn arrays_that_have_nothing_to_do_with_each_other_do_not_multiply() {
    let array = |name: &str| {
        let elements = vec![r#"{"x":1,"y":1}"#; 1_000].join(",");
        format!(r#""{name}":[{elements}]"#)
    };
    let names = ["a", "b", "c", "d"];
    let event = format!("{{{}}}", names.map(array).join(","));
    let fields = names.map(|name| format!(r#""{name}":{{"x":[1],"y":[1]}}"#));
    let pattern = format!("{{{},\"e\":[{{\"exists\":false}}]}}", fields.join(","));
    let mut matcher = Matcher::default();
    matcher.add(0, &Pattern::parse(&pattern).unwrap());
    assert_eq!(found(&matcher, &event, &mut Scratch::default()), [0]);
}

#[test]
fn what_would_take_too_long_is_said_and_not_guessed() {
    // Two arrays of one name: every element of one goes with every element of the other.
    let elements = vec![r#"{"x":1,"z":1}"#; 2_000].join(",");
    let event = format!(r#"{{"a":[{elements}],"a":[{elements}]}}"#);
    let mut matcher = Matcher::default();
    let pattern = r#"{"a":{"x":[1],"y":[{"exists":false}],"z":[{"anything-but":2}]}}"#;
    matcher.add(0, &Pattern::parse(pattern).unwrap());
    let result = matcher.each_of_json(&event, &mut Scratch::default(), |_| {});
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("too many values, or combinations")
    );
}
