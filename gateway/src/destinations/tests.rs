//! Changes of destinations that do not come to their end.

use std::path::Path;

use super::*;
use crate::{
    clock::SystemClock,
    config::Config,
    forward::{Status, testing::record},
    store::{Entry, Running, Store},
};

const LONG: Duration = Duration::from_secs(30);

/// Destinations that run, in a directory of their own.
struct Place {
    dir: tempfile::TempDir,
    store: Running,
    ingest: Arc<Ingest>,
    handle: Handle,
    roster: Roster,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<tasks::Result>,
    events: u64,
}

const LAKE: &str = "[[destination]]\nname = \"lake\"\ntype = \"file\"\npath = \"lake\"\n";

fn config(dir: &Path, text: &str) -> Config {
    Config::from_text(text, dir, &|_| None).unwrap()
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &format!("data_dir = \".\"\n{LAKE}"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, _) = Store::open(config.store.clone(), clock.clone()).unwrap();
        let handle = store.handle();
        let gateway = GatewayId::random();
        let ingest = crate::app::ingest(&config, &gateway, &handle, &clock).unwrap();
        let ingest = Arc::new(ingest);
        let book = Rulebook::open(dir.path(), &config, ingest.clone(), handle.clone());
        let store = store.run().unwrap();
        let parts = Parts {
            store: handle,
            data_dir: dir.path().to_owned(),
            ingest: ingest.clone(),
            boots: Arc::new(Boots::new(clock.clone(), dir.path())),
            clock,
            gateway,
            #[cfg(feature = "mqtt")]
            remotes: Vec::new(),
            rulebook: Arc::new(book.unwrap()),
            end_max: Duration::from_secs(5),
        };
        let destinations = Destinations::new(parts, config.destinations).unwrap();
        let stop = CancellationToken::new();
        Self {
            dir,
            store,
            ingest,
            handle: destinations.handle(),
            roster: destinations.roster(),
            task: tokio::spawn(destinations.run(stop.clone())),
            stop,
            events: 0,
        }
    }

    /// The lake with other limits, and what else is in the configuration; everything of it
    /// has changed.
    fn wish(&self, more: &str) -> Wish {
        let text = format!("data_dir = \".\"\n{LAKE}rotate_size = \"2MiB\"\n{more}");
        let config = config(self.dir.path(), &text);
        Wish {
            changed: config.destinations.iter().map(|d| d.name.clone()).collect(),
            names: config.store.destinations,
            from_kept: config.store.from_kept,
            destinations: config.destinations,
            rules: config.rules,
        }
    }

    /// Stores an event, and waits until the lake has all of them.
    async fn lake_takes_another(&mut self) {
        self.events += 1;
        let mut event = record(self.events, 1).event().unwrap();
        // One of long ago would have expired.
        event.received = self.ingest.now();
        let entry = Entry::Event(self.ingest.made(&event, None).event);
        let store = self.store.handle();
        store.append(vec![entry]).await.unwrap().await.unwrap();
        let delivered = async {
            while store.status().destinations[0].delivered < self.events {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, delivered).await.unwrap();
        assert!(self.runs("lake").is_some());
    }

    fn runs(&self, name: &str) -> Option<Status> {
        self.roster.status(name)
    }

    fn knows(&self, name: &str) -> bool {
        self.store.handle().destination_id(name).is_some()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.store.shutdown().await.unwrap();
    }
}

const COPY: &str =
    "[[destination]]\nname = \"copy\"\ntype = \"file\"\npath = \"copy\"\nstart = \"oldest\"\n";

#[tokio::test]
async fn a_change_that_fails_half_way_is_put_back_whole_and_comes_with_the_next_one() {
    let mut place = Place::new();
    place.lake_takes_another().await;
    let file = place.dir.path().join("rulebook.db");
    let rules = rusqlite::Connection::open(file).unwrap();
    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        rules.execute_batch(&sql).unwrap();
    };
    // The rules cannot be read when the lake has ended already.
    rename("versions", "away");
    let wish = place.wish(COPY);
    place.handle.check(&wish).unwrap();
    let error = place.handle.apply(wish).await.unwrap_err();
    assert!(format!("{error:#}").contains("versions"), "{error:#}");
    assert!(!place.task.is_finished());
    place.lake_takes_another().await;
    assert!(place.runs("copy").is_none() && !place.knows("copy"));
    // What is kept is kept for nobody who is not there.
    assert!(
        place
            .store
            .handle()
            .status()
            .destinations
            .iter()
            .all(|d| !d.filling)
    );
    rename("away", "versions");
    place.handle.apply(place.wish(COPY)).await.unwrap();
    place.lake_takes_another().await;
    assert!(place.runs("copy").is_some() && place.knows("copy"));
    place.end().await;
}

#[cfg(feature = "sqs")]
#[tokio::test]
async fn a_destination_that_cannot_be_made_leaves_everything_as_it_was() {
    let mut place = Place::new();
    place.lake_takes_another().await;
    let far = "[[destination]]\nname = \"far\"\ntype = \"sqs\"\n\
               queue = \"https://sqs.eu-central-1.amazonaws.com/1/q\"\n";
    let mut wish = place.wish(far);
    place.handle.check(&wish).unwrap();
    // What it is made of has changed since it was looked at.
    let forward::Kind::Sqs(config) = &mut wish.destinations[1].kind else {
        panic!("a queue");
    };
    config.batching.request_bytes = 0;
    let error = place.handle.apply(wish).await.unwrap_err();
    assert!(format!("{error:#}").contains("far"), "{error:#}");
    assert!(!place.task.is_finished());
    place.lake_takes_another().await;
    assert!(!place.knows("far"));
    place.end().await;
}
