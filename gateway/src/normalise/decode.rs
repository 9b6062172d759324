//! Bytes to a tree of values, whatever the format.
//!
//! Promises: every decoder here reads the payload once, to its last byte, within
//! a [`Budget`]; refuses names that repeat in one object, text that is not UTF-8,
//! and numbers that would have to be rounded to fit, unless the mapping is
//! [`Lenient`]; never panics, and never allocates more than a small multiple of the
//! payload's size.
//!
//! The decoders are our own because stock ones take what must be refused here
//! ([decision 50](../../../docs/decisions/0050-decoders.md)): `serde_json` keeps the last of two equal names and turns an integer above
//! 2^64 into a float, and both it and `ciborium` lose the digits of a decimal
//! time. Tests compare them with the stock ones on arbitrary input.

mod binary;
mod cbor;
pub(super) mod csv;
mod inflate;
mod influx;
mod json;
mod lenient;
mod msgpack;
mod node;
mod scalar;
pub(super) mod sparkplug;

pub use csv::Columns;
pub use inflate::{Compression, INFLATED_BYTES_MAX, inflate};
pub use lenient::{Fault, Lenient};
pub(super) use node::Without;
pub use node::{Float, Node};
pub use scalar::number as scalar_number;
pub(super) use scalar::text as scalar_text;

use std::borrow::Cow;

use super::reject::{Class, Reject};

/// Objects and arrays within each other, at most.
pub const DEPTH_MAX: usize = 64;
/// Values in one payload, at most; each member, item, object and array is one.
pub const ELEMENTS_MAX: usize = 10_000;

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// By the MQTT 5 content type, else by the first bytes; see [`sniff`].
    #[default]
    Auto,
    /// RFC 8259.
    Json,
    /// A number, `true`, `false`, or text, in UTF-8.
    Scalar,
    /// RFC 8949.
    Cbor,
    /// MessagePack.
    MsgPack,
    /// RFC 8428 in JSON.
    SenmlJson,
    /// RFC 8428 in CBOR.
    SenmlCbor,
    /// InfluxDB line protocol.
    Influx,
    /// Lines of values with a separator (RFC 4180).
    Csv,
    /// The MQTT binding of `CloudEvents` 1.0: binary, structured or batched.
    CloudEvents,
    /// Not at all: the bytes are kept as they are.
    Raw,
    /// Sparkplug B; its preset says so.
    Sparkplug,
}

impl Format {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 11] = [
        ("auto", Self::Auto),
        ("json", Self::Json),
        ("scalar", Self::Scalar),
        ("cbor", Self::Cbor),
        ("msgpack", Self::MsgPack),
        ("senml-json", Self::SenmlJson),
        ("senml-cbor", Self::SenmlCbor),
        ("influx", Self::Influx),
        ("csv", Self::Csv),
        ("cloudevents", Self::CloudEvents),
        ("raw", Self::Raw),
    ];
}

/// What one payload may still use up.
#[derive(Debug)]
struct Budget {
    elements: usize,
    /// What is taken all the same.
    lenient: Lenient,
}

impl Budget {
    const fn new(lenient: Lenient) -> Self {
        Self {
            elements: ELEMENTS_MAX,
            lenient,
        }
    }

    /// Takes one value.
    fn take(&mut self) -> Result<(), Reject> {
        self.elements = self.elements.checked_sub(1).ok_or_else(|| {
            Reject::new(
                Class::Limit,
                format!("more than {ELEMENTS_MAX} values in one payload"),
            )
        })?;
        Ok(())
    }

    /// Goes into an object or array that is itself within `depth` others.
    fn enter(&self, depth: usize) -> Result<usize, Reject> {
        if depth >= DEPTH_MAX {
            return Err(Reject::new(
                Class::Limit,
                format!("objects and arrays are nested deeper than {DEPTH_MAX}"),
            ));
        }
        Ok(depth + 1)
    }
}

impl Format {
    /// The format that a payload is read in: this one, or for [`Auto`](Self::Auto)
    /// what the content type says, or else the first bytes.
    pub fn resolve(self, content_type: Option<&str>, payload: &[u8]) -> Self {
        match self {
            Self::Auto => content_type
                .and_then(declared)
                .unwrap_or_else(|| sniff(payload)),
            known => known,
        }
    }
}

