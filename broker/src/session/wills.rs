//! Wills that wait for their delay (MQTT 5, section 3.1.3.2.2).
//!
//! A will is published when its delay is over or its session ends, whichever is first,
//! and not at all when its client comes back to the session before. So no delay is
//! longer than the session outlives its connection, and a client that comes without
//! finding its session makes its will due at once.
//!
//! Only persistent sessions have wills that wait, so there are no more of them than
//! sessions. A will whose time has come may wait for the gateway as well, and then nothing
//! calls it off: each client has one of those, in place of the one before, and there are no
//! more than there may be sessions. Some wait for the gateway at the same time, so that
//! one that finds no room holds up no other client's. What that costs is counted (`wills_lost`). What wills
//! hold counts in the budget of what sessions keep. The keeper has
//! them too, and forgets a will only after it was published, so that a crash loses none:
//! the next process publishes it, under the identity that it had, which makes it the
//! same to the journal. Where the disk is full it keeps what is to be retained until that
//! is written, too. What is known of a will's client then is its name, so the rules
//! for that name decide whether it may still be published.

mod waiting;

use std::{collections::HashSet, sync::Arc};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Duration, Instant, sleep, sleep_until};

pub(crate) use waiting::Wills;

use super::{Context, ending};
use crate::{
    Local, Protocol, Publish, Publisher, Verdict,
    auth::Rights,
    budget::Share,
    keep::{KeptWill, Refused, SessionId, WillId},
    packet::Will,
    registry::Seat,
};

/// When to ask the keeper again to forget what is published.
const AGAIN: Duration = Duration::from_secs(1);
/// Wills that are being published at the same time, each of another client.
const AT_ONCE: usize = 64;

/// A will and whose it is.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The keeper's copy, if it has one.
    pub(crate) kept: Option<WillId>,
    /// Who it is published as.
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) will: Will,
    /// What its client may do; not known of one that the keeper's file brought.
    pub(crate) rights: Option<Arc<Rights>>,
    /// It should have been published already: nobody's coming back calls it off.
    pub(crate) is_late: bool,
    /// Its client may have come back in time: the keeper knows.
    pub(crate) is_in_doubt: bool,
    /// What it holds; nothing if the keeper's file brought it.
    pub(crate) _share: Option<Share>,
}

/// What a connection that is over leaves behind.
pub(super) struct Left {
    /// The persistent session that has the will too.
    pub(super) session: Option<SessionId>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) will: Will,
    pub(super) rights: Arc<Rights>,
    pub(super) share: Share,
}

impl Left {
    /// Publishes the will, now or when its delay is over.
    pub(super) async fn publish(
        mut self,
        context: &Context,
        connection: u64,
        delay_secs: u32,
        seat: &Seat,
    ) {
        let Some(session) = self.session else {
            let Self {
                publisher, will, ..
            } = &self;
            let publishing = ending::publish_will(context, publisher, connection, will, None, seat);
            if !publishing.await {
                ending::lose_will(context, publisher);
            }
            return;
        };
        let keeper = context.fanout.keeper();
        let Ok(kept) = keeper.due_will(session).await else {
            // The keeper has ended: without its identity the next process would publish
            // it as another.
            ending::lose_will(context, &self.publisher);
            return;
        };
        self.will.publish.delivery = kept.map(WillId::identity);
        let is_late = delay_secs == 0;
        if is_late {
            let Self {
                publisher, will, ..
            } = &self;
            let publishing = ending::publish_will(context, publisher, connection, will, kept, seat);
            if publishing.await {
                context.wills.is_over(kept);
                return;
            }
        }
        let waiting = Waiting {
            kept,
            publisher: self.publisher,
            will: self.will,
            rights: Some(self.rights),
            is_late,
            is_in_doubt: false,
            _share: Some(self.share),
        };
        let delay = Duration::from_secs(delay_secs.into());
        hold(context, waiting, delay);
    }
}

/// A client has come: to the session that it had, or to none, which ends that.
pub(super) fn came(context: &Context, client: &str, to_its_session: bool) {
    let lost = context.wills.came(client, to_its_session);
    lose(context, lost);
}

fn hold(context: &Context, will: Waiting, delay: Duration) {
    let lost = context.wills.hold(will, delay);
    lose(context, lost);
}

