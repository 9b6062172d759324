//! Every format, preset and compression: one message of about 200 bytes to its stored
//! events, key and encoding included.

use std::{path::Path, sync::Arc};

use divan::{Bencher, counter::ItemsCount};
use penstock::{
    config::Config,
    normalise::{Births, Mapping, Message, Resolved, Scratch, normalise},
};

use super::RECEIVED;

struct Case {
    name: &'static str,
    /// The keys of the mapping.
    mapping: &'static str,
    topic: &'static str,
    content_type: Option<&'static str>,
    payload: Vec<u8>,
    user: &'static [(&'static str, &'static str)],
    /// What the births of a node are learnt from, first.
    before: Vec<(&'static str, Vec<u8>)>,
}

impl Case {
    fn new(name: &'static str, mapping: &'static str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            mapping,
            topic: "devices/env-0042/telemetry",
            content_type: None,
            payload: payload.into(),
            user: &[],
            before: Vec::new(),
        }
    }

    fn on(mut self, topic: &'static str) -> Self {
        self.topic = topic;
        self
    }
}

const FLAT: &str = r#"{"id":"sim-env-0042-a1b2c3d4-1234","seq":1234,"boot":"a1b2c3d4","ts":"2026-03-01T11:59:50.123Z","temperature":21.52,"humidity":40.1,"pressure":1013.25,"battery":3.61,"co2":612,"ok":true}"#;

fn cbor(json: &str) -> Vec<u8> {
    let value: ciborium::Value = serde_json::from_str(json).expect("well-formed");
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).expect("memory");
    bytes
}

fn msgpack(json: &serde_json::Value) -> rmpv::Value {
    match json {
        serde_json::Value::Null => rmpv::Value::Nil,
        serde_json::Value::Bool(b) => (*b).into(),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.as_f64().expect("a number").into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => rmpv::Value::Array(items.iter().map(msgpack).collect()),
        serde_json::Value::Object(members) => rmpv::Value::Map(
            members
                .iter()
                .map(|(name, value)| (name.as_str().into(), msgpack(value)))
                .collect(),
        ),
    }
}

/// Fields of protobuf, one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn varint(mut self, field: u64, number: u64) -> Self {
        self.number(field << 3);
        self.number(number);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Six metrics, with names and types or by aliases alone.
fn sparkplug(birth: bool) -> Vec<u8> {
    let mut payload = Fields::default().varint(1, 1_772_366_390_123);
    for alias in 0..6 {
        let mut metric = Fields::default();
        if birth {
            metric = metric.bytes(1, format!("Line/Motor/{alias}").as_bytes());
        }
        metric = metric.varint(2, alias).varint(3, 1_772_366_390_100);
        if birth {
            metric = metric.varint(4, 3);
        }
        payload = payload.bytes(2, &metric.varint(10, 4_294_967_200 + alias).0);
    }
    payload.varint(3, u64::from(!birth)).0
}

