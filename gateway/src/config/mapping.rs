//! `[[mapping]]`: what messages on some topics mean.

mod condition;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    reader::{Either, Table, Text},
    units,
};
use jiff::tz::{Offset, TimeZone};

use crate::{
    dictionary::{Dictionary, Known},
    event::{Quality, Value},
    normalise::{
        Mapping,
        decode::{Columns, Compression, Fault, Format, Lenient},
        mapping::{
            BadElement, Dedup, Device, ID_PROPERTY_DEFAULT, KIND_DEFAULT, Keep, Kind, Measured,
            QualityAt, Scope, Sequence, Tag, Time,
        },
        pointer::Pointer,
        preset::{self, Preset},
        schema::Schemas,
        template::Template,
        timestamp::Unit,
        topic,
        units::Preferred,
    },
};

/// What holds for all mappings, unless one says otherwise.
pub(super) struct Shared {
    /// Whether messages are kept as they came.
    pub(super) raw: Keep,
    /// The units that the site prefers.
    pub(super) units: Arc<Preferred>,
    /// What payloads should look like, by the type of their events.
    pub(super) schemas: Schemas,
    /// Where files are looked for.
    pub(super) dir: PathBuf,
}

impl Shared {
    /// A mapping that says nothing.
    pub(super) fn by_default(&self, mapping: Mapping) -> Mapping {
        Mapping {
            raw: self.raw,
            units: self.units.clone(),
            schemas: self.schemas.clone(),
            ..mapping
        }
    }
}

/// What payloads may have been compressed with.
fn dictionaries(table: &Table<'_, '_, '_>, compression: Compression, dir: &Path) -> Known {
    let files = table.texts("dictionaries").unwrap_or_default();
    if !files.is_empty() && !matches!(compression, Compression::Auto | Compression::Zstd) {
        let what = "are of use with compression = \"zstd\" or \"auto\" only";
        table.mistake(table.span("dictionaries").as_ref(), "dictionaries", what);
    }
    let read = |file: &Text| {
        table.parse("dictionaries", file, |path| {
            Dictionary::read(&dir.join(path))
        })
    };
    let is_there = |file: &&Text| !table.reader.passes_over(&dir.join(&file.value));
    let read: Vec<Dictionary> = files.iter().filter(is_there).filter_map(read).collect();
    Known::new(&read).unwrap_or_else(|what| {
        table.mistake(table.span("dictionaries").as_ref(), "dictionaries", what);
        Known::default()
    })
}

