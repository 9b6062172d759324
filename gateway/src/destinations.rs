//! The destinations that run: begins, replaces and ends them while the gateway runs.
//!
//! Promises: no destination ever has two forwarders; one whose configuration changed
//! goes on where it stood; what waits for one that is no longer configured stays in the
//! journal until somebody says otherwise; the others notice nothing. A change of
//! destinations and rules is in force as a whole, for every batch that begins after it, or
//! not at all: what may fail is made first, and what fails all the same is put back.
//!
//! One task does all of it, one change after the other.

mod handle;
mod live;
mod roster;
mod routing;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use handle::Ask;
pub(crate) use handle::Wish;
pub use handle::{Handle, Refusal};
use live::Gates;
pub use roster::Roster;
pub(crate) use routing::routing;

use crate::{
    boots::Boots,
    clock::Clock,
    forward::{self, Forwarder, Made, Start, place::Place},
    gateway_id::GatewayId,
    ingest::{Ingest, Routing},
    record::{DestinationId, Record},
    rulebook::Rulebook,
    store::{self, Mode, Wanted},
    tasks,
};

/// Changes that may wait for the one at hand.
const ASKED_MAX: usize = 4;

/// How often to look whether what waits for room was taken.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What destinations are made with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) store: store::Handle,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) boots: Arc<Boots>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gateway: GatewayId,
    /// The gateway's data directory.
    pub(crate) data_dir: PathBuf,
    /// Brokers from which messages come; they are those of the start.
    #[cfg(feature = "mqtt")]
    pub(crate) remotes: Vec<crate::remote::Config>,
    pub(crate) rulebook: Arc<Rulebook>,
    /// How long one may take to end.
    pub(crate) end_max: Duration,
}

/// The destinations that run.
#[derive(Debug)]
pub(crate) struct Destinations {
    parts: Parts,
    asked: mpsc::Receiver<Ask>,
    handle: Handle,
    roster: Roster,
    /// Those that are in force, whether they run or not.
    configs: Vec<forward::Config>,
    /// What those at one place share, by its name.
    places: HashMap<Arc<str>, Arc<Place>>,
    /// Whether what comes goes by a lane of its own.
    gates: Gates,
    /// Not begun yet.
    ready: Vec<(Arc<str>, Forwarder)>,
    starts: Starts,
    /// What new destinations want is said when all that was routed without them is with the
    /// journal.
    fills: bool,
    running: HashMap<Arc<str>, CancellationToken>,
    /// Why it cannot go on: the journal has stopped, or somebody ended by itself.
    broken: Option<anyhow::Error>,
    set: JoinSet<(Arc<str>, tasks::Result)>,
}

/// What new destinations get first, by number.
type Starts = HashMap<DestinationId, Start>;

impl Destinations {
    /// Prepares those of the configuration, each to continue where the journal says that
    /// it stands.
    pub(crate) fn new(parts: Parts, configs: Vec<forward::Config>) -> anyhow::Result<Self> {
        let configs = of_gateway(configs, &parts.gateway);
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        let handle = Handle::new(ask, parts.store.clone(), parts.clock.clone());
        let mut destinations = Self {
            parts,
            asked,
            handle,
            roster: Roster::default(),
            configs: Vec::new(),
            places: HashMap::new(),
            gates: Gates::default(),
            ready: Vec::new(),
            starts: Starts::new(),
            fills: false,
            running: HashMap::new(),
            broken: None,
            set: JoinSet::new(),
        };
        for config in &configs {
            let made = destinations.make(config)?;
            destinations.prepare(made)?;
        }
        destinations.starts = destinations.starts_of(&configs);
        destinations.take_over(configs);
        destinations.look_at_modes();
        Ok(destinations)
    }

    /// Asks for changes.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Those that run, for whoever looks.
    pub(crate) fn roster(&self) -> Roster {
        self.roster.clone()
    }

