//! One simulated device: samples, sends, waits for acknowledgements, comes back.
//!
//! It reconnects with back-off as long as the run lasts and sends everything
//! unacknowledged again, first and in order, before anything new.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until},
};

use crate::{
    ack_log::AckLog,
    chaos::Cut,
    outbox::{Outbox, Outgoing},
    session::{Address, Lost, Session},
    stats::Stats,
    window::{Message, Settled, Transmission, Unsolicited, Window},
    wire::{Incoming, Publish, Qos, Version},
};

/// Bytes that may wait for the socket.
const OUTBOUND_BYTES_MAX: usize = 64 * 1024;
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
const PUT_BACK_DELAY_FIRST: Duration = Duration::from_millis(200);
const PUT_BACK_DELAY_MAX: Duration = Duration::from_secs(5);

/// What all devices of a thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) address: Address,
    /// How long to wait for an acknowledgement when there is nothing more to sample.
    pub(crate) settle: Duration,
    pub(crate) started: Instant,
    pub(crate) stats: Arc<Mutex<Stats>>,
    pub(crate) log: RefCell<AckLog>,
    /// Bounds the connections that are being opened at once.
    pub(crate) opening: Arc<Semaphore>,
    /// The gateway cannot be reached, and that has been said.
    pub(crate) complained: Cell<bool>,
}

impl Shared {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: Rc<str>,
    pub(crate) topic: String,
    pub(crate) version: Version,
    pub(crate) qos: Qos,
    /// The identity goes as an MQTT 5 user property.
    pub(crate) id_property: bool,
    pub(crate) outbox: Outbox,
    pub(crate) window: Window,
    pub(crate) shared: Rc<Shared>,
    /// Becomes true when the run is to end early.
    pub(crate) stop: watch::Receiver<bool>,
}

/// How a connection ended.
enum Ended {
    /// Everything is sent and acknowledged.
    Complete,
    GaveUp,
    Cut,
    Offline(Duration),
    Lost(Lost),
}

/// Delays that double, with jitter.
struct Delay {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Delay {
    const fn new(first: Duration, max: Duration) -> Self {
        Self {
            next: first,
            first,
            max,
        }
    }

    fn take(&mut self) -> Duration {
        let delay = self.next.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        self.next = (self.next * 2).min(self.max);
        delay
    }

    const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// What one device goes through, from its first connection to its end.
struct Life {
    device: Device,
    connections: u64,
    reconnect: Delay,
    put_back: Delay,
    /// When what the gateway had no room for goes again.
    put_back_at: Instant,
    /// The last sign that the gateway still takes messages.
    progress: Instant,
    /// For the sequence of [`Device::stop`]: the run was told to stop.
    stopped: bool,
}

impl Device {
    /// Runs until everything is sent and acknowledged, or given up.
    pub(crate) async fn run(self) {
        let mut life = Life {
            connections: 0,
            reconnect: Delay::new(RECONNECT_DELAY_FIRST, RECONNECT_DELAY_MAX),
            put_back: Delay::new(PUT_BACK_DELAY_FIRST, PUT_BACK_DELAY_MAX),
            put_back_at: self.shared.started,
            progress: self.shared.started,
            stopped: false,
            device: self,
        };
        life.run().await;
        let complete = life.is_complete(Instant::now());
        let device = &life.device;
        let mut stats = device.shared.stats();
        stats.gave_up += u64::from(!complete);
        stats.unacknowledged += u64::try_from(device.window.unacknowledged()).unwrap_or(u64::MAX);
        stats.skipped += device.outbox.schedule().skipped();
        stats.reordered += device.outbox.reordered();
    }
}

impl Life {
    async fn run(&mut self) {
        loop {
            let pause = match self.connect().await {
                Ended::Complete | Ended::GaveUp => return,
                Ended::Cut => {
                    self.device.shared.stats().cut += 1;
                    continue;
                }
                Ended::Offline(away) => {
                    self.device.shared.stats().offline += 1;
                    away
                }
                Ended::Lost(why) => {
                    tracing::debug!(device = %self.device.name, %why, "connection lost");
                    self.reconnect.take()
                }
            };
            self.pause(Instant::now() + pause).await;
        }
    }

