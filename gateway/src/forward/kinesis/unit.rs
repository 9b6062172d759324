//! What is put into one record of the stream.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{Config, aggregate::Aggregate};
use crate::forward::{
    aws::{Texts, TooLarge, Unit},
    batch::Item,
};

/// Characters of a partition key, at most.
const KEY_CHARS_MAX: usize = 256;

/// Records for a batch, in order, and the events that fit into none.
pub(super) fn of_items(items: &[Item], config: &Config) -> (Vec<Unit>, TooLarge) {
    let mut making = Making {
        config,
        units: Vec::with_capacity(items.len()),
        open: HashMap::new(),
        too_large: TooLarge::new(),
        texts: Texts::default(),
    };
    for (at, item) in items.iter().enumerate() {
        making.add(at, item);
    }
    making.finish()
}

struct Making<'c> {
    config: &'c Config,
    units: Vec<Unit>,
    /// Per partition key: the record that the next event may go into, and where it is.
    open: HashMap<Arc<str>, (Aggregate, usize)>,
    too_large: TooLarge,
    texts: Texts,
}

impl Making<'_> {
    fn add(&mut self, at: usize, item: &Item) {
        let view = item.view();
        let key = key_of(view.attributes.partition_key());
        let data = self.texts.json(&view);
        let most = self.config.record_bytes_max;
        let bytes = key.len() + data.len();
        if bytes > most {
            let reason = format!("a record of {bytes} bytes, and the stream takes {most}");
            self.too_large.push((at, reason));
            return;
        }
        if self.config.aggregate {
            self.join(at, key, data);
        } else {
            self.units.push(unit(key, data, at));
        }
    }

    /// Into the open record of its key, if there is room; else it opens another.
    fn join(&mut self, at: usize, key: Arc<str>, data: Bytes) {
        let most = self.config.record_bytes_max;
        if let Some((open, unit)) = self.open.get_mut(&key)
            && open.len_with(data.len()) + key.len() <= most
        {
            open.push(&data);
            self.units[*unit].items.push(at);
            return;
        }
        let mut record = Aggregate::of(&key);
        record.push(&data);
        let place = self.units.len();
        self.units.push(unit(key.clone(), data, at));
        if let Some((full, unit)) = self.open.insert(key, (record, place)) {
            self.close(full, unit);
        }
    }

    /// One event alone stays as it is.
    fn close(&mut self, record: Aggregate, unit: usize) {
        let unit = &mut self.units[unit];
        if unit.items.len() > 1 {
            unit.data = record.finish().into();
        }
    }

    fn finish(mut self) -> (Vec<Unit>, TooLarge) {
        for (_, (record, unit)) in std::mem::take(&mut self.open) {
            self.close(record, unit);
        }
        (self.units, self.too_large)
    }
}

/// A record of one event, whose partition key counts too.
fn unit(key: Arc<str>, data: Bytes, at: usize) -> Unit {
    Unit {
        overhead: key.len(),
        key,
        data,
        items: vec![at],
    }
}

/// The events of a record one by one.
pub(super) fn apart(of: &Unit, items: &[Item]) -> Vec<Unit> {
    let mut texts = Texts::default();
    let alone = |at: &usize| {
        let data = texts.json(&items[*at].view());
        unit(of.key.clone(), data, *at)
    };
    of.items.iter().map(alone).collect()
}

/// The stream takes 1 to 256 characters; a key that is longer goes by its hash.
fn key_of(key: &str) -> Arc<str> {
    match key.chars().count() {
        1..=KEY_CHARS_MAX => key.into(),
        _ => blake3::hash(key.as_bytes()).to_hex().as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::large_record_of;

    fn items(sizes: &[(u8, usize)]) -> Vec<Item> {
        let numbered = (1..).zip(sizes);
        let item = |(n, (device, size)): (u64, &(u8, usize))| {
            Item::check(large_record_of(n, *device, *size)).unwrap()
        };
        numbered.map(item).collect()
    }

    fn which(units: &[Unit]) -> Vec<(&str, &[usize])> {
        units
            .iter()
            .map(|unit| (&*unit.key, &*unit.items))
            .collect()
    }

    #[test]
    fn an_event_that_is_too_large_is_left_out_and_says_so() {
        let config = Config {
            record_bytes_max: 2_000,
            ..Config::new("s")
        };
        let (units, too_large) = of_items(&items(&[(1, 10), (1, 2_000), (2, 10)]), &config);
        assert_eq!(
            which(&units),
            [("device-1", &[0][..]), ("device-2", &[2][..])]
        );
        assert_eq!(too_large[0].0, 1);
        assert!(too_large[0].1.ends_with("the stream takes 2000"));
    }

    #[test]
    fn events_of_one_key_share_records_as_large_as_they_may_be_and_keep_their_order() {
        let config = Config {
            aggregate: true,
            record_bytes_max: 5_000,
            ..Config::new("s")
        };
        let of = [(1, 1_000), (2, 10), (1, 1_000), (1, 1_000), (1, 1_000)];
        let (units, too_large) = of_items(&items(&of), &config);
        assert!(too_large.is_empty());
        assert_eq!(
            which(&units),
            [
                ("device-1", &[0, 2, 3][..]),
                ("device-2", &[1][..]),
                ("device-1", &[4][..])
            ]
        );
        assert!(units[0].len() <= 5_000 && units[0].len() > 3_000);
        // Alone it is plain JSON.
        assert_eq!((units[1].data[0], units[2].data[0]), (b'{', b'{'));
    }

    #[test]
    fn a_key_that_the_stream_would_not_take_goes_by_its_hash() {
        let long = "ä".repeat(257);
        assert_eq!(&*key_of("press-7"), "press-7");
        assert_eq!(key_of(&"ä".repeat(256)).chars().count(), 256);
        assert_eq!(key_of(&long).len(), 64);
        assert_eq!(key_of("").len(), 64);
    }
}
