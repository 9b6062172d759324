//! What the engine holds while the cursor, or the journal, stands still.

use super::*;
use crate::{
    forward::{
        pending::BYTES_MAX,
        testing::{ID, large_record_of},
    },
    record::{Position, Record},
};

/// Takes the first record after a long time, and refuses all others at once.
#[derive(Debug, Default)]
struct Slow {
    /// Bytes and number of records that were refused.
    refused: Mutex<(usize, u64)>,
}

impl Slow {
    const ANSWER_AFTER: Duration = Duration::from_secs(600);

    fn refused(&self) -> (usize, u64) {
        *self.refused.lock().unwrap()
    }
}

impl Destination for Slow {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: 1,
            batch_bytes: 4_096,
            linger: Duration::ZERO,
            in_flight: 2,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async move {
            let record = batch.items[0].record();
            if record.position == Position(1) {
                tokio::time::sleep(Self::ANSWER_AFTER).await;
                return Ok(vec![Outcome::Acknowledged]);
            }
            let mut refused = self.refused.lock().unwrap();
            refused.0 += record.body.len();
            refused.1 += 1;
            Ok(vec![Outcome::Permanent("too large".to_owned())])
        })
    }
}

/// One of many, so that records do not wait for those before them.
fn device(position: u64) -> u8 {
    u8::try_from(position % 250).unwrap()
}

/// Runs an engine, looks after a while, and then until `done`.
fn run(model: &Model, slow: &Arc<Slow>, look: impl FnOnce(), done: impl Fn() -> bool) {
    paused().block_on(async {
        let (engine, _) = engine(model, slow.clone(), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        tokio::time::sleep(Slow::ANSWER_AFTER / 2).await;
        look();
        let everything = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let everything = tokio::time::timeout(Slow::ANSWER_AFTER * 2, everything);
        everything.await.expect("all of it is settled");
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn the_next_batch_is_shown_once_before_its_turn_if_it_is_whole() {
    let (model, fake) = (Model::new(), Fake::new(Vec::new(), 1));
    for position in 1..=30 {
        model.append(record(position, u8::try_from(position % 3).unwrap()));
    }
    paused().block_on(async { drain(&model, &fake, 20).await });
    let place = fake.place.lock().unwrap();
    assert_eq!(place.out_most, 1);
    assert_eq!(place.batches.len(), 4, "{:?}", place.batches);
    assert_eq!(
        place.shown,
        place.batches[1..3],
        "the last one is not whole"
    );
}

#[test]
fn what_is_refused_behind_a_batch_that_is_not_answered_is_bounded_in_bytes() {
    const SIZE: usize = 64 * 1024;
    let (model, slow) = (Model::new(), Arc::new(Slow::default()));
    model.append(record(1, 255));
    for position in 2..=400 {
        model.append(large_record_of(position, device(position), SIZE));
    }
    let look = || {
        let (bytes, _) = slow.refused();
        // One record more may begin below the bound.
        assert!(
            (BYTES_MAX..BYTES_MAX + 2 * SIZE).contains(&bytes),
            "{bytes}"
        );
    };
    run(&model, &slow, look, || model.backlog() == 0);
    assert_eq!(model.disk.lock().unwrap().dead.len(), 399);
}

#[test]
fn dead_letters_that_the_cursor_has_not_passed_count_among_those_that_stop_it() {
    let (model, slow) = (Model::new(), Arc::new(Slow::default()));
    model.append(record(1, 255));
    for position in 2..=400 {
        model.append(record(position, device(position)));
    }
    {
        let mut disk = model.disk.lock().unwrap();
        let dead = (0..DEAD_MAX - 10).map(|n| (Position(1_000 + n), (1, String::new())));
        disk.dead.extend(dead);
    }
    let look = || {
        assert_eq!(slow.refused().1, 10);
        // Somebody looks at them.
        let mut disk = model.disk.lock().unwrap();
        disk.dead.clear();
    };
    run(&model, &slow, look, || model.backlog() == 0);
    assert_eq!(model.disk.lock().unwrap().dead.len(), 399);
}

#[test]
fn damaged_records_are_not_read_on_while_the_journal_takes_no_progress() {
    const SIZE: usize = 64 * 1024;
    let (model, slow) = (Model::new(), Arc::new(Slow::default()));
    for position in 2..=400 {
        model.append(Record {
            body: vec![0xFF; SIZE].into(),
            routes: crate::record::Routes::NONE.with(ID),
            ..record(position, 1)
        });
    }
    model.open.send_replace(false);
    let look = || {
        let read_to = model.disk.lock().unwrap().read_to.0;
        let bytes = usize::try_from(read_to).unwrap() * SIZE;
        // A page more, and what the journal was told before.
        assert!(bytes < 2 * BYTES_MAX, "{bytes}");
        model.open.send_replace(true);
    };
    run(&model, &slow, look, || model.backlog() == 0);
    assert_eq!(model.disk.lock().unwrap().dead.len(), 399);
}
