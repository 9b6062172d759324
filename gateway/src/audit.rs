//! Looks now and then whether the ledger is what the journal has, and shouts if it is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    event::Timestamp,
    query,
    store::{self, Audit},
    tasks,
};

/// From the start to the first look, and between two.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(60);
/// Findings that are shown.
const FINDINGS_MAX: usize = 20;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = AuditReport)]
pub struct Report {
    /// How often it was looked since the start.
    pub runs: u64,
    /// When last, as RFC 3339 text.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<serde_json::Value>,
    /// What did not balance then; empty when all did.
    pub findings: Vec<String>,
}

/// Looks.
#[derive(Debug)]
pub(crate) struct Auditor {
    store: store::Handle,
    read: query::Handle,
    clock: Arc<dyn Clock>,
    said: watch::Sender<Arc<Report>>,
}

/// Tells what came of it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(watch::Receiver<Arc<Report>>);

impl Handle {
    /// What came of the last look.
    pub fn report(&self) -> Arc<Report> {
        self.0.borrow().clone()
    }
}

impl Auditor {
    pub(crate) fn new(store: store::Handle, read: query::Handle, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            read,
            clock,
            said: watch::Sender::default(),
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle(self.said.subscribe())
    }

    /// Looks until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> tasks::Result {
        let mut audit = None;
        let mut pause = FIRST_AFTER;
        while stop.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = EVERY;
            let (store, kept) = (self.store.clone(), audit.take());
            let ending = Arc::new(AtomicBool::new(false));
            let told = ending.clone();
            let mut looked = spawn_blocking(move || {
                let mut audit = match kept {
                    Some(audit) => audit,
                    None => Audit::open(&store)?,
                };
                let found = audit.look(&told)?;
                Ok::<_, store::Error>((audit, found))
            });
            let looked = tokio::select! {
                looked = &mut looked => looked,
                () = stop.cancelled() => {
                    ending.store(true, Relaxed);
                    looked.await
                }
            };
            match looked? {
                Ok((kept, mut found)) => {
                    audit = Some(kept);
                    found.extend(self.read.audit_ledger().await);
                    self.say(found, self.clock.now());
                }
                // A damaged file is replaced meanwhile, and opened again next time.
                Err(error) => tracing::debug!(%error, "the ledger could not be audited"),
            }
        }
        Ok(())
    }

    fn say(&self, mut found: Vec<String>, at: Timestamp) {
        found.truncate(FINDINGS_MAX);
        let before = self.said.borrow().clone();
        for finding in found.iter().filter(|one| !before.findings.contains(one)) {
            tracing::error!(finding, "the ledger does not balance");
        }
        self.said.send_replace(Arc::new(Report {
            runs: before.runs + 1,
            at: Some(crate::admin::known(at)),
            findings: found,
        }));
    }
}
