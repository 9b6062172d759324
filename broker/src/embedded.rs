//! rumqttd's router as the carrier of live messages. The only file that names
//! rumqttd's types.
//!
//! The router sees one plain topic, one link that publishes and one that
//! subscribes, both ours, at QoS 0. Its known faults (wildcards and non-ASCII
//! topics panic, filters and topics are never freed, acknowledgements out of
//! order disconnect, its ring evicts without a word) then have nothing to work
//! on; `docs/decisions/0002-one-lane-through-the-router.md` has the argument.
//!
//! What it still may do is die or hang. So every frame stays in [`Lane`] until
//! it came back out; a probe goes through every second, and when nothing comes
//! back in time the router is replaced and what was on its way is sent again.
//! What waits is bounded by [`BYTES_MAX`]; beyond it messages are dropped and
//! counted. A router that hangs leaves a thread behind, one that panics does not.
//!
//! The router numbers what it is given from 0; that number says which frame
//! came back. A frame skipped, because the ring evicted it, is taken from the lane.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rumqttd::{
    Notification, Router, RouterConfig,
    local::{LinkBuilder, LinkRx, LinkTx},
    protocol::{Packet, Publish},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::{
    fanout::{Carrier, Running},
    metrics::Counters,
};

/// The one topic, and the one filter, of the router.
const TOPIC: &str = "live";
/// What may be on its way through the router.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that may be on their way.
const COUNT_MAX: usize = 65_536;
/// What one message takes beside its bytes: its places in the lane and the ring.
const ENTRY_BYTES: usize = 512;
/// The router's ring, in segments; they hold what was read until overwritten.
const SEGMENT_BYTES: usize = 128 * 1024;
const SEGMENTS: usize = 4;
/// Messages the router moves to a link in one go.
const OUTGOING_MAX: u64 = 100;

/// How often a probe goes through, and after which silence the router is replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) every: Duration,
    pub(crate) patience: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            patience: Duration::from_secs(5),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Embedded {
    lane: Mutex<Lane>,
    watch: Watch,
    counters: Arc<Counters>,
}

