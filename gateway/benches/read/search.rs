//! How long answers take with many events: `cargo bench -p penstock --bench read -- search N`.
//!
//! Words, beginnings, phrases and fields, newest first; each question is asked again and
//! again, half and 99 of a hundred answers come within what is printed.

use std::time::{Duration, Instant};

use penstock::{
    clock::SystemClock,
    query::{
        Config, Feed, Reader,
        read::{In, Last, Search},
    },
    store::Store,
};

use super::{append_many, store_config};

/// Each is asked so often.
const TIMES: usize = 200;

pub(super) async fn run(count: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    // More than they take.
    let (store, _) = Store::open(
        store_config(dir.path(), count.max(100_000) * 4_096),
        std::sync::Arc::new(SystemClock),
    )
    .expect("a journal");
    let store = store.run().expect("a thread");
    append_many(&store.handle(), count).await;
    let config = Config {
        enabled: true,
        size_max: 64 << 30,
        ..Config::default()
    };
    let feed = Feed::new(
        config,
        dir.path(),
        store.handle(),
        std::sync::Arc::new(SystemClock),
    );
    let began = Instant::now();
    let built = tokio::task::spawn_blocking(move || feed.catch_up());
    built.await.expect("a thread").expect("it is built");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(dir.path().join("read.db")).expect("it is there");
    println!(
        "{count} events taken over at {rate:.0}/s, {} MiB",
        bytes.len() >> 20
    );
    let listing = store.handle().listing().expect("the journal");
    let mut reader = Reader::open(dir.path(), listing).expect("the read side");
    for q in [
        "word5",
        "device:press-7",
        "word5 device:press-7",
        "temperature",
        "word5 -temperature",
        "word5*",
        "word*",
        "device:press*",
        "word5 device:press*",
        "\"devices press\" word7",
        // Never in one event.
        "word5 word6",
        "device:press-7 topic:press-8",
        "unheard",
        "unheard device:press*",
        "rare*",
    ] {
        ask(q, || {
            let asked = Search {
                q: q.to_owned(),
                among: In::All,
                after: None,
                limit: 100,
            };
            reader.search(&asked).expect("an answer")["items"]
                .as_array()
                .map_or(0, Vec::len)
        });
    }
    ask("last values", || {
        let asked = Last {
            limit: 100,
            ..Last::default()
        };
        reader.last(&asked).expect("an answer")["items"]
            .as_array()
            .map_or(0, Vec::len)
    });
    drop(reader);
    store.shutdown().await.expect("closed");
}

fn ask(what: &str, mut question: impl FnMut() -> usize) {
    let mut found = 0;
    let mut took: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            found = question();
            began.elapsed()
        })
        .collect();
    took.sort();
    println!(
        "{what:>28} {found:>5} found  {:>9.2?} p50  {:>9.2?} p99",
        took[TIMES / 2],
        took[TIMES * 99 / 100]
    );
}
