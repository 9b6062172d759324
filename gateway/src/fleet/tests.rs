//! Edits on a real journal, and a model of them.

mod commands;
mod devices;
mod live;
mod lives;
mod model;
mod shadows;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use penstock_broker::Addressee;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{
    edits::{
        cancel::Cancel,
        device::{Create, Remove, Update},
        doubt::Settle,
        order::Place,
        presence::Presence,
        press::{Press, Pressed},
        progress::{Expire, Heard, Replied, Reply, Sent, Trim},
        shadow::{Desire, Report, Taken, Told},
    },
    *,
};
use crate::{
    event::{Event, View},
    record::Position,
    store::{NewEvent, OnFull, Running, Store},
};

/// A clock that stands where it was put, in milliseconds since 1970.
#[derive(Debug, Clone)]
struct Stopped(Arc<AtomicI64>);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(SeqCst).unsigned_abs())
    }
}

/// Sends everything to the one destination, which takes nothing: all of it stays.
#[derive(Debug)]
struct Keep;

impl Announce for Keep {
    fn entry(&self, event: &Event) -> NewEvent {
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        NewEvent {
            key: event.key,
            dedup: true,
            device: event.device.clone(),
            received: event.received,
            routes: crate::record::Routes(1),
            body: body.into(),
            original: None,
            shed: None,
        }
    }
}

/// A journal, and who asks for changes of it.
struct Desk {
    dir: TempDir,
    clock: Stopped,
    config: Config,
    /// The tables have no room.
    is_full: bool,
    running: Option<Running>,
}

fn open(dir: &Path, clock: &Stopped) -> Running {
    let config = store::Config {
        dir: dir.to_owned(),
        max_bytes: 1 << 30,
        max_age: None,
        keep_delivered: None,
        on_full: OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 64 * 1024,
        dedup_age: Duration::from_secs(3_600),
        dedup_count: 100_000,
        dedup_memory_bytes: 16 << 20,
        destinations: vec!["events".into()],
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    };
    let (store, _) = Store::open(config, Arc::new(clock.clone())).expect("the journal opens");
    store.run().expect("a thread")
}

fn asked(key: Option<&str>) -> Asked {
    Asked {
        actor: "somebody".into(),
        key: key.map(Into::into),
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other}"),
    }
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Stopped(Arc::new(AtomicI64::new(1_790_000_000_000)));
        let running = open(dir.path(), &clock);
        Self {
            dir,
            clock,
            config: Config {
                open_per_device_max: 5,
                ..Config::default()
            },
            is_full: false,
            running: Some(running),
        }
    }

    fn store(&self) -> store::Handle {
        self.running.as_ref().expect("it runs").handle()
    }

    async fn edit<E: Edit>(&self, edit: E) -> E::Answer {
        self.store().edit(edit).await.expect("there is room")
    }

    /// As after `kill -9`: what is on disk, and nothing else. What comes after the answers
    /// so far is lost.
    async fn crash(&mut self) {
        let image = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(self.dir.path()).expect("the directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            if name != "lock" && !name.to_string_lossy().ends_with("-shm") {
                std::fs::copy(entry.path(), image.path().join(name)).expect("a copy");
            }
        }
        let running = self.running.take().expect("it runs");
        running.shutdown().await.expect("an orderly end");
        self.dir = image;
        self.running = Some(open(self.dir.path(), &self.clock));
    }

    fn pass(&self, ms: i64) {
        self.clock.0.fetch_add(ms, SeqCst);
    }

    async fn create(&self, device: Value, key: Option<&str>) -> Result<Change<Device>, Refusal> {
        let draft = Draft::read(members(device))?;
        self.edit(Create::new(draft, asked(key), Arc::new(Keep)))
            .await
    }

    async fn place(
        &self,
        device: &str,
        order: Value,
        key: Option<&str>,
    ) -> Result<Change<Command>, Refusal> {
        let order = Order::read(device, members(order))?;
        let place = Place::new(
            order,
            asked(key),
            self.clock.now(),
            &self.config,
            Arc::new(Keep),
        )?;
        self.edit(place).await
    }

    async fn sent(&self, ids: &[&str]) {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let announce = Arc::new(Keep);
        self.edit(Sent { ids, announce }).await;
    }

    /// Somebody answers; `user` is the authenticated name.
    async fn reply(&self, device: &str, id: &str, user: &str, done: bool) -> Heard {
        let reply = Reply {
            device: device.to_owned(),
            id: id.to_owned(),
            client_id: "x".into(),
            user: Some(user.into()),
            done,
            value: json!({ "said": done }),
            bytes: 16,
        };
        let replies = vec![reply];
        let announce = Arc::new(Keep);
        let is_full = self.is_full;
        self.edit(Replied {
            replies,
            is_full,
            turn: None,
            announce,
        })
        .await[0]
    }

    async fn cancel(&self, device: &str, id: &str) -> Result<Change<Command>, Refusal> {
        let cancel = Cancel {
            device: device.to_owned(),
            id: id.to_owned(),
            asked: asked(None),
            guard: Arc::<RwLock<()>>::default().read_owned().await,
            announce: Arc::new(Keep),
        };
        self.edit(cancel).await
    }

    async fn expire(&self) -> usize {
        let announce = Arc::new(Keep);
        self.edit(Expire { announce }).await.commands
    }

    fn command(&self, device: &str, id: &str) -> Command {
        let listing = self.store().listing().expect("the journal is read");
        command(listing.tables(), device, id)
            .expect("it is read")
            .expect("it is there")
    }

    /// All events in the journal as they are stored, as far as they are text.
    fn bodies(&self) -> Vec<String> {
        let mut reader = self.store().reader().expect("the journal is read");
        let page = reader.all(Position(0), 1_000, 1 << 20).expect("a page");
        let text =
            |record: &crate::record::Record| String::from_utf8_lossy(&record.body).into_owned();
        page.records.iter().map(text).collect()
    }

    /// The types of all events in the journal, and their devices, in order.
    fn told(&self) -> Vec<(String, String)> {
        let mut reader = self.store().reader().expect("the journal is read");
        let mut told = Vec::new();
        let mut after = Position(0);
        loop {
            let page = reader.all(after, 1_000, 1 << 20).expect("a page");
            for record in &page.records {
                let view = View::parse(&record.body).expect("an event");
                told.push((
                    view.attributes.kind.to_owned(),
                    view.attributes.device.to_owned(),
                ));
            }
            if page.records.is_empty() {
                return told;
            }
            after = page.scanned_to;
        }
    }

    async fn end(mut self) {
        self.running
            .take()
            .expect("it runs")
            .shutdown()
            .await
            .expect("an orderly end");
    }
}

fn kinds(told: &[(String, String)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| &**kind).collect()
}
