//! Sparkplug, message after message: what births teach, and what they do not.

mod rebirth;
mod values;

use super::*;
use crate::normalise::preset::{Name, Preset};

/// A payload's fields, one after the other.
#[derive(Clone, Default)]
struct Payload(Vec<u8>);

impl Payload {
    fn sent(at: Timestamp) -> Self {
        let millis = u64::try_from(at.as_nanos() / 1_000_000).unwrap();
        Self::default().varint(1, millis)
    }

    fn varint(mut self, field: u8, number: u64) -> Self {
        self.0.push(field << 3);
        self.number(number);
        self
    }

    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap());
    }

    fn bytes(mut self, field: u16, bytes: &[u8]) -> Self {
        self.number(u64::from(field << 3 | 2));
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn seq(self, seq: u64) -> Self {
        self.varint(3, seq)
    }

    /// A metric that is a 32-bit integer.
    fn metric(self, metric: Payload) -> Self {
        self.bytes(2, &metric.0)
    }
}

fn named(name: &str, alias: u64) -> Payload {
    let metric = Payload::default().bytes(1, name.as_bytes());
    metric.varint(2, alias).varint(4, 3).varint(10, 7)
}

fn aliased(alias: u64) -> Payload {
    Payload::default().varint(2, alias).varint(10, 7)
}

fn bd_seq(number: u64) -> Payload {
    let metric = Payload::default().bytes(1, b"bdSeq");
    metric.varint(4, 8).varint(11, number)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(RECEIVED.as_nanos() + seconds * 1_000_000_000)
}

fn sparkplug() -> Mapping {
    let preset = Preset::named(Name::Sparkplug);
    Mapping {
        protocol: preset.protocol,
        format: preset.format,
        time: None,
        sequence: None,
        ..Mapping::defaults().swap_remove(1)
    }
}

fn send(
    births: &Births,
    topic: &str,
    received: Timestamp,
    payload: &Payload,
) -> Result<Event, Reject> {
    send_by(&sparkplug(), births, topic, received, payload)
}

fn send_by(
    mapping: &Mapping,
    births: &Births,
    topic: &str,
    received: Timestamp,
    payload: &Payload,
) -> Result<Event, Reject> {
    let message = Message {
        topic: &topic.into(),
        client_id: &"c".into(),
        identity: None,
        payload: &payload.0,
        content_type: None,
        user: &[],
        received,
        nonce: [1; 16],
        delivery: None,
        births,
    };
    let resolved = mapping.resolve(topic, None).unwrap();
    let mut scratch = Scratch::default();
    let done = normalise(mapping, &resolved, &message, &mut scratch);
    if let Some(heard) = scratch.take_heard() {
        births.learn("c", &heard, false);
    }
    Ok(done?.events.into_iter().next().unwrap())
}

const NBIRTH: &str = "spBv1.0/G/NBIRTH/N";
const NDATA: &str = "spBv1.0/G/NDATA/N";
const NDEATH: &str = "spBv1.0/G/NDEATH/N";
const DBIRTH: &str = "spBv1.0/G/DBIRTH/N/D";
const DDATA: &str = "spBv1.0/G/DDATA/N/D";

fn birth(sent: i64, metric: Payload) -> Payload {
    Payload::sent(at(sent)).metric(metric).seq(0)
}

fn data(sent: i64, alias: u64) -> Payload {
    Payload::sent(at(sent)).metric(aliased(alias)).seq(1)
}

/// The name that an alias has now, or why it has none.
fn name(births: &Births, topic: &str, received: i64, payload: &Payload) -> Result<String, Class> {
    match send(births, topic, at(received), payload) {
        Ok(event) => Ok(event.measurements[0].name.to_string()),
        Err(reject) => Err(reject.class),
    }
}

