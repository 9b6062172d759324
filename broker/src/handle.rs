//! The view into a broker from within the process.

use std::sync::Arc;

use crate::{
    Local,
    auth::{self, Auth},
    budget::Budgets,
    fanout::Fanout,
    metrics::{Counters, Metrics},
};

/// Looks into a broker while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) counters: Arc<Counters>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) budgets: Budgets,
}

impl Handle {
    /// Reads passwords, keys and rules again and puts them in force; sessions that
    /// would not be let in again end. With a mistake anywhere nothing changes.
    ///
    /// # Errors
    /// Every mistake.
    pub fn reload_auth(&self, config: auth::Config) -> Result<(), auth::Error> {
        self.auth.reload(config)
    }

    /// The way to the broker's subscribers from within the process.
    pub fn local(&self) -> Local {
        Local::new(Arc::clone(&self.fanout))
    }

    /// The counters as they are now.
    pub fn metrics(&self) -> Metrics {
        let Budgets {
            input,
            output,
            kept,
        } = &self.budgets;
        self.counters.memory_input_bytes.set(input.used());
        self.counters.memory_output_bytes.set(output.used());
        self.counters.memory_sessions_bytes.set(kept.used());
        self.counters
            .memory_subscriptions_bytes
            .set(self.fanout.weight());
        self.counters.snapshot()
    }
}
