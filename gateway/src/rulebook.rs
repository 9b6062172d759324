//! The rules in force: those of the configuration, and those that were put over the API.
//!
//! Promises: a rule that was put is on the disk, in `rulebook.db`, before it is in force,
//! and stays so over restarts; its versions are kept. All rules change at once, while
//! events are taken in: they are built beside those in force, and exchanged. A rule that
//! cannot be in force (its destination is gone, the configuration has one of its name)
//! is kept, and said; what it names stays narrowed. A damaged file opens nothing either:
//! there is a copy of the rules, and without that what they may have kept back is held.

mod copy;
mod kept;
mod narrowing;
mod rescue;
#[cfg(test)]
mod tests;
mod trial;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;

pub use kept::{FILE, Version};
pub use rescue::rescue;
pub use trial::Trial;

use narrowing::{narrowed, nothing_to, silenced};

use crate::{
    config::{Config, rule::FIELDS_MAX},
    event::Timestamp,
    ingest::Ingest,
    rules::{ACTIONS, Pattern, Rule, RuleSet},
    store,
};

/// Rules that can be put, at most, and their bytes.
const RULES_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;
/// Bytes of one.
const RULE_BYTES_MAX: usize = 64 << 10;
/// Said of a rule that acts where the journal has no number left for what acts.
const NO_NUMBER: &str = "the journal has given all of its 63 numbers to destinations, and a rule \
    with an alarm, a topic or a window needs one as they do; stop the gateway, remove a \
    destination that is not configured any more (\"penstock destination remove NAME\", with \
    --discard where events still wait for it), and start it again";

/// Why a rule cannot be put, or asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rule is wrong: each mistake.
    #[error("{}", .0.join("; "))]
    Wrong(Vec<String>),
    /// The configuration has it, and only that can change it.
    #[error("the rule is in the configuration file, which alone can change it")]
    OfFile,
    /// Somebody else changed it in between.
    #[error("the rule has another version than the one that was to be changed: {0}")]
    Changed(u64),
    /// There is none of that name.
    #[error("there is no such rule")]
    Missing,
    /// The file cannot be used.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Its copy cannot be used.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A rule as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its name.
    pub name: Arc<str>,
    /// The latest version, where it was put over the API.
    pub version: Option<Version>,
    /// Where it sends what it takes.
    pub destinations: Vec<Arc<str>>,
    /// Whether it is, as far as it can be.
    pub in_force: bool,
    /// Why it is not in force, or not all of it.
    pub problem: Option<Arc<str>>,
}

/// A rule that was put.
#[derive(Debug, Clone)]
struct Put {
    version: Version,
    /// As it was read, or what of it narrows destinations still.
    rule: Option<Rule>,
    /// The rule takes what it should.
    in_force: bool,
    /// What is wrong with it.
    problem: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Rulebook {
    inner: Mutex<Inner>,
    ingest: Arc<Ingest>,
    store: store::Handle,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    connection: Connection,
    /// Those that rules may name.
    destinations: Vec<Arc<str>>,
    of_file: Vec<Rule>,
    put: BTreeMap<Arc<str>, Put>,
}

/// The rules that were put in a data directory, as far as they can be in force beside
/// those of the configuration.
///
/// # Errors
/// When the file cannot be read.
pub fn put_in(dir: &Path, config: &Config) -> Result<Vec<Rule>, Error> {
    let Some(connection) = kept::open_read_only(dir)? else {
        return Ok(Vec::new());
    };
    let destinations = names(config);
    let put = read_all(&connection, &destinations)?;
    Ok(in_force(&config.rules, &put).collect())
}

/// The destinations that rules may name.
fn names(config: &Config) -> Vec<Arc<str>> {
    crate::config::named(&config.destinations)
}

fn read_all(
    connection: &Connection,
    destinations: &[Arc<str>],
) -> Result<BTreeMap<Arc<str>, Put>, Error> {
    let versions = kept::latest(connection)?.into_iter();
    let put = versions.filter_map(|(name, version)| {
        let text = version.text.as_deref()?;
        let (rule, in_force, problem) = match read(text, destinations) {
            Ok(rule) => (Some(rule), true, None),
            // Without it, what it narrows would get everything.
            Err(said) => {
                let said = said.join("; ");
                match narrowed(text, destinations) {
                    Some(rule) => {
                        let said = format!("it goes without what is gone: {said}");
                        (Some(rule), true, Some(said))
                    }
                    None => (silenced(&name, text, destinations), false, Some(said)),
                }
            }
        };
        let put = Put {
            rule,
            in_force,
            problem: problem.map(Arc::from),
            version,
        };
        Some((name, put))
    });
    Ok(put.collect())
}

fn read(text: &str, destinations: &[Arc<str>]) -> Result<Rule, Vec<String>> {
    let said = |mistakes: Vec<crate::config::Mistake>| {
        let word = |one: crate::config::Mistake| match one.key.as_str() {
            "" => one.what,
            key => format!("{key}: {}", one.what),
        };
        mistakes.into_iter().map(word).collect()
    };
    Config::rule_of_json(text, destinations).map_err(said)
}

/// Those that were put. One whose name the configuration has takes nothing, and what it
/// names stays narrowed.
fn in_force<'r>(
    of_file: &[Rule],
    put: &'r BTreeMap<Arc<str>, Put>,
) -> impl Iterator<Item = Rule> + 'r {
    let taken: HashSet<Arc<str>> = of_file.iter().map(|rule| rule.name.clone()).collect();
    let readable = put.values().filter_map(|put| put.rule.as_ref());
    readable.filter_map(move |rule| match taken.contains(&rule.name) {
        true => nothing_to(&rule.name, rule.destinations.clone()),
        false => Some(rule.clone()),
    })
}

