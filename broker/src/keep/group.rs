//! Shared subscriptions with persistent members (MQTT 5, section 4.8.2).
//!
//! Here is who the members are, and which of them a message of QoS 1 or 2 is for: of
//! those that are in question the one that is owed least, in turn among equals. Who is
//! in question, and when it is a live member's instead, says `share`.

use std::{collections::HashMap, sync::Arc};

use super::{SessionId, job::Sub};
use crate::{QoS, filters::Filters};

/// The groups by name, which is `$share/{group}/{filter}`.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_name: HashMap<Arc<str>, Group>,
    by_topic: Filters<Arc<str>>,
    last_key: u64,
    members: usize,
}

#[derive(Debug)]
struct Group {
    /// Among the groups with the same filter.
    key: u64,
    members: Vec<(SessionId, Sub)>,
    /// Where the search for a member begins.
    next: usize,
}

/// How busy a member is: those without room come last, before them those that are away,
/// then those that are owed much.
pub(super) type Load = (bool, bool, u64);

impl Groups {
    /// Memberships that there are.
    pub(super) fn len(&self) -> usize {
        self.members
    }

    /// Adds or replaces a membership; what it replaced.
    pub(super) fn insert(
        &mut self,
        session: SessionId,
        name: &str,
        filter: &str,
        sub: Sub,
    ) -> Option<Sub> {
        if !self.by_name.contains_key(name) {
            self.last_key += 1;
            let name: Arc<str> = Arc::from(name);
            let key = self.last_key;
            self.by_topic
                .insert(filter, key, Arc::clone(&name), |_, _| {});
            let group = Group {
                key,
                members: Vec::new(),
                next: 0,
            };
            self.by_name.insert(name, group);
        }
        let group = self.by_name.get_mut(name)?;
        match group.members.iter_mut().find(|(id, _)| *id == session) {
            Some((_, known)) => Some(std::mem::replace(known, sub)),
            None => {
                group.members.push((session, sub));
                self.members += 1;
                None
            }
        }
    }

    pub(super) fn has(&self, session: SessionId, name: &str) -> bool {
        let group = self.by_name.get(name);
        group.is_some_and(|group| group.members.iter().any(|(id, _)| *id == session))
    }

    pub(super) fn remove(&mut self, session: SessionId, name: &str, filter: &str) -> Option<Sub> {
        let group = self.by_name.get_mut(name)?;
        let place = group.members.iter().position(|(id, _)| *id == session)?;
        let (_, sub) = group.members.remove(place);
        self.members -= 1;
        if group.members.is_empty() {
            let key = group.key;
            self.by_topic.remove(filter, key);
            self.by_name.remove(name);
        }
        Some(sub)
    }

    pub(super) fn is_wanted(&self, topic: &str) -> bool {
        self.members > 0 && self.by_topic.visit(topic, &mut |_, _| true)
    }

    pub(super) fn is_wanted_below(&self, topic: &str) -> bool {
        self.members > 0 && self.by_topic.reaches_below(topic)
    }

    /// The groups that a topic is for.
    pub(super) fn of(&self, topic: &str) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        if self.members > 0 {
            self.by_topic.visit(topic, &mut |_, name| {
                names.push(Arc::clone(name));
                false
            });
        }
        names
    }

    /// Whether the group has a persistent member for messages of QoS 1 and 2.
    pub(super) fn serves(&self, name: &str) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|group| group.takes().next().is_some())
    }

    /// The member that is to get the next message, of those that have a load.
    pub(super) fn choose(
        &mut self,
        name: &str,
        load: impl Fn(SessionId) -> Option<Load>,
    ) -> Option<(SessionId, Sub)> {
        let group = self.by_name.get_mut(name)?;
        let (place, session, sub) = group.find(load)?;
        group.next = place + 1;
        Some((session, sub))
    }

    /// The member that would get it.
    pub(super) fn find(
        &self,
        name: &str,
        load: impl Fn(SessionId) -> Option<Load>,
    ) -> Option<(SessionId, Sub)> {
        let (_, session, sub) = self.by_name.get(name)?.find(load)?;
        Some((session, sub))
    }
}

impl Group {
    /// The member with the least load, in turn among equals, and its place.
    fn find(&self, load: impl Fn(SessionId) -> Option<Load>) -> Option<(usize, SessionId, Sub)> {
        let count = self.members.len();
        let in_turn = |place: usize| (place + count - self.next % count) % count;
        let loads = self
            .takes()
            .filter_map(|(place, session, sub)| Some((load(session)?, place, session, sub)));
        let (_, place, session, sub) =
            loads.min_by_key(|(load, place, ..)| (*load, in_turn(*place)))?;
        Some((place, session, sub))
    }

    /// The members that take messages of QoS 1 and 2 as such.
    fn takes(&self) -> impl Iterator<Item = (usize, SessionId, Sub)> {
        self.members
            .iter()
            .enumerate()
            .filter(|(_, (_, sub))| sub.qos > QoS::AtMostOnce)
            .map(|(place, (session, sub))| (place, *session, *sub))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "$share/g/t/+";

    fn sub(qos: QoS) -> Sub {
        Sub {
            qos,
            no_local: false,
            retain_as_published: false,
            id: None,
        }
    }

    fn chosen(groups: &mut Groups, load: impl Fn(i64) -> Option<Load>) -> Option<i64> {
        let found = groups.choose(NAME, |id| load(id.0));
        found.map(|(id, _)| id.0)
    }

    #[test]
    fn the_one_that_is_owed_least_is_chosen_and_those_away_last() {
        let mut groups = Groups::default();
        for id in 1..=3 {
            let member = SessionId(id);
            groups.insert(member, NAME, "t/+", sub(QoS::AtLeastOnce));
        }
        groups.insert(SessionId(4), NAME, "t/+", sub(QoS::AtMostOnce));
        let in_turn: Vec<_> = (0..4)
            .map(|_| chosen(&mut groups, |_| Some((false, false, 0))))
            .collect();
        assert_eq!(in_turn, [Some(1), Some(2), Some(3), Some(1)]);
        let busy = |id| Some((false, false, [5, 1, 3][usize::try_from(id - 1).unwrap()]));
        assert_eq!(chosen(&mut groups, busy), Some(2));
        let away = |id| Some((false, id != 3, 0));
        assert_eq!(chosen(&mut groups, away), Some(3));
        let full = |id| Some((id != 2, id == 2, 0));
        assert_eq!(chosen(&mut groups, full), Some(2));
        let alone = |id| (id == 1).then_some((true, true, 9));
        assert_eq!(chosen(&mut groups, alone), Some(1));
        assert_eq!(chosen(&mut groups, |_| None), None);
        assert_eq!(groups.of("t/x"), [Arc::from(NAME)]);
        assert!(groups.serves(NAME));
        for id in 1..=4 {
            assert!(groups.remove(SessionId(id), NAME, "t/+").is_some());
        }
        assert!(groups.of("t/x").is_empty() && !groups.serves(NAME));
        assert_eq!(groups.len(), 0);
    }

    #[test]
    fn a_group_of_qos_0_alone_serves_nobody() {
        let mut groups = Groups::default();
        groups.insert(SessionId(1), NAME, "t/+", sub(QoS::AtMostOnce));
        assert!(!groups.serves(NAME));
        let other = sub(QoS::AtLeastOnce);
        let before = groups.insert(SessionId(1), NAME, "t/+", other);
        assert_eq!(before, Some(sub(QoS::AtMostOnce)));
        assert!(groups.serves(NAME));
    }
}
