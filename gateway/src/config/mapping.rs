//! `[[mapping]]`: what messages on some topics mean.

use std::sync::Arc;

use super::reader::{Either, Table, Text};
use crate::normalise::{
    Mapping,
    decode::Format,
    mapping::{
        Dedup, Device, ID_PROPERTY_DEFAULT, KIND_DEFAULT, Kind, Measured, Sequence, Tag, Time,
    },
    pointer::Pointer,
    template::Template,
    timestamp::Unit,
    topic,
};

/// Reads one mapping; `None` where it has no topic or a template that does not fit it.
pub(super) fn read(table: &Table<'_, '_, '_>) -> Option<Mapping> {
    let topic = table
        .required("topic", "\"devices/{device}/telemetry\"")
        .and_then(|text| table.parse("topic", &text, topic::Template::parse));
    // Without a topic there are no names; every other mistake is still said.
    let names = topic.as_ref().map(|topic| topic.names().to_vec());
    let has = |name: &str| names.iter().flatten().any(|known| **known == *name);
    let or_builtin = |key, text: &str| match table.text(key) {
        Some(text) => topic_template(table, key, &text, names.as_deref()),
        None => Template::parse(text, names.as_deref()?).ok(),
    };

    let device = device(table, names.as_deref(), has("device"));
    let kind = or_builtin("type", if has("type") { "{type}" } else { KIND_DEFAULT });
    let site = or_builtin("site", if has("site") { "{site}" } else { "" });
    let site_is_set = table.span("site").is_some() || has("site");
    let format = table.word("format", &Format::WORDS, Format::Auto);
    let time = time(table);
    let split = pointer(table, "split");
    let id = pointers(table, "id");
    let id_property = table.text("id_property").map(|text| text.value);
    let id_property = id_property.unwrap_or_else(|| ID_PROPERTY_DEFAULT.to_owned());
    let sequence = sequence(table);
    let dedup = table.word("dedup", &Dedup::WORDS, Dedup::Auto);
    let exclude = pointers(table, "exclude");
    let tags = tags(table);
    let values = values(table);
    table.finish();
    Some(Mapping {
        topic: topic?,
        format,
        device: device?,
        site: site.filter(|_| site_is_set),
        kind: kind?,
        time,
        split,
        id,
        id_property: Some(Arc::from(id_property)).filter(|name: &Arc<str>| !name.is_empty()),
        sequence,
        dedup,
        exclude,
        tags,
        values,
    })
}

fn device(table: &Table<'_, '_, '_>, names: Option<&[Arc<str>]>, captured: bool) -> Option<Device> {
    match table.text_or_table("device") {
        Some(Either::Table(at)) => {
            let pointer = required_pointer(&at, "\"/dev/id\"");
            at.finish();
            pointer.map(Device::At)
        }
        Some(Either::Text(text)) => {
            let names = names?;
            table
                .parse("device", &text, |text| Template::parse(text, names))
                .map(Device::Text)
        }
        None => {
            let text = if captured { "{device}" } else { "{client}" };
            Template::parse(text, names?).ok().map(Device::Text)
        }
    }
}

/// A text with captures, for which who publishes does not count.
fn topic_template(
    table: &Table<'_, '_, '_>,
    key: &str,
    text: &Text,
    names: Option<&[Arc<str>]>,
) -> Option<Template> {
    let names = names?;
    let template = table.parse(key, text, |text| Template::parse(text, names))?;
    if template.names_client() {
        let what = "{client} and {user} can only be in device; use a capture of the topic";
        table.mistake(Some(&text.span), key, what);
        return None;
    }
    Some(template)
}

fn pointer(table: &Table<'_, '_, '_>, key: &'static str) -> Option<Pointer> {
    table.parsed(key, Pointer::parse)
}

fn required_pointer(table: &Table<'_, '_, '_>, example: &str) -> Option<Pointer> {
    let text = table.required("at", example)?;
    table.parse("at", &text, Pointer::parse)
}

fn pointers(table: &Table<'_, '_, '_>, key: &'static str) -> Vec<Pointer> {
    let texts = table.texts(key).unwrap_or_default();
    texts
        .iter()
        .filter_map(|text| table.parse(key, text, Pointer::parse))
        .collect()
}

/// The device's time: at `/ts` unless the mapping says otherwise.
fn time(mapping: &Table<'_, '_, '_>) -> Option<Time> {
    let table = match mapping.text_or_table("time") {
        Some(Either::Table(table)) => table,
        Some(Either::Text(text)) => {
            if text.value != "received" {
                let what = format!(
                    "{:?} should be \"received\", or where the time is, such as {{ at = \"/ts\" }}",
                    text.written
                );
                mapping.mistake(Some(&text.span), "time", what);
            }
            return None;
        }
        None => mapping.table("time"),
    };
    let at = match table.is_present() {
        true => required_pointer(&table, "\"/ts\""),
        false => Some(Mapping::builtin_time().at),
    };
    let fallback = pointer(&table, "fallback");
    let unit = table.word("unit", &Unit::WORDS, Unit::Auto);
    let required = table.boolean("required", false);
    table.finish();
    Some(Time {
        at: at?,
        fallback,
        unit,
        required,
    })
}

/// The device's counter: at `/seq` and `/boot` unless the mapping says otherwise.
fn sequence(mapping: &Table<'_, '_, '_>) -> Option<Sequence> {
    let table = match mapping.text_or_table("sequence") {
        Some(Either::Table(table)) => table,
        Some(Either::Text(text)) => {
            if text.value != "none" {
                let what = format!(
                    "{:?} should be \"none\", or where the counter is, such as {{ at = \"/seq\", boot = \"/boot\" }}",
                    text.written
                );
                mapping.mistake(Some(&text.span), "sequence", what);
            }
            return None;
        }
        None => mapping.table("sequence"),
    };
    let builtin = (!table.is_present()).then(Mapping::builtin_sequence);
    let at = match &builtin {
        Some(builtin) => Some(builtin.at.clone()),
        None => required_pointer(&table, "\"/seq\""),
    };
    let boot = pointer(&table, "boot").or_else(|| builtin?.boot);
    let persistent = table.boolean("persistent", false);
    table.finish();
    Some(Sequence {
        at: at?,
        boot,
        persistent,
    })
}

fn tags(table: &Table<'_, '_, '_>) -> Vec<Tag> {
    table
        .pairs("tags")
        .into_iter()
        .map(|(name, text)| (name.into(), text.value.into()))
        .collect()
}

fn values(mapping: &Table<'_, '_, '_>) -> Vec<Measured> {
    let mut values: Vec<Measured> = Vec::new();
    for table in mapping.tables("values").unwrap_or_default() {
        let name = table.required("name", "\"temperature\"");
        let at = pointer(&table, "at");
        let kind = table.word("type", &Kind::WORDS, Kind::Any);
        let unit = table.text("unit").map(|text| text.value.into());
        let required = table.boolean("required", false);
        table.finish();
        let Some(name) = name else { continue };
        if values.iter().any(|other| *other.name == *name.value) {
            let what = format!("there is another value named {:?}", name.written);
            table.mistake(Some(&name.span), "name", what);
        }
        values.push(Measured {
            name: name.value.into(),
            at,
            kind,
            unit,
            required,
        });
    }
    values
}
