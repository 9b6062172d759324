//! `[encryption]`: which key, and what stays plain all the same.

use std::path::Path;

use super::reader::Table;
use crate::encryption::{Config, Source};

const KINDS: [&str; 3] = ["key_file", "key_env", "credential"];
/// The read side, in words.
const READ: &str = "read";

/// `read_side` says whether there is one.
pub(super) fn read(table: Table<'_, '_, '_>, dir: &Path, read_side: bool) -> Config {
    if !table.is_present() {
        return Config::default();
    }
    let key = source(&table, dir);
    let old = table.tables("old_keys").unwrap_or_default();
    let old = old.iter().filter_map(|one| {
        let source = source(one, dir);
        one.finish();
        source
    });
    let old = old.collect();
    let mut plain_read = false;
    for text in table.texts("plain").unwrap_or_default() {
        match &*text.value {
            READ => plain_read = true,
            _ => {
                let what = format!(
                    "{:?} should be \"read\"; nothing else can stay plain",
                    text.written
                );
                table.mistake(Some(&text.span), "plain", what);
            }
        }
    }
    if read_side && !plain_read {
        let what = "is missing: read.db holds what events say in plain text, to be searched; \
                    set plain = [\"read\"] if it may, or [read] enabled = false";
        table.mistake(table.span("plain").as_ref(), "plain", what);
    }
    table.finish();
    Config {
        key,
        old,
        plain_read,
    }
}

/// Exactly one of three.
fn source(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Source> {
    let file = table.text("key_file");
    let env = table.parsed("key_env", |name| match name {
        "" => Err("should be the name of an environment variable"),
        name if name.contains(['=', '\0']) => Err("should be the name of an environment variable"),
        name => Ok(Source::Env(name.to_owned())),
    });
    let credential = table.parsed("credential", |name| match name {
        "" | "." | ".." => Err("should be the name of a credential, as in LoadCredential="),
        name if name.contains(['/', '\0']) => {
            Err("should be the name of a credential, as in LoadCredential=, without a path")
        }
        name => Ok(Source::Credential(name.to_owned())),
    });
    let given: Vec<_> = KINDS
        .into_iter()
        .filter(|key| table.span(key).is_some())
        .collect();
    match given[..] {
        [] => {
            let what = "is missing; one of key_file, key_env and credential says where the key \
                        is, for example key_file = \"penstock.key\"";
            table.mistake(None, "", what);
        }
        [_] => {}
        [_, second, ..] => {
            let what = format!("{} says where the key is already; leave one away", given[0]);
            table.mistake(table.span(second).as_ref(), second, what);
        }
    }
    file.map(|file| Source::File(dir.join(&file.value)))
        .or(env)
        .or(credential)
}
