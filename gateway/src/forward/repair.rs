//! Records as they are read for a destination, with the times at which their messages
//! came; see [`Boots`].

use std::sync::Arc;

use super::journal::Pages;
use crate::{
    boots::Boots,
    record::{DestinationId, Position},
    store::{self, Page, Retry},
};

/// Pages of the journal, repaired.
pub(super) struct Repairing<P> {
    pub(super) pages: P,
    pub(super) boots: Arc<Boots>,
}

impl<P: Pages> Pages for Repairing<P> {
    fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, store::Error> {
        let mut page = self.pages.read(destination, after, count, bytes)?;
        let records = std::mem::take(&mut page.records).into_iter();
        page.records = records.map(|record| self.boots.repaired(record)).collect();
        Ok(page)
    }

    fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, store::Error> {
        let retries = self.pages.retries(destination, count, bytes)?.into_iter();
        let retries = retries.map(|retry| Retry {
            record: self.boots.repaired(retry.record),
            ..retry
        });
        Ok(retries.collect())
    }
}
