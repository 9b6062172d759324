//! A pattern: what an event must look like, in the syntax of Amazon `EventBridge`.
//!
//! A pattern is a JSON object with the shape of the event. Its leaves are arrays of
//! terms: every field that it names must fit one of its terms. `$or` makes several
//! [`Alternative`]s of a pattern; each is a list of paths with their terms, and one of
//! them is enough. `docs/rules.md` has the whole.

mod compile;
mod operator;

use std::{fmt, sync::Arc};

use super::{json, terms::Terms};

/// Alternatives that one pattern may come to.
pub const ALTERNATIVES_MAX: usize = 1_000;
/// Fields in one alternative.
pub const FIELDS_MAX: usize = 256;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 16 * 1024;

/// A pattern that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub(super) alternatives: Vec<Alternative>,
}

/// Fields that must all fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alternative {
    /// In the order of the paths, which decides what an absent field is compared with.
    pub(super) fields: Vec<Field>,
}

/// A path, its names joined with dots, and what may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) path: Arc<str>,
    pub(super) terms: Arc<Terms>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, what } = self;
        write!(f, "line {line}, column {column}: {what}")
    }
}

impl std::error::Error for Error {}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The first thing that is wrong in it, and where.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let read = || compile::compile(&json::parse(text)?);
        read().map_err(|json::Error { at, what }| {
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            Error {
                line: 1 + before.matches('\n').count(),
                column: 1 + before[line_start..].chars().count(),
                what: what.into_owned(),
            }
        })
    }

    /// Fields in all alternatives together: the memory that it takes goes by them.
    pub fn fields(&self) -> usize {
        self.alternatives.iter().map(|one| one.fields.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn mistake(text: &str) -> String {
        match Pattern::parse(text) {
            Ok(pattern) => panic!("{text} is a pattern: {pattern:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let patterns = [
            "",
            "5",
            "{}",
            r#"{"a":[1]} x"#,
            "{\"a\":\n  [1,]}",
            r#"{"ä":"x"}"#,
            r#"{"a":{"b":[]}}"#,
            r#"{"a":{"b":{}}}"#,
            r#"{"a":[["x"]]}"#,
            r#"{"a":[{}]}"#,
            r#"{"a":[{"Prefix":"x"}]}"#,
            r#"{"a":[{"prefix":"x","suffix":"y"}]}"#,
            r#"{"a":[{"prefix":["x"]}]}"#,
            r#"{"a":[{"suffix":{"prefix":"x"}}]}"#,
            r#"{"a":[{"equals-ignore-case":5}]}"#,
            r#"{"a":[{"exists":"true"}]}"#,
            r#"{"a":[{"numeric":[]}]}"#,
            r#"{"a":[{"numeric":["=>",5]}]}"#,
            r#"{"a":[{"numeric":[">","5"]}]}"#,
            r#"{"a":[{"numeric":[">",5,"<",5.0]}]}"#,
            r#"{"a":[{"numeric":["<",5,">",1]}]}"#,
            r#"{"a":[{"numeric":[">",1,"<",2,"<",3]}]}"#,
            r#"{"a":[1e9999999999999999]}"#,
            r#"{"a":[{"anything-but":["a",1]}]}"#,
            r#"{"a":[{"anything-but":[]}]}"#,
            r#"{"a":[{"anything-but":null}]}"#,
            r#"{"a":[{"anything-but":{"prefix":""}}]}"#,
            r#"{"a":[{"anything-but":{"prefix":[]}}]}"#,
            r#"{"a":[{"anything-but":{"cidr":"10.0.0.0/8"}}]}"#,
            r#"{"a":[{"wildcard":"a**"}]}"#,
            r#"{"a":[{"cidr":"10.0.0.0/32"}]}"#,
            r#"{"$or":[{"a":[1]}]}"#,
            r#"{"$or":[{"a":[1]},{"prefix":["x"]}]}"#,
            r#"{"$or":[{"a":[1]},{"b":[2]}],"c":{"$or":["x"]}}"#,
            r#"{"a":["\ud800"]}"#,
            r#"{"a":["\x"]}"#,
        ];
        let lines: Vec<_> = patterns
            .iter()
            .map(|text| format!("{}\n    {}", text.replace('\n', "⏎"), mistake(text)))
            .collect();
        assert_snapshot!(lines.join("\n"), @r####"

            line 1, column 1: not JSON: it ends where a value should be
        5
            line 1, column 1: a pattern is an object, not a number
        {}
            line 1, column 1: an empty object says nothing; name a field, such as {"device": ["b7"]}
        {"a":[1]} x
            line 1, column 11: text behind the end
        {"a":⏎  [1,]}
            line 2, column 6: not JSON: no value begins with this character
        {"ä":"x"}
            line 1, column 6: "ä" should be an object or an array of values, not a text
        {"a":{"b":[]}}
            line 1, column 11: an empty array fits nothing; for a field that is not there write [{"exists": false}]
        {"a":{"b":{}}}
            line 1, column 11: an empty object says nothing; name a field, such as {"device": ["b7"]}
        {"a":[["x"]]}
            line 1, column 7: an array within an array; a value is a text, a number, true, false, null or an operator
        {"a":[{}]}
            line 1, column 7: an empty object is no operator; known are exists, prefix, suffix, equals-ignore-case, wildcard, numeric, cidr, anything-but and exactly
        {"a":[{"Prefix":"x"}]}
            line 1, column 8: "Prefix" is no operator; known are exists, prefix, suffix, equals-ignore-case, wildcard, numeric, cidr, anything-but and exactly
        {"a":[{"prefix":"x","suffix":"y"}]}
            line 1, column 21: one operator in each object; put others in objects of their own beside it
        {"a":[{"prefix":["x"]}]}
            line 1, column 17: "prefix" takes a text, or {"equals-ignore-case": a text}, not an array
        {"a":[{"suffix":{"prefix":"x"}}]}
            line 1, column 18: "suffix" takes a text, or {"equals-ignore-case": a text}
        {"a":[{"equals-ignore-case":5}]}
            line 1, column 29: "equals-ignore-case" takes a text, not a number
        {"a":[{"exists":"true"}]}
            line 1, column 17: "exists" takes true or false, not a text
        {"a":[{"numeric":[]}]}
            line 1, column 18: "numeric" takes one comparison, such as [">", 5], or a lower and an upper one, such as [">=", 0, "<", 100]
        {"a":[{"numeric":["=>",5]}]}
            line 1, column 19: a comparison is one of = < <= > >=
        {"a":[{"numeric":[">","5"]}]}
            line 1, column 23: a number should follow ">", not a text
        {"a":[{"numeric":[">",5,"<",5.0]}]}
            line 1, column 23: the lower number should be less than the upper one
        {"a":[{"numeric":["<",5,">",1]}]}
            line 1, column 19: "numeric" takes one comparison, such as [">", 5], or a lower and an upper one, such as [">=", 0, "<", 100]
        {"a":[{"numeric":[">",1,"<",2,"<",3]}]}
            line 1, column 31: "numeric" takes one comparison, such as [">", 5], or a lower and an upper one, such as [">=", 0, "<", 100]
        {"a":[1e9999999999999999]}
            line 1, column 7: the power of ten is larger than any that is compared
        {"a":[{"anything-but":["a",1]}]}
            line 1, column 28: "anything-but" takes either texts or numbers, not both
        {"a":[{"anything-but":[]}]}
            line 1, column 23: "anything-but" of nothing; name a value
        {"a":[{"anything-but":null}]}
            line 1, column 23: "anything-but" takes a text, a number, a list of either, or an operator, not null
        {"a":[{"anything-but":{"prefix":""}}]}
            line 1, column 33: every text has an empty prefix, so nothing would fit
        {"a":[{"anything-but":{"prefix":[]}}]}
            line 1, column 33: "prefix" of nothing; name a text
        {"a":[{"anything-but":{"cidr":"10.0.0.0/8"}}]}
            line 1, column 24: "cidr" is no operator of "anything-but"; known are prefix, suffix, equals-ignore-case and wildcard
        {"a":[{"wildcard":"a**"}]}
            line 1, column 19: two "*" one after the other at character 2; one does the same
        {"a":[{"cidr":"10.0.0.0/32"}]}
            line 1, column 15: an IPv4 range has 0 to 31 bits
        {"$or":[{"a":[1]}]}
            line 1, column 8: "$or" has at least two objects in it
        {"$or":[{"a":[1]},{"prefix":["x"]}]}
            line 1, column 20: "prefix" is no field within "$or", but an operator's name
        {"$or":[{"a":[1]},{"b":[2]}],"c":{"$or":["x"]}}
            line 1, column 42: "$or" has objects in it, not a text
        {"a":["\ud800"]}
            line 1, column 8: not JSON: half of a character (a lone surrogate)
        {"a":["\x"]}
            line 1, column 8: not JSON: there is no such escape
        "####);
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
        assert!(mistake(&deep).contains("nested too deeply"));
        let fields: Vec<_> = (0..=FIELDS_MAX).map(|n| format!("\"f{n}\":[1]")).collect();
        assert!(mistake(&format!("{{{}}}", fields.join(","))).contains("256 fields"));
        // Said where it is met, and not when all of it has been built.
        let or: Vec<_> = (0..999).map(|n| format!("{{\"o\":[{n}]}}")).collect();
        let large = format!("{{\"$or\":[{}],\n{}}}", or.join(","), fields.join(",\n"));
        assert!(
            mistake(&large).starts_with("line 257, "),
            "{}",
            mistake(&large)
        );
        let long = format!("{{\"{}\":{{\"x\":[1]}}}}", "n".repeat(PATH_BYTES_MAX - 1));
        assert!(mistake(&long).contains("16384 bytes"));
        assert!(Pattern::parse(&long.replace("nn", "n")).is_ok());
        let or = r#""$or":[{"x":[1]},{"y":[1]}]"#;
        let ors: Vec<_> = (0..10).map(|n| format!("\"f{n}\":{{{or}}}")).collect();
        assert!(mistake(&format!("{{{}}}", ors.join(","))).contains("1000 alternatives"));
        assert!(Pattern::parse(&format!("{{{}}}", ors[1..].join(","))).is_ok());
    }
}
