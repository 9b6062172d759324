//! What a request looks like: its body, and the headers that belong to it.
//!
//! The same items give the same bytes, so that a batch that goes again is the same.

use std::{collections::BTreeMap, io::Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

#[cfg(feature = "opensearch")]
use super::bulk::Bulk;
use super::template::Template;
use crate::{
    event::{
        View,
        json::{BATCH_MEDIA_TYPE, MEDIA_TYPE},
    },
    forward::batch::Item,
};

/// What events look like on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Form {
    /// An array of `CloudEvents`.
    #[default]
    Batch,
    /// One `CloudEvent` as JSON.
    Structured,
    /// The data of one `CloudEvent`, with its attributes in headers.
    Binary,
    /// A `CloudEvent` on each line.
    Lines,
    /// What a template says.
    Template(Box<Template>),
    /// Documents of OpenSearch and Elasticsearch.
    #[cfg(feature = "opensearch")]
    Bulk(Box<Bulk>),
}

/// A request's body and what belongs to it.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Form {
    /// Whether a request has one event only.
    pub fn takes_one(&self) -> bool {
        match self {
            Self::Structured | Self::Binary => true,
            Self::Batch | Self::Lines => false,
            #[cfg(feature = "opensearch")]
            Self::Bulk(_) => false,
            Self::Template(template) => template.takes_one(),
        }
    }

    /// Whether attributes are in headers, which can be too long.
    pub(super) const fn is_in_headers(&self) -> bool {
        matches!(self, Self::Binary)
    }

    /// The request for `items`: one, if that is all it takes.
    pub(super) fn encode(&self, items: &[Item], gzip: bool) -> Encoded {
        let mut body = Vec::with_capacity(items.len() * 512);
        let mut headers = HeaderMap::new();
        let media_type = match self {
            Self::Batch => {
                for (n, item) in items.iter().enumerate() {
                    body.push(if n == 0 { b'[' } else { b',' });
                    item.view().to_json(None, &mut body);
                }
                body.push(b']');
                HeaderValue::from_static(BATCH_MEDIA_TYPE)
            }
            Self::Structured => {
                items[0].view().to_json(None, &mut body);
                HeaderValue::from_static(MEDIA_TYPE)
            }
            Self::Binary => {
                let view = items[0].view();
                view.data_json(&mut body);
                attributes(&view, &mut headers)
            }
            Self::Lines => {
                for item in items {
                    item.view().to_json(None, &mut body);
                    body.push(b'\n');
                }
                HeaderValue::from_static("application/x-ndjson")
            }
            #[cfg(feature = "opensearch")]
            Self::Bulk(bulk) => {
                for item in items {
                    bulk.write(item, &mut body);
                }
                HeaderValue::from_static("application/x-ndjson")
            }
            Self::Template(template) => {
                template.render(items.iter().map(Item::view), &mut body);
                template.content_type().clone()
            }
        };
        headers.insert(CONTENT_TYPE, media_type);
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = compressed(&body);
        }
        let body = body.into();
        Encoded { headers, body }
    }
}

/// The attributes as headers (`CloudEvents` HTTP binding 1.0.2, section 3.1.3); gives
/// back the content type, which is one of them.
fn attributes(view: &View<'_>, headers: &mut HeaderMap) -> HeaderValue {
    let mut json = Vec::with_capacity(512);
    view.attributes_json(&mut json);
    let attributes: BTreeMap<String, String> =
        serde_json::from_slice(&json).expect("attributes are texts");
    let mut media_type = HeaderValue::from_static("application/json");
    for (name, value) in attributes {
        let value = HeaderValue::try_from(percent_encoded(&value));
        let value = value.expect("only printable ASCII is left");
        if name == "datacontenttype" {
            media_type = value;
            continue;
        }
        let name = HeaderName::try_from(format!("ce-{name}"));
        headers.insert(name.expect("attributes are lower-case words"), value);
    }
    media_type
}

/// As section 3.1.3.2 has it: space, `"`, `%` and all that is not printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '%');
    if !text.is_empty() {
        crate::event::template::escape(text, is_plain, &mut encoded);
    }
    encoded
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("writing to memory cannot fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_encoded_as_the_binding_says() {
        // The examples of section 3.1.3.2, and what is beside them.
        for (text, expect) in [
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("a\"b%c", "a%22b%25c"),
            ("a\r\nb\u{7f}", "a%0D%0Ab%7F"),
            ("plain~!/", "plain~!/"),
            ("", ""),
        ] {
            assert_eq!(percent_encoded(text), expect);
        }
    }
}
