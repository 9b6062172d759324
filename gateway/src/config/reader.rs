//! A TOML tree read key by key; mistakes are collected instead of ending the reading.
//!
//! Whoever reads a table asks for its keys by name. What was asked for is what is
//! known: every other key is a mistake, with the known one that it looks like.

mod within;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt::Display,
    io::Read as _,
    ops::Range,
    path::Path,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{mistake::Mistake, words::OneOf};
use crate::event::Value;

/// Where in the text.
pub(super) type Span = Range<usize>;

/// Looks up an environment variable.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The whole text, and what was found in it so far.
pub(super) struct Reader<'e> {
    text: &'e str,
    env: Env<'e>,
    /// What files with single values are relative to.
    dir: &'e Path,
    mistakes: RefCell<Vec<Mistake>>,
    /// Every key that was asked for, with the tables around it, for the documentation.
    known: RefCell<BTreeSet<String>>,
    /// Values that came from the environment, which must not be shown, and their names.
    hidden: RefCell<Vec<(String, String)>>,
    /// Whether the text came over the network: nothing is filled in, and no file is read.
    foreign: bool,
    /// Dictionaries that are not there are no mistake: they are about to be made.
    no_dictionaries: bool,
}

impl<'e> Reader<'e> {
    pub(super) fn new(text: &'e str, env: Env<'e>, dir: &'e Path) -> Self {
        Self {
            text,
            env,
            dir,
            mistakes: RefCell::default(),
            known: RefCell::default(),
            hidden: RefCell::default(),
            foreign: false,
            no_dictionaries: false,
        }
    }

    /// For who makes the dictionaries that it names.
    pub(super) const fn without_dictionaries(mut self) -> Self {
        self.no_dictionaries = true;
        self
    }

    /// Whether a dictionary that is named may be passed over.
    pub(super) fn passes_over(&self, dictionary: &Path) -> bool {
        self.no_dictionaries && !dictionary.is_file()
    }

    pub(super) const fn text(&self) -> &'e str {
        self.text
    }

    /// Of a text that somebody sent.
    pub(super) fn foreign(text: &'e str) -> Self {
        Self {
            foreign: true,
            ..Self::new(text, &|_| None, Path::new(""))
        }
    }

    /// Whether it is.
    pub(super) const fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Notes a mistake. Values from the environment are taken out of the words.
    pub(super) fn mistake(&self, span: Option<&Span>, key: &str, what: impl Display) {
        let mut what = what.to_string();
        // Shorter values hide nothing, and taking them out would garble the words.
        for (value, name) in self
            .hidden
            .borrow()
            .iter()
            .filter(|(value, _)| value.len() > 2)
        {
            what = what.replace(value.as_str(), &format!("${{{name}}}"));
        }
        let line = span.map(|span| {
            let before = self.text.as_bytes().iter().take(span.start);
            1 + before.filter(|byte| **byte == b'\n').count()
        });
        self.mistakes.borrow_mut().push(Mistake {
            file: None,
            line,
            key: key.to_owned(),
            what,
        });
    }

    /// Notes a mistake in another file; `line` is counted from 1.
    pub(super) fn mistake_in(&self, file: &Path, line: Option<usize>, key: String, what: String) {
        self.mistakes.borrow_mut().push(Mistake {
            file: Some(file.to_owned()),
            line,
            key,
            what,
        });
    }

    /// Of another text, which is filled in from the same environment, and from files
    /// relative to `dir`.
    pub(super) fn beside<'b>(&self, text: &'b str, dir: &'b Path) -> Reader<'b>
    where
        'e: 'b,
    {
        Reader::new(text, self.env, dir)
    }

    /// How many there are so far.
    pub(super) fn mistakes(&self) -> usize {
        self.mistakes.borrow().len()
    }

    /// The mistakes by line, and the keys that are known.
    pub(super) fn finish(self) -> (Vec<Mistake>, BTreeSet<String>) {
        let mut mistakes = self.mistakes.into_inner();
        // Those of other files come behind, in the order in which these were read.
        mistakes.sort_by_key(|mistake| match mistake.file {
            Some(_) => (true, 0),
            None => (false, mistake.line.unwrap_or(usize::MAX)),
        });
        (mistakes, self.known.into_inner())
    }

    /// Fills environment variables and files in; `$${` stands for `${`.
    fn expand(&self, span: &Span, key: &str, written: &str) -> Option<String> {
        if self.foreign {
            return Some(written.to_owned());
        }
        let mut filled = String::with_capacity(written.len());
        let mut rest = written;
        let mut fine = true;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                filled.push_str(&rest[..at]);
                filled.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            filled.push_str(&rest[..at]);
            let Some((name, after)) = rest[at + 2..].split_once('}') else {
                let what = "\"${\" begins the name of an environment variable that ends with \"}\"; write \"$${\" for the characters themselves";
                self.mistake(Some(span), key, what);
                return None;
            };
            rest = after;
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if let Some(path) = name.strip_prefix("file:") {
                match value_of(&self.dir.join(path)) {
                    Ok(value) => {
                        filled.push_str(&value);
                        self.hidden.borrow_mut().push((value, name.to_owned()));
                    }
                    Err(error) => {
                        self.mistake(Some(span), key, format!("the file {path}: {error}"));
                        fine = false;
                    }
                }
            } else if name.is_empty() || !name.chars().all(word) {
                let what = format!("{name:?} is not the name of an environment variable");
                self.mistake(Some(span), key, what);
                fine = false;
            } else if let Some(value) = (self.env)(name) {
                filled.push_str(&value);
                self.hidden.borrow_mut().push((value, name.to_owned()));
            } else {
                let what = format!("the environment variable {name} is not set");
                self.mistake(Some(span), key, what);
                fine = false;
            }
        }
        filled.push_str(rest);
        fine.then_some(filled)
    }
}

