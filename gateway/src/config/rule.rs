//! `[[rule]]`: which events go where, and what else is done about them.

mod action;
mod command;
pub(super) mod files;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{
    Seen, Stamp,
    destination::check_name,
    pacing, read_text,
    reader::{Table, Text},
    words::OneOf,
};
use crate::{
    class::Class,
    rules::{Pattern, Rule, Schedule, action::Window},
};

/// Rules in one configuration, at most.
const RULES_MAX: usize = 100_000;

/// Fields in all alternatives of all rules, at most: each takes some hundred bytes.
pub(crate) const FIELDS_MAX: usize = 1_000_000;

/// Bytes of all patterns as they are written, at most. In memory they take several times
/// that; a list of a million devices is within it.
const PATTERN_BYTES_MAX: usize = 32 << 20;

/// The rules, and the files that their patterns are in.
#[derive(Default)]
pub(super) struct Read {
    pub(super) rules: Vec<Rule>,
    pub(super) files: Seen,
}

/// The destinations of the configuration.
struct Known {
    names: Vec<Arc<str>>,
    /// All of them could be read.
    complete: bool,
    /// Others are as good.
    any: bool,
}

/// Reads every rule. Files are relative to `dir`; without destinations any name is one. No
/// command has more time than `deadline_max`.
pub(super) fn read(
    root: &Table<'_, '_, '_>,
    dir: &Path,
    known: Option<&[Arc<str>]>,
    deadline_max: Duration,
) -> Read {
    let (tables, names) = (root.tables("rule"), root.texts("rule_files"));
    if tables.is_none() && names.is_none() {
        return Read::default();
    }
    // A destination with a mistake of its own is not known here, and was said already.
    let written = root.tables("destination").map(|tables| tables.len());
    let any = known.is_none();
    let known = known.unwrap_or_default();
    let mut reading = Reading {
        known: Known {
            names: known.to_vec(),
            complete: written.is_none_or(|written| written == known.len()),
            any,
        },
        deadline_max,
        read: Read::default(),
        names: HashMap::new(),
        size: Size::default(),
    };
    if reading.all(&tables.unwrap_or_default(), dir, "") {
        files::read(root, &names.unwrap_or_default(), dir, &mut reading);
    }
    reading.read
}

/// What was read so far, and what it is read by.
struct Reading {
    known: Known,
    deadline_max: Duration,
    read: Read,
    /// Where each name stands.
    names: HashMap<String, String>,
    size: Size,
}

impl Reading {
    /// Reads the rules of one file, which `place` names; false where there is too much.
    fn all(&mut self, tables: &[Table<'_, '_, '_>], dir: &Path, place: &str) -> bool {
        for (n, table) in tables.iter().enumerate() {
            if self.names.len() >= RULES_MAX {
                table.mistake(None, "", format!("there can be {RULES_MAX} rules"));
                return false;
            }
            if !self.one(table, dir, &format!("{place}rule[{}]", n + 1)) {
                return false;
            }
        }
        true
    }

    fn one(&mut self, table: &Table<'_, '_, '_>, dir: &Path, place: &str) -> bool {
        let name = table.required("name", "\"hot\"");
        if let Some(name) = &name {
            table.parse("name", name, check_name);
            if let Some(first) = self.names.insert(name.value.clone(), place.to_owned()) {
                let what = format!("{first} is named {:?} as well", name.written);
                table.mistake(Some(&name.span), "name", what);
            }
        }
        let pattern = pattern(table, dir, &mut self.read.files, &mut self.size);
        if let Some(what) = self.size.too_much() {
            table.mistake(None, "pattern", what);
            return false;
        }
        let actions = action::read(table, dir, &mut self.read.files, self.deadline_max);
        if let Some(clears) = actions.clears() {
            self.size.fields += clears.fields();
        }
        let class = table.span("class").is_some();
        let class = class.then(|| table.word("class", &Class::WORDS, Class::Normal));
        let may_be_none = class.is_some() || action::is_any(table);
        let destinations = destinations(table, &self.known, may_be_none);
        let schedule = schedule(table, actions.window.as_deref());
        table.finish();
        if let (Some(name), Some(pattern), Some(destinations)) = (name, pattern, destinations) {
            self.read.rules.push(Rule {
                name: name.value.into(),
                pattern,
                class,
                destinations,
                actions,
                schedule: schedule.map(Arc::new),
            });
        }
        true
    }
}

/// What all patterns so far come to.
#[derive(Default)]
struct Size {
    fields: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, text: &str, pattern: &Pattern) {
        self.fields += pattern.fields();
        self.bytes += text.len();
    }

    /// What is wrong with it, if anything.
    fn too_much(&self) -> Option<String> {
        if self.fields > FIELDS_MAX {
            return Some(format!(
                "with this rule there are more than {FIELDS_MAX} fields in all alternatives \
                 of \"$or\"; say less in one gateway"
            ));
        }
        (self.bytes > PATTERN_BYTES_MAX).then(|| {
            format!(
                "with this rule the patterns have more than {PATTERN_BYTES_MAX} bytes; ask for \
                 what devices have in common instead of naming each"
            )
        })
    }
}

