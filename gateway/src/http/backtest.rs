//! What rules, or a change of them, would make of the events that the journal has: the same
//! as `penstock rules backtest`, a page at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};
use utoipa::ToSchema;

use super::{Context, error::Problem, registry::object};
use crate::{
    admin,
    backtest::{self, Backtest, PATTERN, Report},
    event::Timestamp,
    pace::Pace,
    record::{Position, Record},
    rulebook,
    rules::{Pattern, Rule},
    store::{self, HistoryPage, Listing},
};

/// One at a time: it takes a processor, and room for what it counts.
static TESTING: Semaphore = Semaphore::const_new(1);
/// How long events are looked at for one answer.
const PAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// Records that are read at a time.
const RECORDS: usize = 1_000;
/// Rules that are tried together.
const RULES_MAX: usize = 1_000;

/// What to ask, and of which events.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = BacktestAsked)]
pub(super) struct Asked {
    /// What would change: rules as they are put, with a name, in place of those of the same
    /// name or beside all others. Without any the rules in force are told of.
    #[schema(value_type = Vec<Value>)]
    rules: Vec<Value>,
    /// One pattern that would come beside the rules in force.
    #[schema(value_type = Option<Value>)]
    pattern: Option<Value>,
    /// Tell only of the rule of this name.
    rule: Option<String>,
    /// Only events that were received from here on.
    from: Option<String>,
    /// Only events that were received before this.
    to: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// The `next` of the page before.
    after: Option<u64>,
    /// The `until` of the page before; by default what is committed now.
    until: Option<u64>,
}

/// What came of the events of this page.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BacktestPage)]
pub(super) struct Answer {
    #[serde(flatten)]
    report: Report,
    /// Up to which position events are looked at in all pages.
    until: u64,
    /// How far this page came, where there is more to look at.
    next: Option<u64>,
}

/// What was asked, read.
struct Wanted {
    changes: Vec<Change>,
    only: Option<String>,
    received: std::ops::Range<Timestamp>,
    device: Option<String>,
    after: Position,
    until: Position,
}

/// Something that would be put in force.
enum Change {
    /// A rule as it is put.
    Rule(String),
    /// A pattern by itself.
    Pattern(Box<Pattern>),
}

/// Says so when nobody waits for the answer any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Asks rules of the events that the journal has; changes nothing.
#[utoipa::path(
    post,
    path = "/api/v1/backtest",
    tag = "rules",
    operation_id = "backtest",
    request_body(content = Asked, description = "Which rules, and which events", content_type = "application/json"),
    responses(
        (status = 200, description = "What the rules make of the events of this page", body = Answer),
        (status = 400, description = "Every mistake in it", body = Problem),
        (status = 409, description = "Another one is under way", body = Problem),
    )
)]
pub(super) async fn page(
    State(context): State<Context>,
    body: Bytes,
) -> Result<Json<Answer>, Problem> {
    let wanted = wanted(&body, context.store.status().committed)?;
    let Ok(turn) = TESTING.try_acquire() else {
        let what = "another backtest is under way; ask again when it is over";
        return Err(Problem::new(StatusCode::CONFLICT, what));
    };
    let gone = Arc::new(AtomicBool::new(false));
    let _here = Gone(gone.clone());
    let done = spawn_blocking(move || look(&context, &wanted, turn, &gone)).await;
    let done = done.map_err(|error| {
        tracing::error!(%error, "a backtest failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the backtest failed")
    })?;
    Ok(Json(done?))
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what)
}

fn wanted(body: &Bytes, committed: Position) -> Result<Wanted, Problem> {
    let asked: Asked = serde_json::from_value(Value::Object(object(body)?))
        .map_err(|error| wrong(format!("it is not what a backtest takes: {error}")))?;
    let instant = |name: &str, text: Option<&str>, default: i64| {
        let Some(text) = text else {
            return Ok(Timestamp::from_nanos(default));
        };
        let what = || format!("{name}: {text:?} is not a time such as 2026-03-01T12:00:00Z");
        admin::parse_instant(text).ok_or_else(|| wrong(what()))
    };
    if asked.rules.len() > RULES_MAX {
        return Err(wrong(format!("rules: there can be {RULES_MAX}")));
    }
    let rules = asked.rules.iter();
    let mut changes: Vec<Change> = rules.map(|rule| Change::Rule(rule.to_string())).collect();
    if let Some(pattern) = &asked.pattern {
        if !changes.is_empty() {
            return Err(wrong("either rules or pattern"));
        }
        // As it is put in a rule: as it is, or in a text.
        let text = pattern
            .as_str()
            .map_or_else(|| pattern.to_string(), str::to_owned);
        let pattern = Pattern::parse(&text).map_err(|error| wrong(format!("pattern: {error}")))?;
        changes.push(Change::Pattern(Box::new(pattern)));
    }
    Ok(Wanted {
        changes,
        only: asked.rule,
        received: instant("from", asked.from.as_deref(), i64::MIN)?
            ..instant("to", asked.to.as_deref(), i64::MAX)?,
        device: asked.device,
        after: Position(asked.after.unwrap_or(0)),
        until: asked.until.map_or(committed, Position).min(committed),
    })
}