impl Format {
    /// Whether its payloads are text, all of it.
    pub(super) const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Json | Self::Scalar | Self::SenmlJson | Self::Influx | Self::Csv
        )
    }
}

/// Decodes a payload. Lines of values, and the binary form of `CloudEvents`, need
/// more than the payload; here they have no columns and no properties.
///
/// # Errors
/// When the payload is empty, not of its format, or over a limit.
pub fn decode(format: Format, payload: &[u8]) -> Result<Node<'_>, Reject> {
    decode_leniently(format, payload, Lenient::STRICT)
}

/// The same, with what the mapping takes. Of a format that is text the payload has to
/// be UTF-8 here; see [`readable`].
pub fn decode_leniently(
    format: Format,
    payload: &[u8],
    lenient: Lenient,
) -> Result<Node<'_>, Reject> {
    if payload.is_empty() {
        return Err(Reject::new(Class::Empty, "the payload is empty"));
    }
    match format.resolve(None, payload) {
        Format::Json | Format::SenmlJson | Format::CloudEvents => json::decode(payload, lenient),
        Format::Cbor | Format::SenmlCbor => cbor::decode(payload, lenient),
        Format::MsgPack => msgpack::decode(payload, lenient),
        Format::Influx => influx::decode(payload, lenient),
        Format::Csv => csv::decode(&Columns::default(), &|_| false, payload, lenient),
        Format::Sparkplug => sparkplug::decode(payload, lenient),
        Format::Raw => Ok(Node::Bytes(payload.into())),
        Format::Scalar | Format::Auto => scalar::decode(payload, lenient),
    }
}

/// A payload as its decoder takes it: of a format that is text, with U+FFFD for what is
/// not UTF-8 where the mapping takes that.
pub(super) fn readable(is_text: bool, payload: &[u8], lenient: Lenient) -> Cow<'_, [u8]> {
    if !is_text || !lenient.allows(Fault::InvalidUtf8) {
        return Cow::Borrowed(payload);
    }
    match String::from_utf8_lossy(payload) {
        Cow::Borrowed(_) => Cow::Borrowed(payload),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// Text of a payload.
fn utf8(payload: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(payload).map_err(|error| {
        Reject::new(
            Class::Encoding,
            format!("not UTF-8 at byte {}", error.valid_up_to()),
        )
    })
}

/// The format that an MQTT 5 content type names, where it names one of ours.
/// `text/plain` is said of everything, so it tells only that it is not CBOR, which
/// sniffing finds out as well.
pub(super) fn declared(content_type: &str) -> Option<Format> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = essence.rsplit('/').next().unwrap_or_default();
    let is = |name: &str| {
        subtype.eq_ignore_ascii_case(name)
            || subtype
                .rsplit_once('+')
                .is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case(name))
    };
    let word = |name: &str| essence.eq_ignore_ascii_case(name);
    if subtype.len() >= 11 && subtype.as_bytes()[..11].eq_ignore_ascii_case(b"cloudevents") {
        Some(Format::CloudEvents)
    } else if word("application/senml+json") {
        Some(Format::SenmlJson)
    } else if word("application/senml+cbor") {
        Some(Format::SenmlCbor)
    } else if is("msgpack") || is("x-msgpack") || is("vnd.msgpack") {
        Some(Format::MsgPack)
    } else if is("json") {
        Some(Format::Json)
    } else if is("cbor") {
        Some(Format::Cbor)
    } else {
        None
    }
}

/// Tells the format from the first bytes.
///
/// - A first byte of 0x80 to 0xBF is a CBOR array or map, and cannot begin UTF-8
///   text; neither can D9 D9 F7, which marks CBOR (RFC 8949, section 3.4.6).
/// - `{`, `[` or `"`, after white space or a byte order mark, is JSON. If it then turns out not to be
///   well-formed, it is refused: a JSON object cut short is not a piece of text.
/// - `null` by itself is JSON's.
/// - Everything else is one scalar: a number, `true`, `false`, or text.
pub fn sniff(payload: &[u8]) -> Format {
    match payload {
        [0x80..=0xbf, ..] | [0xd9, 0xd9, 0xf7, ..] => return Format::Cbor,
        [0xef, 0xbb, 0xbf, ..] => return Format::Json,
        _ => {}
    }
    match payload.trim_ascii() {
        [b'{' | b'[' | b'"', ..] | b"null" => Format::Json,
        _ => Format::Scalar,
    }
}

