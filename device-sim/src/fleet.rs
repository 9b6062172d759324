//! Builds the devices of a run and drives them on a few threads.
//!
//! Each thread has a single-threaded runtime and one task that polls all of its
//! devices; nothing is shared between threads but the ack log's file and the
//! counters.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::sync::{Semaphore, watch};

use crate::{
    ack_log::{AckLog, Destination, FLUSH_EVERY},
    chaos::Chaos,
    clock::Clock,
    device::{Device, Shared},
    outbox::{Outbox, Recipe},
    payload::Format,
    profile::Profile,
    progress::Progress,
    schedule::{Pace, Schedule},
    session::Address,
    stats::Stats,
    topic::Template,
    window::Window,
    wire::{Qos, Version},
};

/// Connections that a run opens at once.
const OPENING_MAX: usize = 128;

/// How the gateway learns a message's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdentityBy {
    /// MQTT 5 user property; a field where the device speaks 3.1.1.
    Property,
    /// A field of the payload.
    Field,
    /// Only `boot` and `seq` in the payload.
    Sequence,
}

/// A run as asked for.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) address: Address,
    pub(crate) devices: u32,
    pub(crate) rate: f64,
    pub(crate) qos: Qos,
    /// Each trait is spread evenly over the devices.
    pub(crate) versions: Vec<Version>,
    pub(crate) formats: Vec<Format>,
    pub(crate) identities: Vec<IdentityBy>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) window: u16,
    pub(crate) backlog: u64,
    pub(crate) seed: u64,
    pub(crate) boot: Option<u64>,
    pub(crate) prefix: String,
    pub(crate) topic: Template,
    pub(crate) duration: Option<Duration>,
    pub(crate) count: Option<u64>,
    pub(crate) settle: Duration,
    pub(crate) chaos: Chaos,
    pub(crate) threads: u32,
    pub(crate) ack_log: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) boot: u64,
    pub(crate) elapsed: Duration,
}

/// What makes one device different from another.
struct Traits {
    profile: usize,
    version: Version,
    format: Format,
    identity: IdentityBy,
    values_seed: u64,
    chaos_seed: u64,
}

impl Config {
    fn traits(&self) -> Vec<Traits> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut spread = |kinds: usize| {
            let mut dealt: Vec<_> = (0..kinds).cycle().take(self.devices as usize).collect();
            dealt.shuffle(&mut rng);
            dealt
        };
        let profiles = spread(self.profiles.len());
        let versions = spread(self.versions.len());
        let formats = spread(self.formats.len());
        let identities = spread(self.identities.len());
        (0..self.devices as usize)
            .map(|index| Traits {
                profile: profiles[index],
                version: self.versions[versions[index]],
                format: self.formats[formats[index]],
                identity: self.identities[identities[index]],
                values_seed: rng.random(),
                chaos_seed: rng.random(),
            })
            .collect()
    }
}

/// Runs all devices to their end. The run ends early when `stop` becomes true.
///
/// # Errors
/// When the ack log cannot be written or a thread cannot be started.
pub(crate) fn run(
    config: &Config,
    stop: &watch::Receiver<bool>,
    progress: &mut Progress,
) -> anyhow::Result<Outcome> {
    let clock = Clock::start();
    let boot = config
        .boot
        .unwrap_or_else(|| u64::try_from(clock.wall_ms(clock.started())).unwrap_or(0));
    let destination = match &config.ack_log {
        Some(path) => Some(
            Destination::create(path)
                .with_context(|| format!("cannot create {}", path.display()))?,
        ),
        None => None,
    };
    let traits = config.traits();
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let threads = config.threads.min(config.devices).max(1);

    let outcome = std::thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut counted = Vec::new();
        for thread in 0..threads {
            let stats = Arc::new(Mutex::new(Stats::default()));
            counted.push(Arc::clone(&stats));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start a runtime")?;
            let worker = Worker {
                config,
                traits: &traits,
                thread,
                threads,
                clock,
                boot,
                stats,
                opening: Arc::clone(&opening),
                destination: destination.clone(),
                stop: stop.clone(),
            };
            workers.push(
                std::thread::Builder::new()
                    .name(format!("devices-{thread}"))
                    .spawn_scoped(scope, move || runtime.block_on(worker.run()))
                    .context("cannot start a thread")?,
            );
        }
        let total = || {
            counted.iter().fold(Stats::default(), |mut sum, stats| {
                sum.add(&stats.lock().unwrap_or_else(PoisonError::into_inner));
                sum
            })
        };
        while !workers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::park_timeout(progress.interval());
            progress.show(total);
        }
        for worker in workers {
            if worker.join().is_err() {
                anyhow::bail!("a thread of devices ended by a defect of the simulator");
            }
        }
        Ok(Outcome {
            stats: total(),
            boot,
            elapsed: clock.started().elapsed(),
        })
    })?;
    if let Some(error) = destination.and_then(|destination| destination.error()) {
        anyhow::bail!("the ack log is not complete: {error}");
    }
    Ok(outcome)
}

