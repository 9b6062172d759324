//! The paths that patterns name, as a tree: what an event is read by.
//!
//! A path is names joined with dots, and where a dot stands between names or within
//! one makes no difference, neither in a pattern nor in an event.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashMap;

/// A node of the tree.
pub(super) type PathId = u32;

/// Where every path begins.
pub(super) const ROOT: PathId = 0;

#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Map<Box<str>, PathId>,
    /// A path ends there.
    is_end: bool,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Paths {
    /// Nodes have numbers below this.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What a name leads to from a node, if any path goes there.
    #[inline]
    pub(super) fn child(&self, node: PathId, name: &str) -> Option<PathId> {
        let children = &self.nodes[node as usize].children;
        if children.is_empty() {
            return None;
        }
        match children.get(name) {
            Some(child) => Some(*child),
            None if name.contains('.') => {
                let mut parts = name.split('.');
                parts.try_fold(node, |node, part| {
                    self.nodes[node as usize].children.get(part).copied()
                })
            }
            None => None,
        }
    }

    /// Whether a path ends at a node.
    #[inline]
    pub(super) fn is_end(&self, node: PathId) -> bool {
        self.nodes[node as usize].is_end
    }

    /// Adds a path, if it is not there.
    pub(super) fn add(&mut self, path: &str) -> PathId {
        let mut node = ROOT;
        for name in path.split('.') {
            node = match self.nodes[node as usize].children.get(name) {
                Some(child) => *child,
                None => self.grow(node, name),
            };
        }
        self.nodes[node as usize].is_end = true;
        node
    }

    fn grow(&mut self, parent: PathId, name: &str) -> PathId {
        self.nodes.push(Node::default());
        let child = PathId::try_from(self.nodes.len() - 1).expect("fewer than memory has room for");
        let children = &mut self.nodes[parent as usize].children;
        children.insert(name.into(), child);
        child
    }
}

/// A map whose keys come from patterns. Who writes the rules is trusted, and what
/// devices send is only looked up, so that its hash need not be a secret.
pub(super) type Map<K, V> = HashMap<K, V, Plain>;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plain;

impl BuildHasher for Plain {
    type Hasher = PlainHasher;

    #[inline]
    fn build_hasher(&self) -> PlainHasher {
        PlainHasher(0)
    }
}

/// A multiplication for every eight bytes.
#[derive(Debug)]
pub(super) struct PlainHasher(u64);

impl PlainHasher {
    #[inline]
    fn word(&mut self, word: u64) {
        // 2^64 divided by the golden ratio: an odd number without a pattern in its bits.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for PlainHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.word(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    #[inline]
    fn write_i64(&mut self, n: i64) {
        self.word(n.cast_unsigned());
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // The best bits are the upper ones; the table takes the lower ones too.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_dots_stand_makes_no_difference() {
        let mut paths = Paths::default();
        let end = paths.add("a.b.c");
        let walk = |names: &[&str]| {
            let mut names = names.iter();
            names.try_fold(ROOT, |node, name| paths.child(node, name))
        };
        for names in [
            &["a", "b", "c"][..],
            &["a.b", "c"],
            &["a", "b.c"],
            &["a.b.c"],
        ] {
            assert_eq!(walk(names), Some(end), "{names:?}");
        }
        assert_eq!(walk(&["a.c"]), None);
        assert!(paths.is_end(end) && !paths.is_end(walk(&["a"]).unwrap()));
    }

    #[test]
    fn empty_names_are_names() {
        let mut paths = Paths::default();
        let (top, below) = (paths.add(""), paths.add("a."));
        assert_eq!(paths.child(ROOT, ""), Some(top));
        let a = paths.child(ROOT, "a").unwrap();
        assert_eq!(paths.child(a, ""), Some(below));
    }
}
