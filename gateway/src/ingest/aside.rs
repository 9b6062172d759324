//! Messages that cannot be what they should be, whatever mappings would make of them:
//! those of another broker that have no topic here, and commands that are none.

use std::{sync::Arc, time::Duration};

use penstock_broker::{Properties, Publish};
use tokio::time::sleep;

use super::{Ingest, Raw};
use crate::{
    normalise::{Class, Reject},
    store::{Appended, Entry, Stopped},
};

/// Pauses between asking for room in the journal.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Ingest {
    /// Keeps a message in quarantine as it came, on the topic that it had at `origin`, or
    /// here.
    /// Resolves once it is on disk; while the journal is full, that is when there is room.
    ///
    /// # Errors
    /// When the journal takes nothing any more.
    pub async fn set_aside(
        &self,
        client_id: &Arc<str>,
        origin: Option<&Arc<str>>,
        publish: &Publish,
        why: &'static str,
    ) -> Result<(), Stopped> {
        let properties = publish.properties.as_deref();
        let received = self.clock.now();
        let unset = received.is_unset();
        let raw = Raw {
            topic: publish.topic.clone(),
            client_id: client_id.clone(),
            identity: None,
            origin: origin.cloned(),
            payload: publish.payload.clone(),
            content_type: properties.and_then(|known| known.content_type.clone()),
            user: properties
                .map_or(&[][..], |known: &Properties| &known.user)
                .to_vec(),
            received,
            delivery: None,
            nonce: rand::random(),
            booted: unset.then(|| self.clock.booted()).flatten(),
        };
        let mut pause = PAUSE_MIN;
        loop {
            let kept = raw.quarantined(Reject::new(Class::Topic, why), raw.payload.clone());
            let receipt = self.store.append(vec![Entry::Quarantine(kept)]).await?;
            if !receipt.await?.contains(&Appended::Full) {
                self.metrics.rejected(Class::Topic);
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
