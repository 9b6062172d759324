//! What the engine needs of the store; tests put a model in its place.

use std::future::Future;

use tokio::sync::watch;

use crate::{
    record::{DestinationId, Position},
    store::{self, Page, Progress, Receipt, Retry, Stopped},
};

/// Takes progress and tells of new records.
pub trait Journal: Send + Sync + 'static {
    /// Queues progress; the receipt waits for the commit.
    fn progress(&self, progress: Progress)
    -> impl Future<Output = Result<Receipt, Stopped>> + Send;

    /// Follows the last committed position.
    fn committed(&self) -> watch::Receiver<Position>;

    /// How many records of `destination` wait for another attempt, as of the
    /// last commit or a moment before. More than the engine knows of means
    /// that somebody put dead letters back.
    fn retrying(&self, destination: DestinationId) -> u64;

    /// How many dead letters of `destination` are kept, at most: not fewer, as
    /// of the last commit or a moment before.
    fn dead(&self, destination: DestinationId) -> u64;

    /// Up to where nothing of `destination` waits but for another attempt, as of the last
    /// commit or a moment before.
    fn clear_to(&self, destination: DestinationId) -> Position;
}

/// Gives records; blocking.
pub trait Pages: Send + 'static {
    /// Records of `destination` after `after`.
    ///
    /// # Errors
    /// When the journal cannot be read now.
    fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, store::Error>;

    /// Records of `destination` that wait for another attempt, by position: at
    /// most `count`, and no more once they have `bytes`.
    ///
    /// # Errors
    /// When the journal cannot be read now.
    fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, store::Error>;
}

impl Journal for store::Handle {
    async fn progress(&self, progress: Progress) -> Result<Receipt, Stopped> {
        Self::progress(self, progress).await
    }

    fn committed(&self) -> watch::Receiver<Position> {
        Self::committed(self)
    }

    fn retrying(&self, destination: DestinationId) -> u64 {
        let status = self.status();
        let mut all = status.destinations.iter();
        all.find(|known| known.id == destination)
            .map_or(0, |known| known.retrying)
    }

    fn dead(&self, destination: DestinationId) -> u64 {
        // Those kept are counted over all destinations, those of one destination
        // with what was discarded since.
        let status = self.status();
        let mut all = status.destinations.iter();
        all.find(|known| known.id == destination)
            .map_or(0, |known| known.dead.min(status.dead_letters))
    }

    fn clear_to(&self, destination: DestinationId) -> Position {
        let status = self.status();
        let mut all = status.destinations.iter();
        let known = all.find(|known| known.id == destination);
        let waits = known.filter(|known| known.backlog > known.retrying);
        waits.map_or(status.committed, |known| known.cursor)
    }
}

impl Pages for store::Reader {
    fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, store::Error> {
        Self::read(self, destination, after, count, bytes)
    }

    fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, store::Error> {
        Self::retries(self, destination, count, bytes)
    }
}