/// Reads one mapping; `None` where it has no topic or a template that does not fit it.
pub(super) fn read(table: &Table<'_, '_, '_>, shared: &Shared) -> Option<Mapping> {
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

    let preset = table.word("preset", &preset::Name::WORDS, None);
    let format = table.word("format", &Format::WORDS, Format::Auto);
    let builtin = match preset {
        Some(name) => Preset::named(name),
        None => Preset::of_format(format),
    };
    let format = match table.span("format") {
        Some(_) => format,
        None => builtin.format,
    };
    let compression = table.word("compression", &Compression::WORDS, Compression::Auto);
    let dictionaries = dictionaries(table, compression, &shared.dir);
    let lenient = lenient(table);
    let rebirth = table.boolean("rebirth", true);
    if format != Format::Sparkplug && table.span("rebirth").is_some() {
        let what = "is of no use without preset = \"sparkplug\"";
        table.mistake(table.span("rebirth").as_ref(), "rebirth", what);
    }
    let columns = columns(table, format);
    let device = device(table, names.as_deref(), has("device"), builtin.device);
    let device_tag = device_tag(table);
    let kind = or_builtin("type", if has("type") { "{type}" } else { KIND_DEFAULT });
    let site = or_builtin("site", if has("site") { "{site}" } else { "" });
    let site_is_set = table.span("site").is_some() || has("site");
    let (time, require_time) = time(table, builtin.time);
    let split = pointer(table, "split").or(builtin.split);
    let bad_element = table.word("bad_element", &BadElement::WORDS, BadElement::Skip);
    let id = pointers(table, "id");
    let id_property = table.text("id_property").map(|text| text.value);
    let id_property = id_property.unwrap_or_else(|| ID_PROPERTY_DEFAULT.to_owned());
    let sequence = sequence(table, builtin.sequence);
    let dedup = table.word("dedup", &Dedup::WORDS, Dedup::Auto);
    let dedup_scope = table.word("dedup_scope", &Scope::WORDS, Scope::User);
    let require = condition::conditions(table, "require");
    let drop = condition::conditions(table, "drop");
    let mut exclude = pointers(table, "exclude");
    let tags = tags(table);
    let (values, flatten) = values(table, &mut exclude, &shared.units);
    let derive = condition::derived(table, &shared.units);
    let raw = table.word("raw", &Keep::WORDS, shared.raw);
    let names_values = matches!(
        format,
        Format::SenmlJson | Format::SenmlCbor | Format::Raw | Format::Sparkplug
    );
    if names_values && (!values.is_empty() || flatten.is_some()) {
        let what = "is of no use here: the format names its values itself";
        table.mistake(table.span("values").as_ref(), "values", what);
    }
    if names_values && !exclude.is_empty() {
        let what = "is of no use here: the format names its values itself";
        table.mistake(table.span("exclude").as_ref(), "exclude", what);
    }
    let says_time = matches!(
        format,
        Format::SenmlJson | Format::SenmlCbor | Format::CloudEvents | Format::Sparkplug
    );
    if says_time && table.is_table("time") {
        let what = "is of no use here: the format says itself where the time is";
        table.mistake(table.span("time").as_ref(), "time", what);
    }
    if device_tag.is_some() && format != Format::Influx {
        let what = "is of no use without format = \"influx\"";
        table.mistake(table.span("device_tag").as_ref(), "device_tag", what);
    }
    table.finish();
    Some(Mapping {
        topic: topic?,
        protocol: builtin.protocol,
        format,
        compression,
        dictionaries,
        lenient,
        columns,
        device: device?,
        own_device: table.span("device").is_some(),
        device_tag,
        site: site.filter(|_| site_is_set),
        kind: kind?,
        time,
        require_time,
        split,
        bad_element,
        id,
        id_property: Some(Arc::from(id_property)).filter(|name: &Arc<str>| !name.is_empty()),
        sequence,
        dedup,
        dedup_scope,
        require,
        drop,
        flatten: flatten.or(builtin.flatten),
        exclude,
        tags,
        values,
        raw,
        rebirth,
        derive,
        units: shared.units.clone(),
        schemas: shared.schemas.clone(),
    })
}

/// What is taken of payloads although it should not be in them.
fn lenient(table: &Table<'_, '_, '_>) -> Lenient {
    let texts = table.texts("lenient").unwrap_or_default();
    let faults = texts.iter().filter_map(|text| {
        table.parse("lenient", text, |text| {
            let mut words = Fault::WORDS.iter();
            let known = words.find(|(word, _)| *word == text);
            known.map(|(_, fault)| *fault).ok_or_else(|| {
                let words = Fault::WORDS.map(|(word, _)| word).join(", ");
                format!("should be one of {words}")
            })
        })
    });
    faults.fold(Lenient::STRICT, Lenient::with)
}

fn device(
    table: &Table<'_, '_, '_>,
    names: Option<&[Arc<str>]>,
    captured: bool,
    builtin: Option<Pointer>,
) -> Option<Device> {
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
        None if builtin.is_some() => builtin.map(Device::At),
        None => {
            let text = if captured { "{device}" } else { "{client}" };
            Template::parse(text, names?).ok().map(Device::Text)
        }
    }
}