/// Members of an object.
type Members<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// Refuses an object in which a name repeats, or keeps the last member of each name.
fn distinct(members: &mut Members<'_>, lenient: Lenient) -> Result<(), Reject> {
    let Some(name) = repeated(members) else {
        return Ok(());
    };
    if !lenient.allows(Fault::DuplicateKeys) {
        return Err(twice(name));
    }
    let mut last = std::collections::HashMap::with_capacity(members.len());
    for (n, (name, _)) in members.iter().enumerate() {
        last.insert(name.clone(), n);
    }
    let mut n = 0;
    members.retain(|(name, _)| {
        n += 1;
        last.get(name) == Some(&(n - 1))
    });
    Ok(())
}

/// A name that is there twice.
fn twice(name: &str) -> Reject {
    Reject::new(
        Class::DuplicateKey,
        format!("the name {} is there twice in one object", quoted(name)),
    )
}

fn repeated<'m>(members: &'m [(Cow<'_, str>, Node<'_>)]) -> Option<&'m str> {
    /// Up to here comparing each with each is quicker than hashing.
    const FEW: usize = 16;
    let repeated = if members.len() <= FEW {
        members
            .iter()
            .enumerate()
            .find(|(n, (name, _))| members[..*n].iter().any(|(other, _)| other == name))
            .map(|(_, (name, _))| name)
    } else {
        let mut seen = std::collections::HashSet::with_capacity(members.len());
        members
            .iter()
            .find(|(name, _)| !seen.insert(name.as_ref()))
            .map(|(name, _)| name)
    };
    repeated.map(AsRef::as_ref)
}

/// A name from a payload, for a message: quoted, escaped, and cut to a sensible length.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    if text.chars().nth(CHARS_MAX).is_none() {
        format!("{text:?}")
    } else {
        let cut: String = text.chars().take(CHARS_MAX).collect();
        format!("{cut:?}...")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_told_from_the_first_bytes() {
        for (payload, format) in [
            (&b"{\"a\":1}"[..], Format::Json),
            (b" \r\n[1]", Format::Json),
            (b"\"text\"", Format::Json),
            (b"null", Format::Json),
            (b"\xef\xbb\xbf{}", Format::Json),
            (b"{cut", Format::Json),
            (b"21.5", Format::Scalar),
            (b"true", Format::Scalar),
            (b"nullable", Format::Scalar),
            ("é".as_bytes(), Format::Scalar),
            (b"\xff\xfe", Format::Scalar),
            (b"\xa1aa\x01", Format::Cbor),
            (b"\x81\x01", Format::Cbor),
            (b"\xbf\xff", Format::Cbor),
            (b"\xd9\xd9\xf7\x01", Format::Cbor),
        ] {
            assert_eq!(sniff(payload), format, "{payload:x?}");
        }
    }

    #[test]
    fn a_content_type_wins_over_the_first_bytes() {
        for (content_type, payload, fine) in [
            ("application/json; charset=utf-8", &b"21"[..], true),
            ("application/senml+json", b"text", false),
            ("application/cbor", b"\x18\x2a", true),
            ("APPLICATION/JSON", b"{}", true),
            ("application/octet-stream", b"{}", true),
            ("", b"{}", true),
            ("/;;+", b"{}", true),
        ] {
            let decoded = decode(Format::Auto.resolve(Some(content_type), payload), payload);
            assert_eq!(decoded.is_ok(), fine, "{content_type}: {decoded:?}");
        }
    }

    #[test]
    fn long_names_are_cut_in_reasons() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert!(quoted(&"é".repeat(5000)).len() < 150);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_a_value_or_a_reason(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            format in prop::sample::select(Format::WORDS.map(|(_, format)| format).to_vec()),
            content_type in proptest::option::of(".{0,30}"),
        ) {
            match decode(format.resolve(content_type.as_deref(), &payload), &payload) {
                Ok(_) => prop_assert!(!payload.is_empty()),
                Err(reject) => prop_assert!(reject.reason.len() < 400),
            }
        }
    }
}
