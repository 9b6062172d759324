//! Who runs at the moment, for whoever looks.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{forward, store::Mode};

/// Each destination that runs, by name; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<RwLock<Running>>);

type Running = Vec<(Arc<str>, forward::Handle)>;

impl Roster {
    /// Where a destination stands, if it runs.
    pub fn status(&self, name: &str) -> Option<forward::Status> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|(known, _)| **known == *name);
        found.map(|(_, handle)| handle.status())
    }

    pub(super) fn add(&self, name: Arc<str>, handle: forward::Handle) {
        self.change(|all| {
            all.retain(|(known, _)| *known != name);
            all.push((name, handle));
        });
    }

    pub(super) fn remove(&self, names: &[Arc<str>]) {
        self.change(|all| all.retain(|(known, _)| !names.contains(known)));
    }

    pub(super) fn set_mode(&self, name: &str, mode: Mode) {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = all.iter().find(|(known, _)| **known == *name) {
            handle.set_mode(mode);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Running)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
