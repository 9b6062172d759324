//! Topic names and topic filters: validated once, then trusted.
//!
//! Bounds of our own, beyond the specification's 65,535 bytes: a topic of more
//! than [`BYTES_MAX`] bytes or [`LEVELS_MAX`] levels is refused (reason code 0x90),
//! a filter too (0x8F), and the operator may set less ([`Bounds`]); a session
//! remembers [`CACHED`] topics and [`ALIASES`] topic aliases, whose names count in
//! a budget of all sessions.
//!
//! Nobody sees what clients publish below `$SYS/`, `$penstock/` and `$share/`:
//! the broker will speak there itself. Other topics that begin with `$` are taken.

use std::sync::Arc;

use crate::{
    acl::Permit,
    keep::Wanted,
    packet::{Error, reason, text},
};

/// Longest topic name or filter taken.
pub(crate) const BYTES_MAX: usize = 4096;
/// Most levels of a topic name or filter.
pub(crate) const LEVELS_MAX: usize = 128;
/// Topic aliases a client may set (MQTT 5 Topic Alias Maximum).
pub(crate) const ALIASES: u16 = 16;
/// Topics a session remembers.
const CACHED: usize = 16;
/// Longest topic that is remembered.
const CACHED_BYTES_MAX: usize = 512;

/// How long and how deep topics and filters may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) bytes_max: usize,
    pub(crate) levels_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes_max: BYTES_MAX,
            levels_max: LEVELS_MAX,
        }
    }
}

impl Bounds {
    /// Whether a topic or filter is too long or too deep.
    pub(crate) fn exceeded(self, name: &str) -> bool {
        name.len() > self.bytes_max
            || memchr::memchr_iter(b'/', name.as_bytes()).count() >= self.levels_max
    }
}

/// A topic name: UTF-8, not empty, no wildcards, no U+0000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic(Arc<str>);

impl Topic {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let name = text(bytes)?;
        if name.is_empty() {
            return Err(Error {
                reason: reason::TOPIC_NAME_INVALID,
                what: "an empty topic name",
            });
        }
        if memchr::memchr2(b'+', b'#', bytes).is_some() {
            return Err(Error {
                reason: reason::TOPIC_NAME_INVALID,
                what: "a topic name with a wildcard",
            });
        }
        Ok(Self(Arc::from(name)))
    }

    /// Whether we refuse to take messages on it.
    pub(crate) fn refused(&self, bounds: Bounds) -> bool {
        let name = &*self.0;
        bounds.exceeded(name)
            || ["$SYS/", "$penstock/", "$share/"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
    }
}

impl From<Topic> for Arc<str> {
    fn from(topic: Topic) -> Self {
        topic.0
    }
}

/// Checks a topic filter (section 4.7). Shared subscriptions are for
/// [`shared_filter`].
pub(crate) fn check_filter(filter: &str) -> Result<(), Error> {
    let invalid = |what| {
        Err(Error {
            reason: reason::TOPIC_FILTER_INVALID,
            what,
        })
    };
    if filter.is_empty() || filter.len() > BYTES_MAX {
        return invalid("a topic filter that is empty or too long");
    }
    let mut levels = filter.split('/').peekable();
    let mut count = 0;
    while let Some(level) = levels.next() {
        count += 1;
        let last = levels.peek().is_none();
        let alone = level.len() == 1;
        if level.contains('#') && !(alone && last) || level.contains('+') && !alone {
            return invalid("a topic filter with a misplaced wildcard");
        }
    }
    if count > LEVELS_MAX {
        return invalid("a topic filter with too many levels");
    }
    Ok(())
}

/// The topic filter of a shared subscription, `$share/{name}/{filter}` (section 4.8.2);
/// `None` for a filter that is none.
pub(crate) fn shared_filter(filter: &str) -> Option<Result<&str, Error>> {
    let rest = filter.strip_prefix("$share/")?;
    let invalid = Error {
        reason: reason::TOPIC_FILTER_INVALID,
        what: "a shared subscription without a name and a filter",
    };
    let found = match rest.split_once('/') {
        Some((name, inner)) if !name.is_empty() && !name.contains(['+', '#']) => {
            check_filter(inner).map(|()| inner)
        }
        _ => Err(invalid),
    };
    Some(found)
}

