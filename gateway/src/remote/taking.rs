//! What becomes of messages of a remote broker, in their order.

use penstock_broker::{Publish, Verdict};

use super::{Remote, convert::Converted};
use crate::mqtt::{link::Received, reason::Broken};

impl Remote {
    /// Shows and keeps messages, in order.
    pub(super) async fn handle_batch(&self, batch: &[Received]) -> Result<(), Broken> {
        let counts = self.handle.counts();
        counts.received(batch.len());
        let (mut show, mut keep) = (Vec::new(), Vec::new());
        for message in batch {
            match self.converter.convert(message) {
                Converted::Show(publish) => {
                    self.keep(&mut keep).await?;
                    show.push(publish);
                }
                Converted::Keep(publish) => {
                    self.show(&mut show).await;
                    keep.push(publish);
                }
                Converted::SetAside(publish, why) => {
                    self.show(&mut show).await;
                    self.keep(&mut keep).await?;
                    self.set_aside(&publish, why).await?;
                }
                Converted::Circle => counts.circle(),
                Converted::Refused(why) => {
                    if counts.refused() {
                        tracing::warn!(remote = %self.name, reason = why, "a message of a remote broker was not taken");
                    }
                }
            }
        }
        self.show(&mut show).await;
        self.keep(&mut keep).await
    }

    /// Keeps a message that cannot be one here, so that it is not lost.
    async fn set_aside(&self, publish: &Publish, why: &'static str) -> Result<(), Broken> {
        let (ingest, name) = (&self.ingest, &self.name);
        let kept = ingest
            .set_aside(&self.client_id, Some(name), publish, why)
            .await;
        kept.map_err(|stopped| Broken::lost(stopped.to_string()))?;
        self.handle.counts().kept();
        Ok(())
    }

    async fn show(&self, publishes: &mut Vec<Publish>) {
        if publishes.is_empty() {
            return;
        }
        // While the disk is full the remote broker keeps what is not acknowledged.
        let shown = self.local.show_patiently(publishes).await;
        let counts = self.handle.counts();
        counts.shown(shown);
        for _ in shown..publishes.len() {
            if counts.refused() {
                tracing::warn!(remote = %self.name, reason = "too long for a packet", "a message of a remote broker was not taken");
            }
        }
        publishes.clear();
    }

    async fn keep(&self, publishes: &mut Vec<Publish>) -> Result<(), Broken> {
        if publishes.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(publishes);
        let counts = self.handle.counts();
        for verdict in self.journal.publish(batch).await {
            match verdict {
                Verdict::Accepted | Verdict::Duplicate => counts.kept(),
                Verdict::Returned => counts.circle(),
                Verdict::Refused { text, .. } => {
                    if counts.refused() {
                        tracing::warn!(remote = %self.name, reason = text, "a message of a remote broker was not taken");
                    }
                }
                Verdict::Busy | Verdict::Lost => {
                    return Err(Broken::lost("the journal takes nothing"));
                }
            }
        }
        Ok(())
    }
}
