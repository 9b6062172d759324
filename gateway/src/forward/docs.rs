//! What docs/delivery.md says is shown by tests: they must exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The names in the cells of tables that say what shows a fault.
fn named() -> BTreeSet<String> {
    let text = fs::read_to_string(repository("docs/delivery.md")).expect("the page");
    let mut names = BTreeSet::new();
    let mut of_faults = false;
    for line in text.lines() {
        if !line.starts_with('|') {
            of_faults = false;
        }
        of_faults |= line.starts_with("| fault |") || line.starts_with("| | gateway killed");
        if of_faults {
            let quoted = line.split('`').skip(1).step_by(2);
            // Names of destinations and headers are short, and those of tests sentences.
            let tests = quoted.filter(|name| name.matches('_').count() > 3);
            names.extend(tests.map(str::to_owned));
        }
    }
    names
}

/// Every function of the sources and of the tests.
fn functions() -> BTreeSet<String> {
    let mut left = vec![repository("gateway/src"), repository("tests/tests")];
    let mut functions = BTreeSet::new();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(path).expect("a source");
                let lines = text.lines().map(str::trim_start);
                let of = lines.filter_map(|line| {
                    let rest = line.strip_prefix("async ").unwrap_or(line);
                    Some(rest.strip_prefix("fn ")?.split('(').next()?.to_owned())
                });
                functions.extend(of);
            }
        }
    }
    functions
}

#[test]
fn what_is_said_to_be_shown_by_a_test_has_that_test() {
    let (named, functions) = (named(), functions());
    assert!(named.len() > 40, "the tables are found: {named:?}");
    let missing: Vec<_> = named.difference(&functions).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}
