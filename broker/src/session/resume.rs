//! From CONNECT to the session that it asks for: a new one, the one there was, or
//! one that ends with its connection.

use std::sync::Arc;

use super::Context;
use crate::{
    auth::Rights,
    fanout::Outbox,
    keep::{Add, Enter, Entered, Keeper, Leave, Refused, Turn},
    metrics::{Counter, Counters},
    packet::{self, Connect, is_v5, reason},
};

/// Why a client does not get the session that it asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoEntry {
    /// It is another user's.
    Anothers,
    Refused(Refused),
}

/// Enters the persistent session that the client asks for, if it does, and forgets
/// what is not to be there any more. Sets the expiry in `connect` to what is granted.
pub(super) async fn enter(
    context: &Context,
    connect: &mut Connect,
    client_id: &Arc<str>,
    rights: &Rights,
    outbox: &Arc<Outbox>,
) -> Result<Option<Box<Entered>>, NoEntry> {
    let keeper = context.fanout.keeper();
    let max = context.config.keep.expiry_secs_max();
    let asked = match (is_v5(connect.protocol), connect.clean) {
        (true, _) => connect.session_expiry_secs,
        (false, true) => 0,
        // 3.1.1 has no expiry: for as long as there may be one.
        (false, false) => max,
    };
    connect.session_expiry_secs = asked.min(max);
    let user = rights.owner();
    if keeper.shared().is_anothers(client_id, user.as_ref()) {
        return Err(NoEntry::Anothers);
    }
    let knows = keeper.shared().knows(client_id);
    if connect.session_expiry_secs == 0 && (connect.clean || !knows) {
        if knows {
            let removed = keeper.remove(Arc::clone(client_id)).await;
            removed.map_err(NoEntry::Refused)?;
        }
        return Ok(None);
    }
    let will = connect.will.as_ref().map(|will| {
        let message = context.fanout.message(0, &will.publish);
        (message, will.delay_secs.min(connect.session_expiry_secs))
    });
    let enter = Enter {
        client: Arc::clone(client_id),
        user,
        clean: connect.clean,
        expiry_secs: connect.session_expiry_secs,
        outbox: Arc::clone(outbox),
        will,
    };
    let mut entered = keeper.enter(enter).await.map_err(NoEntry::Refused)?;
    let turn = revise(context, rights, &mut entered.subscriptions);
    if !turn.is_empty() {
        note(keeper, &entered, turn)
            .await
            .map_err(NoEntry::Refused)?;
    }
    Ok(Some(Box::new(entered)))
}

/// Writes down what is different from before, or leaves the session again.
async fn note(keeper: &Keeper, entered: &Entered, turn: Turn) -> Result<(), Refused> {
    let noted = keeper.turn(entered.session, turn).await;
    if noted.is_err() {
        undo(keeper, entered).await;
    }
    noted.map(drop)
}

/// Leaves a session whose client never heard that it had entered it.
pub(super) async fn undo(keeper: &Keeper, entered: &Entered) {
    let leave = Leave {
        session: entered.session,
        sent: 0,
        expiry_secs: entered.expiry_before,
        forget_will: true,
    };
    // Where it is not noted, the next start does.
    keeper.leave(leave).await.ok();
}

/// Takes out or lowers the subscriptions that the client had before and has not the right
/// to any more, or that are beyond what a client may have by now; what is to be done.
/// What is queued already is lowered with them, and looked at when it is sent (`durable`).
fn revise(context: &Context, rights: &Rights, subscriptions: &mut Vec<Add>) -> Turn {
    let bounds = context.config.limits.topics();
    let count_max = context.config.subscriptions_per_client_max;
    let counters = &context.counters;
    let mut turn = Turn::default();
    let mut count = 0;
    subscriptions.retain_mut(|add| {
        let is_beyond = count >= count_max;
        if is_beyond || bounds.exceeded(&add.filter) {
            let counter = match is_beyond {
                true => &counters.subscriptions_refused,
                false => &counters.topics_refused,
            };
            counter.add(1);
            turn.unsubscribe.push(Arc::clone(&add.filter));
            return false;
        }
        let Some(permit) = rights.subscribe(&add.filter) else {
            turn.unsubscribe.push(Arc::clone(&add.filter));
            return false;
        };
        if add.subscription.qos > permit.qos_max {
            add.subscription.qos = permit.qos_max;
            turn.subscribe.push(add.clone());
            turn.lower.push(Arc::clone(&add.filter));
        }
        count += 1;
        true
    });
    turn
}

