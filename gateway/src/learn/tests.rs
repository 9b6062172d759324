use proptest::prelude::*;

use super::*;

/// 2026-03-01T12:00:00Z.
const RECEIVED: Timestamp = Timestamp::from_millis(1_772_366_400_000);

fn observed(messages: &[(&str, &str)]) -> Vec<Observed> {
    let messages = messages.iter();
    messages
        .map(|(topic, payload)| Observed {
            topic: (*topic).to_owned(),
            payload: payload.as_bytes().to_vec(),
        })
        .collect()
}

/// The proposal in a directory, read as `check-config` reads it.
fn checked(proposal: &Proposal) -> Config {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in &proposal.schemas {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let read = Config::from_text(&proposal.config, dir.path(), &|_| None);
    read.unwrap_or_else(|mistakes| panic!("{mistakes}\n{}", proposal.config))
}

#[test]
fn a_proposal_takes_every_message_that_it_was_made_of() {
    let observed = observed(&[
        (
            "plant/b7/telemetry",
            r#"{"ts":1772366390123,"seq":1,"boot":"x","temp":21.5,"door":{"open":true}}"#,
        ),
        (
            "plant/b8/telemetry",
            r#"{"ts":1772366391456,"seq":2,"boot":"y","temp":22,"note":"ok"}"#,
        ),
        ("lines/a", "21.5"),
        ("lines/b", "22"),
        ("batch/only", r#"[{"id":"a","v":1},{"id":"b","v":2}]"#),
        ("zigbee2mqtt/kitchen/lamp", r#"{"power":5}"#),
    ]);
    let proposal = propose(&observed, RECEIVED).unwrap();
    let fine = Tried {
        fine: 6,
        ..Tried::default()
    };
    assert_eq!(proposal.tried, fine, "{}", proposal.config);
    let config = checked(&proposal);
    assert_eq!(config.ingest.mappings.len(), 4);
    for part in [
        "topic = \"plant/{device}/telemetry\"\ndevice = \"{device}\"\ntype = \"plant.v1\"\ntime = { at = \"/ts\" }\nsequence = { at = \"/seq\", boot = \"/boot\" }\n",
        "topic = \"lines/{device}\"",
        "topic = \"batch/only\"\ndevice = \"{client}\" # no level",
        "id = [\"/id\"] # it was another one in each of 2 events",
        "preset = \"zigbee2mqtt\"",
    ] {
        assert!(
            proposal.config.contains(part),
            "{part}\n{}",
            proposal.config
        );
    }
    #[cfg(not(feature = "schema"))]
    assert!(proposal.schemas.is_empty() && proposal.config.ends_with("(feature \"schema\").\n"));
    #[cfg(feature = "schema")]
    the_schemas(&proposal);
}

#[cfg(feature = "schema")]
fn the_schemas(proposal: &Proposal) {
    let part = "file = \"plant.schema.json\"\non_mismatch = \"tag\"";
    assert!(proposal.config.contains(part), "{}", proposal.config);
    let schema: serde_json::Value = serde_json::from_str(&proposal.schemas[2].1).unwrap();
    assert_eq!(proposal.schemas[2].0, "plant.schema.json");
    assert_eq!(
        schema["required"],
        serde_json::json!(["boot", "seq", "temp", "ts"])
    );
    assert_eq!(schema["properties"]["temp"]["type"], "number");
    assert_eq!(
        schema["properties"]["door"]["properties"]["open"]["type"],
        "boolean"
    );
}

#[test]
fn what_cannot_be_read_is_said_and_not_hidden() {
    let observed = observed(&[("a/b", "{"), ("a/c", "{\"v\":1}")]);
    let proposal = propose(&observed, RECEIVED).unwrap();
    assert_eq!((proposal.tried.fine, proposal.tried.quarantined), (1, 1));
    assert!(proposal.config.contains("# 1 of them cannot be read"));
    assert!(
        proposal
            .config
            .contains("# Nothing tells a resend from another reading")
    );
    checked(&proposal);
    assert_eq!(propose(&[], RECEIVED), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_seen_the_proposal_is_a_configuration(
        messages in proptest::collection::vec(("[a-c{}+#$/\"\\\\é]{1,9}", proptest::collection::vec(any::<u8>(), 0..20)), 1..8),
        json in proptest::collection::vec(("[ab]/[a-c]", r#"\{"(ts|id|seq|v)":(1|-1|"x"|2\.5|null|true|\[1\]|1772366390123)\}"#), 0..8),
    ) {
        let mut seen: Vec<Observed> = messages
            .into_iter()
            .filter(|(topic, _)| !topic.contains(['+', '#']))
            .map(|(topic, payload)| Observed { topic, payload })
            .collect();
        let json = json.into_iter().map(|(topic, payload)| Observed { topic, payload: payload.into_bytes() });
        let readable: Vec<Observed> = json.collect();
        if let Some(proposal) = propose(&readable, RECEIVED) {
            prop_assert_eq!(proposal.tried.quarantined + proposal.tried.mismatched, 0, "{}", proposal.config);
        }
        seen.extend(readable);
        if let Some(proposal) = propose(&seen, RECEIVED) {
            checked(&proposal);
        }
    }
}
