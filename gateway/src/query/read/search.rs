//! Full text: events, quarantine and dead letters, newest first.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, PAGE_BYTES, Reader, beginnings, cursor, instant, limit, place, shown::Found};
use crate::{
    event,
    query::{Error, text::Question, words},
};

/// An answer goes no further when looking for events has taken so long: what it has, and
/// from where to go on, is said.
pub(super) const LOOK_TIME: Duration = Duration::from_millis(20);

/// Where to look.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum In {
    /// Everywhere.
    #[default]
    All,
    /// Events.
    Events,
    /// Messages in quarantine.
    Quarantine,
    /// Dead letters.
    DeadLetters,
}

/// What to look for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Search {
    /// Words, `"phrases"`, `beginnings*`, `-without`, `field:word` of device, topic,
    /// type and text.
    pub q: String,
    /// Where.
    #[serde(rename = "in")]
    pub among: In,
    /// Where the page begins.
    pub after: Option<String>,
    /// Its size, at most.
    pub limit: usize,
}

/// One thing that was found: when it was received, its number, and itself.
type Hit = (i64, i64, Value);

impl Reader {
    /// A page of what fits, newest first.
    ///
    /// # Errors
    /// When the database cannot be read, or the question is none.
    pub fn search(&mut self, asked: &Search) -> Result<Value, Error> {
        let question = Question::parse(&asked.q)?;
        self.answer(|context| page(context, asked, &question))
    }
}

fn page(
    context: &Context<'_>,
    asked: &Search,
    question: &Question,
) -> Result<(Vec<Value>, Option<String>), Error> {
    // The last number that was shown of each.
    let mut shown: [i64; 3] = match &asked.after {
        Some(after) => place(after)?,
        None => [i64::MAX; 3],
    };
    let (count, rows) = limit(asked.limit);
    let wanted = |among| asked.among == In::All || asked.among == among;
    let mut queues: [Vec<Hit>; 3] = Default::default();
    // What lies from there on back was not looked at.
    let mut cut = [None; 3];
    for (n, among) in [In::Events, In::Quarantine, In::DeadLetters]
        .into_iter()
        .enumerate()
    {
        if wanted(among) {
            (queues[n], cut[n]) = found(context, among, question, shown[n], rows)?;
        }
    }
    // Of one kind the number decides: clocks may have been set back.
    let mut merged = Vec::new();
    let mut queues = queues.map(|queue| queue.into_iter().peekable());
    while merged.len() < count {
        // What is behind the last of a page that was cut is not known, and may be newer.
        if (0..queues.len()).any(|n| cut[n].is_some() && queues[n].peek().is_none()) {
            break;
        }
        let heads = queues.iter_mut().enumerate();
        let heads = heads.filter_map(|(n, queue)| Some((queue.peek()?.0, n)));
        let Some((_, n)) = heads.max_by_key(|(received, n)| (*received, std::cmp::Reverse(*n)))
        else {
            break;
        };
        if let Some((_, id, item)) = queues[n].next() {
            shown[n] = id;
            merged.push(item);
        }
    }
    for (n, queue) in queues.iter_mut().enumerate() {
        if let (Some(place), None) = (cut[n], queue.peek()) {
            shown[n] = place;
        }
    }
    let rest = queues.iter_mut().any(|queue| queue.peek().is_some());
    let more = rest || cut.iter().any(Option::is_some);
    Ok((merged, more.then(|| cursor(&json!(shown)))))
}

/// Some of one kind, by number; and from where on back there was no looking, because they
/// are long or it took long.
fn found(
    context: &Context<'_>,
    among: In,
    question: &Question,
    before: i64,
    rows: i64,
) -> Result<(Vec<Hit>, Option<i64>), Error> {
    let one = |table: &str| {
        let mut hits = Vec::new();
        let range = (before, rows);
        let cut = found_in(context, table, among, question, range, &mut hits, &mut 0)?;
        Ok((hits, cut))
    };
    match among {
        In::All | In::Events => {
            let parts = words::parts(context.connection, before)?;
            events(context, question, (before, rows), &parts)
        }
        In::Quarantine => one("quarantine_text"),
        In::DeadLetters => one("dead_letter_text"),
    }
}

/// Those of events, part by part until it has taken long; the first is always looked at.
fn events(
    context: &Context<'_>,
    question: &Question,
    (before, rows): (i64, i64),
    parts: &[(i64, i64)],
) -> Result<(Vec<Hit>, Option<i64>), Error> {
    let began = Instant::now();
    let (mut hits, mut taken) = (Vec::new(), 0);
    for (n, (part, first)) in parts.iter().enumerate() {
        let rest = rows - i64::try_from(hits.len()).unwrap_or(rows);
        if rest <= 0 {
            break;
        }
        let table = words::table(*part);
        let (among, range) = (In::Events, (before, rest));
        let cut = found_in(
            context, &table, among, question, range, &mut hits, &mut taken,
        )?;
        if cut.is_some() {
            return Ok((hits, cut));
        }
        if n + 1 < parts.len() && began.elapsed() >= context.look {
            let is_full = i64::try_from(hits.len()).unwrap_or(rows) >= rows;
            let place = (!is_full).then_some(*first);
            return Ok((hits, place));
        }
    }
    Ok((hits, None))
}