impl NoEntry {
    /// What the client is told.
    pub(super) fn error(self) -> packet::Error {
        let (reason, what) = match self {
            Self::Anothers => (
                reason::CLIENT_ID_INVALID,
                "a client identifier with the session of another user",
            ),
            Self::Refused(Refused::Full) => (
                reason::QUOTA_EXCEEDED,
                "a session that there is no room for on disk",
            ),
            Self::Refused(Refused::TooMany) => (
                reason::QUOTA_EXCEEDED,
                "one persistent session more than sessions_max",
            ),
            Self::Refused(Refused::TooManyOfUser) => (
                reason::QUOTA_EXCEEDED,
                "one persistent session more than sessions_per_user_max",
            ),
            Self::Refused(Refused::Gone | Refused::Stopped) => (
                reason::SERVER_UNAVAILABLE,
                "sessions cannot be kept at the moment",
            ),
        };
        packet::Error { reason, what }
    }

    pub(super) fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Self::Anothers => &counters.refused_client_id,
            Self::Refused(Refused::Full) => &counters.keep_full,
            Self::Refused(Refused::TooManyOfUser) => &counters.refused_sessions_per_user_max,
            Self::Refused(_) => &counters.refused_sessions_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QoS, budget::Budget, keep, keep::Sub, packet::SendRetained};

    fn large(number: usize) -> Turn {
        let add = |n| Add {
            filter: Arc::from(format!("{number}/{n}/{}", "x".repeat(60_000))),
            subscription: Sub {
                qos: QoS::AtMostOnce,
                no_local: false,
                retain_as_published: false,
                id: None,
            },
            retained: SendRetained::Never,
        };
        Turn {
            subscribe: (0..50).map(add).collect(),
            ..Turn::default()
        }
    }

    #[tokio::test]
    async fn a_session_whose_entry_cannot_be_noted_is_left_again() {
        let budget = Arc::new(Budget::of(1 << 20));
        let config = keep::Config {
            queue_total_bytes_max: 0,
            retained_bytes_max: 0,
            ..keep::Config::default()
        };
        let keeper = Keeper::open(config, Arc::default(), Arc::clone(&budget)).unwrap();
        let enter = |client: &str| Enter {
            client: Arc::from(client),
            user: None,
            clean: false,
            expiry_secs: 100,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &budget)),
            will: None,
        };
        let entered = keeper.enter(enter("d")).await.unwrap();
        let other = keeper.enter(enter("other")).await.unwrap();
        let mut number = 0;
        while keeper.turn(other.session, large(number)).await.is_ok() {
            number += 1;
        }
        let refused = note(&keeper, &entered, large(number)).await;
        assert_eq!(refused, Err(Refused::Full));
        let sessions = keeper.sessions().await;
        let connected = sessions.iter().map(|one| (&*one.client_id, one.connected));
        let connected: Vec<_> = connected.collect();
        assert_eq!(connected, [("d", false), ("other", true)]);
    }

    #[tokio::test]
    async fn a_refused_client_does_not_change_how_long_its_session_lasts() {
        let budget = Arc::new(Budget::of(1 << 20));
        let config = keep::Config::default();
        let keeper = Keeper::open(config, Arc::default(), Arc::clone(&budget)).unwrap();
        let enter = |expiry_secs| Enter {
            client: Arc::from("d"),
            user: None,
            clean: false,
            expiry_secs,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &budget)),
            will: None,
        };
        let first = keeper.enter(enter(100)).await.unwrap();
        let leave = Leave {
            session: first.session,
            sent: 0,
            expiry_secs: None,
            forget_will: true,
        };
        keeper.leave(leave).await.unwrap();
        let second = keeper.enter(enter(0)).await.unwrap();
        undo(&keeper, &second).await;
        let sessions = keeper.sessions().await;
        let sessions = sessions.iter().map(|one| (one.connected, one.expiry_secs));
        assert_eq!(sessions.collect::<Vec<_>>(), [(false, 100)]);
    }
}
