//! A file of messages with known outcomes, one JSON object a line, against the
//! normaliser: the shape of the cases is described in docs/testing.md.

use std::{collections::HashMap, fmt};

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::case;
use crate::{event::Key, normalise::Normalised};

/// What differs.
#[derive(Debug)]
pub(super) struct Report {
    cases: usize,
    pub(super) differences: Vec<Difference>,
}

/// A case that came out otherwise than its file says.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) name: String,
    expected: String,
    got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            expected,
            got,
        } = self;
        write!(f, "{name}\n  expected {expected}\n  got      {got}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ = self.differences.len();
        write!(
            f,
            "{} of {} cases as expected",
            self.cases - differ,
            self.cases
        )?;
        match differ {
            0 => Ok(()),
            differ => write!(f, ", {differ} differ"),
        }
    }
}

/// Runs every case.
///
/// # Errors
/// When a line is not a case.
pub(super) fn check(text: &str) -> Result<Report> {
    let mut cases = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let case: Json =
            serde_json::from_str(line).with_context(|| format!("line {number} is not JSON"))?;
        let name = case.get("name").and_then(Json::as_str);
        let name = name.with_context(|| format!("line {number} has no \"name\""))?;
        if case.get("expect").is_none() {
            bail!("line {number} has no \"expect\"");
        }
        cases.push((name.to_owned(), case));
    }
    let mut keys: HashMap<&str, Vec<Key>> = HashMap::new();
    let mut differences = Vec::new();
    for (number, (name, case)) in (0u64..).zip(&cases) {
        let mut nonce = [0; 16];
        nonce[8..].copy_from_slice(&number.to_be_bytes());
        let outcome = case::run(case, nonce).with_context(|| format!("case {name}"));
        let (got, fine) = match &outcome {
            Err(error) => (format!("{error:#}"), false),
            Ok(outcome) => {
                if let Ok(Normalised { events, .. }) = outcome {
                    keys.insert(name, events.iter().map(|event| event.key).collect());
                }
                let got = case::outcome(outcome);
                (got.to_string(), matches(&case["expect"], &got)?)
            }
        };
        if !fine {
            differences.push(Difference {
                name: name.clone(),
                expected: case["expect"].to_string(),
                got,
            });
        }
    }
    for (name, case) in &cases {
        if let Some((expected, got)) = wrong_key(name, &case["expect"], &keys) {
            differences.push(Difference {
                name: name.clone(),
                expected,
                got,
            });
        }
    }
    // A case may differ in more than one way, and is still one case.
    differences.sort_by(|a, b| a.name.cmp(&b.name));
    differences.dedup_by(|a, b| a.name == b.name);
    Ok(Report {
        cases: cases.len(),
        differences,
    })
}

/// Whether the keys of a case are as it says, and if not, what it says and what is.
fn wrong_key(
    name: &str,
    expect: &Json,
    keys: &HashMap<&str, Vec<Key>>,
) -> Option<(String, String)> {
    let other = |which: &str| expect.get(which).and_then(Json::as_str);
    let none = Vec::new();
    let of = |name: &str| keys.get(name).unwrap_or(&none);
    let own = of(name);
    if let Some(other) = other("key_equals").filter(|other| own != of(other) || own.is_empty()) {
        return Some((
            format!("the key of {other}"),
            format!("{own:?}, not {:?}", of(other)),
        ));
    }
    if let Some(other) = other("key_differs")
        && own.iter().any(|key| of(other).contains(key))
    {
        return Some((format!("another key than {other}"), format!("{own:?}")));
    }
    let distinct = expect.get("keys_distinct") == Some(&Json::Bool(true));
    let repeat = own
        .iter()
        .enumerate()
        .any(|(n, key)| own[..n].contains(key));
    (distinct && repeat).then(|| ("keys that differ".to_owned(), format!("{own:?}")))
}