    async fn connect(&mut self) -> Ended {
        let now = Instant::now();
        if self.is_complete(now) {
            return Ended::Complete;
        }
        if self.has_given_up(now) {
            return Ended::GaveUp;
        }
        let device = &self.device;
        let opened = {
            // Closed never, so an error cannot be; without a permit we would only be less polite.
            let _permit = device.shared.opening.acquire().await.ok();
            Session::open(&device.shared.address, device.version, &device.name).await
        };
        let (mut session, receive_max) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                device.shared.stats().connect_failures += 1;
                if !device.shared.complained.replace(true) {
                    tracing::info!(broker = %device.shared.address.broker, %why, "cannot connect, trying on");
                }
                return Ended::Lost(why);
            }
        };
        device.shared.complained.set(false);
        {
            let mut stats = device.shared.stats();
            stats.connected += 1;
            stats.reconnects += u64::from(self.connections > 0);
        }
        self.connections += 1;
        self.device.window.reconnected(receive_max);
        let ended = match self.converse(&mut session).await {
            Ok(ended) => ended,
            Err(why) => {
                self.device.shared.stats().connections_lost += 1;
                Ended::Lost(why)
            }
        };
        self.device.shared.stats().connected -= 1;
        if self.device.qos == Qos::Zero {
            self.device.outbox.forget_duplicates();
        }
        match &ended {
            Ended::Complete => session.close().await,
            Ended::Cut | Ended::Offline(_) => session.cut().await,
            Ended::GaveUp | Ended::Lost(_) => {}
        }
        ended
    }

    /// Sends and receives until the connection ends, one way or another.
    async fn converse(&mut self, session: &mut Session) -> Result<Ended, Lost> {
        loop {
            let now = Instant::now();
            while let Some(incoming) = session.receive()? {
                self.handle(incoming, session, now)?;
            }
            if let Some(interrupted) = self.fill(session, now) {
                return Ok(interrupted);
            }
            if session.outbound.is_empty() && self.is_complete(now) {
                return Ok(Ended::Complete);
            }
            if self.has_given_up(now) {
                return Ok(Ended::GaveUp);
            }
            let ping_at = session.keep_alive(now)?;
            let wake = [ping_at, self.sends_at(session, now), self.gives_up_at()]
                .into_iter()
                .flatten()
                .min();
            if self.stopped {
                session.exchange(wake).await?;
            } else {
                tokio::select! {
                    exchanged = session.exchange(wake) => exchanged?,
                    _ = self.device.stop.changed() => self.stop(),
                }
            }
        }
    }

    fn handle(
        &mut self,
        incoming: Incoming,
        session: &mut Session,
        now: Instant,
    ) -> Result<(), Lost> {
        let device = &mut self.device;
        let unsolicited = |Unsolicited(id)| {
            Lost::Protocol(format!(
                "acknowledgement of packet {id}, which is not in flight"
            ))
        };
        match (incoming, device.qos) {
            (Incoming::PubAck { packet_id, reason }, Qos::One) => {
                let settled = device
                    .window
                    .puback(packet_id, reason)
                    .map_err(unsolicited)?;
                self.settle(&settled, reason, now);
            }
            (Incoming::PubRec { packet_id, reason }, Qos::Two) => {
                let settled = device
                    .window
                    .pubrec(packet_id, reason)
                    .map_err(unsolicited)?;
                if matches!(settled, Settled::Accepted(_)) {
                    device.version.pubrel(packet_id, &mut session.outbound);
                }
                self.settle(&settled, reason, now);
            }
            (Incoming::PubComp { packet_id }, Qos::Two) => {
                device.window.pubcomp(packet_id).map_err(unsolicited)?
            }
            (Incoming::PingResp, _) => {}
            (Incoming::Disconnect, _) => return Err(Lost::Dismissed),
            (other, _) => return Err(Lost::Protocol(format!("{other:?} is not for this device"))),
        }
        Ok(())
    }

    fn settle(&mut self, settled: &Settled, reason: u8, now: Instant) {
        let device = &self.device;
        match settled {
            Settled::Accepted(transmission) => {
                self.progress = now;
                self.reconnect.reset();
                self.put_back.reset();
                if !transmission.duplicate {
                    device.accepted(transmission, now);
                }
            }
            Settled::PutBack(transmission) => {
                if self.put_back_at <= now {
                    self.put_back_at = now + self.put_back.take();
                }
                device.shared.stats().deferred += 1;
                if !transmission.duplicate {
                    device
                        .shared
                        .log
                        .borrow_mut()
                        .deferred(device.outbox.identity(transmission.message.seq));
                }
            }
            Settled::Refused(transmission) => {
                self.progress = now;
                if !transmission.duplicate {
                    let mut stats = device.shared.stats();
                    stats.refused += 1;
                    stats.refused_malformed += u64::from(transmission.message.malformed);
                    drop(stats);
                    device
                        .shared
                        .log
                        .borrow_mut()
                        .refused(device.outbox.identity(transmission.message.seq), reason);
                }
            }
        }
    }

