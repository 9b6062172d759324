//! `penstock replay`: events made again from the messages as they came, or sent again as
//! they are.

mod events;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{ConfigFile, offline, output};
use crate::{
    admin::{self, replay},
    archive::Identity,
    clock::{Clock as _, SystemClock},
    event::percent_encode,
    normalise::topic::Template,
    record::Position,
    running::Running,
};

/// What to make or to send again.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Normalise the messages again that were kept with raw = "always"
    #[arg(long, group = "what")]
    renormalise: bool,
    /// Send events again that the journal has, as they are
    #[arg(long, group = "what", conflicts_with_all = ["topic", "new", "only_changed"])]
    events: bool,
    /// Events that this rule takes, or this pattern (JSON)
    #[arg(long, value_name = "NAME|PATTERN", requires = "events")]
    rule: Option<String>,
    /// As what events are sent again: under the keys that they have, by which whoever has
    /// them refuses them, or as new ones
    #[arg(long, value_enum, default_value = "same", requires = "events")]
    identity: Identity,
    /// Send no more events in a second than this
    #[arg(long, value_name = "N", requires = "events")]
    rate: Option<u32>,
    /// Messages or events received then or later, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// Messages or events received before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// Events of this device, as it was called or is called
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Messages on topics that this filter takes
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// Send to this destination, instead of where the rules say; events need one
    #[arg(long, value_name = "NAME")]
    to_destination: Option<String>,
    /// Send also events that were not stored with their message: of a batch that came
    /// twice another message has them, or they are in quarantine
    #[arg(long)]
    new: bool,
    /// Send only events that differ from what they were
    #[arg(long)]
    only_changed: bool,
    /// Say what would change or be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on with a replay that was interrupted, by the time that it said: what it stored
    /// already is not stored again. What events were chosen is known
    #[arg(long, value_name = "TIME", value_parser = time)]
    resume: Option<String>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<String, &'static str> {
    match admin::parse_instant(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("a time is written 2026-03-01T12:00:00Z"),
    }
}

