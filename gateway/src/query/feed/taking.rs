//! What is taken over from the journal: its records, and what became of them by device.

use std::time::{Duration, Instant};

use super::{Feed, Work};
use crate::{
    query::{
        Error, apply,
        ledger::{self, Compared},
    },
    record::{DestinationId, NOWHERE},
    store,
};

/// Records of one transaction, and their bytes.
const PAGE_RECORDS: usize = 2_000;
const PAGE_BYTES: usize = 1 << 20;
/// How long after a reason for it the ledger by device may differ: what is on its way
/// then is counted by then.
const EXCUSED: Duration = Duration::from_secs(1);
/// Findings that are kept.
const FINDINGS_MAX: usize = 20;

/// What says that there may be something new for the ledger by device.
pub(super) type Counted = Vec<(DestinationId, [u64; 5])>;

impl Feed {
    /// Takes a page over, and what is said of the ledger with it.
    pub(super) fn page(&mut self, work: &mut Work) -> Result<Compared, Error> {
        let counted = self.counted();
        let (_, commit) = ledger::stands(&work.connection)?;
        let mut accounts = work
            .reader
            .accounts(work.position, commit, PAGE_RECORDS, PAGE_BYTES)?;
        // What has its time follows what gets it, as in a file that is built anew.
        self.repair(work)?;
        let records = accounts.page.records.into_iter();
        let records = records.map(|record| self.boots.repaired(record));
        accounts.page.records = records.collect();
        let to = accounts.page.scanned_to.max(work.position);
        let positions = usize::try_from(to.0 - work.position.0).unwrap_or(usize::MAX);
        let has_gaps = positions != accounts.page.records.len();
        let was_replaced = accounts.replaced != work.replaced;
        work.replaced = accounts.replaced;
        let has_damaged = accounts.has_damaged_gaps;
        if has_gaps || was_replaced || has_damaged || self.store.hold().take_missed() {
            work.excused = Some(Instant::now());
        }
        let limits = self.config.limits();
        let compared = apply::apply(&mut work.connection, work.position, &accounts, &limits)?;
        work.position = to;
        work.log.wrote();
        work.counted = compared.is_whole.then_some(counted);
        self.judge(work, &compared);
        Ok(compared)
    }

    /// Says what the ledger by device differed in, where nobody knows why.
    fn judge(&mut self, work: &mut Work, compared: &Compared) {
        for finding in &compared.found {
            if work.excused.is_some() {
                tracing::info!(finding, "some of the ledger is of no device");
                continue;
            }
            tracing::error!(finding, "the ledger by device does not balance");
            self.said.send_modify(|said| {
                let mut findings = said.findings.to_vec();
                findings.truncate(FINDINGS_MAX - 1);
                findings.push(finding.clone());
                said.findings = findings.into();
            });
        }
        let is_over = |at: &mut Instant| compared.is_whole && at.elapsed() > EXCUSED;
        work.excused.take_if(is_over);
    }

    /// Counts what became of events where no new ones came.
    pub(super) fn count_otherwise(&mut self, work: &mut Work) -> Result<(), Error> {
        if work.may_write() && work.counted.as_ref() != Some(&self.counted()) {
            self.page(work)?;
        }
        Ok(())
    }

    fn counted(&self) -> Counted {
        let status = self.store.status();
        let counted = |d: &store::DestinationStatus| {
            (d.id, [d.routed, d.expired, d.evicted, d.damaged, d.dead])
        };
        let all = status.destinations.iter().map(counted);
        let of = &status.nowhere;
        let nowhere = [of.total, of.expired, of.evicted, of.damaged, 0];
        all.chain([(NOWHERE, nowhere)]).collect()
    }
}
