//! What is on disk: an event that was committed and has a position.

use bytes::Bytes;

use crate::event::{self, Event, Key, Timestamp};

/// The place of a record in this gateway's journal. Positions only grow, also
/// across restarts, and are never given twice; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A destination's number in this journal: its bit in every route mask.
/// Given to a name once and kept for as long as the journal knows the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub u8);

/// The most destinations that one journal can know at a time.
pub const DESTINATIONS_MAX: usize = 63;

/// Whether this is the name of a destination of the gateway's own, which no configuration
/// names.
pub fn is_own(name: &str) -> bool {
    name.starts_with('$')
}

/// How the name of a lane ends, by what goes by it. Names that are configured have no dot.
pub const URGENT: &str = ".urgent";
/// See [`URGENT`].
pub const LIVE: &str = ".live";

/// The name of a destination without that of its lane: the place that both are.
pub fn place(name: &str) -> &str {
    let mut ends = [URGENT, LIVE].into_iter();
    ends.find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The number that no destination has: events that the rules send nowhere carry its
/// bit, so that the journal holds them and counts them as it does for a destination.
pub const NOWHERE: DestinationId = DestinationId(63);

/// Which destinations a record is for, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Routes(pub u64);

impl Routes {
    /// To nobody.
    pub const NONE: Self = Self(0);

    /// To nobody, because the rules say so of everybody: held for [`NOWHERE`].
    pub const NOWHERE: Self = Self::NONE.with(NOWHERE);

    /// These and `destination`.
    #[must_use]
    pub const fn with(self, destination: DestinationId) -> Self {
        Self(self.0 | 1 << destination.0)
    }

    /// These, but none of `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// These and `others`.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are among `others` too.
    #[must_use]
    pub const fn intersection(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Whether `destination` is among them.
    pub const fn contains(self, destination: DestinationId) -> bool {
        self.0 >> destination.0 & 1 == 1
    }

    /// How many they are.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the journal.
    pub position: Position,
    /// Its idempotency key.
    pub key: Key,
    /// When the gateway received it.
    pub received: Timestamp,
    /// Who gets it.
    pub routes: Routes,
    /// The event as [`Event::to_cbor`] wrote it.
    pub body: Bytes,
}

impl Record {
    /// The event itself.
    ///
    /// # Errors
    /// When the body was written by a later version, or is damaged in a way that
    /// its checksum did not show.
    pub fn event(&self) -> Result<Event, event::CborError> {
        Event::from_cbor(&self.body)
    }

    /// Whether it is an event of this device. One that cannot be read may be.
    pub fn is_of(&self, device: &str) -> bool {
        event::View::kind_and_device(&self.body).map_or(true, |(_, of)| of == device)
    }
}
