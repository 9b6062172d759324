//! The result of an audit, for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// How many of each fault are named.
const EXAMPLES_MAX: usize = 20;

/// A count, and the first few by name.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Examples {
    count: u64,
    first: Vec<String>,
}

impl Examples {
    /// One more.
    pub(super) fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < EXAMPLES_MAX {
            self.first.push(name());
        }
    }

    #[cfg(test)]
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    #[cfg(test)]
    pub(super) fn first(&self) -> Option<&str> {
        self.first.first().map(String::as_str)
    }
}

/// What an audit found. Field names are a contract with scripts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    pub(crate) allow_duplicates: bool,
    pub(crate) devices: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    /// Times that the gateway had no room.
    pub(crate) deferred: u64,
    pub(crate) malformed: u64,
    /// Expected in quarantine.
    pub(crate) malformed_acked: u64,
    /// Events that arrived, copies included.
    pub(crate) arrived: u64,
    pub(crate) arrived_distinct: u64,
    /// Legal: the acknowledgement did not reach the device, or QoS 0.
    pub(crate) arrived_unacked: u64,
    /// Legal: events that no simulator sent.
    pub(crate) unidentified: u64,
    /// Acknowledged, well formed, and not there.
    pub(crate) lost: Examples,
    /// There more than once.
    pub(crate) duplicated: Examples,
    pub(crate) extra_copies: u64,
    /// There, and never sent.
    pub(crate) phantom: Examples,
    /// There behind a later one of its device.
    pub(crate) out_of_order: Examples,
    /// Not an event at all.
    pub(crate) unreadable: Examples,
    /// Malformed messages that were delivered; for the reader to judge.
    pub(crate) malformed_arrived: Examples,
}

impl Verdict {
    /// Nothing is wrong.
    pub(crate) const fn is_clean(&self) -> bool {
        self.lost.count == 0
            && (self.allow_duplicates || self.duplicated.count == 0)
            && self.phantom.count == 0
            && self.out_of_order.count == 0
            && self.unreadable.count == 0
    }

    /// The verdict as JSON, with `clean` in front.
    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Whole<'a> {
            clean: bool,
            #[serde(flatten)]
            verdict: &'a Verdict,
        }
        serde_json::to_vec_pretty(&Whole {
            clean: self.is_clean(),
            verdict: self,
        })
    }

    /// A few lines for people, with the first of each fault.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!(
            "{} sent by {} devices, {} acknowledged, {} refused, {} malformed\n\
             {} arrived ({} distinct, {} of them unacknowledged), {} not the simulator's\n\
             {} lost, {} duplicated, {} phantom, {} out of order, {} unreadable",
            self.sent,
            self.devices,
            self.acked,
            self.refused,
            self.malformed,
            self.arrived,
            self.arrived_distinct,
            self.arrived_unacked,
            self.unidentified,
            self.lost.count,
            self.duplicated.count,
            self.phantom.count,
            self.out_of_order.count,
            self.unreadable.count,
        );
        for (title, examples) in [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("phantom", &self.phantom),
            ("out of order", &self.out_of_order),
            ("unreadable", &self.unreadable),
            ("malformed and delivered", &self.malformed_arrived),
        ] {
            for example in &examples.first {
                write!(text, "\n  {title}: {example}").expect("writing to memory cannot fail");
            }
            let more = examples.count - examples.first.len() as u64;
            if more > 0 {
                write!(text, "\n  {title}: and {more} more")
                    .expect("writing to memory cannot fail");
            }
        }
        text.push_str(if self.is_clean() {
            "\nclean"
        } else {
            "\nNOT clean"
        });
        text
    }
}
