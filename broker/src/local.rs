//! Publishing from within the process: the gateway's own voice.
//!
//! ```text
//! Local::show ───────────────────────────────▶ Fanout ─▶ live subscribers, retained messages
//! Client::publish ─▶ Admission ─▶ Receipt ──────▲
//! ```
//!
//! [`Local::show`] shows messages to subscribers and asks nobody: for what is
//! committed already, or is not data. It may use topics that clients may not, such
//! as `$SYS/...`, which is at QoS 0 and waits for nobody. What subscribers have no
//! room for is dropped and counted, and costs only them; what persistent sessions are
//! owed is on disk when it resolves. [`Client`] takes the way of a device: what it
//! publishes is admitted, committed, and shown after that.
//!
//! Neither takes a seat: no client identifier is in use because of them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::{
    sync::futures::Notified,
    time::{Duration, sleep},
};

use crate::{
    Admission, Protocol, Publish, Publisher, Verdict,
    fanout::{Fanout, Room},
    keep::WillId,
};

/// The session number of what the gateway says itself; sessions count from 1.
pub(crate) const NOBODY: u64 = 0;
/// Pauses between asking about a publish that found no room.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Speaks to the broker's subscribers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Local {
    fanout: Arc<Fanout>,
}

impl Local {
    pub(crate) const fn new(fanout: Arc<Fanout>) -> Self {
        Self { fanout }
    }

    /// Shows messages to those who subscribe to their topics, in order, and keeps those
    /// with the RETAIN flag. Each must have a valid topic; one with a string that is too
    /// long for a packet is not shown. Before [`Broker::run`](crate::Broker::run) live
    /// messages wait, within bounds.
    ///
    /// Resolves once what persistent sessions are owed is on disk; where nobody is owed
    /// anything that is at once. On a full disk live subscribers see the messages and
    /// nobody else does, which is counted; so does a queue that is full lose what it has
    /// no room for. How many were shown.
    pub async fn show(&self, publishes: &[Publish]) -> usize {
        self.show_with(publishes, Room::Now).await
    }

    /// The same, but waits while the disk is full: for what whoever sent it keeps until
    /// then.
    pub async fn show_patiently(&self, publishes: &[Publish]) -> usize {
        self.show_with(publishes, Room::Wait).await
    }

    async fn show_with(&self, publishes: &[Publish], room: Room) -> usize {
        let fit = publishes.iter().filter(|one| one.fits_a_packet());
        let fit: Vec<Publish> = fit.cloned().collect();
        // What is not kept is counted, and live subscribers have it.
        let shown = self.fanout.show(NOBODY, None, &fit, room).await;
        if shown.is_err() && room == Room::Wait {
            // The keeper has ended, and so does everything.
            std::future::pending::<()>().await;
        }
        fit.len()
    }

    /// Whether somebody subscribes to `topic`, or a persistent session does whose
    /// client is away.
    pub fn is_wanted(&self, topic: &str) -> bool {
        let wanted = self.fanout.wanted(topic);
        wanted.live || wanted.kept
    }

    /// The same of `topic` or anything below it.
    pub fn is_wanted_below(&self, topic: &str) -> bool {
        self.fanout.is_wanted_below(topic)
    }

    /// Resolves when subscriptions have changed since this was called.
    pub fn subscriptions_changed(&self) -> Notified<'_> {
        self.fanout.changed()
    }

    /// A client within the process that publishes through `admission`. `origin`
    /// is where its messages come from, for whoever must not send them back there.
    pub fn client(
        &self,
        admission: Arc<dyn Admission>,
        client_id: Arc<str>,
        origin: Option<Arc<str>>,
    ) -> Client {
        Client {
            local: self.clone(),
            admission,
            room: Room::Wait,
            publisher: Arc::new(Publisher {
                identity: None,
                client_id,
                username: None,
                origin,
                address: None,
                protocol: Protocol::V5,
                turn: 0.into(),
                turns_over: Arc::default(),
            }),
        }
    }
}