#[test]
fn a_unit_of_a_metric_has_a_bound() {
    let birth = |unit: &str| {
        let text = Payload::default().varint(1, 12).bytes(8, unit.as_bytes());
        let properties = Payload::default().bytes(1, b"engUnit").bytes(2, &text.0);
        let metric = named("t", 1).bytes(9, &properties.0);
        let birth = Payload::sent(RECEIVED).seq(0).metric(bd_seq(0));
        let birth = birth.metric(metric);
        send(&Births::default(), "spBv1.0/g/NBIRTH/n", RECEIVED, &birth)
    };
    let longest = "u".repeat(256);
    let event = birth(&longest).unwrap();
    let mut measured = event.measurements.iter();
    assert!(measured.any(|m| m.unit.as_deref() == Some(&*longest)));
    assert_eq!(birth(&"u".repeat(257)).unwrap_err().class, Class::Limit);
}

#[test]
fn metrics_in_a_body_are_not_dropped() {
    let births = Births::default();
    let whose = |uuid: &[u8]| Payload::sent(at(0)).seq(1).bytes(4, uuid).bytes(5, b"x");
    for topic in [NDATA, NBIRTH, DDATA] {
        for (uuid, class) in [
            (&b"SPBV1.0_COMPRESSED"[..], Class::Syntax),
            (b"of another kind", Class::Unsupported),
        ] {
            let reject = send(&births, topic, at(0), &whose(uuid)).unwrap_err();
            assert_eq!(reject.class, class);
        }
    }
}

#[test]
fn a_birth_that_is_refused_leaves_no_old_names() {
    for (topic, data_topic) in [(NBIRTH, NDATA), (DBIRTH, DDATA)] {
        let births = Births::default();
        send(&births, topic, at(0), &birth(0, named("temp", 1))).unwrap();
        assert_eq!(name(&births, data_topic, 1, &data(1, 1)), Ok("temp".into()));
        send(&births, topic, at(2), &birth(2, aliased(1))).unwrap_err();
        assert_eq!(name(&births, data_topic, 3, &data(3, 1)), Err(Class::State));
    }
}

#[test]
fn a_birth_with_a_value_that_is_not_read_still_says_the_names() {
    let births = Births::default();
    let extension = Payload::default().bytes(1, b"udt").bytes(19, b"");
    let payload = birth(0, named("level", 1)).metric(extension);
    let reject = send(&births, NBIRTH, at(0), &payload).unwrap_err();
    assert_eq!(reject.class, Class::Unsupported);
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Ok("level".into()));
}

#[test]
fn the_last_birth_counts_whatever_the_nodes_clock_says() {
    let births = Births::default();
    send(&births, NBIRTH, at(0), &birth(3_600, named("old", 1))).unwrap();
    send(&births, NBIRTH, at(600), &birth(600, named("new", 1))).unwrap();
    assert_eq!(name(&births, NDATA, 601, &data(601, 1)), Ok("new".into()));
}

#[test]
fn a_retry_learns_from_no_later_birth_and_teaches_nothing() {
    let births = Births::default();
    send(&births, NBIRTH, at(0), &birth(0, named("n", 1))).unwrap();
    // Sent without a time, so that only the order of arrival tells.
    let early = Payload::default().metric(aliased(5)).seq(1);
    assert_eq!(name(&births, DDATA, 10, &early), Err(Class::State));
    send(&births, DBIRTH, at(20), &birth(20, named("p", 5))).unwrap();
    let again = births.only_read();
    assert_eq!(name(&again, DDATA, 10, &early), Err(Class::State));
    assert_eq!(name(&again, DDATA, 21, &early), Ok("p".into()));
    send(&again, NBIRTH, at(-5), &birth(-5, named("older", 1))).unwrap();
    assert_eq!(name(&births, NDATA, 22, &data(22, 1)), Ok("n".into()));
}

#[test]
fn the_death_of_an_earlier_session_forgets_nothing() {
    let births = Births::default();
    let payload = birth(0, named("n", 1)).metric(bd_seq(4));
    send(&births, NBIRTH, at(0), &payload).unwrap();
    let dead = |number| Payload::default().metric(bd_seq(number));
    send(&births, NDEATH, at(1), &dead(3)).unwrap();
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Ok("n".into()));
    send(&births.only_read(), NDEATH, at(1), &dead(4)).unwrap();
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Ok("n".into()));
    send(&births, NDEATH, at(1), &dead(4)).unwrap();
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Err(Class::State));
}

