//! `[[rule]]`: which events go where.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    destination::check_name,
    read_text,
    reader::{Table, Text},
    words::OneOf,
};
use crate::{
    forward,
    rules::{Pattern, Rule},
};

/// Rules in one configuration, at most.
const RULES_MAX: usize = 100_000;

/// The rules, and the files that their patterns are in.
#[derive(Default)]
pub(super) struct Read {
    pub(super) rules: Vec<Rule>,
    pub(super) files: Vec<PathBuf>,
}

/// The destinations of the configuration.
struct Known {
    names: Vec<Arc<str>>,
    /// All of them could be read.
    complete: bool,
    /// Others are as good.
    any: bool,
}

/// Reads every rule. Files are relative to `dir`; without destinations any name is one.
pub(super) fn read(
    root: &Table<'_, '_, '_>,
    dir: &Path,
    known: Option<&[forward::Config]>,
) -> Read {
    let mut read = Read::default();
    let Some(tables) = root.tables("rule") else {
        return read;
    };
    if tables.len() > RULES_MAX {
        let what = format!("{} rules; there can be {RULES_MAX}", tables.len());
        root.mistake(root.span("rule").as_ref(), "rule", what);
        return read;
    }
    // A destination with a mistake of its own is not known here, and was said already.
    let written = root.tables("destination").map(|tables| tables.len());
    let any = known.is_none();
    let known = known.unwrap_or_default();
    let known = Known {
        names: known.iter().map(|d| d.name.clone()).collect(),
        complete: written.is_none_or(|written| written == known.len()),
        any,
    };
    let mut names: HashMap<String, usize> = HashMap::new();
    for (n, table) in tables.iter().enumerate() {
        let name = table.required("name", "\"hot\"");
        if let Some(name) = &name {
            table.parse("name", name, check_name);
            if let Some(first) = names.insert(name.value.clone(), n) {
                let what = format!("rule[{}] is named {:?} as well", first + 1, name.written);
                table.mistake(Some(&name.span), "name", what);
            }
        }
        let pattern = pattern(table, dir, &mut read.files);
        let destinations = destinations(table, &known);
        table.finish();
        if let (Some(name), Some(pattern), Some(destinations)) = (name, pattern, destinations) {
            read.rules.push(Rule {
                name: name.value.into(),
                pattern,
                destinations,
            });
        }
    }
    read
}

/// The pattern, here or in a file.
fn pattern(table: &Table<'_, '_, '_>, dir: &Path, files: &mut Vec<PathBuf>) -> Option<Pattern> {
    let inline = table.text("pattern");
    let file = table.text("pattern_file");
    match (inline, file) {
        (Some(text), None) => {
            let parsed = Pattern::parse(&text.value);
            let mistake = |error| table.mistake(Some(&text.span), "pattern", error);
            parsed.map_err(mistake).ok()
        }
        (None, Some(file)) => {
            let path = dir.join(&file.value);
            let parsed = of_file(&path);
            files.push(path);
            let mistake = |what| {
                table.mistake(
                    Some(&file.span),
                    "pattern_file",
                    format!("{:?}: {what}", file.written),
                );
            };
            parsed.map_err(mistake).ok()
        }
        (Some(_), Some(file)) => {
            let what = "either pattern or pattern_file";
            table.mistake(Some(&file.span), "pattern_file", what);
            None
        }
        (None, None) => {
            if table.span("pattern").is_none() && table.span("pattern_file").is_none() {
                let what = "is missing; for example pattern = '{\"device\": [\"b7\"]}', or pattern_file = \"hot.json\"";
                table.mistake(None, "pattern", what);
            }
            None
        }
    }
}

fn of_file(path: &Path) -> Result<Pattern, String> {
    let known = path
        .metadata()
        .map_err(|error| format!("cannot be read: {error}"))?;
    if !known.is_file() {
        return Err("is not a file".to_owned());
    }
    Pattern::parse(&read_text(path)?).map_err(|error| error.to_string())
}

fn destinations(table: &Table<'_, '_, '_>, known: &Known) -> Option<Vec<Arc<str>>> {
    let Some(texts) = table.texts("destinations") else {
        if table.span("destinations").is_none() {
            let what = "is missing; for example destinations = [\"events\"]";
            table.mistake(None, "destinations", what);
        }
        return None;
    };
    if texts.is_empty() {
        let what = "a rule names at least one destination";
        table.mistake(table.span("destinations").as_ref(), "destinations", what);
        return None;
    }
    let mut named = HashSet::new();
    let destination = |text: &Text| {
        if !named.insert(text.value.clone()) {
            let what = format!("{:?} is named twice", text.written);
            table.mistake(Some(&text.span), "destinations", what);
            return None;
        }
        if known.any {
            return Some(text.value.as_str().into());
        }
        let name = known.names.iter().find(|name| ***name == *text.value);
        if name.is_none() && known.complete {
            let names = OneOf(known.names.iter().map(|name| &**name).collect());
            let what = format!("{:?} {}", text.written, names.instead_of(&text.value));
            table.mistake(Some(&text.span), "destinations", what);
        }
        name.cloned()
    };
    texts.iter().map(destination).collect()
}
