//! The subscriptions of one session: checked, bounded, and gone with it.

use std::{collections::HashSet, sync::Arc};

use crate::{
    fanout::{Fanout, Outbox, Subscription},
    packet::{Options, Subscribe, Unsubscribe, reason},
    topic::check_filter,
};

/// Ends every subscription when dropped.
#[derive(Debug)]
pub(super) struct Subscriptions<'s> {
    fanout: &'s Fanout,
    session: u64,
    outbox: Arc<Outbox>,
    filters: HashSet<Arc<str>>,
    count_max: usize,
}

impl<'s> Subscriptions<'s> {
    pub(super) fn new(
        fanout: &'s Fanout,
        session: u64,
        outbox: Arc<Outbox>,
        count_max: usize,
    ) -> Self {
        Self {
            fanout,
            session,
            outbox,
            filters: HashSet::new(),
            count_max,
        }
    }

    /// Takes a SUBSCRIBE; one reason code for each filter.
    pub(super) fn subscribe(&mut self, packet: Subscribe) -> Vec<u8> {
        let id = packet.subscription_id;
        packet
            .filters
            .into_iter()
            .map(|(filter, options)| match self.add(filter, options, id) {
                Ok(()) => options.qos as u8,
                Err(code) => code,
            })
            .collect()
    }

    fn add(&mut self, filter: Arc<str>, options: Options, id: Option<u32>) -> Result<(), u8> {
        // Shared subscriptions are the next issue.
        if filter.starts_with("$share/") {
            return Err(reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        check_filter(&filter).map_err(|error| error.reason)?;
        if self.filters.len() >= self.count_max && !self.filters.contains(&filter) {
            return Err(reason::QUOTA_EXCEEDED);
        }
        let subscription = Subscription {
            outbox: Arc::clone(&self.outbox),
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id,
            since: 0,
        };
        self.fanout
            .subscribe(self.session, &filter, subscription, options.retained)
            .map_err(|_| reason::QUOTA_EXCEEDED)?;
        self.filters.insert(filter);
        Ok(())
    }

    /// Takes an UNSUBSCRIBE; one reason code for each filter.
    pub(super) fn unsubscribe(&mut self, packet: &Unsubscribe) -> Vec<u8> {
        packet
            .filters
            .iter()
            .map(|filter| {
                if self.filters.remove(filter) && self.fanout.unsubscribe(self.session, filter) {
                    reason::SUCCESS
                } else {
                    reason::NO_SUBSCRIPTION_EXISTED
                }
            })
            .collect()
    }
}

impl Drop for Subscriptions<'_> {
    fn drop(&mut self) {
        for filter in &self.filters {
            self.fanout.unsubscribe(self.session, filter);
        }
    }
}
