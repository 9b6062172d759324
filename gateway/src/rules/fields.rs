//! An event as patterns see it: the values at the paths that patterns name.
//!
//! Objects add a name to a path, arrays add nothing. What stands in an element of an
//! array that is an object or array remembers which element it was, because all
//! fields that fit must come from the same one. An element that is a plain value does not.

use super::{
    paths::{PathId, Paths},
    term::Scalar,
};

/// Behind the last value of a path.
const NONE: u32 = u32::MAX;

/// The number of a value in this event.
pub(super) type ValueId = u32;

/// An array, numbered through the event, and an element of it.
pub(super) type Element = (u32, u32);

/// Values by path. Filled anew for each event; its memory is used again.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    heads: Vec<Head>,
    /// Tells the heads of this event from those of earlier ones.
    epoch: u32,
    /// Paths that have values, each once.
    touched: Vec<PathId>,
    entries: Vec<Entry<'a>>,
    elements: Vec<Element>,
    /// The elements around what comes next.
    around: Vec<Element>,
    /// Where `around` was written down, if it was since it changed.
    written: Option<(u32, u32)>,
    arrays: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Head {
    epoch: u32,
    first: u32,
    last: u32,
    count: u32,
    within_array: bool,
}

#[derive(Debug)]
struct Entry<'a> {
    value: Scalar<'a>,
    next: u32,
    elements: (u32, u32),
}

impl<'a> Fields<'a> {
    /// Empty, for another event, with the memory of this one.
    pub(super) fn renewed<'b>(mut self, paths: &Paths) -> Fields<'b> {
        self.entries.clear();
        self.touched.clear();
        self.elements.clear();
        self.around.clear();
        if self.epoch == u32::MAX {
            self.heads.clear();
            self.epoch = 0;
        }
        self.heads.resize(paths.len(), Head::default());
        Fields {
            heads: self.heads,
            epoch: self.epoch + 1,
            touched: self.touched,
            // Nothing is in it; this is how its memory changes its lifetime.
            entries: self
                .entries
                .into_iter()
                .map(|_| unreachable!("it was cleared"))
                .collect(),
            elements: self.elements,
            around: self.around,
            written: None,
            arrays: 0,
        }
    }

    /// Adds a value. Whether the path is one that patterns name is for the caller to know.
    pub(super) fn add(&mut self, path: PathId, value: Scalar<'a>) {
        let elements = self.elements_around();
        let at = u32::try_from(self.entries.len()).unwrap_or(NONE);
        self.entries.push(Entry {
            value,
            next: NONE,
            elements,
        });
        let head = &mut self.heads[path as usize];
        if head.epoch == self.epoch {
            self.entries[head.last as usize].next = at;
            head.last = at;
            head.count += 1;
            head.within_array |= elements.1 > 0;
        } else {
            *head = Head {
                epoch: self.epoch,
                first: at,
                last: at,
                count: 1,
                within_array: elements.1 > 0,
            };
            self.touched.push(path);
        }
    }

    fn elements_around(&mut self) -> (u32, u32) {
        if self.around.is_empty() {
            return (0, 0);
        }
        *self.written.get_or_insert_with(|| {
            let from = u32::try_from(self.elements.len()).unwrap_or(NONE);
            self.elements.extend_from_slice(&self.around);
            (from, u32::try_from(self.around.len()).unwrap_or(NONE))
        })
    }

    /// The number of an array that begins.
    pub(super) const fn array(&mut self) -> u32 {
        self.arrays += 1;
        self.arrays - 1
    }

    /// Goes into an element that is an object or array.
    pub(super) fn enter(&mut self, array: u32, index: u32) {
        self.around.push((array, index));
        self.written = None;
    }

    /// Leaves it.
    pub(super) fn leave(&mut self) {
        self.around.pop();
        self.written = None;
    }

    /// How many arrays there were.
    pub(super) const fn arrays(&self) -> u32 {
        self.arrays
    }

    /// The paths that have values.
    pub(super) fn touched(&self) -> &[PathId] {
        &self.touched
    }

    #[inline]
    fn head(&self, path: PathId) -> Option<&Head> {
        let head = self.heads.get(path as usize)?;
        (head.epoch == self.epoch).then_some(head)
    }

    /// Whether some value of a path stands in an element of an array.
    #[inline]
    pub(super) fn is_within_array(&self, path: PathId) -> bool {
        self.head(path).is_some_and(|head| head.within_array)
    }

    /// How many values a path has.
    #[inline]
    pub(super) fn count(&self, path: PathId) -> usize {
        self.head(path).map_or(0, |head| head.count as usize)
    }

    /// The values of a path and the elements that they stand in, outermost first.
    #[inline]
    pub(super) fn values(
        &self,
        path: PathId,
    ) -> impl Iterator<Item = (&Scalar<'a>, &[Element])> + Clone {
        self.ids(path).map(|id| (self.value(id), self.elements(id)))
    }

    /// The numbers of these values, by which each is found again.
    #[inline]
    pub(super) fn ids(&self, path: PathId) -> impl Iterator<Item = ValueId> + Clone {
        let first = self.head(path).map_or(NONE, |head| head.first);
        let known = |id: ValueId| (id != NONE).then_some(id);
        std::iter::successors(known(first), move |id| {
            known(self.entries[*id as usize].next)
        })
    }

    /// A value.
    #[inline]
    pub(super) fn value(&self, id: ValueId) -> &Scalar<'a> {
        &self.entries[id as usize].value
    }

    /// The elements that a value stands in, outermost first.
    #[inline]
    pub(super) fn elements(&self, id: ValueId) -> &[Element] {
        let (from, count) = self.entries[id as usize].elements;
        &self.elements[from as usize..(from + count) as usize]
    }
}
