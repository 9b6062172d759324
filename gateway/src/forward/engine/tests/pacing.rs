//! How fast records go, and when.

use super::*;
use crate::forward::testing::engine_at;

/// Appends so many records of three devices.
fn append_many(model: &Model, count: u64) {
    for position in 1..=count {
        model.append(record(position, u8::try_from(position % 3).unwrap()));
    }
}

#[test]
fn a_rate_is_kept_over_time_and_records_of_any_size_go() {
    let (model, fake) = (Model::new(), Fake::new(Vec::new(), 2));
    let pacing = pace::Config {
        records_per_sec: Some(20),
        bytes_per_sec: Some(1),
        ..pace::Config::default()
    };
    append_many(&model, 30);
    let bytes: usize = {
        let disk = model.disk.lock().unwrap();
        disk.records.values().map(|record| record.body.len()).sum()
    };
    paused().block_on(async {
        let (engine, _) = engine_at(&model, Arc::new(fake.clone()), 20, pacing);
        let stop = CancellationToken::new();
        let began = Instant::now();
        let task = tokio::spawn(engine.run(stop.clone()));
        while model.backlog() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // The last one needs not be waited for.
        let last = bytes / 30;
        assert!(began.elapsed().as_secs() + 2 >= (bytes - last) as u64);
        stop.cancel();
        task.await.unwrap().unwrap();
    });
    assert!(
        fake.place
            .lock()
            .unwrap()
            .batches
            .iter()
            .all(|batch| batch.len() == 1)
    );
}

#[test]
fn a_budget_that_is_used_up_is_so_after_a_crash_and_a_batch_that_goes_again_is_paid_once() {
    let moods = vec![Mood::Unavailable; 3];
    let (model, fake) = (Model::new(), Fake::new(moods, 1));
    append_many(&model, 200);
    let one = model.disk.lock().unwrap().records[&Position(1)].body.len() as u64;
    let pacing = pace::Config {
        budget: Some(pace::Budget {
            bytes: 40 * one,
            period: pace::Period::Day,
        }),
        ..pace::Config::default()
    };
    let seen = || fake.place.lock().unwrap().seen.len();
    paused().block_on(async {
        for _ in 0..3 {
            let (engine, status) = engine_at(&model, Arc::new(fake.clone()), 20, pacing.clone());
            let running = engine.run(CancellationToken::new());
            drop(tokio::time::timeout(Duration::from_secs(600), running).await);
            assert_eq!(status.status().state, State::Waiting);
            assert!(matches!(status.status().waits, Some(Waits::Budget(_))));
            assert!(status.status().is_progressing(Duration::ZERO));
        }
        // One batch went four times, and the last record may have been too much.
        let first_day = seen();
        assert!((33..=41).contains(&first_day), "{first_day}");
        // The clock of these engines begins anew with each; a day is as long for all.
        let (engine, _) = engine_at(&model, Arc::new(fake.clone()), 20, pacing);
        let running = engine.run(CancellationToken::new());
        drop(tokio::time::timeout(Duration::from_secs(86_400), running).await);
        assert!(seen() > first_day + 30, "another day, another budget");
    });
}

#[test]
fn batches_become_smaller_while_the_destination_is_busy_and_grow_back() {
    let (model, fake) = (Model::new(), Fake::new(vec![Mood::Throttled; 4], 4));
    append_many(&model, 400);
    paused().block_on(async { drain(&model, &fake, 20).await });
    let place = fake.place.lock().unwrap();
    let sizes: Vec<usize> = place.batches.iter().map(Vec::len).collect();
    assert!(sizes.iter().any(|size| *size < 8), "{sizes:?}");
    assert!(
        sizes.ends_with(&[8; 3]) || sizes.iter().rev().skip(1).take(3).all(|s| *s == 8),
        "{sizes:?}"
    );
    assert!(place.taken.values().all(|taken| taken.is_sorted()));
}