/// One thread of devices.
struct Worker<'a> {
    config: &'a Config,
    traits: &'a [Traits],
    thread: u32,
    threads: u32,
    clock: Clock,
    boot: u64,
    stats: Arc<Mutex<Stats>>,
    opening: Arc<Semaphore>,
    destination: Option<Destination>,
    stop: watch::Receiver<bool>,
}

impl Worker<'_> {
    async fn run(self) {
        let shared = Rc::new(Shared {
            address: self.config.address.clone(),
            settle: self.config.settle,
            started: self.clock.started(),
            stats: Arc::clone(&self.stats),
            log: RefCell::new(AckLog::new(self.destination.clone())),
            opening: Arc::clone(&self.opening),
            complained: Cell::new(false),
        });
        let profiles: Vec<_> = self.config.profiles.iter().cloned().map(Rc::new).collect();
        let devices = (self.thread..self.config.devices)
            .step_by(self.threads as usize)
            .map(|index| self.device(index, &profiles, &shared).run());
        let all = join_all(devices);
        let flushing = async {
            loop {
                tokio::time::sleep(FLUSH_EVERY).await;
                shared.log.borrow_mut().flush();
            }
        };
        tokio::select! {
            _ = all => {}
            () = flushing => {}
        }
        shared.log.borrow_mut().flush();
    }

    fn device(&self, index: u32, profiles: &[Rc<Profile>], shared: &Rc<Shared>) -> Device {
        let config = self.config;
        let traits = &self.traits[index as usize];
        let profile = Rc::clone(&profiles[traits.profile]);
        let name: Rc<str> = format!("{}{}-{:04}", config.prefix, profile.device, index + 1).into();
        let topic = config.topic.fill(&name, &profile.device);
        let identity = match (traits.identity, traits.version) {
            // 3.1.1 has no properties.
            (IdentityBy::Property, Version::V4) => IdentityBy::Field,
            (identity, _) => identity,
        };
        let pace = Pace {
            start: self.clock.started(),
            ends: config
                .duration
                .map(|duration| self.clock.started() + duration),
            count: config.count,
            rate: config.rate,
            devices: config.devices,
            backlog: config.backlog,
        };
        let recipe = Recipe {
            device: Rc::clone(&name),
            boot: self.boot,
            profile,
            format: traits.format,
            id_field: identity == IdentityBy::Field,
            chaos: config.chaos,
            values_seed: traits.values_seed,
            chaos_seed: traits.chaos_seed,
        };
        shared
            .stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .version(traits.version)
            .devices += 1;
        Device {
            name,
            topic,
            version: traits.version,
            qos: config.qos,
            id_property: identity == IdentityBy::Property,
            outbox: Outbox::new(recipe, Schedule::new(&pace, index), self.clock),
            window: Window::new(config.window),
            shared: Rc::clone(shared),
            stop: self.stop.clone(),
        }
    }
}
