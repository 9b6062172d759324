//! Which mapping takes a topic, remembered for as many topics as a bound allows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Config;
use crate::normalise::{Mapping, Resolved};

/// Topics remembered in one generation; there are two.
const TOPICS_MAX: usize = 8 * 1024;
/// Longer topics are looked up each time.
const TOPIC_BYTES_MAX: usize = 256;

/// What a topic maps to.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) topic: Arc<str>,
    pub(super) resolved: Arc<Resolved>,
    /// Its number in the configuration, from 0.
    pub(super) mapping: usize,
}

/// The mappings, and the topics seen lately. When the young generation is full it
/// becomes the old one, and what nobody asked for since is forgotten.
#[derive(Debug)]
pub(super) struct Topics {
    config: Config,
    seen: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Arc<str>, Found>,
    old: HashMap<Arc<str>, Found>,
}

impl Topics {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            seen: Mutex::default(),
        }
    }

    pub(super) fn mapping(&self, found: &Found) -> &Mapping {
        &self.config.mappings[found.mapping]
    }

    /// The gateway's own site.
    pub(super) const fn site(&self) -> Option<&Arc<str>> {
        self.config.site.as_ref()
    }

    /// The first mapping that takes a topic.
    pub(super) fn find(&self, topic: &Arc<str>) -> Option<Found> {
        if topic.len() > TOPIC_BYTES_MAX {
            return self.resolve(topic);
        }
        // Nothing panics while the lock is held, and a map is whole even so.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = seen.young.get(topic) {
            return Some(found.clone());
        }
        let found = match seen.old.remove(topic) {
            Some(found) => found,
            None => self.resolve(topic)?,
        };
        if seen.young.len() >= TOPICS_MAX {
            seen.old = std::mem::take(&mut seen.young);
        }
        seen.young.insert(found.topic.clone(), found.clone());
        Some(found)
    }

    fn resolve(&self, topic: &Arc<str>) -> Option<Found> {
        let site = self.site();
        self.config
            .mappings
            .iter()
            .enumerate()
            .find_map(|(mapping, m)| {
                let resolved = Arc::new(m.resolve(topic, site)?);
                Some(Found {
                    topic: topic.clone(),
                    resolved,
                    mapping,
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::new(Config {
            site: Some("pune".into()),
            ..Config::default()
        })
    }

    #[test]
    fn the_first_mapping_that_takes_a_topic_wins() {
        let topics = topics();
        for _ in 0..2 {
            let found = topics.find(&"devices/b7/telemetry".into()).unwrap();
            assert_eq!(found.mapping, 0);
            assert_eq!(found.resolved.device.as_deref(), Some("b7"));
            assert_eq!(found.resolved.site.as_deref(), Some("pune"));
            assert_eq!(topics.find(&"anything".into()).unwrap().mapping, 1);
        }
        assert!(topics.find(&"$SYS/uptime".into()).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_stays_right() {
        let topics = topics();
        let busy: Arc<str> = "devices/busy/t".into();
        for n in 0..3 * TOPICS_MAX {
            let found = topics.find(&format!("devices/d{n}/t").into()).unwrap();
            assert_eq!(
                found.resolved.device.as_deref(),
                Some(format!("d{n}").as_str())
            );
            assert_eq!(
                topics.find(&busy).unwrap().resolved.device.as_deref(),
                Some("busy")
            );
        }
        let long: Arc<str> = format!("devices/x/{}", "t".repeat(TOPIC_BYTES_MAX)).into();
        assert_eq!(topics.find(&long).unwrap().mapping, 0);
        let seen = topics.seen.lock().unwrap();
        assert!(seen.young.len() <= TOPICS_MAX && seen.old.len() <= TOPICS_MAX);
        assert!(!seen.young.contains_key(&long) && seen.young.contains_key(&busy));
    }
}
