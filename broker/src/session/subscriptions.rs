//! The live subscriptions of one session: checked, bounded, and gone with it. Those of
//! a persistent session are the keeper's too, and come again with its next connection.
//!
//! A SUBSCRIBE may name thousands of filters, and each may bring every retained
//! message. So a filter that comes twice is added once, as it came last, no more
//! are added than a client may have, and between two that were much work others
//! have their turn ([`Subscriptions::go_on`]).

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::Context;
use crate::{
    QoS,
    auth::Rights,
    fanout::{Fanout, Outbox, Queued, Subscription},
    keep::{self, Add, Entered, Sub},
    metrics::Counters,
    packet::{Options, SendRetained, Subscribe, Unsubscribe, reason},
    topic::{Bounds, check_filter, shared_filter},
};

/// Filters added and retained messages looked at in one turn, and one filter's more.
const WORK_MAX: usize = 1024;

/// A SUBSCRIBE that is being taken.
#[derive(Debug)]
struct UnderWay {
    packet: Subscribe,
    /// Each filter once.
    wanted: HashMap<Arc<str>, Wanted>,
    /// The answers so far.
    codes: Vec<u8>,
    adds: Vec<Add>,
    /// What those of them that are new take in memory.
    weight: usize,
}

/// What a packet says of one filter.
#[derive(Debug)]
struct Wanted {
    options: Options,
    refused: Option<u8>,
    /// The highest QoS that the client may have.
    qos_max: QoS,
    is_added: bool,
}

impl Wanted {
    /// The filter came again: as if two packets had, the last options count, and
    /// retained messages come if either asked for them.
    fn again(&mut self, options: Options) {
        let before = self.options.retained;
        self.options = options;
        if before == SendRetained::Always
            || before == SendRetained::IfNew && options.retained == SendRetained::Never
        {
            self.options.retained = before;
        }
    }
}

/// Ends every subscription when dropped.
#[derive(Debug)]
pub(super) struct Subscriptions<'s> {
    fanout: &'s Fanout,
    rights: &'s Rights,
    counters: &'s Counters,
    session: u64,
    outbox: Arc<Outbox>,
    filters: HashSet<Arc<str>>,
    count_max: usize,
    bounds: Bounds,
    /// Boxed: it is there for a moment only.
    under_way: Option<Box<UnderWay>>,
    /// The session is persistent: what is added is on disk first.
    is_durable: bool,
    is_complete: bool,
}

/// A SUBSCRIBE whose filters were all looked at.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: u16,
    pub(super) filters: Vec<Arc<str>>,
    /// One reason code for each filter, and for those beyond the limit of a packet.
    pub(super) codes: Vec<u8>,
    /// What is to be kept, and added when it is.
    pub(super) adds: Vec<Add>,
}

impl<'s> Subscriptions<'s> {
    pub(super) fn new(
        context: &'s Context,
        rights: &'s Rights,
        session: u64,
        outbox: Arc<Outbox>,
        entered: Option<Box<Entered>>,
    ) -> Self {
        let mut subscriptions = Self {
            fanout: &context.fanout,
            rights,
            counters: &context.counters,
            session,
            outbox,
            filters: HashSet::new(),
            count_max: context.config.subscriptions_per_client_max,
            bounds: context.config.limits.topics(),
            under_way: None,
            is_durable: entered.is_some(),
            is_complete: true,
        };
        let mut before = entered.map_or_else(Vec::new, |entered| entered.subscriptions);
        // Those of QoS 1 and 2 first: what they get comes through the queue, and is not to
        // come through an overlapping one of QoS 0 as well.
        before.sort_by_key(|add| Reverse(add.subscription.qos));
        let lacking = subscriptions.added(&before, 0);
        subscriptions.is_complete = lacking.is_empty();
        subscriptions
    }

    /// Whether all that the session had before could be had.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes a SUBSCRIBE, whose filters [`Subscriptions::go_on`] adds.
    pub(super) fn subscribe(&mut self, packet: Subscribe) {
        let mut wanted: HashMap<Arc<str>, Wanted> = HashMap::new();
        for (filter, options) in &packet.filters {
            wanted
                .entry(Arc::clone(filter))
                .and_modify(|known| known.again(*options))
                .or_insert(Wanted {
                    options: *options,
                    refused: None,
                    qos_max: QoS::ExactlyOnce,
                    is_added: false,
                });
        }
        self.under_way = Some(Box::new(UnderWay {
            codes: Vec::with_capacity(packet.filters.len() + packet.excess),
            adds: Vec::new(),
            weight: 0,
            packet,
            wanted,
        }));
    }

