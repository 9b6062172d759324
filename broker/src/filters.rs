//! The live subscriptions as a trie over topic levels.
//!
//! Matching visits each node at most once, whatever the wildcards, so its cost
//! is bounded by the size of the trie; depth is bounded by
//! [`crate::topic::LEVELS_MAX`], which callers have checked. Branches without
//! subscriptions are freed at once.

use std::hash::RandomState;

/// Clients choose the keys, so the hash is seeded.
type HashMap<V> = hashbrown::HashMap<String, V, RandomState>;

/// Subscriptions by filter. `T` is what a subscription carries; one `key` (a
/// session) has at most one subscription per filter.
#[derive(Debug)]
pub(crate) struct Filters<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Node<T>>,
    /// The level `+`.
    any: Option<Box<Node<T>>>,
    /// Filters that end here.
    here: Vec<(u64, T)>,
    /// Filters that go on with `#`, which also match this level itself.
    rest: Vec<(u64, T)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            children: HashMap::default(),
            any: None,
            here: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Default for Filters<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
        }
    }
}

impl<T> Filters<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a subscription or replaces one; whether there was one, which `merge`
    /// sees before it goes.
    pub(crate) fn insert(
        &mut self,
        filter: &str,
        key: u64,
        mut value: T,
        merge: impl FnOnce(&T, &mut T),
    ) -> bool {
        let mut node = &mut self.root;
        let mut ends_with_rest = false;
        for level in filter.split('/') {
            match level {
                "#" => {
                    ends_with_rest = true;
                    break;
                }
                "+" => node = node.any.get_or_insert_default(),
                name => node = node.children.entry_ref(name).or_default(),
            }
        }
        let list = if ends_with_rest {
            &mut node.rest
        } else {
            &mut node.here
        };
        if let Some((_, old)) = list.iter_mut().find(|(other, _)| *other == key) {
            merge(old, &mut value);
            *old = value;
            return true;
        }
        list.push((key, value));
        self.len += 1;
        false
    }

    /// Removes a subscription, and the branches that it alone kept.
    pub(crate) fn remove(&mut self, filter: &str, key: u64) -> Option<T> {
        let removed = self.root.remove(filter.split('/'), key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Calls `visit` for every subscription that matches `topic`; stops as soon
    /// as it returns true, and says so.
    pub(crate) fn visit<'a>(
        &'a self,
        topic: &str,
        visit: &mut dyn FnMut(u64, &'a T) -> bool,
    ) -> bool {
        let mut levels = topic.split('/');
        let Some(first) = levels.next() else {
            return false;
        };
        if !topic.starts_with('$') {
            return self.root.visit(Some(first), levels, visit);
        }
        // Wildcards of the first level do not match `$...`.
        self.root.children.get(first).is_some_and(|child| {
            let next = levels.next();
            child.visit(next, levels, visit)
        })
    }

    /// The subscription of `key` to exactly this filter.
    pub(crate) fn get(&self, filter: &str, key: u64) -> Option<&T> {
        let mut node = &self.root;
        let mut ends_with_rest = false;
        for level in filter.split('/') {
            match level {
                "#" => ends_with_rest = true,
                "+" => node = node.any.as_deref()?,
                name => node = node.children.get(name)?,
            }
        }
        let list = if ends_with_rest {
            &node.rest
        } else {
            &node.here
        };
        let (_, value) = list.iter().find(|(other, _)| *other == key)?;
        Some(value)
    }

    /// Whether a subscription matches `topic` or any topic below it.
    pub(crate) fn reaches_below(&self, topic: &str) -> bool {
        let mut levels = topic.split('/');
        if !topic.starts_with('$') {
            return self.root.reaches_below(levels);
        }
        let first = levels.next().and_then(|name| self.root.children.get(name));
        first.is_some_and(|child| child.reaches_below(levels))
    }
}

impl<T> Node<T> {
    fn visit<'a>(
        &'a self,
        level: Option<&str>,
        mut after: std::str::Split<'_, char>,
        visit: &mut dyn FnMut(u64, &'a T) -> bool,
    ) -> bool {
        if self.rest.iter().any(|(key, value)| visit(*key, value)) {
            return true;
        }
        let Some(level) = level else {
            return self.here.iter().any(|(key, value)| visit(*key, value));
        };
        let next = after.next();
        if let Some(child) = self.children.get(level)
            && child.visit(next, after.clone(), visit)
        {
            return true;
        }
        self.any
            .as_ref()
            .is_some_and(|any| any.visit(next, after, visit))
    }

    fn reaches_below(&self, mut levels: std::str::Split<'_, char>) -> bool {
        let Some(level) = levels.next() else {
            return !self.is_empty();
        };
        let named = self.children.get(level);
        !self.rest.is_empty()
            || named.is_some_and(|child| child.reaches_below(levels.clone()))
            || self
                .any
                .as_ref()
                .is_some_and(|any| any.reaches_below(levels))
    }

    fn remove(&mut self, mut levels: std::str::Split<'_, char>, key: u64) -> Option<T> {
        let take = |list: &mut Vec<(u64, T)>| {
            let place = list.iter().position(|(other, _)| *other == key)?;
            let (_, value) = list.swap_remove(place);
            if list.is_empty() {
                *list = Vec::new();
            }
            Some(value)
        };
        match levels.next() {
            None => take(&mut self.here),
            Some("#") => take(&mut self.rest),
            Some("+") => {
                let any = self.any.as_mut()?;
                let removed = any.remove(levels, key);
                if any.is_empty() {
                    self.any = None;
                }
                removed
            }
            Some(name) => {
                let child = self.children.get_mut(name)?;
                let removed = child.remove(levels, key);
                if child.is_empty() {
                    self.children.remove(name);
                    if self.children.is_empty() {
                        self.children = HashMap::default();
                    }
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::topic;

    fn matched(filters: &Filters<()>, topic: &str) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        filters.visit(topic, &mut |key, ()| {
            assert!(found.insert(key), "{key} matched twice on {topic}");
            false
        });
        found
    }

    #[test]
    fn a_filter_is_replaced_and_removed() {
        let mut filters = Filters::default();
        let merge = |old: &char, _: &mut char| assert_eq!(*old, 'x');
        assert!(!filters.insert("a/+/#", 1, 'x', merge));
        assert!(filters.insert("a/+/#", 1, 'y', merge));
        assert!(!filters.insert("a/+/#", 2, 'z', merge));
        assert_eq!(filters.len(), 2);
        assert_eq!(filters.get("a/+/#", 1), Some(&'y'));
        assert_eq!(filters.get("a/+/#", 3), None);
        assert_eq!(filters.get("a/+", 1), None);
        assert_eq!(filters.remove("a/+", 1), None);
        assert_eq!(filters.remove("a/+/#", 1), Some('y'));
        assert_eq!(filters.remove("a/+/#", 2), Some('z'));
        assert_eq!(filters.len(), 0);
        assert!(filters.root.is_empty(), "every branch is freed");
    }

    #[test]
    fn a_branch_is_reached_from_above_and_below() {
        for (filter, expect) in [
            ("$x/y/#", true),
            ("$x/#", true),
            ("$x/y", true),
            ("$x/+/+/c", true),
            ("$x/y/b/c", true),
            ("$x/+", true),
            ("#", false),
            ("+/y/#", false),
            ("$x", false),
            ("$x/z/#", false),
        ] {
            let mut filters = Filters::default();
            filters.insert(filter, 1, (), |(), ()| {});
            assert_eq!(filters.reaches_below("$x/y"), expect, "{filter}");
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "", "$x"]).prop_map(String::from)
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
            .prop_filter("an empty filter is invalid", |filter| !filter.is_empty())
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_matching_one_by_one(
            all in prop::collection::vec((filter(), any::<bool>()), 0..20),
            names in prop::collection::vec(name().prop_filter("", |n| !n.is_empty()), 1..10),
        ) {
            let mut filters = Filters::default();
            for (key, (filter, _)) in (0_u64..).zip(&all) {
                filters.insert(filter, key, (), |(), ()| {});
            }
            for (key, (filter, keep)) in (0_u64..).zip(&all) {
                if !keep {
                    prop_assert!(filters.remove(filter, key).is_some());
                }
            }
            for name in names {
                let expect: BTreeSet<u64> = (0_u64..).zip(&all)
                    .filter(|(_, (filter, keep))| *keep && topic::matches(&name, filter))
                    .map(|(key, _)| key)
                    .collect();
                prop_assert_eq!(matched(&filters, &name), expect, "{}", name);
            }
        }
    }
}