fn lose(context: &Context, lost: Option<Waiting>) {
    if let Some(Waiting {
        kept, publisher, ..
    }) = lost
    {
        ending::lose_will(context, &publisher);
        context.wills.is_over(kept);
    }
}

/// Publishes wills when they are due, those of an earlier process too.
pub(crate) async fn run(context: Arc<Context>) {
    // A will that waits for the gateway holds up no other's being forgotten.
    tokio::join!(publish_all(&context), forget_all(&context));
}

async fn publish_all(context: &Context) {
    let keeper = context.fanout.keeper();
    // None where the keeper has ended.
    for kept in keeper.wills().await.unwrap_or_default() {
        let due = Duration::from_millis(kept.due_in_ms);
        if let Some(waiting) = of_an_earlier_process(kept) {
            hold(context, waiting, due);
        }
    }
    let mut under_way = FuturesUnordered::new();
    // Whose: those of one client keep their order.
    let mut busy = HashSet::new();
    loop {
        let next = match under_way.len() {
            0..AT_ONCE => context.wills.due(Instant::now(), &busy),
            _ => Err(None),
        };
        let due = match next {
            Ok(waiting) => {
                let client = Arc::clone(&waiting.publisher.client_id);
                busy.insert(Arc::clone(&client));
                under_way.push(async move {
                    publish(context, waiting).await;
                    client
                });
                continue;
            }
            Err(due) => due,
        };
        tokio::select! {
            Some(client) = under_way.next() => {
                busy.remove(&client);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = context.wills.changed.notified() => {}
        }
    }
}

/// Has the keeper forget the wills that are over, as soon as it can.
async fn forget_all(context: &Context) {
    loop {
        let over = context.wills.take_over();
        if over.is_empty() {
            context.wills.over.notified().await;
            continue;
        }
        let forgotten = context.fanout.keeper().wills_are_over(over.clone()).await;
        if forgotten == Err(Refused::Full) {
            // There may be no room even for that.
            context.wills.are_over(over);
            sleep(AGAIN).await;
        }
    }
}

fn of_an_earlier_process(kept: KeptWill) -> Option<Waiting> {
    let publish = kept.message.to_publish()?;
    Some(Waiting {
        kept: Some(kept.id),
        publisher: Arc::new(Publisher {
            client_id: kept.client,
            username: kept.user.clone(),
            identity: kept.user,
            origin: None,
            address: None,
            protocol: Protocol::V5,
            turn: 0.into(),
            turns_over: Arc::default(),
        }),
        will: Will {
            publish: Publish {
                delivery: Some(kept.id.identity()),
                ..publish
            },
            delay_secs: 0,
            refused: false,
        },
        rights: None,
        is_late: kept.due_in_ms == 0,
        // Its client may have come back while the list was on its way.
        is_in_doubt: true,
        _share: None,
    })
}

/// Publishes a will, unless its client is back or may not publish it any more.
async fn publish(context: &Context, waiting: Waiting) {
    if let (true, Some(kept)) = (waiting.is_in_doubt, waiting.kept) {
        match context.fanout.keeper().is_will_due(kept).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return hold(context, waiting, AGAIN),
        }
    }
    let Waiting {
        kept,
        publisher,
        will,
        rights,
        ..
    } = waiting;
    let may = match &rights {
        Some(rights) => ending::may_be_published(context, rights, &will),
        None => {
            let (id, user) = (&publisher.client_id, publisher.identity.as_ref());
            let allowed = context
                .auth
                .remembered(id, user)
                .is_some_and(|rights| rights.will(&will));
            if !allowed {
                context.counters.publishes_denied.add(1);
            }
            allowed
        }
    };
    if may {
        let local = Local::new(Arc::clone(&context.fanout));
        let of = Arc::clone(&publisher);
        let client = local.client_as(Arc::clone(&context.admission), publisher, kept);
        match client.publish(vec![will.publish]).await.pop() {
            Some(Verdict::Accepted | Verdict::Duplicate | Verdict::Returned) => {
                context.counters.wills.add(1);
            }
            Some(Verdict::Refused { .. }) => ending::lose_will(context, &of),
            // Nobody knows: the next process publishes it.
            _ => return ending::lose_will(context, &of),
        }
    }
    context.wills.is_over(kept);
}