/// What was handed over and did not come back yet.
struct Lane {
    link: Option<LinkTx>,
    /// The number, since the broker's start, of the front of `waiting`.
    first: u64,
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("up", &self.link.is_some())
            .field("first", &self.first)
            .field("waiting", &self.waiting.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

impl Lane {
    /// Remembers frames, and hands them to the router if there is one. Returns
    /// how many there was no room for.
    fn push(&mut self, frames: impl IntoIterator<Item = Bytes>) -> usize {
        let before = self.waiting.len();
        let mut dropped = 0;
        for frame in frames {
            let bytes = self.bytes + frame.len() + ENTRY_BYTES;
            // One frame always fits, or large ones would never pass.
            let full = bytes > BYTES_MAX && !self.waiting.is_empty();
            if full || self.waiting.len() >= COUNT_MAX {
                dropped += 1;
                continue;
            }
            self.bytes = bytes;
            self.waiting.push_back(frame);
        }
        self.send_from(before);
        dropped
    }

    /// Hands what waits behind `start` to the router and wakes it once.
    fn send_from(&mut self, start: usize) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let idle = {
            let mut buffer = link.buffer();
            let idle = buffer.is_empty();
            buffer.extend(self.waiting.range(start..).cloned().map(packet));
            idle
        };
        // An unsubscribe from nothing is the one wake-up that neither blocks
        // nor counts. If the channel is full of wake-ups, one of them will do;
        // if the router is gone, the watch finds out.
        if idle {
            link.try_unsubscribe(String::new()).ok();
        }
    }

    /// Takes every frame up to number `last`, also those that the ring evicted.
    fn settle(&mut self, last: u64, into: &mut Vec<Bytes>) {
        while self.first <= last
            && let Some(frame) = self.waiting.pop_front()
        {
            self.first += 1;
            self.bytes -= frame.len() + ENTRY_BYTES;
            into.push(frame);
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 1024 {
            self.waiting = VecDeque::new();
        }
    }
}

fn packet(frame: Bytes) -> Packet {
    Packet::Publish(
        Publish::new(Bytes::from_static(TOPIC.as_bytes()), frame, false),
        None,
    )
}

/// What goes through when nothing else does.
const PROBE: Bytes = Bytes::from_static(b"probe");

impl Embedded {
    pub(crate) fn new(watch: Watch, counters: Arc<Counters>) -> Self {
        let lane = Lane {
            link: None,
            first: 0,
            waiting: VecDeque::new(),
            bytes: 0,
        };
        Self {
            lane: Mutex::new(lane),
            watch,
            counters,
        }
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves frames until the router is found dead.
    async fn serve(&self, links: Links, deliver: &(dyn Fn(Bytes) + Sync)) -> &'static str {
        let Links { tx, mut rx, _keep } = links;
        let base = {
            let mut lane = self.lane();
            lane.link = Some(tx);
            // After a restart: what did not come back goes in again.
            lane.send_from(0);
            lane.first
        };
        let mut tick = interval(self.watch.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut frames = Vec::new();
        let mut delivered = 0_usize;
        loop {
            tokio::select! {
                notification = rx.next() => match notification {
                    Ok(Some(Notification::Forward(forward))) => {
                        let Some((_, offset)) = forward.cursor else { continue };
                        self.lane().settle(base + offset, &mut frames);
                        let came = forward.publish.payload.as_ptr();
                        if frames.last().is_none_or(|last| last.as_ptr() != came) {
                            return "the router mixed up its messages";
                        }
                        heard = Instant::now();
                        delivered += frames.len();
                        frames.drain(..).for_each(deliver);
                    }
                    // The router filled our link and waits to be told that it is empty.
                    Ok(Some(Notification::Unschedule)) => {
                        if !matches!(timeout(self.watch.patience, rx.wake()).await, Ok(Ok(()))) {
                            return "the router takes no requests";
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return "the router is gone",
                },
                _ = tick.tick() => {
                    let mut lane = self.lane();
                    if lane.waiting.is_empty() {
                        heard = Instant::now();
                    } else if heard.elapsed() > self.watch.patience {
                        return "the router is silent";
                    }
                    lane.push([PROBE]);
                }
            }
            if delivered >= 128 {
                delivered = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Carrier for Embedded {
    fn carry(&self, frames: Vec<Bytes>) {
        let dropped = self.lane().push(frames);
        self.counters.dropped_router.add(dropped);
    }

    fn run<'a>(&'a self, deliver: &'a (dyn Fn(Bytes) + Sync)) -> Running<'a> {
        Box::pin(async move {
            loop {
                let why = match timeout(self.watch.patience, connect()).await {
                    Ok(Some(links)) => self.serve(links, deliver).await,
                    _ => "the router did not start",
                };
                self.lane().link = None;
                self.counters.router_restarts.add(1);
                tracing::warn!(reason = why, "live fan-out starts a new router");
                sleep(RESTART_PAUSE).await;
            }
        })
    }
}

/// Between two routers, so that one that cannot start does not take a core.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Our ends of a running router.
struct Links {
    tx: LinkTx,
    rx: LinkRx,
    /// Ends that nobody uses, but whose loss the router would notice.
    _keep: (LinkRx, LinkTx),
}

/// Starts a router. Building a link blocks, so it happens on a thread of its own.
async fn connect() -> Option<Links> {
    let build = || {
        let router = Router::new(
            0,
            RouterConfig {
                max_connections: 4,
                max_outgoing_packet_count: OUTGOING_MAX,
                max_segment_size: SEGMENT_BYTES,
                max_segment_count: SEGMENTS,
                ..RouterConfig::default()
            },
        )
        .spawn();
        let (mut subscribe, rx, _) = LinkBuilder::new("out", router.clone()).build().ok()?;
        subscribe.try_subscribe(TOPIC).ok()?;
        let (tx, unused, _) = LinkBuilder::new("in", router).build().ok()?;
        Some(Links {
            tx,
            rx,
            _keep: (unused, subscribe),
        })
    };
    tokio::task::spawn_blocking(build).await.ok().flatten()
}

#[cfg(test)]
impl Embedded {
    /// Kills the router: a topic that begins with a non-ASCII character does.
    pub(crate) fn poison(&self) {
        let poison = Publish::new(Bytes::from("\u{e9}"), Bytes::from("x"), false);
        if let Some(link) = self.lane().link.as_mut() {
            link.buffer().push_back(Packet::Publish(poison, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    fn frame(n: u32) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    fn number(frame: &Bytes) -> Option<u32> {
        Some(u32::from_be_bytes(frame.as_ref().try_into().ok()?))
    }

    /// A carrier that runs, and what comes out of it without the probes.
    fn start(watch: Watch) -> (Arc<Embedded>, Receiver<u32>, tokio::task::JoinHandle<()>) {
        let embedded = Arc::new(Embedded::new(watch, Arc::default()));
        let (out, received): (SyncSender<u32>, _) = sync_channel(1_000_000);
        let running = Arc::clone(&embedded);
        let task = tokio::spawn(async move {
            let deliver = move |bytes: Bytes| {
                if let Some(n) = number(&bytes) {
                    out.send(n).unwrap();
                }
            };
            running.run(&deliver).await;
        });
        (embedded, received, task)
    }

    const QUICK: Watch = Watch {
        every: Duration::from_millis(20),
        patience: Duration::from_millis(400),
    };

    async fn next(received: &Receiver<u32>) -> u32 {
        let wait = async {
            loop {
                if let Ok(n) = received.try_recv() {
                    return n;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(30), wait)
            .await
            .expect("a frame arrives")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_come_out_in_order_whatever_the_ring_evicts() {
        let (embedded, received, task) = start(Watch::default());
        let mut sent = 0;
        let mut expect = 0;
        while expect < 100_000 {
            while sent < 100_000 && sent - expect < 4000 {
                embedded.carry((sent..sent + 500).map(frame).collect());
                sent += 500;
            }
            assert_eq!(next(&received).await, expect);
            expect += 1;
        }
        assert_eq!(embedded.counters.dropped_router.get(), 0);
        assert_eq!(embedded.counters.router_restarts.get(), 0);
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_router_that_panics_is_replaced_and_nothing_is_lost() {
        let (embedded, received, task) = start(QUICK);
        embedded.carry(vec![frame(0)]);
        assert_eq!(next(&received).await, 0);
        for round in 0..3 {
            embedded.poison();
            let before = 10 * round + 1;
            embedded.carry((before..before + 10).map(frame).collect());
            for expect in before..before + 10 {
                assert_eq!(next(&received).await, expect);
            }
        }
        assert_eq!(embedded.counters.router_restarts.get(), 3);
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_router_that_hangs_is_replaced_and_nothing_is_lost() {
        let (embedded, received, task) = start(QUICK);
        embedded.carry(vec![frame(0)]);
        assert_eq!(next(&received).await, 0);
        // What is handed over now never reaches the router.
        let deaf = embedded.lane().link.take();
        embedded.carry(vec![frame(1), frame(2)]);
        assert_eq!(next(&received).await, 1);
        assert_eq!(next(&received).await, 2);
        assert_eq!(embedded.counters.router_restarts.get(), 1);
        drop(deaf);
        task.abort();
    }

    #[tokio::test]
    async fn what_waits_for_a_router_is_bounded() {
        let embedded = Embedded::new(QUICK, Arc::default());
        let large = Bytes::from(vec![0; BYTES_MAX / 4]);
        embedded.carry(vec![large; 10]);
        assert_eq!(embedded.counters.dropped_router.get(), 7);
        let mut out = Vec::new();
        embedded.lane().settle(u64::MAX, &mut out);
        assert_eq!((out.len(), embedded.lane().bytes), (3, 0));
    }
}
