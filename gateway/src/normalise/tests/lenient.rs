//! What should not be in a payload is answered in the same way by every decoder:
//! refused with the reason, or, where the mapping is lenient, taken alike.

use super::*;
use crate::event::Quality;
use crate::normalise::decode::{Columns, Fault, Lenient};

/// A fault in a format, the class of its reason, and the payload.
type Case = (Format, Fault, Class, &'static [u8]);

const BIG: &[u8] = b"\xc2\x49\x01\0\0\0\0\0\0\0\0";

fn cases() -> Vec<(Format, Fault, Class, Vec<u8>)> {
    use Fault::{BigIntegers, DuplicateKeys, InvalidUtf8, Nan, TrailingBytes};
    let cases: &[Case] = &[
        (
            Format::Json,
            DuplicateKeys,
            Class::DuplicateKey,
            b"{\"a\":1,\"a\":2}",
        ),
        (Format::Json, TrailingBytes, Class::Syntax, b"{\"a\":2} x"),
        (
            Format::Json,
            BigIntegers,
            Class::Range,
            b"{\"a\":18446744073709551616}",
        ),
        (Format::Json, Nan, Class::Syntax, b"{\"a\":NaN}"),
        (Format::Json, Nan, Class::Syntax, b"{\"a\":-Infinity}"),
        (Format::Json, Nan, Class::Range, b"{\"a\":1e999}"),
        (
            Format::Json,
            InvalidUtf8,
            Class::Encoding,
            b"{\"a\":\"a\xffb\"}",
        ),
        (
            Format::Json,
            InvalidUtf8,
            Class::Encoding,
            b"{\"a\":\"a\\ud800b\"}",
        ),
        (
            Format::Scalar,
            BigIntegers,
            Class::Range,
            b"18446744073709551616",
        ),
        (Format::Scalar, Nan, Class::Range, b"1e999"),
        (Format::Scalar, InvalidUtf8, Class::Encoding, b"a\xffb"),
        (
            Format::Cbor,
            DuplicateKeys,
            Class::DuplicateKey,
            b"\xa2\x61a\x01\x61a\x02",
        ),
        (
            Format::Cbor,
            TrailingBytes,
            Class::Syntax,
            b"\xa1\x61a\x02\x00",
        ),
        (
            Format::Cbor,
            BigIntegers,
            Class::Range,
            b"\xa1\x61a\xc2\x49\x01\0\0\0\0\0\0\0\0",
        ),
        (
            Format::Cbor,
            Nan,
            Class::Range,
            b"\xa1\x61a\xc4\x82\x19\x01\xf4\x01",
        ),
        (
            Format::Cbor,
            InvalidUtf8,
            Class::Encoding,
            b"\xa1\x61a\x63a\xffb",
        ),
        (
            Format::MsgPack,
            DuplicateKeys,
            Class::DuplicateKey,
            b"\x82\xa1a\x01\xa1a\x02",
        ),
        (
            Format::MsgPack,
            TrailingBytes,
            Class::Syntax,
            b"\x81\xa1a\x02\x00",
        ),
        (
            Format::MsgPack,
            InvalidUtf8,
            Class::Encoding,
            b"\x81\xa1a\xa3a\xffb",
        ),
        (
            Format::SenmlJson,
            DuplicateKeys,
            Class::DuplicateKey,
            b"[{\"n\":\"a\",\"v\":1,\"v\":2}]",
        ),
        (
            Format::SenmlJson,
            TrailingBytes,
            Class::Syntax,
            b"[{\"n\":\"a\",\"v\":2}] x",
        ),
        (
            Format::SenmlJson,
            BigIntegers,
            Class::Range,
            b"[{\"n\":\"a\",\"v\":18446744073709551616}]",
        ),
        (
            Format::SenmlJson,
            Nan,
            Class::Syntax,
            b"[{\"n\":\"a\",\"v\":NaN}]",
        ),
        (
            Format::SenmlJson,
            InvalidUtf8,
            Class::Encoding,
            b"[{\"n\":\"a\",\"vs\":\"a\xffb\"}]",
        ),
        (
            Format::SenmlCbor,
            DuplicateKeys,
            Class::DuplicateKey,
            b"\x81\xa3\x00\x61a\x02\x01\x02\x02",
        ),
        // By its name, and by its number.
        (
            Format::SenmlCbor,
            DuplicateKeys,
            Class::DuplicateKey,
            b"\x81\xa3\x00\x61a\x61v\x01\x02\x02",
        ),
        (
            Format::SenmlCbor,
            TrailingBytes,
            Class::Syntax,
            b"\x81\xa2\x00\x61a\x02\x02\x00",
        ),
        (
            Format::SenmlCbor,
            Nan,
            Class::Range,
            b"\x81\xa2\x00\x61a\x02\xc4\x82\x19\x01\xf4\x01",
        ),
        (
            Format::SenmlCbor,
            InvalidUtf8,
            Class::Encoding,
            b"\x81\xa2\x00\x61a\x03\x63a\xffb",
        ),
        (
            Format::Influx,
            DuplicateKeys,
            Class::DuplicateKey,
            b"m a=1i,a=2i",
        ),
        (
            Format::Influx,
            BigIntegers,
            Class::Range,
            b"m a=18446744073709551616u",
        ),
        (Format::Influx, Nan, Class::Syntax, b"m a=NaN"),
        (Format::Influx, Nan, Class::Syntax, b"m a=-inf"),
        (Format::Influx, Nan, Class::Range, b"m a=1e400"),
        (
            Format::Influx,
            InvalidUtf8,
            Class::Encoding,
            b"m a=\"a\xffb\"",
        ),
        (
            Format::Csv,
            DuplicateKeys,
            Class::DuplicateKey,
            b"a,a\n1,2\n",
        ),
        (
            Format::Csv,
            BigIntegers,
            Class::Range,
            b"a\n18446744073709551616\n",
        ),
        (Format::Csv, Nan, Class::Range, b"a\n1e999\n"),
        (Format::Csv, InvalidUtf8, Class::Encoding, b"a\na\xffb\n"),
        (
            Format::Sparkplug,
            DuplicateKeys,
            Class::DuplicateKey,
            b"\x12\x09\x0a\x01a\x20\x03\x50\x01\x50\x02\x18\x01",
        ),
        (
            Format::Sparkplug,
            InvalidUtf8,
            Class::Encoding,
            b"\x12\x0a\x0a\x01a\x20\x0c\x7a\x03a\xffb\x18\x01",
        ),
    ];
    let mut all: Vec<_> = cases
        .iter()
        .map(|(format, fault, class, payload)| (*format, *fault, *class, payload.to_vec()))
        .collect();
    let big = [b"\x81\xa2\x00\x61a\x02", BIG].concat();
    all.push((Format::SenmlCbor, BigIntegers, Class::Range, big));
    // The data of a CloudEvent is JSON.
    let json = all.iter().filter(|(format, ..)| *format == Format::Json);
    let events: Vec<_> = json
        .map(|(_, fault, class, payload)| {
            let head = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":"#;
            let (data, after) = match fault {
                TrailingBytes => (&payload[..payload.len() - 2], &b"} x"[..]),
                _ => (&payload[..], &b"}"[..]),
            };
            let event = [&head[..], data, after].concat();
            (Format::CloudEvents, *fault, *class, event)
        })
        .collect();
    all.extend(events);
    all
}

/// Faults that payloads of a format cannot have: their end is the payload's, they have
/// no objects, no larger integers, or a NaN of their own, which is [`native`].
const CANNOT: [(Format, Fault); 9] = [
    (Format::Scalar, Fault::DuplicateKeys),
    (Format::Scalar, Fault::TrailingBytes),
    (Format::Influx, Fault::TrailingBytes),
    (Format::Csv, Fault::TrailingBytes),
    (Format::Sparkplug, Fault::TrailingBytes),
    (Format::Sparkplug, Fault::BigIntegers),
    (Format::MsgPack, Fault::BigIntegers),
    (Format::MsgPack, Fault::Nan),
    (Format::Sparkplug, Fault::Nan),
];

fn native() -> [(Format, &'static [u8]); 4] {
    [
        (Format::Cbor, b"\xa1\x61a\xf9\x7e\0"),
        (Format::MsgPack, b"\x81\xa1a\xca\x7f\xc0\0\0"),
        (Format::SenmlCbor, b"\x81\xa2\x00\x61a\x02\xf9\x7e\0"),
        (
            Format::Sparkplug,
            b"\x12\x0a\x0a\x01a\x20\x09\x65\0\0\xc0\x7f\x18\x01",
        ),
    ]
}

fn lenient(format: Format, lenient: Lenient) -> Mapping {
    Mapping {
        protocol: match format {
            Format::Sparkplug => Protocol::Sparkplug,
            _ => Protocol::None,
        },
        format,
        lenient,
        columns: Columns {
            header: true,
            ..Columns::default()
        },
        time: None,
        sequence: None,
        ..Mapping::defaults().swap_remove(1)
    }
}

fn taken(format: Format, with: Lenient, payload: &[u8]) -> Result<(Value, Quality), Class> {
    let topic = match format {
        Format::Sparkplug => "spBv1.0/G/NDATA/N",
        _ => "t",
    };
    let sent = Sent {
        topic,
        payload,
        ..SENT
    };
    let done = run(&lenient(format, with), &sent).map_err(|reject| reject.class)?;
    let measured = &done.events[0].measurements[0];
    Ok((measured.value.clone(), measured.quality))
}

/// What becomes of a fault that is taken, in every format.
fn outcome(fault: Fault) -> (Value, Quality) {
    match fault {
        Fault::DuplicateKeys | Fault::TrailingBytes => (Value::Int(2), Quality::Good),
        Fault::BigIntegers => (Value::Float(18_446_744_073_709_551_616.0), Quality::Good),
        Fault::Nan => (Value::Null, Quality::Bad),
        Fault::InvalidUtf8 => (Value::Text("a\u{fffd}b".into()), Quality::Good),
    }
}

#[test]
fn every_decoder_refuses_the_same_and_takes_it_alike_where_it_may() {
    for (format, fault, class, payload) in cases() {
        let case = format!(
            "{format:?} {fault:?} {:?}",
            String::from_utf8_lossy(&payload)
        );
        assert_eq!(
            taken(format, Lenient::STRICT, &payload),
            Err(class),
            "{case}"
        );
        let others = Fault::WORDS.iter().filter(|(_, other)| *other != fault);
        let others = others.fold(Lenient::STRICT, |all, (_, other)| all.with(*other));
        assert_eq!(taken(format, others, &payload), Err(class), "{case}");
        let only = Lenient::STRICT.with(fault);
        assert_eq!(taken(format, only, &payload), Ok(outcome(fault)), "{case}");
    }
}

#[test]
fn no_format_and_no_fault_was_left_out() {
    let cases = cases();
    let formats = Format::WORDS.iter().map(|(_, format)| *format);
    for format in formats.chain([Format::Sparkplug]) {
        if matches!(format, Format::Auto | Format::Raw) {
            continue;
        }
        for (word, fault) in Fault::WORDS {
            let shown = cases.iter().any(|(f, g, ..)| (*f, *g) == (format, fault));
            let cannot = CANNOT.contains(&(format, fault));
            assert!(shown != cannot, "{format:?} {word}");
        }
    }
}

#[test]
fn a_nan_that_a_format_can_say_is_a_null_of_bad_quality_without_being_asked_for() {
    for (format, payload) in native() {
        let expect = Ok(outcome(Fault::Nan));
        assert_eq!(
            taken(format, Lenient::STRICT, payload),
            expect,
            "{format:?}"
        );
        let all = Lenient::STRICT.with(Fault::Nan);
        assert_eq!(taken(format, all, payload), expect, "{format:?}");
    }
}

#[test]
fn bytes_after_a_compressed_payload_are_bytes_after_the_end() {
    use std::io::Write as _;
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(b"{\"a\":2}").unwrap();
    let gzip = to.finish().unwrap();
    let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
    to.write_all(b"{\"a\":2}").unwrap();
    let lz4 = to.finish().unwrap();
    let mut zstd = Vec::with_capacity(100);
    zstd_safe::compress(&mut zstd, b"{\"a\":2}", 1).unwrap();
    for compressed in [gzip, lz4, zstd] {
        let followed = [&compressed[..], b"x"].concat();
        let strict = taken(Format::Json, Lenient::STRICT, &followed);
        assert_eq!(strict, Err(Class::Syntax));
        let only = Lenient::STRICT.with(Fault::TrailingBytes);
        let expect = Ok(outcome(Fault::TrailingBytes));
        assert_eq!(taken(Format::Json, only, &followed), expect);
    }
}

#[test]
fn what_was_left_out_still_tells_two_messages_apart() {
    let all = Fault::WORDS.iter();
    let all = all.fold(Lenient::STRICT, |all, (_, fault)| all.with(*fault));
    let mapping = Mapping {
        time: Some(Mapping::builtin_time()),
        ..lenient(Format::Json, all)
    };
    let key = |payload: &[u8]| {
        let sent = Sent {
            topic: "t",
            payload,
            ..SENT
        };
        run(&mapping, &sent).unwrap().events[0].key
    };
    for (one, other) in [
        (
            &b"{\"ts\":1772366390123,\"a\":1,\"a\":2}"[..],
            &b"{\"ts\":1772366390123,\"a\":3,\"a\":2}"[..],
        ),
        (
            b"[{\"ts\":1772366390123,\"a\":1,\"a\":2}]",
            b"[{\"ts\":1772366390123,\"a\":3,\"a\":2}]",
        ),
        (
            b"[{\"ts\":1772366390123,\"a\":\"\xff\"}]",
            b"[{\"ts\":1772366390123,\"a\":\"\xfe\"}]",
        ),
    ] {
        assert_eq!(key(one), key(one));
        assert_ne!(key(one), key(other));
    }
}