fn look(
    context: &Context,
    wanted: &Wanted,
    _turn: SemaphorePermit<'_>,
    gone: &AtomicBool,
) -> Result<Answer, Problem> {
    let mut trial = context.rulebook.trial();
    for (n, change) in (1..).zip(&wanted.changes) {
        match change {
            Change::Pattern(pattern) => {
                trial.add(Rule::to(PATTERN, (**pattern).clone(), Vec::new()))?;
            }
            Change::Rule(text) => trial.read(text).map_err(|error| of_rule(n, error))?,
        }
    }
    let mut backtest = Backtest::new(backtest::Asked {
        destinations: trial.destinations,
        in_force: trial.in_force,
        changes: trial.changes,
        only: wanted.only.clone(),
    })
    .map_err(|error| wrong(error.to_string()))?;
    let next = asked(context, wanted, &mut backtest, gone)?;
    Ok(Answer {
        report: backtest.report(),
        until: wanted.until.0,
        next: next.map(|next| next.0),
    })
}

/// What is wrong with one of several rules.
fn of_rule(n: usize, error: rulebook::Error) -> rulebook::Error {
    let rulebook::Error::Wrong(said) = error else {
        return error;
    };
    let said = said.iter().map(|one| format!("rule[{n}].{one}"));
    rulebook::Error::Wrong(said.collect())
}

/// Asks of events until there are no more, it took long, or nobody waits any more; says where
/// the next page begins.
fn asked(
    context: &Context,
    wanted: &Wanted,
    backtest: &mut Backtest,
    gone: &AtomicBool,
) -> Result<Option<Position>, store::Error> {
    let listing: Listing = context.store.listing()?;
    let (began, mut pace) = (Instant::now(), Pace::begin());
    let mut after = wanted.after;
    let is_over = || began.elapsed() >= PAGE_TIME_MAX || gone.load(Relaxed);
    loop {
        let page = listing.history(after, wanted.until, RECORDS, &wanted.received)?;
        let next = page.next;
        let ended = ask(
            backtest,
            page,
            wanted.device.as_deref(),
            |record| context.boots.repaired(record),
            is_over,
        );
        match ended.or(next) {
            Some(next) if !is_over() => after = next,
            next => return Ok(next),
        }
        // Devices need the processors more.
        std::thread::sleep(pace.rest());
    }
}

/// Asks of the records of a page until it is over; says of which it asked last where that is
/// not all of them.
fn ask(
    backtest: &mut Backtest,
    page: HistoryPage,
    of: Option<&str>,
    repaired: impl Fn(Record) -> Record,
    is_over: impl Fn() -> bool,
) -> Option<Position> {
    let mut ended = None;
    let mut records = page.records.into_iter().peekable();
    while let Some(record) = records.next() {
        let position = record.position;
        if of.is_none_or(|device| record.is_of(device)) {
            backtest.ask(&repaired(record));
        }
        // One may take some tenths of a second.
        if is_over() && records.peek().is_some() {
            ended = Some(position);
            break;
        }
    }
    // Those that follow are read again.
    let damaged = page.damaged.iter();
    let damaged = damaged.filter(|at| ended.is_none_or(|ended| **at <= ended));
    backtest.damaged(damaged.count() as u64);
    ended
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{event::Key, record::Routes, rules::tests::event_of};

    fn record(position: u64) -> Record {
        let event = event_of("b7", &[]);
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        Record {
            position: Position(position),
            key: Key([7; 16]),
            received: event.received,
            routes: Routes::NONE,
            body: body.into(),
        }
    }

    #[test]
    fn a_page_that_takes_too_long_ends_with_any_record_and_the_next_asks_of_the_rest() {
        let pattern = Pattern::parse(r#"{"device":["b7"]}"#).unwrap();
        let mut backtest = Backtest::new(backtest::Asked {
            in_force: vec![Rule::to("all", pattern, Vec::new())],
            ..backtest::Asked::default()
        })
        .unwrap();
        // The journal from a position on, with two rows that do not read.
        let page = |after: u64| HistoryPage {
            records: [1, 2, 4, 6, 7]
                .into_iter()
                .filter(|at| *at > after)
                .map(record)
                .collect(),
            damaged: [3, 5]
                .into_iter()
                .filter(|at| *at > after)
                .map(Position)
                .collect(),
            ..HistoryPage::default()
        };
        let left = Cell::new(3);
        let is_over = || {
            left.set(left.get() - 1);
            left.get() == 0
        };
        let ended = ask(&mut backtest, page(0), None, |record| record, is_over);
        assert_eq!(ended, Some(Position(4)));
        assert_eq!(
            ask(&mut backtest, page(4), None, |record| record, || false),
            None
        );
        let report = backtest.report();
        assert_eq!(
            (report.events, report.damaged, report.rules[0].takes),
            (5, 2, 5)
        );
    }
}