/// The tag of a line that says who measured.
fn device_tag(table: &Table<'_, '_, '_>) -> Option<Pointer> {
    let name = table.text("device_tag")?;
    let escaped = name.value.replace('~', "~0").replace('/', "~1");
    Pointer::parse(&format!("/tags/{escaped}")).ok()
}

/// How lines of text with a separator are read.
fn columns(mapping: &Table<'_, '_, '_>, format: Format) -> Columns {
    let table = mapping.table("csv");
    let names = table.texts("columns").unwrap_or_default();
    let header = table.boolean("header", false);
    let separator = table.parsed("separator", |text| match text.as_bytes() {
        [byte] if !matches!(byte, b'"' | b'\n' | b'\r') && byte.is_ascii() => Ok(*byte),
        _ => Err("a separator is one character, such as \";\", and no quotation mark"),
    });
    table.finish();
    for (n, name) in names.iter().enumerate() {
        if names[..n].iter().any(|other| other.value == name.value) {
            let what = format!("there is another column named {:?}", name.written);
            table.mistake(Some(&name.span), "columns", what);
        }
    }
    match (format == Format::Csv, names.is_empty() && !header) {
        (true, true) => {
            let what = "is missing; for example csv = { columns = [\"ts\", \"temperature\"] }, or { header = true } where the first line names them";
            mapping.mistake(None, "csv", what);
        }
        (false, _) if table.is_present() => {
            let what = "is of no use without format = \"csv\"";
            mapping.mistake(mapping.span("csv").as_ref(), "csv", what);
        }
        _ => {}
    }
    Columns {
        names: names.into_iter().map(|name| name.value.into()).collect(),
        header,
        separator: separator.unwrap_or(b','),
    }
}