fn compressed(how: &str) -> Vec<u8> {
    use std::io::Write as _;
    match how {
        "gzip" => {
            let level = flate2::Compression::default();
            let mut to = flate2::write::GzEncoder::new(Vec::new(), level);
            to.write_all(FLAT.as_bytes()).expect("memory");
            to.finish().expect("memory")
        }
        "lz4" => {
            let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
            to.write_all(FLAT.as_bytes()).expect("memory");
            to.finish().expect("memory")
        }
        _ => {
            let mut to = Vec::with_capacity(zstd_safe::compress_bound(FLAT.len()));
            zstd_safe::compress(&mut to, FLAT.as_bytes(), 3).expect("memory");
            to
        }
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let json: serde_json::Value = serde_json::from_str(FLAT).expect("well-formed");
    let mut packed = Vec::new();
    rmpv::encode::write_value(&mut packed, &msgpack(&json)).expect("memory");
    let senml = r#"[{"bn":"urn:dev:ow:10e2073a01080063:","bt":1772366390.123,"bu":"Cel","n":"t1","v":21.5},{"n":"t2","v":22.5},{"n":"hum","u":"%RH","v":40.1},{"n":"t3","v":23.5},{"n":"open","vb":true}]"#;
    let senml_cbor = {
        let pairs = |pairs: Vec<(i64, ciborium::Value)>| {
            let pairs = pairs
                .into_iter()
                .map(|(label, value)| (label.into(), value));
            ciborium::Value::Map(pairs.collect())
        };
        let mut records = vec![pairs(vec![
            (-2, "urn:dev:ow:10e2073a01080063:".into()),
            (-3, 1_772_366_390.123.into()),
            (-4, "Cel".into()),
            (0, "t0".into()),
            (2, 21.5.into()),
        ])];
        records.extend((1..5).map(|n| pairs(vec![(0, format!("t{n}").into()), (2, 21.5.into())])));
        let mut bytes = Vec::new();
        ciborium::into_writer(&records, &mut bytes).expect("memory");
        bytes
    };
    let event = r#"{"specversion":"1.0","id":"e-1","source":"/plant/line-1","type":"com.example.reading","subject":"press-7","time":"2026-03-01T11:59:50.123Z","data":{"temperature":21.52,"humidity":40.1}}"#;
    let own = r#"{"specversion":"1.0","id":"0123456789abcdef0123456789abcdef","source":"/pune/env-0042","type":"env","subject":"env-0042","time":"2026-03-01T11:59:50.123Z","datacontenttype":"application/json","recordedtime":"2026-03-01T11:59:50.5Z","partitionkey":"env-0042","site":"pune","device":"env-0042","mqtttopic":"a/b","idsource":"content","timesource":"device","eventkey":"0123456789abcdef0123456789abcdef","data":{"m":[{"n":"temperature","v":21.52,"u":"Cel"},{"n":"humidity","v":40.1}]}}"#;
    vec![
        Case::new("json", "format = \"json\"", FLAT),
        Case::new("scalar", "format = \"scalar\"", "21.52"),
        Case::new("cbor", "format = \"cbor\"", cbor(FLAT)),
        Case::new("msgpack", "format = \"msgpack\"", packed),
        Case::new("senml-json", "format = \"senml-json\"", senml),
        Case::new("senml-cbor", "format = \"senml-cbor\"", senml_cbor),
        Case::new(
            "influx",
            "format = \"influx\"",
            "env,host=env-0042,line=L1 temperature=21.52,humidity=40.1,pressure=1013.25,battery=3.61,co2=612i,ok=t 1772366390123456789",
        ),
        Case::new(
            "csv",
            "format = \"csv\"\ncsv = { columns = [\"ts\", \"temperature\", \"humidity\", \"pressure\", \"battery\", \"co2\", \"ok\"] }",
            "2026-03-01T11:59:50.123Z,21.52,40.1,1013.25,3.61,612,true\n",
        ),
        Case::new("cloudevents-structured", "format = \"cloudevents\"", event),
        Case {
            content_type: Some("application/json"),
            user: &[
                ("specversion", "1.0"),
                ("id", "e-1"),
                ("source", "/plant/line-1"),
                ("type", "com.example.reading"),
                ("subject", "press-7"),
                ("time", "2026-03-01T11:59:50.123Z"),
            ],
            ..Case::new(
                "cloudevents-binary",
                "format = \"cloudevents\"",
                r#"{"temperature":21.52,"humidity":40.1}"#,
            )
        },
        Case::new("event-of-another-gateway", "", own),
        Case::new("raw", "format = \"raw\"", FLAT),
        Case::new("gzip-json", "compression = \"gzip\"", compressed("gzip")),
        Case::new("zstd-json", "compression = \"zstd\"", compressed("zstd")),
        Case::new("lz4-json", "compression = \"lz4\"", compressed("lz4")),
        Case {
            before: vec![("spBv1.0/G/NBIRTH/N", sparkplug(true))],
            ..Case::new("sparkplug-data", "preset = \"sparkplug\"", sparkplug(false))
        }
        .on("spBv1.0/G/NDATA/N"),
        Case::new("sparkplug-birth", "preset = \"sparkplug\"", sparkplug(true))
            .on("spBv1.0/G/NBIRTH/N"),
        Case::new(
            "zigbee2mqtt",
            "preset = \"zigbee2mqtt\"",
            r#"{"temperature":27.34,"humidity":44.72,"battery":97,"voltage":3000,"linkquality":120,"last_seen":1772366390123}"#,
        ),
        Case::new(
            "tasmota",
            "preset = \"tasmota\"\ntz = \"+01:00\"",
            r#"{"Time":"2026-03-01T12:59:50","ENERGY":{"Total":12.3,"Yesterday":1.2,"Today":0.4,"Power":8,"Voltage":231,"Current":0.04}}"#,
        ),
        Case::new(
            "shelly",
            "preset = \"shelly\"",
            r#"{"src":"shellyplus1-a8","dst":"u","method":"NotifyStatus","params":{"ts":1772366390.25,"switch:0":{"id":0,"output":true,"apower":8.5,"voltage":231.2}}}"#,
        ),
        Case::new("homie", "preset = \"homie\"", "21.5"),
        Case::new("lwt", "preset = \"lwt\"", "online"),
        Case::new(
            "ha-discovery",
            "preset = \"ha-discovery\"",
            r#"{"name":"T","state_topic":"a/b","unique_id":"t1","unit_of_measurement":"C","device":{"identifiers":["dev9"]}}"#,
        ),
        Case::new(
            "chirpstack",
            "preset = \"chirpstack\"",
            r#"{"deduplicationId":"3ac7e3c4-4401-4b8d-9386-a5c902f9202d","time":"2026-03-01T11:59:50.433Z","deviceInfo":{"devEui":"0102030405060708"},"fCnt":7,"object":{"temperature":21.5,"humidity":40}}"#,
        ),
        Case::new(
            "tts",
            "preset = \"tts\"",
            r#"{"end_device_ids":{"device_id":"dev1"},"received_at":"2026-03-01T11:59:50.5Z","uplink_message":{"session_key_id":"AXA=","f_cnt":1,"decoded_payload":{"t":21.5,"h":40},"received_at":"2026-03-01T11:59:50.4Z"}}"#,
        ),
        Case::new(
            "aws-shadow",
            "preset = \"aws-shadow\"",
            r#"{"state":{"reported":{"temp":21.5,"hum":40.1,"on":true}},"metadata":{},"version":12,"timestamp":1772366390}"#,
        ),
        Case::new(
            "opcua",
            "preset = \"opcua\"",
            r#"{"MessageId":"M-1","MessageType":"ua-data","PublisherId":"Pub1","Messages":[{"DataSetWriterId":1,"Timestamp":"2026-03-01T11:59:50.1Z","Payload":{"a":{"Value":1.5,"StatusCode":{"Code":0}},"b":2}}]}"#,
        ),
        Case::new(
            "thin-edge",
            "preset = \"thin-edge\"",
            r#"{"time":"2026-03-01T11:59:50.1Z","temperature":25.3,"pressure":{"a":1.2,"b":1.3}}"#,
        ),
        Case::new(
            "uplink",
            "preset = \"uplink\"",
            r#"[{"sequence":1,"timestamp":1772366390123,"rpm":900},{"sequence":2,"timestamp":1772366390223,"rpm":910}]"#,
        ),
    ]
}

/// The names of all cases, for the table.
fn names() -> Vec<&'static str> {
    cases().into_iter().map(|case| case.name).collect()
}

