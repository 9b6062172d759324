//! `rule_files`: rules in files of their own, TOML as in the configuration or JSON as over
//! the API.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::Reading;
use crate::config::{
    Stamp, json, read_text,
    reader::{Reader, Table, Text},
};

/// Files with rules, at most.
const FILES_MAX: usize = 10_000;
/// Files of one directory that are looked at for those.
const ENTRIES_MAX: usize = 100_000;

/// Reads all that `names` name, in the order of their names, which are relative to `dir`.
pub(super) fn read(root: &Table<'_, '_, '_>, names: &[Text], dir: &Path, reading: &mut Reading) {
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for text in names {
        match named(text, dir, reading) {
            Ok(mut found) => files.append(&mut found),
            Err(what) => {
                let what = format!("{:?}: {what}", text.written);
                root.mistake(Some(&text.span), "rule_files", what);
            }
        }
        if files.len() > FILES_MAX {
            let what = format!("there can be {FILES_MAX} files with rules");
            root.mistake(Some(&text.span), "rule_files", what);
            return;
        }
    }
    for file in files {
        reading.read.files.insert(file.clone(), Stamp::of(&file));
        if !one(root, &file, reading) {
            return;
        }
    }
}

/// The files that a name stands for; `*` in its last part stands for any characters.
fn named(text: &Text, dir: &Path, reading: &mut Reading) -> Result<BTreeSet<PathBuf>, String> {
    let path = dir.join(&text.value);
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or("names no file")?;
    if path
        .parent()
        .is_some_and(|dir| dir.to_string_lossy().contains('*'))
    {
        return Err("\"*\" is for the name of a file, and not for a directory".to_owned());
    }
    check_kind(name)?;
    let Some((before, after)) = name.split_once('*') else {
        return Ok([path].into());
    };
    if after.contains('*') {
        return Err("has more than one \"*\"".to_owned());
    }
    let dir = path.parent().unwrap_or_else(|| Path::new(""));
    // What comes and goes there changes the directory.
    let listed = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    reading
        .read
        .files
        .insert(listed.to_owned(), Stamp::of(listed));
    let cannot = |error: io::Error| format!("the directory cannot be read: {error}");
    let mut found = BTreeSet::new();
    for (n, entry) in listed.read_dir().map_err(cannot)?.enumerate() {
        if n >= ENTRIES_MAX {
            return Err(format!("the directory has more than {ENTRIES_MAX} files"));
        }
        let name = entry.map_err(cannot)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let fits = name.len() >= before.len() + after.len()
            && name.starts_with(before)
            && name.ends_with(after);
        // Editors leave such files behind.
        if fits && !name.starts_with('.') {
            found.insert(dir.join(name));
        }
    }
    // A directory that is empty for a while would open every destination that rules narrow.
    match found.is_empty() {
        true => Err("there is no file of such a name".to_owned()),
        false => Ok(found),
    }
}

fn check_kind(name: &str) -> Result<(), String> {
    match is_json(Path::new(name)) || name.ends_with(".toml") {
        true => Ok(()),
        false => Err("a file with rules ends with .json or .toml".to_owned()),
    }
}

/// Whether a file has its rules in JSON.
pub(in crate::config) fn is_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