fn matches(expect: &Json, got: &Json) -> Result<bool> {
    if let Some(error) = expect.get("error") {
        let also = expect.get("error_also").and_then(Json::as_array);
        let got = got.get("error");
        return Ok(got == Some(error)
            || got.is_some_and(|got| also.is_some_and(|also| also.contains(got))));
    }
    let list = |json: &Json, name: &str| -> Vec<Json> {
        json.get(name)
            .and_then(Json::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let (events, ours) = (list(expect, "events"), list(got, "events"));
    if got.get("error").is_some()
        || events.len() != ours.len()
        || list(expect, "rejected") != list(got, "rejected")
    {
        return Ok(false);
    }
    for (theirs, ours) in events.iter().zip(&ours) {
        if !same_event(theirs, ours)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_event(theirs: &Json, ours: &Json) -> Result<bool> {
    let same = |name: &str| theirs.get(name).is_none_or(|theirs| *theirs == ours[name]);
    let tags = theirs.get("tags").and_then(Json::as_object);
    let tags = tags
        .into_iter()
        .flatten()
        .all(|(name, value)| ours["tags"].get(name) == Some(value));
    if !(["device", "time_source", "id_source", "kind"]
        .into_iter()
        .all(same)
        && tags)
    {
        return Ok(false);
    }
    if !same_time(theirs.get("time"), ours.get("time"))? {
        return Ok(false);
    }
    let none = Vec::new();
    let measurements = |json: &Json| json["measurements"].as_array().cloned();
    let (a, b) = (measurements(theirs), measurements(ours));
    let (a, b) = (a.as_ref().unwrap_or(&none), b.as_ref().unwrap_or(&none));
    if a.len() != b.len() {
        return Ok(false);
    }
    for (theirs, ours) in a.iter().zip(b) {
        let same = ["name", "unit", "quality"]
            .into_iter()
            .all(|name| theirs.get(name) == ours.get(name));
        if !(same
            && same_value(&theirs["value"], &ours["value"])
            && same_time(theirs.get("time"), ours.get("time"))?)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same instant, or both nothing.
fn same_time(theirs: Option<&Json>, ours: Option<&Json>) -> Result<bool> {
    let text = |json: Option<&Json>| json.and_then(Json::as_str).map(case::instant).transpose();
    Ok(text(theirs)? == text(ours)?)
}

/// Floats to twelve digits, integers to the last; members in any order.
fn same_value(theirs: &Json, ours: &Json) -> bool {
    /// Up to here every integer is a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if theirs == ours {
        return true;
    }
    match (theirs.as_f64(), ours.as_f64()) {
        (Some(a), Some(b)) if theirs.is_f64() => (a - b).abs() <= a.abs() * 1e-12,
        (Some(a), Some(b)) => ours.is_f64() && a.abs() < EXACT_MAX && a.total_cmp(&b).is_eq(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORPUS: &str = include_str!("../../../tests/vectors/normalise.jsonl");
    const TRAPS: &str = include_str!("../../../tests/vectors/traps.jsonl");
    const EDGES: &str = include_str!("../../../tests/vectors/edges.jsonl");

    fn comes_out_as_written(text: &str, cases: usize) {
        let report = check(text).unwrap();
        assert_eq!(report.cases, cases);
        let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    #[test]
    fn the_corpus_comes_out_as_written() {
        comes_out_as_written(CORPUS, 148);
    }

    #[test]
    fn nobody_falls_into_the_traps_of_protocols_and_formats() {
        comes_out_as_written(TRAPS, 118);
    }

    #[test]
    fn what_lies_at_the_edges_of_every_format_comes_out_as_written() {
        comes_out_as_written(EDGES, 363);
    }

    /// The text of every source file below a directory.
    fn sources(dir: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, all),
                false if path.extension().is_some_and(|kind| kind == "rs") => {
                    all.push_str(&std::fs::read_to_string(&path).unwrap());
                }
                false => {}
            }
        }
    }

    #[test]
    fn every_trap_of_the_documentation_has_the_tests_that_it_names() {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(top.join("docs/testing.md")).unwrap();
        let (_, table) = text.split_once("| trap | shown by |\n|---|---|\n").unwrap();
        let rows: Vec<&str> = table.lines().take_while(|row| row.len() > 1).collect();
        let mut code = String::new();
        for dir in [
            "gateway/src",
            "gateway/tests",
            "broker/tests",
            "tests/tests",
        ] {
            sources(&top.join(dir), &mut code);
        }
        let vectors: Vec<Json> = CORPUS
            .lines()
            .chain(TRAPS.lines())
            .chain(EDGES.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for row in &rows {
            let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "nothing shows {row}");
            for name in names {
                let is_there = match name.contains('/') {
                    true => vectors.iter().any(|case| case["name"] == name),
                    false => code.contains(&format!("fn {name}(")),
                };
                assert!(is_there, "{name} is no test and no case: {row}");
            }
        }
        assert!(rows.len() > 30, "{}", rows.len());
    }

    #[test]
    fn integers_are_compared_to_the_last_digit() {
        use serde_json::json;

        for (theirs, ours) in [
            (json!(21), json!(21.0)),
            (json!(21.0), json!(21)),
            (json!(0.3), json!(0.1 + 0.2)),
            (json!(u64::MAX), json!(u64::MAX)),
        ] {
            assert!(same_value(&theirs, &ours), "{theirs} {ours}");
        }
        for (theirs, ours) in [
            (
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992.0),
            ),
            (
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992_u64),
            ),
            (json!(u64::MAX), json!(18_446_744_073_709_551_616.0)),
            (json!(i64::MIN), json!(-9_223_372_036_854_775_808.0)),
            (json!(1_000), json!(1_000.000_000_000_1)),
            (json!(1), json!("1")),
        ] {
            assert!(!same_value(&theirs, &ours), "{theirs} {ours}");
        }
    }

    #[test]
    fn no_case_of_ours_wants_random_keys_to_differ_or_leaves_its_class_open() {
        let cases = TRAPS.lines().chain(EDGES.lines());
        let cases: Vec<Json> = cases
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let is_random = |case: &Json| {
            let events = case["expect"]["events"].as_array();
            events.is_some_and(|all| all.iter().any(|event| event["id_source"] == "none"))
        };
        for case in &cases {
            let other = case["expect"].get("key_differs");
            let other = other.and_then(|name| cases.iter().find(|case| case["name"] == *name));
            let one_is_random = other.is_some_and(|other| is_random(other) || is_random(case));
            assert!(!one_is_random, "such keys always differ: {}", case["name"]);
        }
        let edges = EDGES.lines();
        let several: Vec<_> = edges.filter(|line| line.contains("error_also")).collect();
        assert!(several.is_empty(), "one class is right: {several:?}");
    }

    #[test]
    fn what_differs_is_shown() {
        let case = |expect: &str| {
            format!(
                r#"{{"name":"a","mqtt":{{"topic":"t/d","received":"2026-03-01T12:00:00Z","payload_b64":"MQ=="}},"config":{{"topic":"t/{{device}}"}},"expect":{expect}}}"#
            )
        };
        let event = r#"{"device":"d","time":"2026-03-01T12:00:00Z","time_source":"received","id_source":"none","measurements":[{"name":"value","value":VALUE}]}"#;
        let events = |value| format!(r#"{{"events":[{}]}}"#, event.replace("VALUE", value));
        let fine = check(&case(&events("1"))).unwrap();
        assert_eq!(fine.to_string(), "1 of 1 cases as expected");
        for expect in [
            events("2").as_str(),
            &events("1.5"),
            &events("1,\"unit\":\"Cel\""),
            &events("1").replace("\"d\"", "\"e\""),
            &events("1").replace("12:00", "12:01"),
            r#"{"events":[]}"#,
            r#"{"error":"syntax"}"#,
            &events("1").replace(
                "]}]}",
                "]}],\"rejected\":[{\"index\":0,\"error\":\"type\"}]}",
            ),
            &events("1").replace("]}]}", "]}],\"key_equals\":\"b\"}"),
            &events("1").replace("]}]}", "]}],\"key_differs\":\"a\"}"),
        ] {
            let report = check(&case(expect)).unwrap();
            assert_eq!(report.differences.len(), 1, "{expect}");
            assert_eq!(report.to_string(), "0 of 1 cases as expected, 1 differ");
        }
        assert!(check("{}").is_err() && check("not JSON").is_err());
    }
}