#[test]
fn a_device_with_a_long_name_is_refused_before_it_is_kept() {
    let births = Births::default();
    let topic = format!("spBv1.0/G/DBIRTH/N/{}", "d".repeat(4_000));
    let reject = send(&births, &topic, at(0), &birth(0, named("m", 1))).unwrap_err();
    assert_eq!(reject.class, Class::Limit);
    assert_eq!(births.bytes(), 0);
}

#[test]
fn metrics_keep_their_times_where_the_payload_has_none() {
    let births = Births::default();
    let timed = |seconds: i64| named("m", 1).0.into_iter().chain(millis(seconds));
    fn millis(seconds: i64) -> Vec<u8> {
        let millis = u64::try_from(at(seconds).as_nanos() / 1_000_000).unwrap();
        Payload::default().varint(3, millis).0
    }
    let metric = |seconds| Payload(timed(seconds).collect());
    let payload = Payload::default()
        .metric(metric(-50))
        .metric(metric(-40))
        .seq(1);
    let event = send(&births, NDATA, at(0), &payload).unwrap();
    assert_eq!(
        (event.time, event.time_source),
        (at(-50), TimeSource::Device)
    );
    assert_eq!(event.id_source, IdSource::None);
    let times: Vec<_> = event.measurements.iter().map(|m| m.time).collect();
    assert_eq!(times, [None, Some(at(-40))]);
    // One that cannot be believed is no reason to forget those that can.
    let payload = Payload::sent(Timestamp::from_millis(5))
        .metric(metric(-50))
        .seq(1);
    let event = send(&births, NDATA, at(0), &payload).unwrap();
    assert_eq!(event.time_source, TimeSource::Received);
    assert_eq!(event.measurements[0].time, Some(at(-50)));
}

#[test]
fn only_what_is_historical_is_called_so() {
    let births = Births::default();
    let old = |name| named(name, 1).varint(5, 1);
    let tags = |payload: &Payload| -> Vec<String> {
        let event = send(&births, NDATA, at(0), payload).unwrap();
        event
            .tags
            .iter()
            .map(|(name, _)| name.to_string())
            .collect()
    };
    let sent = Payload::sent(at(0)).seq(1);
    assert_eq!(tags(&sent.clone().metric(old("a"))), ["historical"]);
    let mixed = sent.metric(old("a")).metric(named("b", 2));
    assert_eq!(tags(&mixed), ["a.historical"]);
    let unbelieved = Payload::sent(Timestamp::from_millis(5))
        .seq(1)
        .metric(old("a"));
    assert_eq!(tags(&unbelieved), ["devicetime", "historical"]);
}

#[test]
fn what_another_broker_puts_before_the_namespace_is_no_part_of_it() {
    let births = Births::default();
    let at_plant = |topic: &str| format!("plant/{topic}");
    send(&births, &at_plant(NBIRTH), at(0), &birth(0, named("n", 1))).unwrap();
    let event = send(&births, &at_plant(NDATA), at(1), &data(1, 1)).unwrap();
    assert_eq!(&*event.device, "G/N");
    // The node of another plant is another node.
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Err(Class::State));
}

#[test]
fn a_birth_without_a_sequence_number_is_number_0() {
    let births = Births::default();
    let payload = Payload::sent(at(0)).metric(named("n", 1));
    send(&births, NBIRTH, at(0), &payload).unwrap();
    assert_eq!(name(&births, NDATA, 1, &data(1, 1)), Ok("n".into()));
}

#[test]
fn what_is_tried_again_without_the_types_of_its_birth_is_refused() {
    let births = Births::default();
    let untyped = Payload::default().bytes(1, b"temp").varint(10, 0xff);
    let typed = Payload::default()
        .bytes(1, b"temp")
        .varint(4, 1)
        .varint(10, 0xff);
    let data = |metric: &Payload| {
        Payload::sent(at(5))
            .metric(Payload(metric.0.clone()))
            .seq(1)
    };
    send(&births, NDATA, at(5), &data(&untyped)).expect("as it came it is taken");
    let again = births.only_read();
    let refused = send(&again, NDATA, at(5), &data(&untyped)).unwrap_err();
    assert_eq!(refused.class, Class::State);
    send(&again, NDATA, at(5), &data(&typed)).expect("it says so itself");
}
