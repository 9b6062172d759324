//! The store and ingest without anything that listens or sends, for commands
//! that change something while no gateway runs.

use std::{future::Future, sync::Arc};

use anyhow::Result;

use super::run::runtime;
use crate::{
    app,
    clock::{Clock, SystemClock},
    config::Config,
    ingest::Ingest,
    query,
    store::{Handle, Store},
};

/// Opens the store for one piece of work, and closes it after.
pub(super) fn with_store<T, F>(
    config: Config,
    work: impl FnOnce(Handle, Arc<Ingest>) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    runtime()?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, report) = Store::open(config.store, clock.clone())?;
        app::announce(&report);
        query::hold(&config.read, &config.data_dir, &store.handle());
        let store = store.run()?;
        let handle = store.handle();
        let routes = app::routes(&config.destinations, &handle);
        let ingest = Ingest::new(config.ingest, routes, handle.clone(), clock)
            .sending_originals(app::originals(&config.destinations, &handle));
        let ingest = Arc::new(ingest);
        ingest.set_rules(app::rules(&config.rules, &handle)?);
        let done = work(handle, ingest).await;
        store.shutdown().await?;
        done
    })
}