impl Local {
    /// A client that publishes the will of somebody who was connected. There is nobody to
    /// wait with it while the disk is full: those who are connected see it all the same,
    /// and what is to be retained is owed.
    pub(crate) fn client_as(
        &self,
        admission: Arc<dyn Admission>,
        publisher: Arc<Publisher>,
        will: Option<WillId>,
    ) -> Client {
        Client {
            local: self.clone(),
            admission,
            publisher,
            room: Room::Owe(will),
        }
    }
}

/// Publishes like a device, from within the process.
pub struct Client {
    local: Local,
    admission: Arc<dyn Admission>,
    publisher: Arc<Publisher>,
    room: Room,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("publisher", &self.publisher)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Publishes a batch in order and waits until the fate of all is known: one
    /// verdict each, never [`Verdict::Busy`], because what finds no room is asked
    /// about again until it does. What was kept has been shown to subscribers by
    /// then, and is on disk for those that are persistent. Dropping the future gives up what is not committed yet.
    pub async fn publish(&self, batch: Vec<Publish>) -> Vec<Verdict> {
        let mut pause = PAUSE_MIN;
        let mut settled = Vec::with_capacity(batch.len());
        let mut rest = batch;
        while !rest.is_empty() {
            let admitted = self.admission.admit(&self.publisher, rest.clone());
            let mut verdicts = admitted.await.await;
            // An admission that says too little has lost the others.
            verdicts.resize(rest.len(), Verdict::Lost);
            let busy = verdicts.iter().position(|one| *one == Verdict::Busy);
            let done = busy.unwrap_or(rest.len());
            let waiting = rest.split_off(done);
            verdicts.truncate(done);
            let kept = rest.iter().zip(&verdicts).filter(|(_, verdict)| {
                // After a crash nobody knows whether they saw a duplicate.
                matches!(verdict, Verdict::Accepted | Verdict::Duplicate)
            });
            let kept: Vec<Publish> = kept.map(|(publish, _)| publish.clone()).collect();
            self.local.show_with(&kept, self.room).await;
            settled.append(&mut verdicts);
            rest = waiting;
            if done > 0 {
                pause = PAUSE_MIN;
            }
            if !rest.is_empty() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                self.publisher.turn.fetch_add(1, Relaxed);
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;
    use crate::{Admitted, QoS, Receipt, embedded, keep, metrics::Counters};

    /// Takes everything.
    struct Taking;

    impl Admission for Taking {
        #[expect(
            clippy::async_yields_async,
            reason = "an admission resolves to a receipt"
        )]
        fn admit<'a>(&'a self, _: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
            let receipt: Receipt = Box::pin(async move { vec![Verdict::Accepted; batch.len()] });
            Box::pin(async move { receipt })
        }
    }

    #[tokio::test]
    async fn a_will_does_not_wait_for_the_disk_of_its_subscribers() {
        let counters = Arc::<Counters>::default();
        let keeper = keep::tests::full("will", &counters).await;
        let watch = embedded::Watch::default();
        let carrier = Arc::new(embedded::Embedded::new(watch, Arc::clone(&counters)));
        let fanout = Arc::new(Fanout::new(carrier, Arc::clone(&counters), keeper));
        let local = Local::new(fanout);
        let device = local
            .client(Arc::new(Taking), Arc::from("d"), None)
            .publisher;
        let client = local.client_as(Arc::new(Taking), device, None);
        let will = Publish {
            topic: Arc::from("will"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: None,
            delivery: None,
        };
        let published = client.publish(vec![will]);
        let verdicts = timeout(Duration::from_secs(20), published).await;
        assert_eq!(verdicts.expect("it does not wait"), [Verdict::Accepted]);
        assert_eq!(counters.dropped_kept_disk_full.get(), 1);
    }
}
