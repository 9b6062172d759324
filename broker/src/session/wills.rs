//! Wills whose connections died with the process before.

use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep_until};

use super::Context;
use crate::Local;

/// Publishes the wills that the file has, each when it is due, unless its client has
/// come back by then.
pub(crate) async fn publish_kept(context: Arc<Context>) {
    let keeper = context.fanout.keeper();
    let began = Instant::now();
    let mut wills = keeper.wills().await.unwrap_or_default();
    wills.sort_unstable_by_key(|will| will.due_in_ms);
    let local = Local::new(Arc::clone(&context.fanout));
    for will in wills {
        tokio::select! {
            () = sleep_until(began + Duration::from_millis(will.due_in_ms)) => {}
            () = context.shutdown.cancelled() => return,
        }
        // Forgotten first: a will that is lost is less than one that comes twice.
        if keeper.take_will(will.session).await != Ok(true) {
            continue;
        }
        let Some(publish) = will.message.to_publish() else {
            continue;
        };
        let client = local.client(Arc::clone(&context.admission), will.client, None);
        tokio::select! {
            _ = client.publish(vec![publish]) => context.counters.wills.add(1),
            () = context.shutdown.cancelled() => return,
        }
    }
}