/// Adds those of one index.
fn found_in(
    context: &Context<'_>,
    table: &str,
    among: In,
    question: &Question,
    (before, rows): (i64, i64),
    hits: &mut Vec<Hit>,
    taken: &mut usize,
) -> Result<Option<i64>, Error> {
    let connection = context.connection;
    let mut room = beginnings::WORDS_MAX;
    let question =
        question.fts5(|words| beginnings::spelled(connection, table, words, &mut room))?;
    let mut ids = connection.prepare_cached(&format!(
        "SELECT rowid FROM {table} WHERE {table} MATCH ?1 AND rowid < ?2
         ORDER BY rowid DESC LIMIT ?3"
    ))?;
    let ids = ids.query_map((question, before, rows), |row| row.get::<_, i64>(0))?;
    for id in ids {
        if *taken > PAGE_BYTES {
            return Ok(hits.last().map(|(_, id, _)| *id));
        }
        let id = id?;
        context.patience.check()?;
        let hit = match among {
            In::All | In::Events => event(connection, id, taken)?,
            In::Quarantine => message(connection, id)?,
            In::DeadLetters => dead_letter(connection, id)?,
        };
        hits.extend(hit);
    }
    Ok(None)
}

fn event(connection: &Connection, position: i64, taken: &mut usize) -> Result<Option<Hit>, Error> {
    let row = connection
        .prepare_cached("SELECT received, body FROM events WHERE position = ?1")?
        .query_row([position], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    let Some((received, body)) = row else {
        return Ok(None);
    };
    *taken += body.len();
    let mut shown = Vec::new();
    if let Ok(view) = event::View::parse(&body) {
        view.to_json(Some(&position.to_string()), &mut shown);
    }
    let event: Value = serde_json::from_slice(&shown).unwrap_or(Value::Null);
    let item = json!(Found::Event {
        position,
        received: instant(received),
        event,
    });
    Ok(Some((received, position, item)))
}

fn message(connection: &Connection, id: i64) -> Result<Option<Hit>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT received, client_id, topic, class, reason FROM quarantine WHERE id = ?1",
        )?
        .query_row([id], |row| {
            let received: i64 = row.get(0)?;
            let item = json!(Found::Quarantine {
                id,
                received: instant(received),
                client_id: row.get(1)?,
                topic: row.get(2)?,
                class: row.get(3)?,
                reason: row.get(4)?,
            });
            Ok((received, id, item))
        })
        .optional()?;
    Ok(found)
}

fn dead_letter(connection: &Connection, id: i64) -> Result<Option<Hit>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT at, destination, position, attempts, reason FROM dead_letters WHERE id = ?1",
        )?
        .query_row([id], |row| {
            let at: i64 = row.get(0)?;
            let item = json!(Found::DeadLetter {
                id,
                at: instant(at),
                destination: row.get(1)?,
                position: row.get(2)?,
                attempts: row.get(3)?,
                reason: row.get(4)?,
            });
            Ok((at, id, item))
        })
        .optional()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::SystemClock,
        query::{
            schema,
            words::{PART, Words},
        },
        rules::tests::event_of,
        store::{Config, OnFull, Store},
    };

    #[test]
    fn an_answer_that_takes_long_says_how_far_it_looked_and_the_next_goes_on_there() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3_600);
        let config = Config {
            dir: dir.path().to_owned(),
            max_bytes: 1 << 24,
            max_age: None,
            keep_delivered: None,
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 1 << 16,
            dedup_age: hour,
            dedup_count: 1_000,
            dedup_memory_bytes: 1 << 20,
            destinations: Vec::new(),
            from_kept: Vec::new(),
            seal: penstock_broker::seal::Seal::default(),
        };
        let (store, _) = Store::open(config, Arc::new(SystemClock)).unwrap();
        let read = schema::open(dir.path()).unwrap();
        let mut words = Words::default();
        let positions = [3, 5, PART + 1, 2 * PART + 1, 2 * PART + 2, 5 * PART];
        for position in positions {
            let device = if position == PART + 1 { "b8" } else { "b7" };
            let event = event_of(device, &[("t", 1.0)]);
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            words.add(&read, position, &event).unwrap();
            read.execute(
                "INSERT INTO events VALUES (?1, x'00', 0, 0, 0, ?2)",
                (position, body),
            )
            .unwrap();
        }
        let mut reader = Reader::open(dir.path(), store.handle().listing().unwrap()).unwrap();
        let pages = |reader: &mut Reader, q: &str, limit| {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let asked = Search {
                    q: q.to_owned(),
                    among: In::All,
                    after,
                    limit,
                };
                let answer = reader.search(&asked).unwrap();
                let items = answer["items"].as_array().unwrap().iter();
                let found = items.map(|item| item["position"].as_i64().unwrap());
                pages.push(found.collect::<Vec<_>>());
                after = answer["next"].as_str().map(ToOwned::to_owned);
                if after.is_none() {
                    return pages;
                }
            }
        };
        let newest = |of: &[i64]| of.iter().rev().copied().collect::<Vec<_>>();
        reader.look = hour;
        assert_eq!(pages(&mut reader, "telemetry", 10), [newest(&positions)]);
        let by_two = newest(&positions)
            .chunks(2)
            .map(<[_]>::to_vec)
            .collect::<Vec<_>>();
        assert_eq!(pages(&mut reader, "telemetry", 2), by_two);
        assert_eq!(pages(&mut reader, "device:b8", 10), [[PART + 1]]);

        // With no time at all each answer looks at one part.
        reader.look = Duration::ZERO;
        let parts: [&[i64]; 4] = [
            &[5 * PART],
            &[2 * PART + 2, 2 * PART + 1],
            &[PART + 1],
            &[5, 3],
        ];
        assert_eq!(pages(&mut reader, "telemetry", 10), parts);
        assert_eq!(
            pages(&mut reader, "telemetry", 1).concat(),
            newest(&positions)
        );
        let b8: [&[i64]; 4] = [&[], &[], &[PART + 1], &[]];
        assert_eq!(pages(&mut reader, "device:b8", 10), b8);
    }
}