    /// Whether a SUBSCRIBE is not answered yet; nothing may be taken until it is.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Adds filters until all are there or enough has been done for one turn.
    pub(super) fn go_on(&mut self) -> Option<Done> {
        let mut under_way = self.under_way.take()?;
        let mut work = 0;
        while let Some((filter, options)) = under_way.packet.filters.get(under_way.codes.len()) {
            if work >= WORK_MAX {
                self.under_way = Some(under_way);
                return None;
            }
            work += 1;
            let Some(wanted) = under_way.wanted.get_mut(filter) else {
                break; // every filter of the packet is there
            };
            if !wanted.is_added {
                wanted.is_added = true;
                let id = under_way.packet.subscription_id;
                // Its form first: what is too long or deep is not held against rules.
                if let Err(code) = self.check_form(filter) {
                    wanted.refused = Some(code);
                    under_way.codes.push(code);
                    continue;
                }
                work += self.rights.rules();
                match self.rights.subscribe(filter) {
                    Some(permit) => {
                        wanted.qos_max = permit.qos_max;
                        wanted.options.qos = wanted.options.qos.min(permit.qos_max);
                        let known = under_way.adds.len();
                        match self.check(filter, wanted.options, id, known) {
                            Ok(add) if self.is_durable => {
                                let is_new = !self.filters.contains(filter);
                                let more = if is_new { keep::weight(filter) } else { 0 };
                                let kept = self.fanout.keeper().shared();
                                if kept.has_room_for(under_way.weight + more) {
                                    under_way.weight += more;
                                    under_way.adds.push(add);
                                } else {
                                    wanted.refused = Some(reason::QUOTA_EXCEEDED);
                                }
                            }
                            Ok(add) => match self.add(&add, 0) {
                                Ok(looked_at) => work += looked_at,
                                Err(code) => wanted.refused = Some(code),
                            },
                            Err(code) => wanted.refused = Some(code),
                        }
                    }
                    None => {
                        self.counters.subscriptions_denied.add(1);
                        wanted.refused = Some(reason::NOT_AUTHORIZED);
                    }
                }
            }
            let granted = options.qos.min(wanted.qos_max) as u8;
            under_way.codes.push(wanted.refused.unwrap_or(granted));
        }
        let mut codes = under_way.codes;
        let all = under_way.packet.filters.len() + under_way.packet.excess;
        codes.resize(all, reason::QUOTA_EXCEEDED);
        let filters = under_way.packet.filters.into_iter();
        Some(Done {
            id: under_way.packet.id,
            filters: filters.map(|(filter, _)| filter).collect(),
            codes,
            adds: under_way.adds,
        })
    }

    /// Adds what is kept by now, for messages from number `decided` on; the filters that
    /// could not be added, which are none of the client's any more.
    pub(super) fn added(&mut self, adds: &[Add], decided: u64) -> Vec<Arc<str>> {
        let mut lacking = Vec::new();
        for add in adds {
            if self.add(add, decided).is_err() {
                self.counters.subscriptions_refused.add(1);
                if self.filters.remove(&add.filter) {
                    end(self.fanout, self.session, &add.filter);
                }
                lacking.push(Arc::clone(&add.filter));
            }
        }
        lacking
    }

    fn check_form(&self, filter: &str) -> Result<(), u8> {
        if self.bounds.exceeded(filter) {
            return Err(reason::TOPIC_FILTER_INVALID);
        }
        let shared = shared_filter(filter).transpose();
        shared.map_err(|error| error.reason)?;
        check_filter(filter).map_err(|error| error.reason)
    }

    /// The subscription that a filter of the right form asks for; `more` are to be added before it.
    fn check(
        &self,
        filter: &Arc<str>,
        options: Options,
        id: Option<u32>,
        more: usize,
    ) -> Result<Add, u8> {
        let known = self.filters.contains(filter);
        if !known && self.filters.len() + more >= self.count_max {
            return Err(reason::QUOTA_EXCEEDED);
        }
        Ok(Add {
            filter: Arc::clone(filter),
            subscription: Sub {
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id,
            },
            retained: options.retained,
        })
    }

    fn add(&mut self, add: &Add, decided: u64) -> Result<usize, u8> {
        let Add {
            filter,
            subscription,
            retained,
        } = add;
        let subscription = Subscription {
            outbox: Arc::clone(&self.outbox),
            qos: subscription.qos,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            id: subscription.id,
            kept: self.is_durable.then(|| Queued::from(decided)),
            since: 0,
        };
        let looked_at = match shared_filter(filter) {
            // Retained messages do not come: nobody could say to whom.
            Some(Ok(inner)) => self
                .fanout
                .share(self.session, filter, inner, subscription)
                .map(|()| 0),
            Some(Err(error)) => return Err(error.reason),
            None => self
                .fanout
                .subscribe(self.session, filter, subscription, *retained),
        };
        let looked_at = looked_at.map_err(|_| reason::QUOTA_EXCEEDED)?;
        self.filters.insert(Arc::clone(filter));
        Ok(looked_at)
    }

    /// The filters that are subscribed to, each with its QoS.
    pub(super) fn held(&self) -> impl Iterator<Item = (&str, QoS)> {
        self.filters.iter().map(|filter| {
            let qos = self.fanout.qos_of(self.session, filter);
            (&**filter, qos.unwrap_or(QoS::AtMostOnce))
        })
    }

    /// The filters, as they are shared.
    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.filters.iter().cloned()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.filters.len()
    }

    /// Takes an UNSUBSCRIBE; one reason code for each filter.
    pub(super) fn unsubscribe(&mut self, packet: &Unsubscribe) -> Vec<u8> {
        packet
            .filters
            .iter()
            .map(|filter| {
                if self.filters.remove(filter) && end(self.fanout, self.session, filter) {
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
            end(self.fanout, self.session, filter);
        }
    }
}

/// Ends a subscription, shared or not; whether there was one.
fn end(fanout: &Fanout, session: u64, filter: &str) -> bool {
    match shared_filter(filter) {
        Some(inner) => inner.is_ok_and(|inner| fanout.unshare(session, filter, inner)),
        None => fanout.unsubscribe(session, filter),
    }
}
