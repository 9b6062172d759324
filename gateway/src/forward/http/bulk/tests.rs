//! What is written, and what answers of a real OpenSearch 2.19 mean.

use super::*;
use crate::{
    event::{Key, Quality, Timestamp, Value},
    forward::testing::record,
};

fn item(change: impl FnOnce(&mut Event)) -> Item {
    let record = record(1, 1);
    let mut event = record.event().unwrap();
    change(&mut event);
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    let body = body.into();
    Item::check(crate::record::Record { body, ..record }).unwrap()
}

fn written(item: &Item) -> (serde_json::Value, serde_json::Value) {
    let index = Index::parse("telemetry-{yyyy.MM.dd}").unwrap();
    let mut out = Vec::new();
    Bulk { index }.write(item, &mut out);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let json = |line: &str| serde_json::from_str(line).unwrap();
    assert_eq!(lines.len(), 2, "{text}");
    (json(lines[0]), json(lines[1]))
}

fn measurement(name: &str, value: Value) -> Measurement {
    Measurement {
        name: name.into(),
        value,
        unit: None,
        quality: Quality::Good,
        time: None,
    }
}

#[test]
fn a_document_has_the_attributes_and_each_value_by_its_name() {
    let item = item(|event| {
        event.key = Key([0xab; 16]);
        let mut odd = measurement("state", Value::Text("on".to_owned()));
        odd.quality = Quality::Bad;
        odd.time = Some(Timestamp::from_millis(0));
        event.measurements.push(odd);
        event.measurements.push(measurement("n", Value::Int(1)));
        event.measurements.push(measurement("n", Value::Int(2)));
        event.tags = vec![("hall".into(), "7".into())];
    });
    let (action, document) = written(&item);
    let key = "ab".repeat(16);
    let create = serde_json::json!({"_index": "telemetry-2023.11.14", "_id": key});
    assert_eq!(action, serde_json::json!({ "create": create }));
    assert_eq!(document["@timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(document["device"], "device-1");
    assert_eq!(document["eventkey"], key);
    assert_eq!(
        document["values"],
        serde_json::json!({"temperature": 21.5, "state": "on", "n": [1, 2]})
    );
    assert_eq!(document["units"], serde_json::json!({"temperature": "Cel"}));
    assert_eq!(document["qualities"], serde_json::json!({"state": "bad"}));
    assert_eq!(
        document["times"],
        serde_json::json!({"state": "1970-01-01T00:00:00Z"})
    );
    assert_eq!(document["tags"], serde_json::json!({"hall": "7"}));
    assert!(document.get("data").is_none());
}

#[test]
fn a_correction_is_a_document_of_its_own_and_an_empty_event_is_one_too() {
    let at = Some(Timestamp::from_millis(1));
    let (action, document) = written(&item(|event| event.corrected = at));
    assert_ne!(action["create"]["_id"], document["eventkey"]);
    let (_, document) = written(&item(|event| event.measurements.clear()));
    assert!(document.get("values").is_none());
    assert_eq!(document["device"], "device-1");
}

const TAKEN: &str = r#"{"create":{"status":201}}"#;
const THERE: &str = r#"{"create":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[k1]: version conflict, document already exists (current version [1])"}}}"#;
const MAPPING: &str = r#"{"create":{"_index":"a","_id":"k2","status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse field [x] of type [long] in document with id 'k2'","caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"abc\""}}}}"#;
const BUSY: &str = r#"{"create":{"status":429,"error":{"type":"rejected_execution_exception","reason":"queue full"}}}"#;
const CLOSED: &str =
    r#"{"create":{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}}"#;
const NO_SHARD: &str = r#"{"create":{"status":503,"error":{"type":"unavailable_shards_exception","reason":"[a][0] primary shard is not active"}}}"#;
const FORBIDDEN: &str =
    r#"{"create":{"status":403,"error":{"type":"security_exception","reason":"no permissions"}}}"#;
const BLOCKED: &str = r#"{"create":{"status":403,"error":{"type":"cluster_block_exception","reason":"index [a] blocked by: [FORBIDDEN/8/index write (api)];"}}}"#;

const FLOODED: &str = r#"{"create":{"status":429,"error":{"type":"cluster_block_exception","reason":"index [a] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];"}}}"#;
const FIELDS: &str = r#"{"create":{"status":400,"error":{"type":"illegal_argument_exception","reason":"Limit of total fields [1000] has been exceeded"}}}"#;
/// It waits, for what the cluster said.
fn waits(item: &str) -> Outcome {
    let said: serde_json::Value = serde_json::from_str(item).unwrap();
    let (of, error) = (&said["create"], &said["create"]["error"]);
    let text = |of: &serde_json::Value| of.as_str().unwrap().to_owned();
    Outcome::Paced {
        retry_after: ELSEWHERE_WAITS,
        reason: format!(
            "{} {}: {}",
            of["status"],
            text(&error["type"]),
            text(&error["reason"])
        ),
    }
}

fn of(items: &[&str]) -> Result<Vec<Outcome>, Error> {
    let body = format!(r#"{{"errors":true,"items":[{}]}}"#, items.join(","));
    outcomes(body.as_bytes(), items.len(), &mut Health::Doubted)
}

#[test]
fn each_document_has_its_own_outcome() {
    let expect = vec![
        Outcome::Acknowledged,
        Outcome::Acknowledged,
        Outcome::Permanent("400 mapper_parsing_exception: failed to parse field [x] of type [long] in document with id 'k2': For input string: \"abc\"".to_owned()),
        Outcome::Throttled { retry_after: None },
        waits(CLOSED),
        waits(NO_SHARD),
        waits(FORBIDDEN),
        waits(FLOODED),
        waits(FIELDS),
    ];
    let items = [
        TAKEN, THERE, MAPPING, BUSY, CLOSED, NO_SHARD, FORBIDDEN, FLOODED, FIELDS,
    ];
    assert_eq!(of(&items), Ok(expect));
}

#[test]
fn what_is_nobodys_fault_gives_nobody_up() {
    for away in [CLOSED, NO_SHARD, BLOCKED, FLOODED, FIELDS] {
        let said = of(&[away, away]);
        assert!(matches!(said, Err(Error::Unavailable { .. })), "{said:?}");
    }
    assert!(matches!(of(&[FORBIDDEN]), Err(Error::Misconfigured(_))));
}

#[test]
fn an_index_that_takes_nothing_holds_nobody_else_up() {
    let mut health = Health::default();
    let mut of = |items: &[&str]| {
        let body = format!(r#"{{"items":[{}]}}"#, items.join(","));
        outcomes(body.as_bytes(), items.len(), &mut health)
    };
    // As long as others are taken, its documents wait, however often they are refused.
    for _ in 0..3 {
        assert_eq!(of(&[BLOCKED, BLOCKED]), Ok(vec![waits(BLOCKED); 2]));
        assert_eq!(of(&[TAKEN]), Ok(vec![Outcome::Acknowledged]));
    }
    // Where nothing is, that is said, and others have their turn in between.
    assert_eq!(of(&[FORBIDDEN]), Ok(vec![waits(FORBIDDEN)]));
    for _ in 0..3 {
        assert!(matches!(of(&[FORBIDDEN]), Err(Error::Misconfigured(_))));
        assert_eq!(of(&[FORBIDDEN]), Ok(vec![waits(FORBIDDEN)]));
    }
}

#[test]
fn an_answer_that_does_not_speak_of_each_says_nothing() {
    for (body, records) in [
        (r#"{"items":[{"create":{"status":201}}]}"#, 2),
        (r#"{"items":[{"index":{"status":201}}]}"#, 1),
        (r#"{"errors":false}"#, 1),
        (r#"{"items":[{"create":{"status":2"#, 1),
        ("", 1),
    ] {
        let said = outcomes(body.as_bytes(), records, &mut Health::default());
        assert!(matches!(said, Err(Error::Unavailable { .. })), "{body}");
    }
}