fn mapping(case: &Case) -> (Mapping, Resolved) {
    let topic = match case.mapping.contains("sparkplug") {
        true => "#",
        false => "devices/{device}/{type}",
    };
    let text = format!("[[mapping]]\ntopic = \"{topic}\"\n{}", case.mapping);
    let config = Config::from_text(&text, Path::new(""), &|_| None);
    let mapping = config
        .expect("the mapping is fine")
        .ingest
        .mappings
        .remove(0);
    let resolved = mapping.resolve(case.topic, None).expect("its topic");
    (mapping, resolved)
}

#[divan::bench(args = names())]
fn whole(bencher: Bencher<'_, '_>, name: &str) {
    let mut cases = cases();
    let at = cases.iter().position(|case| case.name == name);
    let case = cases.swap_remove(at.expect("one of them"));
    let (mapping, resolved) = mapping(&case);
    let births = Births::default();
    let (topic, client_id): (Arc<str>, Arc<str>) = (case.topic.into(), "c".into());
    let user: Vec<(Arc<str>, Arc<str>)> = case
        .user
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let mut scratch = Scratch::default();
    let mut run = |topic: &Arc<str>, payload: &[u8]| {
        let message = Message {
            topic,
            client_id: &client_id,
            identity: None,
            payload,
            content_type: case.content_type,
            user: &user,
            received: RECEIVED,
            nonce: [7; 16],
            delivery: None,
            births: &births,
        };
        let done = normalise(&mapping, &resolved, &message, &mut scratch);
        let events = done
            .unwrap_or_else(|reject| panic!("{name}: {reject}"))
            .events;
        for event in &events {
            let mut body = Vec::with_capacity(payload.len() + 192);
            event.to_cbor(&mut body);
            divan::black_box(&body);
        }
        events.len()
    };
    for (topic, payload) in &case.before {
        run(&(*topic).into(), payload);
    }
    let count = run(&topic, &case.payload);
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| run(&topic, &case.payload));
}