/// Whether a valid topic matches a valid filter.
pub(crate) fn matches(topic: &str, filter: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    let mut levels = filter.split('/');
    loop {
        match (levels.next(), names.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

/// A topic as a session knows it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: Arc<str>,
    pub(crate) refused: bool,
    pub(crate) cached: Option<usize>,
}

/// The topics and aliases of one connection.
///
/// Devices publish to few topics, so their names are checked and allocated
/// once, and what a session wants to know per topic is kept beside the name.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    bounds: Bounds,
    cache: Vec<Cached>,
    /// The entry hit last: a device that has one topic pays one comparison.
    last: usize,
    /// The entry to be replaced next.
    oldest: usize,
    aliases: Vec<Option<Known>>,
    alias_bytes: usize,
}

#[derive(Debug)]
struct Cached {
    known: Known,
    note: (u64, Wanted),
    permit: (u64, Option<Permit>),
}

impl Topics {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// The topic of a PUBLISH: by name, by alias, or by name and setting the alias.
    pub(crate) fn resolve(&mut self, name: &[u8], alias: Option<u16>) -> Result<Known, Error> {
        match alias {
            None => self.lookup(name),
            Some(0) => Err(BAD_ALIAS),
            Some(alias) if alias > ALIASES => Err(BAD_ALIAS),
            Some(alias) => {
                let place = usize::from(alias) - 1;
                if name.is_empty() {
                    let known = self.aliases.get(place).cloned().flatten();
                    let known =
                        known.ok_or(Error::protocol("a topic alias that was not set before"))?;
                    return match known.cached {
                        // The place may have another topic by now.
                        Some(_) => self.lookup(known.name.as_bytes()),
                        None => Ok(known),
                    };
                }
                let known = self.lookup(name)?;
                if self.aliases.len() <= place {
                    self.aliases.resize(place + 1, None);
                }
                self.alias_bytes += known.name.len();
                if let Some(old) = self.aliases[place].replace(known.clone()) {
                    self.alias_bytes -= old.name.len();
                }
                Ok(known)
            }
        }
    }

    /// What the names behind the aliases take; they last as long as the connection.
    pub(crate) fn alias_bytes(&self) -> usize {
        self.alias_bytes
    }

    fn lookup(&mut self, name: &[u8]) -> Result<Known, Error> {
        let is = |cached: &Cached| cached.known.name.as_bytes() == name;
        if let Some(cached) = self.cache.get(self.last)
            && is(cached)
        {
            return Ok(cached.known.clone());
        }
        if let Some(place) = self.cache.iter().position(is) {
            self.last = place;
            return Ok(self.cache[place].known.clone());
        }
        let topic = Topic::parse(name)?;
        let refused = topic.refused(self.bounds);
        let mut known = Known {
            name: topic.into(),
            refused,
            cached: None,
        };
        if name.len() <= CACHED_BYTES_MAX {
            let place = if self.cache.len() < CACHED {
                self.cache.len()
            } else {
                self.oldest
            };
            known.cached = Some(place);
            let cached = Cached {
                known: known.clone(),
                note: (0, Wanted::default()),
                permit: (0, None),
            };
            if place == self.cache.len() {
                self.cache.push(cached);
            } else {
                self.cache[place] = cached;
                self.oldest = (place + 1) % CACHED;
            }
            self.last = place;
        }
        Ok(known)
    }

    /// What was noted about a cached topic under `version`, or else what
    /// `compute` says, which is noted.
    pub(crate) fn note(
        &mut self,
        cached: Option<usize>,
        version: u64,
        compute: impl FnOnce() -> Wanted,
    ) -> Wanted {
        let Some(cached) = cached.and_then(|place| self.cache.get_mut(place)) else {
            return compute();
        };
        if cached.note.0 != version {
            cached.note = (version, compute());
        }
        cached.note.1
    }

    /// The same for what the client may do there; the versions are others.
    pub(crate) fn permit(
        &mut self,
        cached: Option<usize>,
        version: u64,
        compute: impl FnOnce() -> Option<Permit>,
    ) -> Option<Permit> {
        let Some(cached) = cached.and_then(|place| self.cache.get_mut(place)) else {
            return compute();
        };
        if cached.permit.0 != version {
            cached.permit = (version, compute());
        }
        cached.permit.1
    }
}

const BAD_ALIAS: Error = Error {
    reason: reason::TOPIC_ALIAS_INVALID,
    what: "a topic alias beyond the maximum",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_are_checked() {
        for good in ["a", "/", "a//b", "$aws/things/x", "ü/日本", " "] {
            assert!(Topic::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "a/+", "#", "a#b"] {
            let error = Topic::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.reason, reason::TOPIC_NAME_INVALID, "{bad}");
        }
        for bad in [&b"a\0"[..], b"\xff", b"\xed\xa0\x80"] {
            assert_eq!(
                Topic::parse(bad).unwrap_err().reason,
                reason::MALFORMED,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn topics_that_are_ours_are_refused() {
        for (name, refused) in [
            ("$SYS/x", true),
            ("$penstock/x", true),
            ("$share/g/x", true),
            ("$SYSTEM", false),
            ("$aws/x", false),
            ("x/$SYS/", false),
        ] {
            assert_eq!(
                Topic::parse(name.as_bytes())
                    .unwrap()
                    .refused(Bounds::default()),
                refused,
                "{name}"
            );
        }
        let refused = |name: &str, bounds| Topic::parse(name.as_bytes()).unwrap().refused(bounds);
        assert!(refused(&"a".repeat(BYTES_MAX + 1), Bounds::default()));
        assert!(refused(&"/".repeat(LEVELS_MAX), Bounds::default()));
        assert!(!refused(&"/".repeat(LEVELS_MAX - 1), Bounds::default()));
        let strict = Bounds {
            bytes_max: 5,
            levels_max: 2,
        };
        assert!(!refused("ab/cd", strict));
        assert!(refused("ab/cde", strict));
        assert!(refused("a/b/c", strict));
    }

    #[test]
    fn filters_are_checked() {
        for good in ["#", "+", "a/#", "+/+/#", "/", "a//b", "+/a", "$SYS/#", "/#"] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        let deep = "/".repeat(LEVELS_MAX);
        for bad in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "##", "++", &deep] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shared_subscriptions_have_a_name_and_a_filter() {
        for (filter, inner) in [
            ("$share/g/a/#", Some("a/#")),
            ("$share/g//", Some("/")),
            ("$share/g/$SYS/#", Some("$SYS/#")),
            ("$share/g", None),
            ("$share/g/", None),
            ("$share//a", None),
            ("$share/+/a", None),
            ("$share/a#/a", None),
            ("$share/g/a#", None),
        ] {
            let found = shared_filter(filter).expect("one of a shared subscription");
            assert_eq!(found.ok(), inner, "{filter}");
        }
        assert!(shared_filter("a/$share/g/x").is_none());
        assert!(shared_filter("$shared/g/x").is_none());
    }

    #[test]
    fn filters_match_as_the_specification_says() {
        for (topic, filter, expect) in [
            ("sport/tennis/player1", "sport/tennis/player1/#", true),
            (
                "sport/tennis/player1/ranking",
                "sport/tennis/player1/#",
                true,
            ),
            ("sport", "sport/#", true),
            ("sport/tennis/player1", "sport/tennis/+", true),
            ("sport/tennis/player1/ranking", "sport/tennis/+", false),
            ("sport", "sport/+", false),
            ("sport/", "sport/+", true),
            ("/finance", "+/+", true),
            ("/finance", "/+", true),
            ("/finance", "+", false),
            ("$SYS/x", "#", false),
            ("$SYS/x", "+/x", false),
            ("$SYS/x", "$SYS/#", true),
            ("$SYS/monitor/Clients", "$SYS/monitor/+", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(topic, filter), expect, "{topic} {filter}");
        }
    }

    #[test]
    fn a_topic_is_allocated_once() {
        let mut topics = Topics::default();
        let first = topics.resolve(b"a/b", None).unwrap().name;
        for other in 0..CACHED - 1 {
            topics
                .resolve(format!("other/{other}").as_bytes(), None)
                .unwrap();
        }
        assert!(Arc::ptr_eq(
            &first,
            &topics.resolve(b"a/b", None).unwrap().name
        ));
        topics.resolve(b"one/more", None).unwrap();
        assert!(!Arc::ptr_eq(
            &first,
            &topics.resolve(b"a/b", None).unwrap().name
        ));
    }

    #[test]
    fn an_alias_stands_for_its_topic() {
        let mut topics = Topics::default();
        assert_eq!(topics.resolve(b"a", Some(3)).unwrap().name.as_ref(), "a");
        for other in 0..100 {
            topics
                .resolve(format!("other/{other}").as_bytes(), None)
                .unwrap();
        }
        assert_eq!(topics.resolve(b"", Some(3)).unwrap().name.as_ref(), "a");
        topics.resolve(b"b", Some(3)).unwrap();
        assert_eq!(topics.resolve(b"", Some(3)).unwrap().name.as_ref(), "b");
        let reason = |topics: &mut Topics, name: &[u8], alias| {
            topics.resolve(name, alias).unwrap_err().reason
        };
        assert_eq!(reason(&mut topics, b"", Some(4)), reason::PROTOCOL_ERROR);
        assert_eq!(
            reason(&mut topics, b"a", Some(0)),
            reason::TOPIC_ALIAS_INVALID
        );
        assert_eq!(
            reason(&mut topics, b"a", Some(ALIASES + 1)),
            reason::TOPIC_ALIAS_INVALID
        );
        assert_eq!(reason(&mut topics, b"", None), reason::TOPIC_NAME_INVALID);
    }
}
