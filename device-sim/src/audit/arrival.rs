//! Finds the simulator's identity in a CloudEvent that arrived.
//!
//! In this order: the attribute `id` when it is the simulator's; a measurement
//! called `id`; the device with its `boot` (tag or measurement) and the
//! attribute `sequence`.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::identity::Identity;

/// The parts of a CloudEvent that an identity may be in; anything else is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Arrival<'a> {
    #[serde(borrow, default)]
    id: Leaf<'a>,
    #[serde(borrow, default)]
    device: Leaf<'a>,
    #[serde(borrow, default)]
    subject: Leaf<'a>,
    #[serde(borrow, default)]
    sequence: Leaf<'a>,
    #[serde(borrow, default)]
    data: Data<'a>,
}

/// Text, a whole number, or something that an identity is never in.
#[derive(Debug, Default, Clone, PartialEq)]
enum Leaf<'a> {
    #[default]
    Other,
    Text(Cow<'a, str>),
    Number(u64),
}

#[derive(Debug, Default)]
struct Data<'a> {
    id: Leaf<'a>,
    boot: Leaf<'a>,
    tagged_boot: Leaf<'a>,
    seq: Leaf<'a>,
}

impl Arrival<'_> {
    /// Calls `with` with the identity, if the event has one.
    pub(super) fn identity<T>(&self, with: impl FnOnce(Identity<'_>) -> T) -> Option<T> {
        if let Some(identity) = self.id.text().and_then(Identity::parse) {
            return Some(with(identity));
        }
        if let Some(identity) = self.data.id.text().and_then(Identity::parse) {
            return Some(with(identity));
        }
        let device = self.device.text().or_else(|| self.subject.text())?;
        let boot = self
            .data
            .tagged_boot
            .number()
            .or_else(|| self.data.boot.number())?;
        let seq = self.sequence.number().or_else(|| self.data.seq.number())?;
        Some(with(Identity { device, boot, seq }))
    }
}

impl Leaf<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Other => None,
        }
    }

    /// A number, also one written as text, with or without leading zeros.
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Text(text) => text.parse().ok(),
            Self::Other => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Leaf<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LeafVisitor)
    }
}

struct LeafVisitor;

impl<'de> Visitor<'de> for LeafVisitor {
    type Value = Leaf<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Number(n))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Leaf<'de>, E> {
        Ok(u64::try_from(n).map_or(Leaf::Other, Leaf::Number))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Other)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Other)
    }
    fn visit_unit<E>(self) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Leaf<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Leaf::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Leaf<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Leaf::Other)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

/// `data` of any shape; only an object with `m` and `tags` tells us something.
struct DataVisitor;

macro_rules! nothing {
    ($($visit:ident($value:ty);)*) => {
        $(fn $visit<E>(self, _: $value) -> Result<Data<'de>, E> {
            Ok(Data::default())
        })*
    };
}

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    nothing! {
        visit_str(&str);
        visit_u64(u64);
        visit_i64(i64);
        visit_f64(f64);
        visit_bool(bool);
    }
    fn visit_unit<E>(self) -> Result<Data<'de>, E> {
        Ok(Data::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Data::default())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data<'de>, A::Error> {
        let mut data = Data::default();
        while let Some(key) = map.next_key::<Leaf<'de>>()? {
            match key.text() {
                Some("m") => {
                    for measurement in map.next_value::<Vec<Measurement<'de>>>()? {
                        match measurement.n.text() {
                            Some("id") => data.id = measurement.v,
                            Some("boot") => data.boot = measurement.v,
                            Some("seq") => data.seq = measurement.v,
                            _ => {}
                        }
                    }
                }
                Some("tags") => data.tagged_boot = map.next_value::<Tags<'de>>()?.boot,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(data)
    }
}

#[derive(Deserialize)]
struct Measurement<'a> {
    #[serde(borrow, default)]
    n: Leaf<'a>,
    #[serde(borrow, default)]
    v: Leaf<'a>,
}

#[derive(Deserialize)]
struct Tags<'a> {
    #[serde(borrow, default)]
    boot: Leaf<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(json: &str) -> Option<String> {
        let arrival: Arrival<'_> = serde_json::from_str(json).unwrap();
        arrival.identity(|identity| identity.to_string())
    }

    #[test]
    fn the_identity_is_found_wherever_it_travels() {
        for json in [
            r#"{"specversion":"1.0","id":"sim-a-b-7-3","device":"other","data":{"m":[]}}"#,
            r#"{"id":"00ff","device":"a-b","data":{"m":[{"n":"t","v":1.5},{"n":"id","v":"sim-a-b-7-3","u":"x"}]}}"#,
            r#"{"id":"00ff","device":"a-b","sequence":"00000000000000000003","data":{"m":[{"n":"boot","v":7}]}}"#,
            r#"{"id":"00ff","device":"a-b","sequence":"3","data":{"m":[{"n":"x","v":{"y":[1]}}],"tags":{"boot":"7"}}}"#,
            r#"{"id":"00ff","subject":"a-b","sequence":3,"data":{"m":[{"n":"boot","v":"7"}]}}"#,
            r#"{"id":"00ff","device":"a-b","data":{"m":[{"n":"boot","v":7},{"n":"seq","v":3}]}}"#,
            r#"{"id":"s\u0069m-a-b-7-3"}"#,
        ] {
            assert_eq!(identity(json).as_deref(), Some("sim-a-b-7-3"), "{json}");
        }
    }

    #[test]
    fn an_event_of_somebody_else_has_no_identity() {
        for json in [
            "{}",
            r#"{"id":1,"device":null,"data":"text"}"#,
            r#"{"id":"sim-a","device":"a","sequence":"1"}"#,
            r#"{"id":"x","device":"a","sequence":"1","data":[1,2]}"#,
            r#"{"id":{"a":1},"sequence":-1,"device":"a","data":{"m":[{"n":"boot","v":true}]}}"#,
        ] {
            assert_eq!(identity(json), None, "{json}");
        }
    }
}