/// Reads one; false where there is too much already.
fn one(root: &Table<'_, '_, '_>, path: &Path, reading: &mut Reading) -> bool {
    let whole = |line, what: String| root.reader.mistake_in(path, line, String::new(), what);
    let text = match read_text(path) {
        Ok(text) => text,
        Err(what) => {
            whole(None, what);
            return true;
        }
    };
    let is_json = is_json(path);
    let text = match is_json.then(|| json::rules(&text)) {
        None => text,
        Some(Ok(toml)) => toml,
        Some(Err(wrong)) => {
            whole(Some(wrong.line), wrong.what);
            return true;
        }
    };
    let dir = path.parent().unwrap_or_else(|| Path::new(""));
    let reader = match is_json {
        true => Reader::foreign(&text),
        false => root.reader.beside(&text, dir),
    };
    let (tree, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        let what = format!("not TOML: {}", error.message().trim());
        reader.mistake(error.span().as_ref(), "", what);
    }
    let mut goes_on = true;
    if errors.is_empty() {
        let table = Table::root(&reader, tree.get_ref());
        match table.tables("rule") {
            Some(tables) => goes_on = reading.all(&tables, dir, &format!("{}: ", path.display())),
            None if table.span("rule").is_none() => {
                table.mistake(None, "rule", "is missing; for example [[rule]]");
            }
            None => {}
        }
        table.finish();
    }
    let (mistakes, _) = reader.finish();
    for mistake in mistakes {
        root.reader
            .mistake_in(path, mistake.line, mistake.key, mistake.what);
    }
    goes_on
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::config::{Config, Stamp};

    const MAIN: &str = "rule_files = [\"rules/*.json\", \"rules/*.toml\"]\n\
                        [[rule]]\nname = \"own\"\npattern = '{\"device\": [\"a\"]}'\ntopic = \"x\"\n";

    fn read(text: &str, dir: &Path) -> Result<Config, String> {
        Config::from_text(text, dir, &|name| {
            (name == "DEVICE").then(|| "b7".to_owned())
        })
        .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn rules_of_files_stand_beside_those_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("rules");
        fs::create_dir(&rules).unwrap();
        fs::write(
            rules.join("b.json"),
            "[{\"name\": \"one\", \"pattern\": {\"values\": {\"t\": [{\"numeric\": [\">\", 1e2]}]}},\n\
             \"topic\": \"\\u0068ot\\/\\ud83d\\ude00\"},\n\n {\"name\": \"two\", \"pattern\":\n {\"device\":\n [\"${DEVICE}\"]}, \"topic\": \"x\"}]",
        )
        .unwrap();
        fs::write(
            rules.join("a.toml"),
            "[[rule]]\nname = \"three\"\npattern_file = \"p/three.txt\"\ntopic = \"${DEVICE}\"\n",
        )
        .unwrap();
        fs::create_dir(rules.join("p")).unwrap();
        fs::write(rules.join("p/three.txt"), "{\"device\": [\"c\"]}").unwrap();
        for passed in [".b.json.json", "b.json~", "c.txt"] {
            fs::write(rules.join(passed), "{").unwrap();
        }
        let config = read(MAIN, dir.path()).unwrap();
        let names: Vec<_> = config.rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names, ["own", "three", "one", "two"]);
        let topics: Vec<_> = config
            .rules
            .iter()
            .map(|rule| rule.actions.topic.clone())
            .collect();
        let topic = |text| crate::rules::action::Topic::parse(text, false).ok();
        assert_eq!(
            topics,
            [topic("x"), topic("b7"), topic("hot/\u{1f600}"), topic("x")]
        );
        // What is read is watched, and where more may come.
        let watched: Vec<_> = config.read_from.keys().cloned().collect();
        let expect = ["", "a.toml", "b.json", "p/three.txt"].map(|name| match name {
            "" => rules.clone(),
            name => rules.join(name),
        });
        assert_eq!(watched, expect);
        fs::write(rules.join("d.json"), "[]").unwrap();
        assert_ne!(config.read_from[&rules], Stamp::of(&rules));
        assert_eq!(read(MAIN, dir.path()).unwrap().rules.len(), 4);
        fs::remove_file(rules.join("b.json")).unwrap();
        assert_eq!(read(MAIN, dir.path()).unwrap().rules.len(), 2);
    }

    #[test]
    fn a_file_with_one_rule_is_that_rule() {
        let dir = tempfile::tempdir().unwrap();
        let rule = r#"{"name": "hot", "pattern": {"device": ["a"]}, "topic": "x"}"#;
        fs::write(dir.path().join("hot.json"), rule).unwrap();
        let config = read("rule_files = [\"hot.json\"]", dir.path()).unwrap();
        assert_eq!(&*config.rules[0].name, "hot");
    }

    #[test]
    fn mistakes_are_said_with_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, text: &str, expect: &str| {
            let file = dir.path().join(name);
            fs::write(&file, text).unwrap();
            let main = format!("rule_files = [\"{name}\"]\n");
            let said = read(&main, dir.path()).unwrap_err();
            assert_eq!(said, format!("{}{expect}", file.display()), "{text}");
            fs::remove_file(&file).unwrap();
        };
        check(
            "a.json",
            "[\n{\"name\": \"a\",\n\"pattern\": {\"device\": [\"a\"]},\n\"topik\": \"x\", \"topic\": \"y\"}]",
            ":4: rule[1].topik: is not a key; did you mean \"topic\"?",
        );
        check(
            "a.json",
            "{\"name\": \"a\", \"topic\": \"x\",\n \"pattern\": {\n  \"device\": 5}}",
            ":2: rule[1].pattern: line 2, column 13: \"device\" should be an object or an array of values, not a number",
        );
        check(
            "a.json",
            "{\n\"name\": }",
            ":2: it is not JSON: expected value at line 2 column 9",
        );
        check(
            "a.json",
            "{\"name\": \"a\",\n \"topic\": null}",
            ":2: null is no value here; leave the key away",
        );
        check(
            "a.toml",
            "[[rule]]\nname = \"A\"\npattern = '{\"device\": [\"a\"]}'\ntopic = \"x\"",
            ":2: rule[1].name: \"A\": a name has 1 to 64 lower-case letters, digits, \"-\" and \"_\"",
        );
        check(
            "a.toml",
            "[[rule]]\nname = \"a\"\npattern = '{\"device\": [\"a\"]}'\ntopic = \"x\"\n[store]\n",
            ":5: store: is not a key; known here are rule",
        );
        let said = read("rule_files = [\"none.json\"]", dir.path()).unwrap_err();
        assert!(said.contains("none.json: cannot be read"), "{said}");
        for (names, part) in [
            (
                "none/*.json",
                ":1: rule_files: \"none/*.json\": the directory cannot be read",
            ),
            ("*/a.json", "is for the name of a file"),
            ("**.json", "more than one"),
            ("a.yaml", "ends with .json or .toml"),
        ] {
            let said = read(&format!("rule_files = [\"{names}\"]"), dir.path()).unwrap_err();
            assert!(said.contains(part), "{names}: {said}");
        }
        // One that is empty for a while is none that has no rules.
        fs::create_dir(dir.path().join("empty")).unwrap();
        let said = read("rule_files = [\"empty/*.json\"]", dir.path()).unwrap_err();
        assert!(said.contains("there is no file of such a name"), "{said}");
        // Two of one name, wherever they stand.
        let rule = r#"{"name": "own", "pattern": {"device": ["a"]}, "topic": "x"}"#;
        fs::create_dir(dir.path().join("rules")).unwrap();
        let file = dir.path().join("rules/own.json");
        fs::write(&file, rule).unwrap();
        let said = read(&MAIN.replace(", \"rules/*.toml\"", ""), dir.path()).unwrap_err();
        let expect = format!(
            "{}:1: rule[1].name: rule[1] is named \"own\" as well",
            file.display()
        );
        assert_eq!(said, expect);
    }
}
