//! What publishes teach about who sends them, learned once they are kept: what finds no
//! room is handed over again, and must not look like something that comes once more.

use std::sync::Arc;

use penstock_broker::Verdict;

use super::{
    Metrics,
    timing::{Seen, Timing},
};
use crate::{
    event::Event,
    normalise::{Births, Heard},
    store::Appended,
};

/// What one group of publishes teaches. What is not learned is taken back with this.
#[derive(Debug, Default)]
pub(super) struct Lessons {
    timing: Option<Arc<Timing>>,
    seen: Vec<Seen>,
    /// By the publish.
    heard: Vec<(usize, Heard)>,
}

impl Lessons {
    pub(super) fn timed_by(timing: &Arc<Timing>) -> Self {
        Self {
            timing: Some(timing.clone()),
            seen: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// Marks events that are out of order; `entry` is the number of the first.
    pub(super) fn watch(&mut self, events: &mut [Event], entry: usize) {
        if let Some(timing) = &self.timing {
            self.seen.append(&mut timing.watch(events, entry));
        }
    }

    /// What a publish said of its Sparkplug node.
    pub(super) fn hear(&mut self, publish: usize, heard: Heard) {
        self.heard.push((publish, heard));
    }

    /// Entries from this one on are not appended.
    pub(super) fn take_back(&mut self, entry: usize) {
        let kept = self.seen.partition_point(|seen| seen.entry < entry);
        let gone = self.seen.split_off(kept);
        if let Some(timing) = &self.timing {
            timing.learn(&gone, |_| false);
        }
    }

    /// Counts what is odd about the times of all events.
    pub(super) fn count(&self, metrics: &Metrics) {
        for seen in &self.seen {
            metrics.marked(seen.marks);
        }
    }

    /// Learns, from what became of each publish and of each entry.
    pub(super) fn learn(
        mut self,
        births: &Births,
        client_id: &str,
        verdicts: &[Verdict],
        appended: &[Appended],
        metrics: &Metrics,
    ) {
        let is_kept = |seen: &Seen| matches!(appended.get(seen.entry), Some(Appended::Stored(_)));
        let seen = std::mem::take(&mut self.seen);
        for seen in seen.iter().filter(|seen| is_kept(seen)) {
            metrics.marked(seen.marks);
        }
        if let Some(timing) = &self.timing {
            timing.learn(&seen, is_kept);
        }
        for (publish, heard) in &self.heard {
            match verdicts.get(*publish) {
                Some(Verdict::Accepted) => births.learn(client_id, heard, false),
                Some(Verdict::Duplicate) => births.learn(client_id, heard, true),
                _ => {}
            }
        }
        metrics.gaps_seen(births.rebirths().take_gaps());
    }
}

impl Drop for Lessons {
    fn drop(&mut self) {
        self.take_back(0);
    }
}
