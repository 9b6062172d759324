//! Beginnings of words, spelled out.
//!
//! FTS5 answers `temper*` by putting together the rows of every word that begins so before
//! it gives the newest of them: linear in all that fits. The words themselves it gives
//! newest first and one at a time. So the words that a beginning stands for are looked up
//! in the index, as long as they are few, and asked for by name. (Indexes of beginnings,
//! which FTS5 offers, would nearly triple the index and double what a word costs to write.)

use rusqlite::{Connection, OptionalExtension as _};

use crate::query::Error;

/// Words of all phrases that the beginnings of a question stand for, at most: each is a
/// reader of the index, with some kilobytes.
pub(super) const WORDS_MAX: usize = 256;

/// What `words`, of which the last is a beginning, stand for in an index: words that stand
/// one after the other. `None` where there are more than `room`, of which it takes what it
/// gives.
///
/// # Errors
/// When the database cannot be read.
pub(super) fn spelled(
    connection: &Connection,
    table: &str,
    words: &str,
    room: &mut usize,
) -> Result<Option<Vec<String>>, Error> {
    let mut before = tokens(words)?;
    let Some(beginning) = before.pop() else {
        return Ok(None);
    };
    // Of this connection alone: the file is opened to be read only.
    connection.execute_batch(&format!(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.words_of_{table}
         USING fts5vocab(main, {table}, instance)"
    ))?;
    let mut next = connection.prepare_cached(&format!(
        "SELECT term FROM temp.words_of_{table} WHERE term >= ?1 ORDER BY term LIMIT 1"
    ))?;
    let mut phrases = Vec::new();
    // A phrase has a reader for each of its words.
    let each = before.len() + 1;
    let mut from = beginning.clone();
    loop {
        let word: Option<String> = next.query_row([&from], |row| row.get(0)).optional()?;
        let Some(word) = word.filter(|word| word.starts_with(&beginning)) else {
            *room -= phrases.len() * each;
            return Ok(Some(phrases));
        };
        if (phrases.len() + 1) * each > *room {
            return Ok(None);
        }
        // Less than any longer word, as words have letters and digits only.
        from = format!("{word}\u{1}");
        before.push(word);
        phrases.push(before.join(" "));
        before.pop();
    }
}

/// Words as the index has them: without case, and without accents.
fn tokens(words: &str) -> Result<Vec<String>, Error> {
    let memory = Connection::open_in_memory()?;
    memory.execute_batch(
        "CREATE VIRTUAL TABLE asked USING fts5(words);
         CREATE VIRTUAL TABLE tokens USING fts5vocab(asked, instance);",
    )?;
    memory.execute("INSERT INTO asked VALUES (?1)", [words])?;
    let mut tokens = memory.prepare("SELECT term FROM tokens ORDER BY offset")?;
    let tokens = tokens.query_map([], |row| row.get(0))?;
    Ok(tokens.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::text::Question;

    fn index(texts: &[impl AsRef<str>]) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let table = "CREATE VIRTUAL TABLE event_text USING fts5(
            device, topic, type, text, content = '', contentless_delete = 1)";
        connection.execute_batch(table).unwrap();
        for text in texts {
            let add = "INSERT INTO event_text (device, topic, type, text) VALUES (?1, '', '', ?1)";
            connection.execute(add, [text.as_ref()]).unwrap();
        }
        connection
    }

    fn all(index: &Connection, words: &str) -> Option<Vec<String>> {
        spelled(index, "event_text", words, &mut { WORDS_MAX }).unwrap()
    }

    fn found(connection: &Connection, question: &str) -> Vec<i64> {
        let ask = "SELECT rowid FROM event_text WHERE event_text MATCH ?1 ORDER BY rowid DESC";
        let mut ask = connection.prepare(ask).unwrap();
        let found = ask.query_map([question], |row| row.get(0)).unwrap();
        found.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_beginning_stands_for_the_words_that_there_are() {
        let index = index(&["press-7 hot", "Prêt à porter", "express", "pre", "press 8"]);
        let check = |words: &str, expect: &[&str]| {
            let spelled = all(&index, words).unwrap();
            assert_eq!(spelled, expect, "{words}");
        };
        check("PRE", &["pre", "press", "pret"]);
        check("prê", &["pre", "press", "pret"]);
        check("press h", &["press hot"]);
        check("press-7 h", &["press 7 hot"]);
        check("nothing", &[]);
    }

    #[test]
    fn words_that_are_gone_are_not_in_the_way() {
        let index = index(&["press", "presto", "preset"]);
        let gone = "DELETE FROM event_text WHERE rowid = 2";
        index.execute_batch(gone).unwrap();
        let question = Question::parse("pre*").unwrap();
        let question = question.fts5(|words| Ok(all(&index, words)));
        assert_eq!(found(&index, &question.unwrap()), [3, 1]);
    }

    #[test]
    fn too_many_words_are_left_to_the_index() {
        let texts: Vec<String> = (0..300)
            .map(|n| format!("sn{n:04} one{}", n % 256))
            .collect();
        let index = index(&texts);
        assert_eq!(all(&index, "sn"), None);
        assert_eq!(all(&index, "one").unwrap().len(), WORDS_MAX);
        // Each word of a phrase counts, and all phrases of a question.
        assert_eq!(all(&index, "sn0001 one"), None);
        let mut room = WORDS_MAX;
        let mut some = |words| spelled(&index, "event_text", words, &mut room).unwrap();
        assert_eq!(some("x one2").unwrap().len(), 67);
        assert_eq!(some("x one1"), None);
        assert_eq!(some("one1").unwrap().len(), 111);
        assert_eq!(some("sn01"), None);
        let question = Question::parse("one*").unwrap();
        let question = question.fts5(|words| Ok(all(&index, words)));
        assert_eq!(found(&index, &question.unwrap()).len(), 300);
    }

    proptest! {
        #[test]
        fn what_is_spelled_out_finds_the_same(
            texts in prop::collection::vec("([abÀà]{1,3}[ -]){1,4}", 1..20),
            asked in r#"(-?(device:)?("?[abàB]{1,2}( [ab])?"?\*?) ){1,3}"#,
        ) {
            let index = index(&texts);
            if let Ok(question) = Question::parse(&asked) {
                let plain = question.fts5(|_| Ok(None)).unwrap();
                let out = question.fts5(|words| Ok(all(&index, words))).unwrap();
                prop_assert_eq!(found(&index, &plain), found(&index, &out), "{} {}", plain, out);
            }
        }
    }
}
