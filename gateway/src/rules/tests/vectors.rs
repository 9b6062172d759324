//! What the reference does, case by case.

use crate::rules::vectors::{Outcome, Vector};

fn vectors() -> Vec<Vector> {
    let lines = include_str!("../../../tests/vectors/rules.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_vector_comes_out_as_the_reference_says() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 536);
    let differ: Vec<_> = vectors
        .iter()
        .filter(|vector| vector.outcome().0 != vector.expect)
        .map(|vector| (&vector.name, vector.expect, vector.outcome()))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

fn check(pattern: &str, event: &str, expect: Outcome) {
    let vector = Vector {
        name: String::new(),
        pattern: pattern.to_owned(),
        event: event.to_owned(),
        expect,
    };
    assert_eq!(
        vector.outcome().0,
        expect,
        "{pattern} {event} {:?}",
        vector.outcome().1
    );
}

#[test]
fn where_the_reference_is_wrong_it_is_not_followed() {
    use Outcome::{Invalid, Match, NoMatch};

    for (pattern, event, expect) in [
        (
            r#"{"a":[{"equals-ignore-case":"🔥Hot"}]}"#,
            r#"{"a":"🔥hot"}"#,
            Match,
        ),
        (
            r#"{"a":[{"equals-ignore-case":"🔥"}]}"#,
            r#"{"a":"??"}"#,
            NoMatch,
        ),
        (r#"{"a":[{"prefix":"ab\""}]}"#, r#"{"a":"ab"}"#, NoMatch),
        (r#"{"a":[{"suffix":"\"b"}]}"#, r#"{"a":"b"}"#, NoMatch),
        (
            r#"{"a":[{"cidr":"10.0.0.0/8"}]}"#,
            r#"{"a":"0a00::"}"#,
            NoMatch,
        ),
        (
            r#"{"a":[{"cidr":"a00::/8"}]}"#,
            r#"{"a":"10.0.0.1"}"#,
            NoMatch,
        ),
        (
            r#"{"a":[{"cidr":"10.0.0.0/8"}]}"#,
            r#"{"a":"::ffff:0a00:0001"}"#,
            Match,
        ),
        (
            r#"{"a":[{"cidr":"10.0.0.0/8"}]}"#,
            r#"{"a":"010.0.0.1"}"#,
            NoMatch,
        ),
        (r#"{"a":[{"cidr":"0.0.0.0/0"}]}"#, r#"{"a":1}"#, NoMatch),
        (r#"{"detail":{"":["x"]}}"#, r#"{"detail":{"":"x"}}"#, Match),
        (r#"{"":["x"]}"#, r#"{"":"x"}"#, Match),
        (
            r#"{"a":[{"anything-but":{"prefix":[]}}]}"#,
            r#"{"a":"x"}"#,
            Invalid,
        ),
        (r#"{"a":[1]} xx"#, r#"{"a":1}"#, Invalid),
        (r#"{"a":[1]}"#, r#"{"a":1} xx"#, Invalid),
        (
            r#"{"s":{"id":["b"],"zerr":[{"exists":false}]}}"#,
            r#"{"s":[{"id":"a","zerr":1},{"id":"b"}]}"#,
            Match,
        ),
        (
            r#"{"s":{"id":["b"],"err":[{"exists":false}]}}"#,
            r#"{"s":[{"id":"a","err":1},{"id":"b"}]}"#,
            NoMatch,
        ),
        (
            r#"{"a":[{"equals-ignore-case":"K"}]}"#,
            r#"{"a":"k"}"#,
            Match,
        ),
        (
            r#"{"m":[{"wildcard":"*.*"},{"equals-ignore-case":"Ä"}]}"#,
            r#"{"m":"a"}"#,
            NoMatch,
        ),
        (
            r#"{"m":[{"wildcard":"*x"},{"equals-ignore-case":"oil"}]}"#,
            r#"{"m":"zil"}"#,
            NoMatch,
        ),
    ] {
        check(pattern, event, expect);
    }
}

#[test]
fn paths_are_in_the_order_of_their_utf_16_units() {
    let event = "{\"s\":[{\"𐀀\":\"a\",\"\u{e000}\":1},{\"𐀀\":\"b\"}]}";
    let pattern = "{\"s\":{\"𐀀\":[\"b\"],\"\u{e000}\":[{\"exists\":false}]}}";
    check(pattern, event, Outcome::Match);
}

#[test]
fn numbers_compare_exactly_where_the_reference_does_not_compare_them() {
    use Outcome::{Match, NoMatch};

    let range = r#"{"ts":[{"numeric":[">",1764000000123456788,"<=",1764000000123456789]}]}"#;
    check(range, r#"{"ts":1764000000123456789}"#, Match);
    check(range, r#"{"ts":1764000000123456788}"#, NoMatch);
    check(range, r#"{"ts":1764000000123456790}"#, NoMatch);
    check(
        r#"{"n":[12345678901234567890123]}"#,
        r#"{"n":12345678901234567890123.0}"#,
        Match,
    );
    check(
        r#"{"n":[{"anything-but":9007199254740993}]}"#,
        r#"{"n":9007199254740992}"#,
        Match,
    );
    check(r#"{"n":[{"numeric":[">",0]}]}"#, r#"{"n":1e400}"#, Match);
    check(
        r#"{"n":[{"numeric":["<",1e-300]}]}"#,
        r#"{"n":1e-99999999999999999999}"#,
        Match,
    );
}