/// What a file holds, without the end of its line.
fn value_of(path: &Path) -> Result<String, String> {
    const BYTES_MAX: u64 = 64 << 10;
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let mut text = read().map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > BYTES_MAX {
        return Err("is no single value: it has more than 64KiB".to_owned());
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    match text.is_empty() {
        true => Err("is empty".to_owned()),
        false => Ok(text),
    }
}

/// A text value.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// With environment variables filled in.
    pub(super) value: String,
    /// As it is in the file, for messages.
    pub(super) written: String,
    /// Where.
    pub(super) span: Span,
}

/// One table, or an absent one, whose keys are all absent.
pub(super) struct Table<'r, 'e, 't> {
    pub(super) reader: &'r Reader<'e>,
    /// The name with the tables around it, for messages.
    path: String,
    /// The same without numbers, for the documentation.
    generic: String,
    table: Option<&'t DeTable<'t>>,
    span: Option<Span>,
    asked: RefCell<BTreeSet<&'static str>>,
    /// Which keys are right is not known.
    lenient: Cell<bool>,
}

impl<'r, 'e, 't> Table<'r, 'e, 't> {
    pub(super) fn root(reader: &'r Reader<'e>, table: &'t DeTable<'t>) -> Self {
        Self::new(reader, String::new(), String::new(), Some(table), None)
    }

    fn new(
        reader: &'r Reader<'e>,
        path: String,
        generic: String,
        table: Option<&'t DeTable<'t>>,
        span: Option<Span>,
    ) -> Self {
        let (asked, lenient) = (RefCell::default(), Cell::default());
        Self {
            reader,
            path,
            generic,
            table,
            span,
            asked,
            lenient,
        }
    }

    /// Whether the table is there.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Notes a mistake about one key, or about the whole table if `key` is empty.
    pub(super) fn mistake(&self, span: Option<&Span>, key: &str, what: impl Display) {
        let full = match (self.path.is_empty(), key.is_empty()) {
            (_, true) => self.path.clone(),
            (true, false) => key.to_owned(),
            (false, false) => format!("{}.{key}", self.path),
        };
        self.reader
            .mistake(span.or(self.span.as_ref()), &full, what);
    }

    /// Where a key's value is.
    pub(super) fn span(&self, key: &str) -> Option<Span> {
        self.find(key).map(Spanned::span)
    }

    fn find(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table?
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    fn ask(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.know(key);
        self.find(key)
    }

    /// Makes a key known without reading it.
    pub(super) fn know(&self, key: &'static str) {
        self.asked.borrow_mut().insert(key);
        let full = match self.generic.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.generic),
        };
        self.reader.known.borrow_mut().insert(full);
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let given = value.get_ref().type_str();
        self.mistake(
            Some(&value.span()),
            key,
            format!("should be {wanted}, not {}", a(given)),
        );
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Text> {
        match value.get_ref() {
            DeValue::String(written) => Some(Text {
                value: self
                    .reader
                    .expand(&value.span(), &self.full(key), written)?,
                written: written.clone().into_owned(),
                span: value.span(),
            }),
            _ => {
                self.wrong_type(key, value, "text in quotes");
                None
            }
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<Text> {
        self.ask(key).and_then(|value| self.text_of(key, value))
    }

    /// A text that must be there.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<Text> {
        let value = self.ask(key);
        if value.is_none() {
            self.mistake(
                None,
                key,
                format!("is missing; for example {key} = {example}"),
            );
        }
        self.text_of(key, value?)
    }

    /// A text that `parse` takes; what it says otherwise is the mistake.
    pub(super) fn parsed<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        self.parse(key, &text, parse)
    }

