//! Tables, arrays and templates (Sparkplug 3.0, sections 6.4.17 to 6.4.24).

use super::*;

fn event(births: &Births, topic: &str, metric: Payload) -> Result<Event, Reject> {
    let payload = Payload::sent(at(0)).metric(metric).seq(0);
    send(births, topic, at(0), &payload)
}

fn array(datatype: u64, bytes: &[u8]) -> Payload {
    let metric = Payload::default().bytes(1, b"a");
    metric.varint(4, datatype).bytes(16, bytes)
}

fn cell(field: u8, number: u64) -> Vec<u8> {
    Payload::default().varint(field, number).0
}

#[test]
fn a_table_has_its_columns_and_rows() {
    let row = |a: u64| {
        let row = Payload::default().bytes(1, &cell(1, a));
        row.bytes(1, &Payload::default().bytes(6, b"x").0)
    };
    let table = |types: Payload| {
        let table = Payload::default().varint(1, 2);
        let table = table.bytes(2, b"n").bytes(2, b"s");
        let table = Payload([table.0, types.0].concat());
        // -2 as 16 bits, and 7.
        table.bytes(4, &row(0xfffe).0).bytes(4, &row(7).0)
    };
    let unpacked = Payload::default().varint(3, 2).varint(3, 12);
    let packed = Payload::default().bytes(3, &[2, 12]);
    for types in [unpacked, packed] {
        let metric = Payload::default().bytes(1, b"t").varint(4, 16);
        let metric = metric.bytes(17, &table(types).0);
        let event = event(&Births::default(), NDATA, metric).unwrap();
        let text = |text: &str| Value::Text(text.into());
        let row = |n| Value::Array(vec![Value::Int(n), text("x")]);
        let expect = Value::Map(vec![
            ("columns".into(), Value::Array(vec![text("n"), text("s")])),
            ("rows".into(), Value::Array(vec![row(-2), row(7)])),
        ]);
        assert_eq!(event.measurements[0].value, expect);
    }
    let short = Payload::default().bytes(1, b"t").varint(4, 16);
    let short = short.bytes(17, &table(Payload::default().varint(3, 2)).0);
    let reject = event(&Births::default(), NDATA, short).unwrap_err();
    assert_eq!(reject.class, Class::Syntax);
}

#[test]
fn arrays_are_what_the_specification_shows() {
    let ints = |all: &[i64]| Value::Array(all.iter().map(|n| Value::Int(*n)).collect());
    let bools = |bits: &str| Value::Array(bits.chars().map(|c| Value::Bool(c == '1')).collect());
    let text = |text: &str| Value::Text(text.into());
    let cases: [(u64, &[u8], Value); 12] = [
        (22, b"\xef\x7b", ints(&[-17, 123])),
        (23, b"\x30\x8a\x7b\x7a", ints(&[-30160, 31355])),
        (24, b"\xff\xff\xff\xff\x01\0\0\0", ints(&[-1, 1])),
        (25, b"\xfe\xff\xff\xff\xff\xff\xff\xff", ints(&[-2])),
        (26, b"\x17\xfa", ints(&[23, 250])),
        (27, b"\x1e\0\x88\xcd", ints(&[30, 52616])),
        (28, b"\xff\xff\xff\xff", ints(&[4_294_967_295])),
        (
            29,
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            Value::Array(vec![Value::UInt(u64::MAX)]),
        ),
        (
            30,
            b"\0\0\xc0\x3f\0\0\xc0\x7f",
            Value::Array(vec![Value::Float(1.5), Value::Null]),
        ),
        (
            31,
            b"\0\0\0\0\0\0\xf8\x3f",
            Value::Array(vec![Value::Float(1.5)]),
        ),
        (32, b"\x0c\0\0\0\x34\xd0", bools("001101001101")),
        (
            33,
            b"ABC\0hello\0",
            Value::Array(vec![text("ABC"), text("hello")]),
        ),
    ];
    for (datatype, bytes, value) in cases {
        let event = event(&Births::default(), NDATA, array(datatype, bytes)).unwrap();
        assert_eq!(event.measurements[0].value, value, "{datatype}");
    }
    for (datatype, bytes, class) in [
        (23, &b"\x30"[..], Class::Syntax),
        (32, b"\x09\0\0\0\x34", Class::Syntax),
        (32, b"\0\0", Class::Syntax),
        (33, b"ABC", Class::Syntax),
        (33, b"\xff\0", Class::Encoding),
    ] {
        let reject = event(&Births::default(), NDATA, array(datatype, bytes)).unwrap_err();
        assert_eq!(reject.class, class, "{datatype} {bytes:?}");
    }
}