fn filter(text: &str) -> Result<String, String> {
    match Template::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Counts of all pages.
const COUNTS: [&str; 11] = [
    "messages",
    "refused",
    "same",
    "changed",
    "new",
    "gone",
    "stored",
    "duplicate",
    "nowhere",
    "damaged",
    "orphaned",
];

#[derive(Default)]
struct Total([u64; COUNTS.len()]);

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.events {
        return events::run(args);
    }
    debug_assert!(args.renormalise, "clap asks for one of the two");
    let config = args.file.load()?;
    let at = match &args.resume {
        Some(at) => at.clone(),
        None => {
            let now = admin::instant(replay::Replay::instant(SystemClock.now()));
            now.as_str().unwrap_or_default().to_owned()
        }
    };
    if args.json {
        output::line(serde_json::json!({ "at": at }));
    } else if !args.dry_run {
        output::line(format_args!(
            "replay {at}; should it be interrupted, the same with --resume {at} goes on"
        ));
    }
    let mut total = Total::default();
    let whole = if let Some(running) = Running::find(&config.data_dir)? {
        let query = args.query(&at);
        args.pages(&mut total, &at, |after, until| {
            let until = until.map_or_else(String::new, |until| format!("&until={until}"));
            running.request(
                "POST",
                &format!("/api/v1/replay?{query}&after={after}{until}"),
            )
        })?
    } else {
        offline::with_store(config, |store, ingest| async move {
            let wanted = args.replay(&at, &store, &ingest)?;
            let end = store.status().committed;
            let (mut after, mut whole) = (Position(0), true);
            loop {
                let (count, received) = (replay::MESSAGES_MAX, wanted.received());
                let listing = store.listing()?;
                let kept = listing.kept(after, end, count, &received, |view| wanted.wants(view))?;
                let done = wanted.page(&store, &ingest, after, kept).await?;
                whole &= args.say(&mut total, &serde_json::to_value(&done)?);
                match done.next {
                    Some(next) if whole => after = Position(next),
                    _ => break,
                }
            }
            args.sum_up(&total, &at);
            Ok(whole)
        })?
    };
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Args {
    /// Asks the running gateway page by page; false where it had no room.
    fn pages(
        &self,
        total: &mut Total,
        at: &str,
        ask: impl Fn(u64, Option<u64>) -> Result<Value>,
    ) -> Result<bool> {
        let (mut after, mut until) = (0, None);
        loop {
            let done = ask(after, until)?;
            let whole = self.say(total, &done);
            until = until.or_else(|| done["until"].as_u64());
            match done["next"].as_u64() {
                Some(next) if whole => after = next,
                _ => {
                    self.sum_up(total, at);
                    return Ok(whole);
                }
            }
        }
    }

    fn query(&self, at: &str) -> String {
        let mut query = String::from("at=");
        percent_encode(at, &mut query);
        let texts = [
            ("from", &self.from),
            ("to", &self.to),
            ("device", &self.device),
            ("topic", &self.topic),
            ("destination", &self.to_destination),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                query.push('&');
                query.push_str(name);
                query.push('=');
                percent_encode(text, &mut query);
            }
        }
        for (name, set) in [
            ("new", self.new),
            ("only_changed", self.only_changed),
            ("dry_run", self.dry_run),
        ] {
            if set {
                query.push('&');
                query.push_str(name);
                query.push_str("=true");
            }
        }
        query
    }

    fn replay(
        &self,
        at: &str,
        store: &crate::store::Handle,
        ingest: &crate::ingest::Ingest,
    ) -> Result<replay::Replay> {
        let instant = |text: &Option<String>| text.as_deref().and_then(admin::parse_instant);
        let topic = self.topic.as_deref().map(Template::parse).transpose()?;
        let destination = match &self.to_destination {
            None => None,
            Some(name) => match replay::destination(store, ingest, name) {
                Ok(id) => Some(id),
                Err(what) => bail!("{what}"),
            },
        };
        Ok(replay::Replay {
            at: admin::parse_instant(at)
                .map(replay::Replay::instant)
                .context("the time of the replay")?,
            from: instant(&self.from),
            to: instant(&self.to),
            device: self.device.clone(),
            topic,
            destination,
            with_new: self.new,
            only_changed: self.only_changed,
            dry_run: self.dry_run,
        })
    }

    /// Shows a page; false where there was no room for it.
    fn say(&self, total: &mut Total, done: &Value) -> bool {
        for (count, name) in total.0.iter_mut().zip(COUNTS) {
            *count += done[name].as_u64().unwrap_or(0);
        }
        for item in done["items"].as_array().into_iter().flatten() {
            if self.json {
                output::line(item);
            } else {
                output::line(output::tame(&in_words(item)));
            }
        }
        let full = done["full"] == true;
        if full && !self.json {
            output::line(
                "no room to spare in the journal: go on with --resume when destinations have taken more",
            );
        }
        !full
    }

    fn sum_up(&self, total: &Total, at: &str) {
        if self.json {
            let counts = COUNTS.iter().zip(total.0);
            let mut sum: serde_json::Map<String, Value> = counts
                .map(|(name, count)| ((*name).to_owned(), count.into()))
                .collect();
            sum.insert("at".into(), at.into());
            output::line(Value::Object(sum));
            return;
        }
        let [
            messages,
            refused,
            same,
            changed,
            new,
            gone,
            stored,
            duplicate,
            nowhere,
            damaged,
            orphaned,
        ] = total.0;
        output::line(format_args!(
            "{messages} messages, {refused} of them refused; events: {changed} changed, {same} the same, {new} new, {gone} no longer made"
        ));
        if !self.dry_run {
            output::line(format_args!(
                "{stored} stored to be sent, {duplicate} there already, {nowhere} for nobody"
            ));
        }
        if damaged > 0 {
            output::line(format_args!("{damaged} rows of the journal cannot be read"));
        }
        if orphaned > 0 {
            output::line(format_args!(
                "{orphaned} events stay as they are: no message of theirs is in the journal"
            ));
        }
    }
}

/// One event, or a message that is refused, on a line.
fn in_words(item: &Value) -> String {
    let text = |name: &str| item[name].as_str().unwrap_or_default();
    let mut line = format!(
        "{}  {}  {}  {}",
        item["position"],
        text("received"),
        text("topic"),
        text("change")
    );
    if item["change"] == "refused" {
        let _fine = write!(line, ": {}", text("reason"));
        return line;
    }
    let _fine = write!(line, " {}", text("eventkey"));
    for differs in item["differs"].as_array().into_iter().flatten() {
        let field = differs["field"].as_str().unwrap_or_default();
        let _fine = write!(line, "  {field}: {} -> {}", differs["old"], differs["new"]);
    }
    line
}