/// A time zone by its name, or its distance from UTC.
pub(super) fn zone(table: &Table<'_, '_, '_>, key: &'static str) -> Option<TimeZone> {
    table.parsed(key, |text| {
        let hours_and_minutes = || {
            let sign = match text.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = text[1..].split_once(':')?;
            let two = |digits: &str| -> Option<i32> {
                let fine = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
                digits.parse().ok().filter(|_| fine)
            };
            let minutes = two(minutes).filter(|minutes| *minutes < 60)?;
            Offset::from_seconds(sign * (two(hours)? * 3_600 + minutes * 60)).ok()
        };
        match hours_and_minutes() {
            Some(offset) => Ok(TimeZone::fixed(offset)),
            None => TimeZone::get(text).map_err(
                |_| "not a time zone; for example \"+01:00\", \"UTC\" or \"Europe/Berlin\"",
            ),
        }
    })
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

/// The device's time: where the preset says unless the mapping says otherwise.
/// And whether there must be one, wherever the protocol says it is.
fn time(mapping: &Table<'_, '_, '_>, builtin: Option<Time>) -> (Option<Time>, bool) {
    let zone = zone(mapping, "tz");
    let required = mapping.boolean("require_time", false);
    let table = match mapping.text_or_table("time") {
        Some(Either::Table(table)) => table,
        Some(Either::Text(text)) => {
            if text.value != "received" {
                let what = format!(
                    "{:?} should be \"received\", or where the time is, such as {{ at = \"/ts\" }}",
                    text.written
                );
                mapping.mistake(Some(&text.span), "time", what);
            } else if required {
                let what = "is of no use with time = \"received\"";
                let span = mapping.span("require_time");
                mapping.mistake(span.as_ref(), "require_time", what);
            }
            return (None, false);
        }
        None => mapping.table("time"),
    };
    let at = match (table.is_present(), &builtin) {
        // A preset, and some formats, have one place for it.
        (true, Some(builtin)) if *builtin != Mapping::builtin_time() => {
            Some(pointer(&table, "at").unwrap_or_else(|| builtin.at.clone()))
        }
        (true, _) => required_pointer(&table, "\"/ts\""),
        (false, builtin) => builtin.as_ref().map(|builtin| builtin.at.clone()),
    };
    let fallback = pointer(&table, "fallback");
    let unit = builtin.as_ref().map_or(Unit::Auto, |builtin| builtin.unit);
    let unit = table.word("unit", &Unit::WORDS, unit);
    let required = table.boolean("required", false) || required;
    table.finish();
    if unit == Unit::Local && zone.is_none() {
        let what = "is missing; a local time is nothing without it, for example tz = \"+01:00\"";
        mapping.mistake(None, "tz", what);
    }
    let time = at.map(|at| Time {
        at,
        fallback: fallback.or_else(|| builtin?.fallback),
        unit,
        zone,
    });
    (time, required)
}

/// The device's counter: where the preset says unless the mapping says otherwise.
fn sequence(mapping: &Table<'_, '_, '_>, builtin: Option<Sequence>) -> Option<Sequence> {
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
    let builtin = builtin.filter(|_| !table.is_present());
    let at = match &builtin {
        Some(builtin) => Some(builtin.at.clone()),
        None if table.is_present() => required_pointer(&table, "\"/seq\""),
        None => None,
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

/// What is measured: the values that are named, or the leaves of a part.
fn values(
    mapping: &Table<'_, '_, '_>,
    exclude: &mut Vec<Pointer>,
    preferred: &Preferred,
) -> (Vec<Measured>, Option<Pointer>) {
    let mut values: Vec<Measured> = Vec::new();
    if mapping.is_table("values") {
        let table = mapping.table("values");
        let flatten = pointer(&table, "flatten").filter(|at| !at.is_root());
        exclude.extend(pointers(&table, "exclude"));
        table.finish();
        return (values, flatten);
    }
    for table in mapping.tables("values").unwrap_or_default() {
        // Without a name it is a bare value, or the one that the preset names.
        let name = table.text("name");
        let unit = table.text("unit");
        let value = Measured {
            name: name
                .as_ref()
                .map_or_else(|| Arc::from(""), |name| Arc::from(&*name.value)),
            at: pointer(&table, "at"),
            kind: table.word("type", &Kind::WORDS, Kind::Any),
            to: units::conversion(&table, unit.as_ref(), preferred),
            unit: unit.map(|text| text.value.into()),
            required: table.boolean("required", false),
            map: table.meanings("map"),
            scale: table.float("scale"),
            offset: table.float("offset"),
            quality: quality(&table),
        };
        table.finish();
        if let Some(name) = &name
            && values.iter().any(|other| *other.name == *name.value)
        {
            let what = format!("there is another value named {:?}", name.written);
            table.mistake(Some(&name.span), "name", what);
        }
        if name.is_none() && !values.is_empty() {
            table.mistake(None, "name", "is missing; only a single value needs none");
        }
        values.push(value);
    }
    if values.len() > 1 && values[0].name.is_empty() {
        let what = "the first one has no name; only a single value needs none";
        mapping.mistake(mapping.span("values").as_ref(), "values", what);
    }
    (values, None)
}

fn quality(value: &Table<'_, '_, '_>) -> Option<QualityAt> {
    let at = pointer(value, "quality_at");
    let map = value.meanings("quality_map");
    let words = map.into_iter().filter_map(|(word, meaning)| {
        let known = |text: &str| Quality::WORDS.iter().find(|(known, _)| *known == text);
        let quality = match &meaning {
            Value::Text(text) => known(text),
            _ => None,
        };
        if quality.is_none() {
            let what = format!("{word:?} should be one of good, uncertain, bad");
            value.mistake(value.span("quality_map").as_ref(), "quality_map", what);
        }
        Some((word, quality?.1))
    });
    let map = words.collect::<Vec<_>>();
    if at.is_none() && !map.is_empty() {
        let what = "is of no use without quality_at";
        value.mistake(value.span("quality_map").as_ref(), "quality_map", what);
    }
    at.map(|at| QualityAt { at, map })
}