#[test]
fn arrays_have_no_more_values_than_a_payload_may() {
    let births = Births::default();
    let most = event(&births, NDATA, array(26, &[7; 10_000])).unwrap();
    assert!(matches!(&most.measurements[0].value, Value::Array(all) if all.len() == 10_000));
    let class = |payload: &Payload| send(&births, NDATA, at(0), payload).unwrap_err().class;
    // All arrays of a payload together, and the smallest of values.
    let half = array(26, &[7; 5_001]);
    let both = Payload::sent(at(0))
        .metric(half.clone())
        .metric(half)
        .seq(0);
    assert_eq!(class(&both), Class::Limit);
    let bits = [&10_001u32.to_le_bytes()[..], &[0; 1_251]].concat();
    let bits = Payload::sent(at(0)).metric(array(32, &bits)).seq(0);
    assert_eq!(class(&bits), Class::Limit);
}

#[test]
fn a_template_is_its_members_and_its_parameters_describe_it() {
    let births = Births::default();
    let member = |name: &str, alias: u64, value: u64| {
        let metric = Payload::default().bytes(1, name.as_bytes());
        metric.varint(2, alias).varint(4, 3).varint(10, value)
    };
    let parameter = Payload::default().bytes(1, b"max").varint(2, 3);
    let parameter = parameter.varint(3, 0xffff_fffe);
    let template = Payload::default()
        .bytes(1, b"v2")
        .bytes(2, &member("rpm", 11, 900).0)
        .bytes(2, &member("temp", 12, 0xffff_fffe).0)
        .bytes(3, &parameter.0)
        .bytes(4, b"Motor");
    let metric = |template: &Payload| {
        let metric = Payload::default().bytes(1, b"m1").varint(4, 19);
        metric.bytes(18, &template.0)
    };
    let born = event(&births, NBIRTH, metric(&template)).unwrap();
    let measured = |event: &Event| -> Vec<(String, Value)> {
        let all = event.measurements.iter();
        all.map(|m| (m.name.to_string(), m.value.clone())).collect()
    };
    assert_eq!(
        measured(&born),
        [
            ("m1.rpm".into(), Value::Int(900)),
            ("m1.temp".into(), Value::Int(-2)),
        ]
    );
    let tags: Vec<(&str, &str)> = born.tags.iter().map(|(n, t)| (&**n, &**t)).collect();
    assert_eq!(
        tags,
        [
            ("m1.template", "Motor"),
            ("m1.version", "v2"),
            ("m1.max", "-2")
        ]
    );
    // Later a member comes alone, by its alias and without its type, or by its name.
    for member in [
        Payload::default().varint(2, 12).varint(10, 0xffff_fffd),
        Payload::default().bytes(1, b"temp").varint(10, 0xffff_fffd),
    ] {
        let update = Payload::default().bytes(2, &member.0);
        let event = event(&births, NDATA, metric(&update)).unwrap();
        assert_eq!(measured(&event), [("m1.temp".into(), Value::Int(-3))]);
    }
    let definition = template.varint(5, 1);
    let described = event(&Births::default(), NBIRTH, metric(&definition)).unwrap();
    assert!(described.measurements.is_empty());
    assert!(
        described
            .tags
            .iter()
            .any(|(name, _)| **name == *"m1.definition")
    );
}

#[test]
fn templates_within_templates_have_a_bound() {
    let nested = |depth: usize| {
        let mut metric = named("deep", 1);
        for _ in 0..depth {
            let template = Payload::default().bytes(2, &metric.0);
            metric = Payload::default().bytes(1, b"t").bytes(18, &template.0);
        }
        event(&Births::default(), NDATA, metric)
    };
    let fine = nested(20).unwrap();
    assert!(fine.measurements[0].name.starts_with("t.t.t."));
    assert_eq!(nested(1_000).unwrap_err().class, Class::Limit);
}
