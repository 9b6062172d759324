//! What became of entries, as what became of publishes.

use penstock_broker::Verdict;

use crate::store::Appended;

/// What to tell the device about each publish, from what became of its entries;
/// `None` where the store has stopped.
pub(super) fn verdicts(counts: &[usize], appended: Option<&[Appended]>) -> Vec<Verdict> {
    let Some(mut rest) = appended else {
        return vec![Verdict::Lost; counts.len()];
    };
    counts
        .iter()
        .map(|count| {
            let Some((own, others)) = rest.split_at_checked(*count) else {
                // Fewer answers than entries: nothing is known of the others.
                return Verdict::Lost;
            };
            rest = others;
            if own.contains(&Appended::Full) {
                Verdict::Busy
            } else if !own.is_empty() && own.iter().all(|a| *a == Appended::Duplicate) {
                Verdict::Duplicate
            } else {
                Verdict::Accepted
            }
        })
        .collect()
}
