//! A topic that refused record after record: single ones show whether it still does.

use tokio::time::Instant;

use super::{Kafka, Line, record::Made, verdict::Verdict};
use crate::forward::{
    batch::{Batch, Item},
    destination::Outcomes,
    refusals::{Refusals, probes},
};

impl Kafka {
    /// Sends the first record of one partition key after the other by itself. One that is
    /// taken shows that the topic works, and those before it were to blame. If none is,
    /// the first one is given up, at most: good ones may be waiting behind it.
    pub(super) async fn probe(
        &self,
        line: &mut Line,
        batch: &Batch,
        made: &mut Made<'_>,
    ) -> Outcomes {
        let mut verdicts = self.too_large_ones(&batch.items);
        if verdicts.iter().any(Option::is_some) {
            // They say nothing of the topic.
            return self.conclude(line, settled(verdicts)).await;
        }
        let mut refused = Vec::new();
        for at in probes(&batch.items) {
            let verdict = self.round(line, &batch.items, at..at + 1, made).await;
            let verdict = verdict.into_iter().next();
            verdicts[at].clone_from(&verdict);
            match verdict {
                Some(Verdict::Blame(reason)) => refused.push((at, reason)),
                Some(Verdict::Kept) => {
                    line.refusals = Refusals::default();
                    return self.deliver_rest(line, batch, verdicts).await;
                }
                // Those before it are not given up: nothing was taken.
                Some(open) => return self.conclude(line, vec![open; batch.items.len()]).await,
                None => break,
            }
        }
        let count = batch.items.len();
        line.refusals.none_taken(refused, count, Instant::now())
    }

    /// The topic took a record, and refused some before it: the others go as ever.
    async fn deliver_rest(
        &self,
        line: &mut Line,
        batch: &Batch,
        mut verdicts: Vec<Option<Verdict>>,
    ) -> Outcomes {
        let open = batch.items.iter().zip(&verdicts);
        let open: Vec<Item> = open
            .filter(|(_, verdict)| verdict.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        let mut made = Made::none(&self.config.topic);
        let rest = self.deliver_all(line, &open, &mut made, true).await?;
        let places = verdicts.iter_mut().filter(|verdict| verdict.is_none());
        for (place, verdict) in places.zip(rest) {
            *place = Some(verdict);
        }
        self.conclude(line, settled(verdicts)).await
    }

    fn too_large_ones(&self, items: &[Item]) -> Vec<Option<Verdict>> {
        let of = |item| self.config.too_large_event(item);
        let reasons = items.iter().map(of);
        reasons
            .map(|reason| reason.map(Verdict::TooLarge))
            .collect()
    }
}

/// What has no verdict comes again by itself.
fn settled(verdicts: Vec<Option<Verdict>>) -> Vec<Verdict> {
    let waits = || Verdict::Open("waits for another record after refusals".to_owned());
    let verdicts = verdicts.into_iter();
    verdicts
        .map(|verdict| verdict.unwrap_or_else(waits))
        .collect()
}
