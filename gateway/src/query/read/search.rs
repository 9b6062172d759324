//! Full text: events, quarantine and dead letters, newest first.

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, PAGE_BYTES, Reader, beginnings, cursor, instant, limit, place};
use crate::{
    event,
    query::{Error, text::Question},
};

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
    let mut cut = [false; 3];
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
        if (0..queues.len()).any(|n| cut[n] && queues[n].peek().is_none()) {
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
    let more = queues.iter_mut().any(|queue| queue.peek().is_some()) || cut.contains(&true);
    Ok((merged, more.then(|| cursor(&json!(shown)))))
}

/// Some of one kind, by number; whether they were cut off because they are long.
fn found(
    context: &Context<'_>,
    among: In,
    question: &Question,
    before: i64,
    rows: i64,
) -> Result<(Vec<Hit>, bool), Error> {
    let connection = context.connection;
    let table = match among {
        In::All | In::Events => "event_text",
        In::Quarantine => "quarantine_text",
        In::DeadLetters => "dead_letter_text",
    };
    let mut room = beginnings::WORDS_MAX;
    let question =
        question.fts5(|words| beginnings::spelled(connection, table, words, &mut room))?;
    let mut ids = connection.prepare_cached(&format!(
        "SELECT rowid FROM {table} WHERE {table} MATCH ?1 AND rowid < ?2
         ORDER BY rowid DESC LIMIT ?3"
    ))?;
    let ids = ids.query_map((question, before, rows), |row| row.get::<_, i64>(0))?;
    let mut hits = Vec::new();
    let mut taken = 0;
    for id in ids {
        if taken > PAGE_BYTES {
            return Ok((hits, true));
        }
        let id = id?;
        context.patience.check()?;
        let hit = match among {
            In::All | In::Events => event(connection, id, &mut taken)?,
            In::Quarantine => message(connection, id)?,
            In::DeadLetters => dead_letter(connection, id)?,
        };
        hits.extend(hit);
    }
    Ok((hits, false))
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
    let item = json!({
        "kind": "event",
        "position": position,
        "received": instant(received),
        "event": event,
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
            let item = json!({
                "kind": "quarantine",
                "id": id,
                "received": instant(received),
                "client_id": row.get::<_, String>(1)?,
                "topic": row.get::<_, String>(2)?,
                "class": row.get::<_, String>(3)?,
                "reason": row.get::<_, String>(4)?,
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
            let item = json!({
                "kind": "dead-letter",
                "id": id,
                "at": instant(at),
                "destination": row.get::<_, String>(1)?,
                "position": row.get::<_, i64>(2)?,
                "attempts": row.get::<_, i64>(3)?,
                "reason": row.get::<_, String>(4)?,
            });
            Ok((at, id, item))
        })
        .optional()?;
    Ok(found)
}