impl Rulebook {
    /// Opens it, and puts all rules in force. Blocking.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(
        dir: &Path,
        config: &Config,
        ingest: Arc<Ingest>,
        store: store::Handle,
    ) -> Result<Self, Error> {
        let connection = kept::open(dir)?;
        let destinations = names(config);
        let put = read_all(&connection, &destinations)?;
        let book = Self {
            inner: Mutex::new(Inner {
                dir: dir.to_owned(),
                connection,
                destinations,
                of_file: config.rules.clone(),
                put,
            }),
            ingest,
            store,
        };
        let inner = book.inner();
        say_problems(&inner.of_file, &inner.put);
        book.enforce(&inner)?;
        keep_copy(&inner);
        drop(inner);
        Ok(book)
    }

    /// Exchanges the destinations that rules may name, and the rules of the configuration,
    /// and has `enforce` put what comes of it in force together with the rest. Rules that
    /// were put are read again: one whose destination is gone is kept, and said. Blocking.
    ///
    /// # Errors
    /// What is wrong with them; then those in force stay.
    pub fn exchange(
        &self,
        destinations: Vec<Arc<str>>,
        of_file: Vec<Rule>,
        enforce: impl FnOnce(RuleSet),
    ) -> Result<(), Error> {
        let mut inner = self.inner();
        let put = read_all(&inner.connection, &destinations)?;
        let set = self.set_of(&of_file, &put)?;
        say_problems(&of_file, &put);
        (inner.destinations, inner.of_file, inner.put) = (destinations, of_file, put);
        // While nobody can put another one, which would be lost.
        enforce(set);
        Ok(())
    }

    /// Puts a rule, as JSON; gives the version. The same text again is the same version.
    /// With `over`, only if that is the latest version; 0 is none. Blocking.
    ///
    /// # Errors
    /// When it is wrong, is in the configuration, or was changed by somebody else.
    pub fn put(
        &self,
        name: &str,
        text: &str,
        over: Option<u64>,
        actor: &str,
        now: Timestamp,
    ) -> Result<Version, Error> {
        if text.len() > RULE_BYTES_MAX {
            let what = format!("a rule has at most {RULE_BYTES_MAX} bytes");
            return Err(Error::Wrong(vec![what]));
        }
        let text = named(name, text).map_err(|what| Error::Wrong(vec![what]))?;
        let mut inner = self.inner();
        let rule = read(&text, &inner.destinations).map_err(Error::Wrong)?;
        self.may_change(&inner, name, over)?;
        if let Some(put) = inner.put.get(name)
            && put.version.text.as_deref() == Some(&*text)
        {
            return Ok(put.version.clone());
        }
        has_room(&inner, name, &text, &rule)?;
        // As it will be after the commit: what cannot be in force is not kept.
        let version = Version {
            number: kept::next(&inner.connection, name)?,
            at: now,
            actor: actor.to_owned(),
            text: Some(text),
        };
        let put = Put {
            version: version.clone(),
            rule: Some(rule),
            in_force: true,
            problem: None,
        };
        self.change(&mut inner, name, Some(put), &version)?;
        Ok(version)
    }

    /// Takes a rule out of force; its versions stay. Blocking.
    ///
    /// # Errors
    /// When there is none, or it is in the configuration, or was changed.
    pub fn delete(
        &self,
        name: &str,
        over: Option<u64>,
        actor: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut inner = self.inner();
        // One that the configuration hides can be taken away too.
        if !inner.put.contains_key(name) {
            self.may_change(&inner, name, over)?;
            return Err(Error::Missing);
        }
        is_latest(&inner, name, over)?;
        let version = Version {
            number: kept::next(&inner.connection, name)?,
            at: now,
            actor: actor.to_owned(),
            text: None,
        };
        self.change(&mut inner, name, None, &version)
    }

    /// The latest version of a rule that was put, with its text. Blocking.
    pub fn text(&self, name: &str) -> Option<Version> {
        let inner = self.inner();
        inner.put.get(name).map(|put| put.version.clone())
    }

    /// The destinations that rules may name, and the rules in force. Blocking.
    fn in_force(&self) -> (Vec<Arc<str>>, Vec<Rule>) {
        let inner = self.inner();
        let put = in_force(&inner.of_file, &inner.put);
        let rules = inner.of_file.iter().cloned().chain(put).collect();
        (inner.destinations.clone(), rules)
    }

    /// What a rule in force takes. Blocking.
    pub fn pattern(&self, name: &str) -> Option<Pattern> {
        let inner = self.inner();
        let put = in_force(&inner.of_file, &inner.put);
        let mut all = inner.of_file.iter().cloned().chain(put);
        all.find(|rule| *rule.name == *name)
            .map(|rule| rule.pattern)
    }

    /// Every rule, by name, without their texts. Blocking.
    pub fn list(&self) -> Vec<Shown> {
        let inner = self.inner();
        let mut shown: BTreeMap<Arc<str>, Shown> = BTreeMap::new();
        for (name, put) in &inner.put {
            let rule = put.rule.as_ref();
            let problem = problem(&inner.of_file, name, put);
            let one = Shown {
                name: name.clone(),
                version: Some(Version {
                    text: None,
                    ..put.version.clone()
                }),
                destinations: rule.map_or_else(Vec::new, |rule| rule.destinations.clone()),
                in_force: put.in_force,
                problem,
            };
            shown.insert(name.clone(), one);
        }
        for rule in &inner.of_file {
            let one = Shown {
                name: rule.name.clone(),
                version: None,
                destinations: rule.destinations.clone(),
                in_force: true,
                problem: None,
            };
            shown.insert(rule.name.clone(), one);
        }
        shown.into_values().collect()
    }

    /// The versions of a rule that was put, the latest first. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        Ok(kept::versions(&self.inner().connection, name)?)
    }

    fn may_change(&self, inner: &Inner, name: &str, over: Option<u64>) -> Result<(), Error> {
        if inner.of_file.iter().any(|rule| *rule.name == *name) {
            return Err(Error::OfFile);
        }
        is_latest(inner, name, over)
    }

    /// Keeps a version, and puts in force what it makes of all rules.
    fn change(
        &self,
        inner: &mut Inner,
        name: &str,
        put: Option<Put>,
        version: &Version,
    ) -> Result<(), Error> {
        let name: Arc<str> = name.into();
        let before = match put {
            Some(put) => inner.put.insert(name.clone(), put),
            None => inner.put.remove(&name),
        };
        let done = self.set(inner).and_then(|set| {
            kept::add(&mut inner.connection, &name, version)?;
            Ok(set)
        });
        match done {
            Ok(set) => {
                self.ingest.set_rules(set);
                keep_copy(inner);
                Ok(())
            }
            Err(error) => {
                match before {
                    Some(before) => inner.put.insert(name, before),
                    None => inner.put.remove(&name),
                };
                Err(error)
            }
        }
    }

    fn enforce(&self, inner: &Inner) -> Result<(), Error> {
        self.ingest.set_rules(self.set(inner)?);
        Ok(())
    }

    fn set(&self, inner: &Inner) -> Result<RuleSet, Error> {
        self.set_of(&inner.of_file, &inner.put)
    }

    fn set_of(&self, of_file: &[Rule], put: &BTreeMap<Arc<str>, Put>) -> Result<RuleSet, Error> {
        let put = in_force(of_file, put);
        let rules: Vec<Rule> = of_file.iter().cloned().chain(put).collect();
        // Without one what they take would be passed by for ever, and nobody would know.
        let acts = rules.iter().any(|rule| rule.actions.any());
        if acts && self.store.destination_id(ACTIONS).is_none() {
            return Err(Error::Wrong(vec![NO_NUMBER.to_owned()]));
        }
        RuleSet::new(&rules, |name| self.store.destination_id(name))
            .map_err(|name| Error::Wrong(vec![format!("{name} is no destination")]))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this is the version that somebody means to change.
fn is_latest(inner: &Inner, name: &str, over: Option<u64>) -> Result<(), Error> {
    let latest = inner.put.get(name).map_or(0, |put| put.version.number);
    match over {
        Some(over) if over != latest => Err(Error::Changed(latest)),
        _ => Ok(()),
    }
}

/// Keeps the rules once more. Without that they are on disk all the same; but a copy that
/// is behind them would be believed after damage, so rather none. The next change or start
/// tries again.
fn keep_copy(inner: &Inner) {
    let kept = kept::latest(&inner.connection)
        .map_err(Error::from)
        .and_then(|rules| Ok(copy::keep(&inner.dir, rules)?));
    if let Err(error) = kept {
        tracing::error!(%error, "cannot write {}: there is no copy of the rules", copy::FILE);
        if let Err(error) = copy::forget(&inner.dir) {
            tracing::error!(%error, "cannot take {} away, which is behind", copy::FILE);
        }
    }
}

fn say_problems(of_file: &[Rule], put: &BTreeMap<Arc<str>, Put>) {
    for (name, put) in put {
        if let Some(problem) = problem(of_file, name, put) {
            tracing::warn!(rule = %name, "the rule is not in force, or not all of it: {problem}");
        }
    }
}

/// Why a rule that was put is not in force, or not all of it.
fn problem(of_file: &[Rule], name: &str, put: &Put) -> Option<Arc<str>> {
    if of_file.iter().any(|rule| *rule.name == *name) {
        let what = "the configuration has a rule of this name; what this one names stays narrowed until it is taken away";
        return Some(what.into());
    }
    put.problem.clone()
}

/// The text with the name in it, written always the same way.
fn named(name: &str, text: &str) -> Result<String, String> {
    let mut rule: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(members) = rule.as_object_mut() else {
        return Err("a rule is an object".to_owned());
    };
    match members.get("name") {
        Some(said) if said != name => {
            return Err(format!("name: it says {said}, and the path says {name:?}"));
        }
        _ => members.insert("name".to_owned(), name.into()),
    };
    Ok(rule.to_string())
}

/// Fields of all patterns of a rule.
fn fields(rule: &Rule) -> usize {
    let clears = rule.actions.clears().map_or(0, Pattern::fields);
    rule.pattern.fields() + clears
}

fn has_room(inner: &Inner, name: &str, text: &str, rule: &Rule) -> Result<(), Error> {
    let others = || inner.put.iter().filter(|(known, _)| &***known != name);
    let text_of = |put: &Put| put.version.text.as_ref().map_or(0, String::len);
    let bytes: usize = others().map(|(_, put)| text_of(put)).sum();
    let readable = others().filter_map(|(_, put)| put.rule.as_ref());
    let known: usize = readable.chain(&inner.of_file).map(fields).sum();
    let what = if others().count() >= RULES_MAX {
        format!("there can be {RULES_MAX} rules that were put")
    } else if bytes + text.len() > BYTES_MAX {
        format!("rules that were put have at most {BYTES_MAX} bytes together")
    } else if let Some(what) = too_many_fields(known + fields(rule)) {
        what
    } else {
        return Ok(());
    };
    Err(Error::Wrong(vec![what]))
}

/// What is wrong where all rules have so many fields, if anything.
fn too_many_fields(fields: usize) -> Option<String> {
    (fields > FIELDS_MAX).then(|| format!("all rules together have more than {FIELDS_MAX} fields"))
}
