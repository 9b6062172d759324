//! What one message costs on its way in, and one event on its way out.
//!
//! `cargo bench -p penstock --bench normalise`

use std::sync::Arc;

use divan::{Bencher, black_box, counter::ItemsCount};
use penstock::{
    event::{Event, Timestamp},
    normalise::{self, Births, Mapping, Message, Resolved, Scratch, decode},
};

#[path = "normalise/decoders.rs"]
mod decoders;

fn main() {
    divan::main();
}

const TOPIC: &str = "devices/env-0042/telemetry";
const RECEIVED: Timestamp = Timestamp::from_millis(1_772_366_400_000);

/// About 200 bytes, as the simulator's devices send it.
const JSON: &[u8] = br#"{"id":"sim-env-0042-a1b2c3d4-1234","seq":1234,"boot":"a1b2c3d4","ts":"2026-03-01T11:59:50.123Z","temperature":21.52,"humidity":40.1,"pressure":1013.25,"battery":3.61,"co2":612,"ok":true}"#;

struct Case {
    mapping: Mapping,
    resolved: Resolved,
    topic: Arc<str>,
    client_id: Arc<str>,
    payload: Vec<u8>,
    user: Vec<(Arc<str>, Arc<str>)>,
}

impl Case {
    fn new(payload: Vec<u8>, id: Option<&str>) -> Self {
        let mapping = Mapping::defaults().swap_remove(0);
        let resolved = mapping
            .resolve(TOPIC, None)
            .expect("the mapping takes the topic");
        let user = id
            .map(|id| ("idempotency-key".into(), id.into()))
            .into_iter()
            .collect();
        Self {
            mapping,
            resolved,
            topic: TOPIC.into(),
            client_id: "env-0042".into(),
            payload,
            user,
        }
    }

    fn events(&self, scratch: &mut Scratch) -> Vec<Event> {
        let message = Message {
            topic: &self.topic,
            client_id: &self.client_id,
            identity: None,
            payload: &self.payload,
            content_type: None,
            user: &self.user,
            received: RECEIVED,
            nonce: [7; 16],
            delivery: None,
            births: &Births::default(),
        };
        normalise::normalise(&self.mapping, &self.resolved, &message, scratch)
            .expect("the payload is well-formed")
            .events
    }
}

fn cbor() -> Vec<u8> {
    let value: ciborium::Value = serde_json::from_slice(JSON).expect("well-formed");
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).expect("memory");
    bytes
}

fn batch() -> Vec<u8> {
    let elements: Vec<_> = (0..50)
        .map(|n| format!(r#"{{"ts":17723663{n:02}123,"temperature":21.5,"humidity":40}}"#))
        .collect();
    format!("[{}]", elements.join(",")).into_bytes()
}

/// Decode, normalise, key and encode: everything between the socket and the store.
fn whole(bencher: Bencher<'_, '_>, case: &Case) {
    let mut scratch = Scratch::default();
    let count = case.events(&mut scratch).len();
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for event in case.events(&mut scratch) {
            let mut body = Vec::with_capacity(case.payload.len() + 192);
            event.to_cbor(&mut body);
            black_box(&body);
        }
    });
}

#[divan::bench]
fn whole_json_by_property(bencher: Bencher<'_, '_>) {
    whole(
        bencher,
        &Case::new(JSON.to_vec(), Some("sim-env-0042-a1b2c3d4-1234")),
    );
}

#[divan::bench]
fn whole_json_by_sequence(bencher: Bencher<'_, '_>) {
    whole(bencher, &Case::new(JSON.to_vec(), None));
}

#[divan::bench]
fn whole_cbor_by_sequence(bencher: Bencher<'_, '_>) {
    whole(bencher, &Case::new(cbor(), None));
}

#[divan::bench]
fn whole_scalar(bencher: Bencher<'_, '_>) {
    whole(bencher, &Case::new(b"21.5".to_vec(), None));
}

#[divan::bench]
fn whole_batch_of_50_by_content(bencher: Bencher<'_, '_>) {
    whole(bencher, &Case::new(batch(), None));
}

#[divan::bench]
fn decode_json(bencher: Bencher<'_, '_>) {
    bencher.bench(|| decode::decode(decode::Format::Json, black_box(JSON)));
}

#[divan::bench]
fn decode_json_with_serde_json(bencher: Bencher<'_, '_>) {
    bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(JSON)));
}

#[divan::bench]
fn decode_cbor(bencher: Bencher<'_, '_>) {
    let payload = cbor();
    bencher.bench(|| decode::decode(decode::Format::Cbor, black_box(&payload)).is_ok());
}

#[divan::bench]
fn event_to_cbor(bencher: Bencher<'_, '_>) {
    let event = Case::new(JSON.to_vec(), None)
        .events(&mut Scratch::default())
        .swap_remove(0);
    bencher.bench(|| {
        let mut body = Vec::with_capacity(400);
        event.to_cbor(&mut body);
        body
    });
}

#[divan::bench]
fn event_from_cbor(bencher: Bencher<'_, '_>) {
    let event = Case::new(JSON.to_vec(), None)
        .events(&mut Scratch::default())
        .swap_remove(0);
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    bencher.bench(|| Event::from_cbor(black_box(&body)));
}

#[divan::bench]
fn event_to_json(bencher: Bencher<'_, '_>) {
    let event = Case::new(JSON.to_vec(), None)
        .events(&mut Scratch::default())
        .swap_remove(0);
    bencher.bench(|| {
        let mut body = Vec::with_capacity(1200);
        event.to_json(Some("12345"), &mut body);
        body
    });
}
