//! The store and ingest without anything that listens or sends, for commands
//! that change something while no gateway runs.

use std::{future::Future, sync::Arc};

use anyhow::Result;

use super::run::runtime;
use crate::{
    admin, app,
    clock::{Clock, SystemClock},
    config::Config,
    ingest::Ingest,
    query,
    store::{Handle, Listing, Store},
};

/// Opens the lists of the journal for reading, whether a gateway runs or not.
pub(super) fn listing(config: &Config) -> Result<Listing> {
    admin::listing(&config.data_dir, &config.seal()?)
}

/// Opens the store for one piece of work, and closes it after.
pub(super) fn with_store<T, F>(
    mut config: Config,
    work: impl FnOnce(Handle, Arc<Ingest>) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    config.unlock()?;
    runtime()?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, report) = Store::open(config.store.clone(), clock.clone())?;
        app::announce(&report);
        query::hold(&config.read, &config.data_dir, &store.handle());
        let gateway = app::gateway_id(&config.data_dir)?;
        app::rescue_rulebook(&config, &clock)?;
        let ingest = Arc::new(app::ingest(&config, &gateway, &store.handle(), &clock)?);
        let store = store.run()?;
        let handle = store.handle();
        let done = work(handle, ingest).await;
        store.shutdown().await?;
        done
    })
}

#[cfg(all(test, feature = "mqtt"))]
mod tests {
    use super::*;
    use crate::{event::Timestamp, ingest::Raw, record::Routes, store::Entry};

    #[test]
    fn what_came_from_a_remote_broker_does_not_go_back_there_without_a_gateway_either() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
[[destination]]
name = "lake"
type = "file"
path = "lake"
[[destination]]
name = "cloud"
type = "mqtt"
server = "mqtt://cloud.example"
[[remote]]
name = "from-cloud"
server = "mqtt://cloud.example"
[[remote.subscribe]]
filter = "commands/#"
journal = true
"#;
        let config = Config::from_text(text, dir.path(), &|_| None).unwrap();
        let raw = |origin: Option<&str>| Raw {
            topic: "commands/b7".into(),
            client_id: "from-cloud".into(),
            identity: None,
            origin: origin.map(Arc::from),
            payload: br#"{"v":1}"#[..].into(),
            content_type: None,
            user: Vec::new(),
            received: Timestamp::from_millis(1_772_366_400_000),
            delivery: None,
            nonce: [7; 16],
            booted: None,
        };
        let routes = with_store(config, |store, ingest| async move {
            let routes = |origin| match &ingest.retry(&raw(origin)).unwrap().entries[..] {
                [Entry::Event(event)] => event.routes,
                other => panic!("{other:?}"),
            };
            let id = |name| Routes::NONE.with(store.destination_id(name).unwrap());
            let both = id("lake").union(id("cloud"));
            Ok([
                (routes(None), both),
                (routes(Some("from-cloud")), id("lake")),
            ])
        });
        for (routes, expected) in routes.unwrap() {
            assert_eq!(routes, expected);
        }
    }

    #[test]
    fn what_comes_out_of_quarantine_is_narrowed_although_the_rulebook_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[[destination]]\nname = \"lake\"\ntype = \"file\"\npath = \"lake\"\n";
        let config = || Config::from_text(text, dir.path(), &|_| None).unwrap();
        let data = config().data_dir;
        with_store(config(), |store, ingest| async {
            let book = crate::rulebook::Rulebook::open(&data, &config(), ingest, store)?;
            let rule = r#"{"pattern": {"device": ["x"]}, "destinations": ["lake"]}"#;
            book.put("penned", rule, None, "ann", Timestamp::from_millis(1))?;
            Ok(())
        })
        .unwrap();
        std::fs::write(data.join(crate::rulebook::FILE), []).unwrap();
        let routes = with_store(config(), |_, ingest| async move {
            let event = crate::rules::tests::event_of("y", &[]);
            Ok(ingest.made(&event, None).event.routes)
        });
        assert_eq!(routes.unwrap(), Routes::NOWHERE);
    }
}
