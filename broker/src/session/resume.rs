//! From CONNECT to the session that it asks for: a new one, the one there was, or
//! one that ends with its connection.

use std::sync::Arc;

use super::Context;
use crate::{
    auth::Rights,
    fanout::Outbox,
    keep::{Enter, Entered, Keeper, Refused, Turn},
    packet::{self, Connect, is_v5, reason},
};

/// Enters the persistent session that the client asks for, if it does, and forgets
/// what is not to be there any more. Sets the expiry in `connect` to what is granted.
pub(super) async fn enter(
    context: &Context,
    connect: &mut Connect,
    client_id: &Arc<str>,
    rights: &Rights,
    outbox: &Arc<Outbox>,
) -> Result<Option<Box<Entered>>, packet::Error> {
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
        return Err(packet::Error {
            reason: reason::CLIENT_ID_INVALID,
            what: "a client identifier with the session of another user",
        });
    }
    let knows = keeper.shared().knows(client_id);
    if connect.session_expiry_secs == 0 && (connect.clean || !knows) {
        if knows {
            keeper
                .remove(Arc::clone(client_id))
                .await
                .map_err(explain)?;
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
    let mut entered = keeper.enter(enter).await.map_err(explain)?;
    revise(keeper, rights, &mut entered)
        .await
        .map_err(explain)?;
    Ok(Some(Box::new(entered)))
}

/// Ends or lowers the subscriptions that the client had before and has not the right
/// to any more. What is queued already came when it had.
async fn revise(keeper: &Keeper, rights: &Rights, entered: &mut Entered) -> Result<(), Refused> {
    if !rights.is_restricted() {
        return Ok(());
    }
    let mut turn = Turn::default();
    entered.subscriptions.retain_mut(|add| {
        let Some(permit) = rights.subscribe(&add.filter) else {
            turn.unsubscribe.push(Arc::clone(&add.filter));
            return false;
        };
        if add.subscription.qos > permit.qos_max {
            add.subscription.qos = permit.qos_max;
            turn.subscribe.push(add.clone());
        }
        true
    });
    if turn.is_empty() {
        return Ok(());
    }
    keeper.turn(entered.session, turn).await
}

fn explain(refused: Refused) -> packet::Error {
    match refused {
        Refused::Full => packet::Error {
            reason: reason::QUOTA_EXCEEDED,
            what: "a session that there is no room for on disk",
        },
        Refused::TooMany => packet::Error {
            reason: reason::QUOTA_EXCEEDED,
            what: "one persistent session more than sessions_max",
        },
        Refused::Gone | Refused::Stopped => packet::Error {
            reason: reason::SERVER_UNAVAILABLE,
            what: "sessions cannot be kept at the moment",
        },
    }
}