/// The pattern, here or in a file.
fn pattern(
    table: &Table<'_, '_, '_>,
    dir: &Path,
    files: &mut Seen,
    size: &mut Size,
) -> Option<Pattern> {
    let inline = table.text("pattern");
    let file = table.text("pattern_file");
    match (inline, file) {
        (Some(text), None) => {
            let parsed = Pattern::parse(&text.value);
            parsed.iter().for_each(|one| size.add(&text.value, one));
            let mistake = |error| table.mistake(Some(&text.span), "pattern", error);
            parsed.map_err(mistake).ok()
        }
        (None, Some(file)) if table.reader.is_foreign() => {
            let what = "a rule that is sent has its pattern in it";
            table.mistake(Some(&file.span), "pattern_file", what);
            None
        }
        (None, Some(file)) => {
            let path = dir.join(&file.value);
            files.insert(path.clone(), Stamp::of(&path));
            let parsed = of_file(&path, size);
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

fn of_file(path: &Path, size: &mut Size) -> Result<Pattern, String> {
    let known = path
        .metadata()
        .map_err(|error| format!("cannot be read: {error}"))?;
    if !known.is_file() {
        return Err("is not a file".to_owned());
    }
    let text = read_text(path)?;
    let pattern = Pattern::parse(&text).map_err(|error| error.to_string())?;
    size.add(&text, &pattern);
    Ok(pattern)
}

/// When the rule is in force.
fn schedule(rule: &Table<'_, '_, '_>, window: Option<&Window>) -> Option<Schedule> {
    let table = rule.table("schedule");
    if !table.is_present() {
        return None;
    }
    let (windows, time_zone) = (pacing::windows(&table), pacing::time_zone(&table));
    let mistakes = |window| {
        const EXAMPLE: &str = "window = [{ opens = \"0 22 * * *\", length = \"8h\" }]";
        table.mistake(None, "window", format!("{window}; for example {EXAMPLE}"));
    };
    match table.tables("window") {
        None if table.span("window").is_none() => mistakes("is missing"),
        Some(none) if none.is_empty() => mistakes("names at least one"),
        _ => {}
    }
    table.finish();
    // Silence counts from when it opens.
    if let (Some(Window::Absent(absent)), Some(shortest)) =
        (window, windows.iter().map(|window| window.length).min())
        && *absent >= shortest
    {
        let what = "is not shorter than every window of the rule's schedule, so that it might never be told; silence counts from when one opens";
        let window = rule.table("window");
        window.mistake(window.span("absent").as_ref(), "absent", what);
    }
    Some(Schedule::new(windows, time_zone))
}

/// The destinations; there may be none where the rule has something else to do.
fn destinations(
    table: &Table<'_, '_, '_>,
    known: &Known,
    may_be_none: bool,
) -> Option<Vec<Arc<str>>> {
    let Some(texts) = table.texts("destinations") else {
        if table.span("destinations").is_some() {
            return None;
        }
        if may_be_none {
            return Some(Vec::new());
        }
        let what =
            "is missing; for example destinations = [\"events\"], or topic = \"hot/{device}\"";
        table.mistake(None, "destinations", what);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::{Config, Stamp};

    fn rule(n: usize, pattern: &str) -> String {
        format!("[[rule]]\nname = \"r{n}\"\n{pattern}\ndestinations = [\"events\"]\n")
    }

    fn read(text: &str, dir: &std::path::Path) -> Result<Config, crate::config::Mistakes> {
        Config::from_text(text, dir, &|_| None)
    }

    #[test]
    fn rules_that_would_fill_memory_together_are_refused_where_they_do() {
        let or: Vec<_> = (0..1_000).map(|n| format!("{{\"o\":[{n}]}}")).collect();
        let fields: Vec<_> = (0..255).map(|n| format!("\"f{n}\":[1]")).collect();
        let pattern = format!(
            "pattern = '{{\"$or\":[{}],{}}}'",
            or.join(","),
            fields.join(",")
        );
        let rules = |count| (0..count).map(|n| rule(n, &pattern)).collect::<String>();
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&rules(3), dir.path()).is_ok());
        let mistakes = read(&rules(6), dir.path()).unwrap_err().to_string();
        assert!(
            mistakes.contains("rule[4].pattern: with this rule there are more than 1000000 fields"),
            "{mistakes}"
        );
        assert_eq!(mistakes.lines().count(), 1);
        // The same for long lists.
        let names: Vec<_> = (0..200_000)
            .map(|n| format!("\"device-{n:010}\""))
            .collect();
        fs::write(
            dir.path().join("p.json"),
            format!("{{\"device\":[{}]}}", names.join(",")),
        )
        .unwrap();
        let rules = |count| {
            let rules = (0..count).map(|n| rule(n, "pattern_file = \"p.json\""));
            rules.collect::<String>()
        };
        assert!(read(&rules(2), dir.path()).is_ok());
        let mistakes = read(&rules(10), dir.path()).unwrap_err().to_string();
        assert!(
            mistakes.contains("bytes; ask for what devices have in common"),
            "{mistakes}"
        );
    }

    #[test]
    fn files_are_noted_as_they_were_before_they_were_read_also_those_with_mistakes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pattern) = (dir.path().join("c.toml"), dir.path().join("p.json"));
        fs::write(&file, rule(1, "pattern_file = \"p.json\"")).unwrap();
        fs::write(&pattern, "{").unwrap();
        let mistakes = Config::load(Some(&file)).unwrap_err();
        let named: Vec<_> = mistakes.read_from.keys().cloned().collect();
        assert_eq!(named, [file.clone(), pattern.clone()]);
        assert_eq!(mistakes.read_from[&pattern], Stamp::of(&pattern));
        fs::write(&pattern, r#"{"device": ["b7"]}"#).unwrap();
        assert_ne!(mistakes.read_from[&pattern], Stamp::of(&pattern));
        let config = Config::load(Some(&file)).unwrap();
        assert_eq!(config.read_from.len(), 2);
        assert_eq!(config.read_from[&file], Stamp::of(&file));
        fs::remove_file(&pattern).unwrap();
        assert_ne!(config.read_from[&pattern], Stamp::of(&pattern));
    }
}
