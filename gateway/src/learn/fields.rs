//! The fields of payloads that were seen, and what they seem to be.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{batch, quoted, schema::Shape};
use crate::{
    event::Timestamp,
    normalise::{
        decode::Node,
        timestamp::{self, Said, Unit},
    },
};

const TIMES: [&str; 8] = [
    "ts",
    "time",
    "timestamp",
    "datetime",
    "t",
    "Time",
    "Timestamp",
    "measured_at",
];
const SEQUENCES: [&str; 5] = ["seq", "sequence", "counter", "seqno", "count"];
const BOOTS: [&str; 4] = ["boot", "boot_id", "bootid", "bootId"];
const IDS: [&str; 7] = [
    "id",
    "msg_id",
    "message_id",
    "msgid",
    "messageId",
    "event_id",
    "uuid",
];

/// What was seen so far.
#[derive(Default)]
pub(super) struct Fields {
    shape: Shape,
    objects: usize,
    times: Vec<Seen>,
    sequences: Vec<Seen>,
    boots: Vec<Seen>,
    ids: Vec<Seen>,
}

/// A field that may have a meaning.
struct Seen {
    name: &'static str,
    times: usize,
    /// Whether it is what it should be each time.
    fits: bool,
    /// Whether it tells more than whole seconds.
    fine: bool,
    different: BTreeSet<String>,
}

impl Fields {
    /// Looks at one payload.
    pub(super) fn add(&mut self, node: &Node<'_>, received: Timestamp) {
        match batch(node) {
            Some(items) => items.iter().for_each(|item| self.one(item, received)),
            None => self.one(node, received),
        }
    }

    fn one(&mut self, node: &Node<'_>, received: Timestamp) {
        self.shape.add(node);
        if !matches!(node, Node::Map(_)) {
            return;
        }
        self.objects += 1;
        let time = |node: &Node<'_>| match timestamp::read(node, Unit::Auto, None, received) {
            Ok(Said::Plausible { fine, .. }) => (true, fine),
            _ => (false, false),
        };
        let number = |node: &Node<'_>| {
            let whole = matches!(node, Node::UInt(_)) || matches!(node, Node::Int(n) if *n >= 0);
            (whole, true)
        };
        let word = |node: &Node<'_>| {
            let fits = matches!(node, Node::Text(text) if !text.is_empty())
                || matches!(node, Node::Int(_) | Node::UInt(_));
            (fits, true)
        };
        look(node, &TIMES, &mut self.times, &time);
        look(node, &SEQUENCES, &mut self.sequences, &number);
        look(node, &BOOTS, &mut self.boots, &word);
        look(node, &IDS, &mut self.ids, &word);
    }

    /// Writes what the mapping should say of them.
    pub(super) fn write(&self, config: &mut String) {
        if self.objects == 0 {
            return;
        }
        let always = |seen: &&Seen| seen.fits && seen.times == self.objects;
        let time = self.times.iter().find(always);
        // Writing to a string cannot fail.
        let _fine = match time {
            Some(time) => writeln!(config, "time = {{ at = \"/{}\" }}", time.name),
            None => writeln!(
                config,
                "time = \"received\" # no field is always a plausible time"
            ),
        };
        let boot = self.boots.iter().find(always);
        let sequence = self.sequences.iter().find(always);
        let _fine = match (sequence, boot) {
            (Some(sequence), Some(boot)) => writeln!(
                config,
                "sequence = {{ at = \"/{}\", boot = \"/{}\" }}",
                sequence.name, boot.name
            ),
            (Some(sequence), None) => {
                writeln!(config, "sequence = {{ at = \"/{}\" }}", sequence.name)
            }
            (None, _) => writeln!(config, "sequence = \"none\""),
        };
        let unique =
            |seen: &&Seen| always(seen) && seen.different.len() == self.objects && self.objects > 1;
        let id = self.ids.iter().find(unique);
        if let Some(id) = id {
            let _fine = writeln!(
                config,
                "id = [\"/{}\"] # it was another one in each of {} events",
                id.name, self.objects
            );
        }
        let fine = time.is_some_and(|time| time.fine);
        let counted = sequence.is_some() && (boot.is_some() || time.is_some());
        if id.is_none() && !counted && !fine {
            let _fine = writeln!(
                config,
                "# Nothing tells a resend from another reading, so nothing is dropped as a duplicate:\n# name an id, a sequence with a boot id, or a time finer than a second."
            );
        }
    }

    /// The schema of a type of event, as JSON; `None` where nothing was read.
    pub(super) fn schema(&self, kind: &str) -> Option<String> {
        self.shape.schema(kind)
    }
}

fn look(
    node: &Node<'_>,
    names: &[&'static str],
    all: &mut Vec<Seen>,
    fits: &dyn Fn(&Node<'_>) -> (bool, bool),
) {
    for name in names {
        let Some(found) = node.child(name) else {
            continue;
        };
        let (fits, fine) = fits(found);
        let at = all.iter().position(|seen| seen.name == *name);
        let at = at.unwrap_or_else(|| {
            all.push(Seen {
                name,
                times: 0,
                fits: true,
                fine: true,
                different: BTreeSet::new(),
            });
            all.len() - 1
        });
        let seen = &mut all[at];
        seen.times += 1;
        seen.fits &= fits;
        seen.fine &= fine;
        let text = match found {
            Node::Text(text) => quoted(text),
            other => serde_json::to_string(other).unwrap_or_default(),
        };
        seen.different.insert(text.chars().take(256).collect());
    }
}
