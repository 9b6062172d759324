//! A damaged `rulebook.db` is set aside, and the rules that were put are taken from their
//! [copy](super::copy). Where that is gone too, nobody knows which destinations they
//! narrowed. Sending those everything could tell someone what he should not know; so every
//! destination of the configuration is named by a rule [`LOST`] that takes nothing, until a
//! person takes that away. What only it keeps back is held, as all that rules send nowhere.

use std::{path::Path, sync::Arc};

use serde_json::json;

use super::{
    Error, Version,
    copy::{self, Named},
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
    let damage = match dir.join(FILE).try_exists()? {
        true => damage(dir, copy.as_deref())?,
        false if copy.as_ref().is_some_and(|copy| !copy.is_empty()) => {
            Some("it is gone".to_owned())
        }
        false => None,
    };
    let Some(damage) = damage else {
        return Ok(());
    };
    let rules = match &copy {
        Some(copy) => copy.clone(),
        None => lost(config, now),
    };
    write(&aside::fresh(dir, FILE)?, &rules)?;
    let aside = aside::exchange(dir, FILE)?;
    let aside = aside.map_or_else(String::new, |aside| aside.display().to_string());
    if copy.is_some() {
        let rules = rules.len();
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
fn damage(dir: &Path, copy: Option<&[Named]>) -> Result<Option<String>, Error> {
    if let Some(damage) = kept::damage(dir)? {
        return Ok(Some(damage));
    }
    let Some(connection) = kept::open_read_only(dir)? else {
        return Ok(None);
    };
    // A flipped bit in a text is no damage to SQLite. The copy has a checksum.
    let known = kept::latest(&connection)?;
    let other = copy.unwrap_or_default().iter().find(|(name, version)| {
        let mut known = known.iter();
        known.any(|(n, v)| n == name && v.number == version.number && v != version)
    });
    Ok(other.map(|(name, _)| format!("the rule {name} is not as it was put")))
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
    for (name, version) in rules {
        kept::add(&mut connection, name, version)?;
    }
    // Which takes its log into it.
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}
