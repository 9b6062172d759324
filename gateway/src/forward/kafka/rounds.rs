//! Round after round.
//!
//! What the producer is handed in a round fits into one of its batches, whatever partitions
//! the records go to, and the next round begins when all of it is answered. A batch that a
//! broker refuses is refused as a whole: its records go again one by one before the next
//! round, until it shows which is to blame. So nothing overtakes a record that was
//! refused. One exception is the client's: what is too large for the topic it halves, twice,
//! and goes on with the next part when one is refused. That does not happen as long
//! as the topic takes messages as large as a round.

use std::ops::Range;

use futures_util::FutureExt as _;
use krafka::{
    Record,
    producer::{DeliveryHandle, Producer},
};
use tokio::time::{Instant, timeout_at};

use super::{Kafka, Line, record::Made, verdict::Verdict};
use crate::forward::{
    batch::Item,
    destination::{Error, Outcome},
    refusals::Refusals,
};

impl Kafka {
    /// Sends records in order until something is not known. A topic that has just been
    /// `proven` to take records is not at fault whatever it refuses.
    ///
    /// # Errors
    /// When the topic may be at fault: then nothing was taken and none is given up.
    pub(super) async fn deliver_all(
        &self,
        line: &mut Line,
        items: &[Item],
        made: &mut Made<'_>,
        proven: bool,
    ) -> Result<Vec<Verdict>, Error> {
        let before = line.refusals.clone();
        let mut verdicts: Vec<Verdict> = Vec::with_capacity(items.len());
        let mut taken = false;
        while verdicts.len() < items.len() {
            let begin = verdicts.len();
            verdicts.extend(self.round(line, items, begin..items.len(), made).await);
            let count = verdicts.len() - begin;
            if verdicts[begin..].contains(&Verdict::Kept) {
                taken = true;
                line.refusals = Refusals::default();
            }
            for at in begin..verdicts.len() {
                if !verdicts[at].is_blame() {
                    continue;
                }
                if count > 1 {
                    let alone = self.round(line, items, at..at + 1, made).await;
                    verdicts.splice(at..=at, alone);
                }
                match &verdicts[at] {
                    Verdict::Blame(reason) => {
                        let refused = Outcome::Permanent(reason.clone());
                        line.refusals.add(items[at].partition_key(), &refused);
                        if !proven && !taken && line.refusals.are_too_many() {
                            return Err(line.refusals.begin(before, reason, Instant::now()));
                        }
                    }
                    Verdict::Kept => {
                        taken = true;
                        line.refusals = Refusals::default();
                    }
                    _ => {
                        // Those behind it wait, to blame or not.
                        let blamed = verdicts[at + 1..].iter_mut().filter(|one| one.is_blame());
                        blamed.for_each(|one| *one = Verdict::Open(WAITS.to_owned()));
                        break;
                    }
                }
            }
            if let Some(open) = verdicts[begin..].iter().find(|one| !one.is_known()) {
                let why = open.reason().to_owned();
                verdicts.resize_with(items.len(), || Verdict::Open(why.clone()));
            }
        }
        Ok(verdicts)
    }

    /// Sends the first records of a part of these: a verdict for each of those.
    pub(super) async fn round(
        &self,
        line: &mut Line,
        all: &[Item],
        part: Range<usize>,
        made: &mut Made<'_>,
    ) -> Vec<Verdict> {
        let Line { producer, open, .. } = line;
        let Some(producer) = producer else {
            return vec![Verdict::Open("no producer".to_owned())];
        };
        let deadline = Instant::now() + self.config.timeout;
        let items = &all[part.clone()];
        let waited_for = items
            .iter()
            .map_while(|item| open.remove(&item.record().key));
        let mut sent: Vec<_> = waited_for.map(Ok).collect();
        if sent.is_empty() {
            let is_open = |item: &Item| open.contains_key(&item.record().key);
            match self.new_records(items, part.start, made, is_open) {
                Ok(records) => sent = hand_over(producer, records).await,
                Err(reason) => return vec![Verdict::TooLarge(reason)],
            }
        }
        let mut verdicts = Vec::with_capacity(sent.len());
        let answers = async {
            for handle in &mut sent {
                verdicts.push(match handle {
                    Err(verdict) => verdict.clone(),
                    Ok(handle) => Verdict::of_answer(&handle.await),
                });
            }
        };
        // One timer for all of them.
        let in_time = timeout_at(deadline, answers).await;
        if in_time.is_err() {
            let late = items.iter().zip(sent).skip(verdicts.len());
            let late = late.map(|(item, sent)| match sent {
                Err(verdict) => verdict,
                Ok(mut handle) => match (&mut handle).now_or_never() {
                    Some(answer) => Verdict::of_answer(&answer),
                    None => {
                        open.insert(item.record().key, handle);
                        Verdict::Open("no acknowledgement in time".to_owned())
                    }
                },
            });
            verdicts.extend(late);
        }
        verdicts
    }

    /// The first of these records, as many as fit; or why no request can hold the first.
    fn new_records(
        &self,
        items: &[Item],
        from: usize,
        made: &mut Made<'_>,
        is_open: impl Fn(&Item) -> bool,
    ) -> Result<Vec<Record>, String> {
        let (mut records, mut bytes) = (Vec::with_capacity(items.len()), 0);
        let items = items.iter().take_while(|item| !is_open(item));
        for (at, item) in (from..).zip(items) {
            let record = made.take(at, item);
            bytes += record.estimated_size();
            match records.is_empty() {
                true => self.config.too_large(&record).map_or(Ok(()), Err)?,
                false if bytes > self.config.batch_bytes => {
                    made.put_back(at, record);
                    break;
                }
                false => {}
            }
            records.push(record);
        }
        Ok(records)
    }
}

/// Why a record was not sent.
const WAITS: &str = "waits for one before it";

/// Until one is not taken.
async fn hand_over(
    producer: &Producer,
    records: Vec<Record>,
) -> Vec<Result<DeliveryHandle, Verdict>> {
    let mut sent = Vec::with_capacity(records.len());
    for record in records {
        let handle = producer.enqueue(record).await;
        sent.push(handle.map_err(|error| Verdict::of(&error)));
        if sent.last().is_some_and(Result::is_err) {
            break;
        }
    }
    // Only begun: it lets nothing wait for more. The answers are waited for elsewhere.
    drop(producer.flush().now_or_never());
    sent
}
