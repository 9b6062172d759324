//! Reads the gateway's log: a warning that a test did not provoke fails the test.

use std::{fs, path::Path};

use serde_json::Value;

/// The lines that a person would have to look at: `WARN` and `ERROR` without any of the
/// `expected` words in them, and every panic.
pub fn unexpected(path: &Path, expected: &[String]) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .filter(|line| {
            line.contains("panicked at")
                || (alarming(line) && !expected.iter().any(|word| line.contains(word.as_str())))
        })
        .map(str::to_owned)
        .collect()
}

/// How often the log says something.
pub fn occurrences(path: &Path, words: &str) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.matches(words).count())
}

fn alarming(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|entry| {
        matches!(
            entry.get("level").and_then(Value::as_str),
            Some("WARN" | "ERROR")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[&str], found: usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, line).unwrap();
        let expected: Vec<String> = expected.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(unexpected(&path, &expected).len(), found, "{line}");
    }

    #[test]
    fn a_warning_nobody_expected_is_found_and_the_rest_is_not() {
        let warning = r#"{"level":"WARN","fields":{"message":"destination is away"}}"#;
        check(warning, &[], 1);
        check(warning, &["destination"], 0);
        check(warning, &["disk"], 1);
        check(r#"{"level":"INFO","fields":{"message":"WARN"}}"#, &[], 0);
        check(
            "thread 'main' panicked at src/main.rs:1:1:",
            &["panicked"],
            1,
        );
        check("half a li", &[], 0);
    }
}
