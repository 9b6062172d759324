//! How fast the publishes of one client are read.
//!
//! A publish that is taken is paid for afterwards, so one of any size can pass;
//! then nothing more is taken until it is earned. What waits, waits in the client:
//! its connection is not read, which TCP tells it. Other packets pass as long as
//! no publish is before them.

use tokio::time::Instant;

use super::{Bucket, Limits, Rate};

/// See the module. Costs nothing where no rate is set.
#[derive(Debug)]
pub(crate) struct Pace {
    buckets: Option<Box<Buckets>>,
}

#[derive(Debug)]
struct Buckets {
    now: Instant,
    publishes: Option<(Rate, Bucket)>,
    bytes: Option<(Rate, Bucket)>,
    /// When the client may go on.
    until: Option<Instant>,
}

impl Pace {
    /// For a client with such a name, if it has one, on such a listener.
    pub(crate) fn new(limits: &Limits, user: Option<&str>, listener: &str) -> Self {
        let rates = limits.rates_of(user, listener);
        Self::new_at(limits, rates, Instant::now())
    }

    fn new_at(limits: &Limits, (publishes, bytes): (u32, u64), now: Instant) -> Self {
        let bucket = |per_sec| Some((Rate::new(per_sec, limits.publish_burst)?, Bucket::new(now)));
        let buckets = Buckets {
            now,
            publishes: bucket(publishes.into()),
            bytes: bucket(bytes),
            until: None,
        };
        let is_set = buckets.publishes.is_some() || buckets.bytes.is_some();
        Self {
            buckets: is_set.then(|| Box::new(buckets)),
        }
    }

    /// A turn begins: what was earned until now can be spent.
    pub(crate) fn turn(&mut self) {
        if self.buckets.is_some() {
            self.turn_at(Instant::now());
        }
    }

    fn turn_at(&mut self, now: Instant) {
        if let Some(buckets) = &mut self.buckets {
            buckets.now = now;
            buckets.look();
        }
    }

    /// Whether no publish may be taken for now; until when.
    pub(crate) fn holds_until(&self) -> Option<Instant> {
        self.buckets.as_ref()?.until
    }

    /// A publish of `bytes` was taken. Whether that is the last one for now.
    pub(crate) fn charge(&mut self, bytes: usize) -> bool {
        let Some(buckets) = &mut self.buckets else {
            return false;
        };
        let now = buckets.now;
        if let Some((rate, bucket)) = &mut buckets.publishes {
            bucket.take(*rate, 1, now);
        }
        if let Some((rate, bucket)) = &mut buckets.bytes {
            bucket.take(*rate, bytes as u64, now);
        }
        buckets.look();
        buckets.until.is_some()
    }
}

impl Buckets {
    fn look(&mut self) {
        let empty = |bucket: &Option<(Rate, Bucket)>| {
            bucket
                .as_ref()
                .and_then(|(rate, bucket)| bucket.empty_until(*rate, self.now))
        };
        self.until = empty(&self.publishes).max(empty(&self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    fn limits() -> Limits {
        Limits {
            publish_burst: Duration::from_secs(1),
            ..Limits::default()
        }
    }

    #[test]
    fn without_a_rate_nothing_is_ever_held() {
        let mut pace = Pace::new(&limits(), None, "");
        pace.turn();
        assert!((0..1000).all(|_| !pace.charge(1_000_000)));
        assert_eq!(pace.holds_until(), None);
    }

    #[test]
    fn the_stricter_of_two_rates_holds_a_client_and_lets_it_go_in_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new_at(&limits(), (1000, 10_000), start);
        assert!(pace.charge(50_000), "more than the burst");
        let until = pace.holds_until().unwrap();
        assert_eq!(until - start, Duration::from_secs(4));
        pace.turn_at(at(3999));
        assert_eq!(pace.holds_until(), Some(until));
        pace.turn_at(at(4000));
        assert_eq!(pace.holds_until(), None);
        assert!(pace.charge(100));
    }
}