    /// Puts on the wire what is due and has room; answers what chaos demands.
    fn fill(&mut self, session: &mut Session, now: Instant) -> Option<Ended> {
        let device = &mut self.device;
        while session.outbound.len() < OUTBOUND_BYTES_MAX {
            if device.window.has_put_back() && self.put_back_at <= now {
                device.window.retry_put_back();
            }
            if let Some((packet_id, transmission)) = device.window.next_resend() {
                let message = transmission.message.clone();
                device.publish(&message, packet_id, session);
                device.shared.stats().resent += 1;
                continue;
            }
            if !device.window.has_room() {
                return None;
            }
            let before = session.outbound.len();
            match device.outbox.next(now)? {
                Outgoing::Duplicate(message) => {
                    device.transmit(&message, true, session, now);
                    device.shared.stats().duplicates += 1;
                }
                Outgoing::First {
                    message,
                    n,
                    cut,
                    offline,
                } => {
                    device.first_sent(&message, n);
                    device.transmit(&message, false, session, now);
                    if device.qos == Qos::Zero {
                        // No acknowledgement will tell.
                        self.progress = now;
                    }
                    let length = session.outbound.len() - before;
                    if let Some(away) = offline {
                        return Some(Ended::Offline(away));
                    }
                    match cut {
                        None => {}
                        Some(Cut::Whole) => return Some(Ended::Cut),
                        Some(Cut::Torn(part)) => {
                            session.outbound.truncate(before + torn(length, part));
                            return Some(Ended::Cut);
                        }
                    }
                }
            }
        }
        None
    }

    /// When there may be something to send without anything having arrived.
    fn sends_at(&self, session: &Session, now: Instant) -> Option<Instant> {
        let device = &self.device;
        if session.outbound.len() >= OUTBOUND_BYTES_MAX {
            None
        } else if device.window.has_room() {
            device.outbox.next_at(now)
        } else {
            device.window.has_put_back().then_some(self.put_back_at)
        }
    }

    fn is_complete(&self, now: Instant) -> bool {
        self.device.outbox.is_finished(now) && self.device.window.is_empty()
    }

    fn gives_up_at(&self) -> Option<Instant> {
        let last_due = self.device.outbox.schedule().last_due()?;
        Some(last_due.max(self.progress) + self.device.shared.settle)
    }

    fn has_given_up(&self, now: Instant) -> bool {
        self.gives_up_at().is_some_and(|at| now >= at)
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.device.outbox.stop(Instant::now());
    }

    async fn pause(&mut self, until: Instant) {
        let until = self.gives_up_at().map_or(until, |at| at.min(until));
        if self.stopped {
            return sleep_until(until).await;
        }
        tokio::select! {
            () = sleep_until(until) => {}
            _ = self.device.stop.changed() => self.stop(),
        }
    }
}

/// How much of a packet of `length` bytes is written: at least one byte too little.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part from 0 to 1 of a packet's length"
)]
fn torn(length: usize, part: f64) -> usize {
    ((length as f64 * part) as usize).min(length.saturating_sub(1))
}

impl Device {
    fn transmit(
        &mut self,
        message: &Message,
        duplicate: bool,
        session: &mut Session,
        now: Instant,
    ) {
        let packet_id = match self.qos {
            Qos::Zero => 0,
            Qos::One | Qos::Two => self.window.send(message.clone(), duplicate, now),
        };
        self.publish(message, packet_id, session);
    }

    fn publish(&self, message: &Message, packet_id: u16, session: &mut Session) {
        let publish = Publish {
            topic: &self.topic,
            qos: self.qos,
            packet_id,
            payload: &message.payload,
            identity: self
                .id_property
                .then(|| self.outbox.identity(message.seq).to_string()),
        };
        self.version.publish(publish, &mut session.outbound);
    }

    fn first_sent(&self, message: &Message, n: u64) {
        self.shared
            .log
            .borrow_mut()
            .sent(self.outbox.identity(message.seq), n, message.malformed);
        let mut stats = self.shared.stats();
        stats.sent += 1;
        stats.version(self.version).sent += 1;
        stats.malformed += u64::from(message.malformed);
        stats.payload_bytes += u64::try_from(message.payload.len()).unwrap_or(u64::MAX);
    }

    fn accepted(&self, transmission: &Transmission, now: Instant) {
        self.shared
            .log
            .borrow_mut()
            .acked(self.outbox.identity(transmission.message.seq));
        let latency = now.saturating_duration_since(transmission.sent).as_micros();
        let mut stats = self.shared.stats();
        stats.acked += 1;
        stats.version(self.version).acked += 1;
        stats
            .latency_us
            .saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
    }
}