    /// Delivers until `shutdown`. Ends early when one of them can no longer go on.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> tasks::Result {
        self.begin_all();
        self.parts.store.fill(self.wanted()).await?;
        let mut gates = tokio::time::interval(live::LOOK_EVERY);
        gates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let early = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                Some(ended) = self.set.join_next() => break unexpected(ended),
                Some(ask) = self.asked.recv() => self.answer(ask).await,
                _ = gates.tick(), if !self.gates.is_empty() => self.look_at_gates(),
                () = tokio::time::sleep(LOOK_EVERY), if self.fills => {
                    if self.parts.ingest.is_settled() {
                        self.fills = false;
                        self.parts.store.fill(self.wanted()).await?;
                    }
                }
            }
            if let Some(broken) = self.broken.take() {
                break Err(broken);
            }
        };
        self.running.values().for_each(CancellationToken::cancel);
        let mut result = early;
        while let Some(ended) = self.set.join_next().await {
            let ended = ended
                .map_err(anyhow::Error::from)
                .and_then(|(_, ended)| ended);
            result = result.and(ended);
        }
        result
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Apply(wish, done) => {
                let outcome = self.apply(*wish).await;
                drop(done.send(outcome));
            }
            Ask::SetMode(name, mode, done) => {
                let outcome = self.set_mode(&name, mode).await;
                drop(done.send(outcome));
            }
            Ask::Remove {
                name,
                discard,
                done,
            } => {
                let outcome = self.remove(&name, discard).await;
                drop(done.send(outcome));
            }
        }
    }

    async fn apply(&mut self, wish: Wish) -> anyhow::Result<()> {
        let wish = Wish {
            destinations: of_gateway(wish.destinations, &self.parts.gateway),
            ..wish
        };
        // Nothing is touched before all of them are made.
        let mut made = Vec::new();
        for config in &wish.destinations {
            if wish.changed.contains(&config.name) || !self.running.contains_key(&config.name) {
                made.push(self.make(config)?);
            }
        }
        let stays = |name: &Arc<str>| wish.destinations.iter().any(|one| one.name == *name);
        let running = self.running.keys();
        let leaving: Vec<_> = running
            .filter(|name| !stays(name) || wish.changed.contains(*name))
            .cloned()
            .collect();
        // The old ones end first: what was routed by new rules is for the new ones.
        if let Err(error) = self.end(&leaving).await {
            let said = anyhow::anyhow!("{error:#}");
            self.broken = Some(error);
            return Err(said);
        }
        let known = self.parts.store.status();
        match self.exchange(&wish).await {
            Ok(()) => {
                for name in leaving.iter().filter(|name| !stays(name)) {
                    tracing::info!(
                        destination = &**name,
                        "destination ended; what waits for it stays until it is configured again or removed"
                    );
                }
                self.take_over(wish.destinations);
                self.go_on(made).await
            }
            Err(error) => {
                self.put_back(&leaving, &known).await?;
                Err(error)
            }
        }
    }

    /// Has the journal know who there is, and exchanges where events go.
    async fn exchange(&mut self, wish: &Wish) -> anyhow::Result<()> {
        let destinations = &wish.destinations;
        let (names, from_kept) = (wish.names.clone(), wish.from_kept.clone());
        let done = self.parts.store.configure(names, from_kept).await?;
        anyhow::ensure!(done, "the journal has no number left for a new destination");
        let routing = routing(
            &self.parts.store,
            destinations,
            &[],
            #[cfg(feature = "mqtt")]
            &self.parts.remotes,
        )?;
        let (book, ingest) = (self.parts.rulebook.clone(), self.parts.ingest.clone());
        let names = crate::config::named(destinations);
        let rules = wish.rules.clone();
        let exchanged = tokio::task::spawn_blocking(move || {
            book.exchange(names, rules, |rules| {
                let rules = Arc::new(rules);
                ingest.exchange_routing(Routing { rules, ..routing });
            })
        });
        Ok(exchanged.await??)
    }

    /// Begins these, beside those that run.
    async fn go_on(&mut self, made: Vec<Made>) -> anyhow::Result<()> {
        self.starts = self.starts_of(&self.configs);
        let begun = self.begin(made).await;
        begun.map_err(|error| {
            // Only the end of the journal brings this about.
            let said = anyhow::anyhow!("{error:#}");
            self.broken = Some(error);
            said
        })
    }

    async fn begin(&mut self, made: Vec<Made>) -> anyhow::Result<()> {
        self.fills = !self.parts.ingest.settled().await;
        match self.fills {
            true => tracing::warn!(
                "events that came before the destinations were changed still wait for room in \
                 the journal; new destinations get what is kept after that"
            ),
            false => self.parts.store.fill(self.wanted()).await?,
        }
        for made in made {
            let name = made.name().clone();
            self.prepare(made)?;
            tracing::info!(destination = &*name, "destination begins");
        }
        self.look_at_modes();
        self.begin_all();
        Ok(())
    }

    /// A change was not put in force: those that ended for it begin anew, and what the
    /// journal was told is as it was. One that cannot be made any more, because what it was
    /// made of is gone, does not run until the next change, and is said.
    async fn put_back(&mut self, ended: &[Arc<str>], known: &store::Status) -> anyhow::Result<()> {
        let configs = self.configs.clone();
        let names = crate::config::journaled(&configs);
        let mut made = Vec::new();
        for config in configs.iter().filter(|one| ended.contains(&one.name)) {
            match self.make(config) {
                Ok(one) => made.push(one),
                Err(error) => tracing::error!(
                    destination = &*config.name,
                    "destination does not run until destinations are put in force again, and \
                     its events wait: {error:#}"
                ),
            }
        }
        let put_back = self.know_only(known, names).await;
        if let Err(store::Stopped) = put_back {
            self.broken = Some(store::Stopped.into());
            return Err(store::Stopped.into());
        }
        self.go_on(made).await
    }

    /// Ends these, and waits until they have.
    async fn end(&mut self, names: &[Arc<str>]) -> anyhow::Result<()> {
        let mut left: BTreeSet<_> = names.iter().collect();
        for name in names {
            if let Some(stop) = self.running.remove(name) {
                stop.cancel();
            }
        }
        while !left.is_empty()
            && let Some(ended) = self.set.join_next().await
        {
            let (name, ended) = ended?;
            ended?;
            anyhow::ensure!(left.remove(&name), "destination {name} ended by itself");
        }
        self.roster.remove(names);
        Ok(())
    }

    async fn set_mode(&mut self, name: &Arc<str>, mode: Mode) -> Result<(), Refusal> {
        let known = self.find(name)?;
        if !self.running.contains_key(name) {
            return Err(Refusal::Unconfigured(name.clone()));
        }
        if mode == Mode::Paused && known.mode == Mode::Draining {
            return Err(Refusal::Draining(name.clone()));
        }
        let set = self.parts.store.set_mode(name, mode).await;
        if !set.map_err(|store::Stopped| Refusal::Ending)? {
            return Err(Refusal::Unknown(name.clone()));
        }
        self.look_at_modes();
        tracing::info!(
            destination = &**name,
            mode = mode.as_str(),
            "destination is run otherwise"
        );
        Ok(())
    }

    async fn remove(&mut self, name: &Arc<str>, discard: bool) -> Result<(), Refusal> {
        let known = self.find(name)?;
        if known.configured {
            return Err(Refusal::Configured(name.clone()));
        }
        let ending = |store::Stopped| Refusal::Ending;
        let id = known.id;
        let listing = self.parts.store.listing();
        let dead = tokio::task::spawn_blocking(move || {
            let counted = listing.and_then(|listing| listing.count_dead(id));
            // One that cannot be looked at may have some.
            counted.unwrap_or(1)
        });
        let dead = dead.await.unwrap_or(1);
        if !discard && (known.backlog > 0 || dead > 0 || known.filling) {
            return Err(Refusal::Waiting {
                name: name.clone(),
                waiting: known.backlog,
                dead,
            });
        }
        let (dir, of) = (self.parts.data_dir.clone(), name.clone());
        let forgot = tokio::task::spawn_blocking(move || forward::forget_notes(&dir, &of));
        let forgot = forgot.await.map_err(std::io::Error::other).flatten();
        forgot.map_err(|error| Refusal::Notes {
            name: name.clone(),
            reason: error.to_string(),
        })?;
        let forgot = self.parts.store.forget_destination(name.clone()).await;
        if !forgot.map_err(ending)? {
            return Err(Refusal::Unknown(name.clone()));
        }
        tracing::warn!(
            destination = &**name,
            events = known.backlog,
            dead_letters = dead,
            "destination removed, with what waited for it"
        );
        Ok(())
    }

    fn find(&self, name: &Arc<str>) -> Result<store::DestinationStatus, Refusal> {
        let status = self.parts.store.status();
        let found = status.destinations.iter().find(|d| d.name == *name);
        found.cloned().ok_or_else(|| Refusal::Unknown(name.clone()))
    }

    /// Lets everybody know how destinations are run.
    fn look_at_modes(&self) {
        let status = self.parts.store.status();
        for d in &status.destinations {
            self.roster.set_mode(&d.name, d.mode);
        }
        let draining = routing::draining(&self.parts.store);
        self.parts.ingest.set_draining(draining);
    }

    /// These are in force.
    fn take_over(&mut self, configs: Vec<forward::Config>) {
        let is_there = |place: &Arc<str>| configs.iter().any(|one| one.place() == place);
        self.places.retain(|place, _| is_there(place));
        self.gates.follow(&configs);
        self.configs = configs;
    }

    /// Has what comes go by its lane where a destination is behind, and no longer where it
    /// is not.
    fn look_at_gates(&mut self) {
        let status = self.parts.store.status();
        let state = |name: &str| self.roster.status(name).map(|status| status.state);
        if let Some(open) = self.gates.look(Instant::now(), &status, state) {
            self.parts.ingest.set_live(open);
        }
    }

    /// Has the journal know these names, and nobody who was not known before: such a one has
    /// nothing, and would keep what it was to be given.
    async fn know_only(
        &mut self,
        known: &store::Status,
        names: Vec<Arc<str>>,
    ) -> Result<(), store::Stopped> {
        let store = &self.parts.store;
        store.configure(names, Vec::new()).await?;
        for new in &store.status().destinations {
            if !known.destinations.iter().any(|d| d.name == new.name) {
                store.forget_destination(new.name.clone()).await?;
            }
        }
        Ok(())
    }

    /// Makes a destination, and touches nothing.
    fn make(&self, config: &forward::Config) -> anyhow::Result<Made> {
        let made = Made::new(config, &self.parts.store, &self.parts.clock);
        made.map_err(|error| anyhow::anyhow!("destination {}: {error}", config.name))
    }

    /// Continues a destination where the journal says it stands.
    fn prepare(&mut self, made: Made) -> anyhow::Result<()> {
        let place = self.places.entry(made.place().clone()).or_default();
        let Parts {
            store,
            boots,
            clock,
            end_max,
            ..
        } = &self.parts;
        let name = made.name().clone();
        let status = store.status();
        let known = status.destinations.iter().find(|d| d.name == name);
        let known = known.ok_or_else(|| anyhow::anyhow!("the journal does not know {name}"))?;
        let forwarder = Forwarder::new(
            made,
            known,
            place,
            store.clone(),
            boots.clone(),
            clock.clone(),
        )
        .end_within(*end_max);
        self.roster.add(name.clone(), forwarder.handle());
        self.ready.push((name, forwarder));
        Ok(())
    }

    fn begin_all(&mut self) {
        for (name, forwarder) in std::mem::take(&mut self.ready) {
            let stop = CancellationToken::new();
            self.running.insert(name.clone(), stop.clone());
            self.set.spawn(async move {
                // A task of its own, so that a panic ends up here with its name. It goes
                // when this one is aborted.
                let task = AbortOnDropHandle::new(tokio::spawn(forwarder.run(stop)));
                let ended = match task.await {
                    Ok(ended) => ended.map_err(Into::into),
                    Err(panic) => Err(panic.into()),
                };
                (name, ended)
            });
        }
    }

    fn starts_of(&self, configs: &[forward::Config]) -> Starts {
        let number = |config: &forward::Config| {
            let id = self.parts.store.destination_id(&config.name)?;
            Some((id, config.start))
        };
        configs.iter().filter_map(number).collect()
    }

    /// What new destinations want of what is kept: what the rules would send them now.
    fn wanted(&self) -> Wanted {
        let (ingest, boots) = (self.parts.ingest.clone(), self.parts.boots.clone());
        let starts = self.starts.clone();
        Wanted::new(move |id, record: &Record| {
            let record = boots.repaired(record.clone());
            let is_in_time = match starts.get(&id) {
                Some(Start::Since(since)) => record.received >= *since,
                _ => true,
            };
            // One that cannot be read becomes a dead letter, as it does elsewhere.
            is_in_time
                && record.event().map_or(true, |event| {
                    // What it is a copy of is asked about itself.
                    event.replayed.is_none() && ingest.would_send(&event, id)
                })
        })
    }
}

/// The same, knowing who this gateway is.
fn of_gateway(configs: Vec<forward::Config>, gateway: &GatewayId) -> Vec<forward::Config> {
    #[cfg(any(feature = "kafka", feature = "mqtt"))]
    let configs = configs
        .into_iter()
        .map(|one| one.of_gateway(gateway))
        .collect();
    #[cfg(not(any(feature = "kafka", feature = "mqtt")))]
    let _ = gateway;
    configs
}

/// One ended that was not told to.
fn unexpected(ended: Result<(Arc<str>, tasks::Result), tokio::task::JoinError>) -> tasks::Result {
    let (name, ended) = ended?;
    match ended {
        Ok(()) => Err(anyhow::anyhow!("destination {name} ended by itself")),
        Err(error) => Err(error.context(format!("destination {name}"))),
    }
}

#[cfg(test)]
mod tests;