    /// Parses a text that was read before.
    pub(super) fn parse<T, E: Display>(
        &self,
        key: &str,
        text: &Text,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = parse(&text.value);
        parsed
            .map_err(|error| {
                self.mistake(
                    Some(&text.span),
                    key,
                    format!("{:?}: {error}", text.written),
                )
            })
            .ok()
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let find = |text: &str| {
            let known = || OneOf(words.iter().map(|(word, _)| *word).collect());
            let found = words.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| known().instead_of(text))
        };
        self.parsed(key, find).unwrap_or(default)
    }

    /// True or false.
    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        match self.ask(key).map(|value| (value, value.get_ref())) {
            None => default,
            Some((_, DeValue::Boolean(value))) => *value,
            Some((value, _)) => {
                self.wrong_type(key, value, "true or false");
                default
            }
        }
    }

    /// A value that an event can hold: a text, a number, true or false.
    fn scalar(&self, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match value.get_ref() {
            DeValue::Boolean(b) => Some(Value::Bool(*b)),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(Value::Int),
            DeValue::Float(float) => float.as_str().parse().ok().map(Value::Float),
            DeValue::String(_) => self.text_of("", value).map(|text| Value::Text(text.value)),
            _ => None,
        }
    }

    /// A table of names and what they stand for, in the order of the names.
    pub(super) fn meanings(&self, key: &'static str) -> Vec<(Box<str>, Value)> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            let wanted = "a table of what stands for what, such as { ON = true, OFF = false }";
            self.wrong_type(key, value, wanted);
            return Vec::new();
        };
        let meaning = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let meaning = self.scalar(value);
            if meaning.is_none() {
                let wanted = "a text, a number, true or false";
                self.wrong_type(&format!("{key}.{name}"), value, wanted);
            }
            Some((Box::from(&**name), meaning?))
        };
        table.iter().filter_map(meaning).collect()
    }

    /// Whether a key is there and is a table.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.find(key)
            .is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// Whether a key is there and is a list.
    pub(super) fn is_array(&self, key: &str) -> bool {
        self.find(key)
            .is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// A list of texts; `None` where there is none.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Text>> {
        let value = self.ask(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, "a list of texts, in brackets");
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| self.text_of(key, item))
                .collect(),
        )
    }

    /// A table of names and texts, in the order of the names.
    pub(super) fn pairs(&self, key: &'static str) -> Vec<(String, Text)> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(
                key,
                value,
                "a table of names and texts, such as { name = \"text\" }",
            );
            return Vec::new();
        };
        let pair = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            Some((
                name.clone().into_owned(),
                self.text_of(&format!("{key}.{name}"), value)?,
            ))
        };
        table.iter().filter_map(pair).collect()
    }

    /// A table within this one.
    pub(super) fn table(&self, key: &'static str) -> Table<'r, 'e, 't> {
        let value = self.ask(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.wrong_type(key, value, &format!("a table, such as [{key}]"));
                None
            }
        });
        let generic = self.generic_of(key);
        Table::new(
            self.reader,
            self.full(key),
            generic,
            table,
            value.map(Spanned::span),
        )
    }

    /// A key that is either a text or a table.
    pub(super) fn text_or_table(&self, key: &'static str) -> Option<Either<'r, 'e, 't>> {
        match self.find(key)?.get_ref() {
            DeValue::Table(_) => Some(Either::Table(self.table(key))),
            _ => self.text(key).map(Either::Text),
        }
    }

    /// The tables of an array of tables; `None` where there is none.
    pub(super) fn tables(&self, key: &'static str) -> Option<Vec<Table<'r, 'e, 't>>> {
        let value = self.ask(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, &format!("a list of tables, such as [[{key}]]"));
            return None;
        };
        let mut tables = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            if let DeValue::Table(table) = item.get_ref() {
                let path = format!("{}[{}]", self.full(key), n + 1);
                let generic = self.generic_of(key);
                tables.push(Table::new(
                    self.reader,
                    path,
                    generic,
                    Some(table),
                    Some(item.span()),
                ));
            } else {
                self.wrong_type(key, item, "a table");
            }
        }
        Some(tables)
    }

    fn generic_of(&self, key: &str) -> String {
        if self.generic.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.generic)
        }
    }

    /// Takes every key of this table for known.
    pub(super) fn know_all(&self) {
        self.lenient.set(true);
    }

    /// Every key that nobody asked for is a mistake.
    pub(super) fn finish(&self) {
        if self.lenient.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            if !asked.contains(name.get_ref().as_ref()) {
                let known = OneOf(asked.iter().copied().collect());
                let what = format!("is not a key; {}", known.like(name.get_ref()));
                self.mistake(Some(&name.span()), name.get_ref(), what);
            }
        }
    }
}

/// What [`Table::text_or_table`] found.
pub(super) enum Either<'r, 'e, 't> {
    Text(Text),
    Table(Table<'r, 'e, 't>),
}

fn a(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {kind}")
}
