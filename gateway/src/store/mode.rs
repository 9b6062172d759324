//! How a destination is run, and how much of what is kept it has yet to be given.

use std::{fmt, sync::Arc};

use crate::record::{DestinationId, Position, Record};

/// How a destination is run, as an operator said. The journal keeps it, so that it
/// holds across restarts until the operator says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Events are routed to it, and go out.
    #[default]
    Running,
    /// Events are routed to it, and wait.
    Paused,
    /// What waits goes out, and nothing more is routed to it.
    Draining,
}

impl Mode {
    /// The word used in reports and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Running => 0,
            Self::Paused => 1,
            Self::Draining => 2,
        }
    }

    /// The way back of [`Self::number`]. A number of nobody's is that of a destination
    /// that runs: what it has goes out.
    pub(super) const fn of_number(number: u64) -> Self {
        match number {
            1 => Self::Paused,
            2 => Self::Draining,
            _ => Self::Running,
        }
    }
}

/// What a new destination is given of what was stored before events were routed to it:
/// everything after `next` and up to `to` is still to be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    pub(super) next: Position,
    pub(super) to: Position,
    /// What was stored up to here may have the bit of an earlier destination of that
    /// number; what came later has it only where it is this one's, and counted.
    pub(super) known_from: Position,
}

/// Says whether a new destination wants a record that was stored before it was known.
#[derive(Clone)]
pub struct Wanted(Arc<Wants>);

type Wants = dyn Fn(DestinationId, &Record) -> bool + Send + Sync;

impl Wanted {
    /// Asked on the writer's thread, with each record once.
    pub fn new(wants: impl Fn(DestinationId, &Record) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wants))
    }

    pub(super) fn is(&self, destination: DestinationId, record: &Record) -> bool {
        (self.0)(destination, record)
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").finish_non_exhaustive()
    }
}
