//! Rules as they would be put, all together, without putting them.

use std::{collections::HashMap, sync::Arc};

use super::{Error, RULE_BYTES_MAX, Rulebook, fields, read, too_many_fields};
use crate::rules::Rule;

/// Rules in force, and a change of them that takes no more room than could be put.
#[derive(Debug)]
pub struct Trial {
    /// The destinations that rules may name.
    pub destinations: Vec<Arc<str>>,
    /// The rules in force.
    pub in_force: Vec<Rule>,
    /// Those that would be put.
    pub changes: Vec<Rule>,
    /// Fields of all that would be in force then.
    fields: usize,
    /// Of those in force by name; of a change nothing, as it takes no further one's place.
    known: HashMap<Arc<str>, Option<usize>>,
}

impl Rulebook {
    /// What is in force, to try a change of it. Blocking.
    pub fn trial(&self) -> Trial {
        let (destinations, in_force) = self.in_force();
        let mut known = HashMap::new();
        for rule in &in_force {
            known
                .entry(rule.name.clone())
                .or_insert_with(|| Some(fields(rule)));
        }
        Trial {
            destinations,
            fields: in_force.iter().map(fields).sum(),
            in_force,
            changes: Vec::new(),
            known,
        }
    }
}

impl Trial {
    /// Reads one more rule as it is put.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&mut self, text: &str) -> Result<(), Error> {
        if text.len() > RULE_BYTES_MAX {
            let what = format!("a rule has at most {RULE_BYTES_MAX} bytes");
            return Err(Error::Wrong(vec![what]));
        }
        self.add(read(text, &self.destinations).map_err(Error::Wrong)?)
    }

    /// Takes one more.
    ///
    /// # Errors
    /// Where it has the name of another one, or there are too many fields.
    pub fn add(&mut self, rule: Rule) -> Result<(), Error> {
        let wrong = |what| Err(Error::Wrong(vec![what]));
        let before = match self.known.insert(rule.name.clone(), None) {
            Some(None) => {
                return wrong(format!(
                    "name: another one is named {:?} as well",
                    rule.name
                ));
            }
            known => known.flatten().unwrap_or(0),
        };
        self.fields = self.fields - before + fields(&rule);
        if let Some(what) = too_many_fields(self.fields) {
            return wrong(what);
        }
        self.changes.push(rule);
        Ok(())
    }
}
