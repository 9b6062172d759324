//! A damaged `rulebook.db` is set aside, and the rules that were put are taken from their
//! [copy](super::copy). Where that is gone too, nobody knows which destinations they
//! narrowed. Sending those everything could tell someone what he should not know; so every
//! destination of the configuration is named by a rule [`LOST`] that takes nothing, until a
//! person takes that away. What only it keeps back is held, as all that rules send nowhere.

use std::{path::Path, sync::Arc};

use serde_json::json;

use super::{
    Error, Version,
    copy::{self, Copy, Named},
    kept::{self, FILE},
};
use crate::{aside, config::Config, event::Timestamp};

/// The rule that is put where those that were put are lost.
pub(super) const LOST: &str = "lost-rulebook";
/// A pattern that takes nothing: every event has a device.
pub(super) const NOTHING: &str = r#"{"device":[{"exists":false}]}"#;

/// Sees to it that the rules that were put can be read, before anybody reads them. Blocking.
///
/// # Errors
/// When the files cannot be read or written.
pub fn rescue(dir: &Path, config: &Config, now: Timestamp) -> Result<(), Error> {
    aside::finish(dir, FILE)?;
    let copy = copy::read(dir)?;
    let Some(damage) = damage(dir, &copy)? else {
        return Ok(());
    };
    let (rules, is_known) = match copy {
        Copy::Whole(rules) => (rules, true),
        Copy::None | Copy::Damaged => (lost(config, now), false),
    };
    write(&aside::fresh(dir, FILE)?, &rules)?;
    let aside = aside::exchange(dir, FILE)?;
    let aside = aside.map_or_else(String::new, |aside| aside.display().to_string());
    if is_known {
        let rules = rules.iter().filter(|(_, rule)| rule.text.is_some()).count();
        tracing::error!(
            damage,
            path = aside,
            rules,
            "rulebook.db was damaged and set aside; the rules are those of its copy, their earlier versions are in the old file"
        );
    } else {
        tracing::error!(
            damage,
            path = aside,
            "rulebook.db was damaged and set aside, and there is no copy: the rules that were put are lost. Destinations get only what the configuration's rules send them, and the rest is held, until the rule {LOST} is taken away"
        );
    }
    Ok(())
}

/// What is wrong with the file, if anything is.
fn damage(dir: &Path, copy: &Copy) -> Result<Option<String>, Error> {
    if let Some(damage) = kept::damage(dir)? {
        return Ok(Some(damage));
    }
    let Some(connection) = kept::open_read_only(dir)? else {
        // There is no file, or nothing in it.
        let had_rules = match copy {
            Copy::None => false,
            Copy::Damaged => true,
            Copy::Whole(rules) => rules.iter().any(|(_, rule)| rule.text.is_some()),
        };
        return Ok(had_rules.then(|| "it is gone".to_owned()));
    };
    let Copy::Whole(copy) = copy else {
        return Ok(None);
    };
    // SQLite calls neither a flipped bit in a text damage nor a log that ends early. The
    // copy has a checksum, and is written after the file.
    let known = kept::latest(&connection)?;
    let wrong = copy.iter().find_map(|(name, version)| {
        let is = known.iter().find(|(n, _)| n == name).map(|(_, v)| v);
        match is {
            Some(is) if is.number > version.number || is == version => None,
            Some(is) if is.number == version.number => {
                Some(format!("the rule {name} is not as it was put"))
            }
            // Versions of what was taken away leave the file one day.
            None if version.text.is_none() => None,
            _ => Some(format!("it is older than its copy: the rule {name}")),
        }
    });
    Ok(wrong)
}

/// What stands for rules that nobody knows any more.
fn lost(config: &Config, now: Timestamp) -> Vec<Named> {
    let destinations: Vec<&str> = config.destinations.iter().map(|d| &*d.name).collect();
    if destinations.is_empty() {
        return Vec::new();
    }
    let pattern: serde_json::Value = serde_json::from_str(NOTHING).unwrap_or_default();
    let rule = json!({ "name": LOST, "pattern": pattern, "destinations": destinations });
    let version = Version {
        number: 1,
        at: now,
        actor: "penstock".to_owned(),
        text: Some(rule.to_string()),
    };
    vec![(Arc::from(LOST), version)]
}

/// A file with these rules, complete.
fn write(path: &Path, rules: &[Named]) -> Result<(), Error> {
    let mut connection = kept::open_at(path)?;
    kept::fill(&mut connection, rules)?;
    // Which takes its log into it.
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}
