//! Values that are sealed, opened, moved and damaged.

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;

fn key(n: u8) -> Key {
    Key::parse(format!("{n:02x}").repeat(32).as_bytes()).expect("a key")
}

fn seal(n: u8) -> Seal {
    Seal::new(&key(n), &[]).expect("random bytes")
}

const HERE: Place<'_> = Place {
    table: "journal.devices",
    row: b"press-1",
};

#[test]
fn a_key_is_read_in_both_spellings_and_shows_in_none() {
    let hex = "00".repeat(31) + "ff\n";
    let base64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n";
    let read = |text: &str| Key::parse(text.as_bytes());
    let (one, other) = (read(&hex).expect("hex"), read(base64).expect("base64"));
    assert_eq!(one.id(), other.id());
    assert_eq!(*one.to_hex(), hex.trim_end());
    assert_eq!(
        read(&one.to_hex().to_uppercase()).expect("upper").id(),
        one.id()
    );
    for text in [
        "",
        "00",
        &"0".repeat(63),
        &"g".repeat(64),
        "AAAA",
        &hex.repeat(2),
    ] {
        assert_eq!(read(text).expect_err(text), NotAKey);
    }
    let shown = format!("{one:?} {:?}", Seal::new(&one, &[other]).expect("made"));
    assert!(!shown.contains("0000"), "{shown}");
}

#[test]
fn a_value_opens_where_it_was_put_and_nowhere_else() {
    let ours = seal(1);
    let stored = ours.seal(HERE, b"marker").into_owned();
    assert_eq!(stored.len(), b"marker".len() + OVERHEAD);
    assert!(!stored.windows(6).any(|part| part == b"marker"));
    assert_eq!(*ours.open(HERE, &stored).expect("opens"), *b"marker");
    // Another process with the same key.
    assert_eq!(*seal(1).open(HERE, &stored).expect("opens"), *b"marker");
    for place in [
        Place {
            row: b"press-2",
            ..HERE
        },
        Place {
            row: b"press-11",
            ..HERE
        },
        Place {
            table: "journal.commands",
            ..HERE
        },
        // Table and row are told apart.
        Place {
            table: "journal.device",
            row: b"s\0press-1",
        },
    ] {
        assert_eq!(
            ours.open(place, &stored),
            Err(NotOpened::Damaged),
            "{place:?}"
        );
    }
    assert_eq!(
        seal(2).open(HERE, &stored),
        Err(NotOpened::NoKey(key(1).id()))
    );
    let off = Seal::default();
    assert_eq!(off.open(HERE, &stored), Err(NotOpened::NoKey(key(1).id())));
    assert_eq!(off.require(&stored), Err(NotOpened::NoKey(key(1).id())));
}

#[test]
fn every_flipped_bit_and_every_cut_is_damage_or_another_key() {
    let ours = seal(1);
    let stored = ours.seal(HERE, b"body").into_owned();
    for bit in 0..stored.len() * 8 {
        let mut flipped = stored.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match ours.open(HERE, &flipped) {
            Err(NotOpened::Damaged) => {}
            Err(NotOpened::NoKey(_)) => assert!((4..8).contains(&(bit / 8)), "bit {bit}"),
            // It does not look sealed any more: the checksum beside it sees that.
            Ok(_) => assert!(bit / 8 < 4, "bit {bit}"),
        }
    }
    for end in 4..stored.len() {
        assert_eq!(
            ours.open(HERE, &stored[..end]),
            Err(NotOpened::Damaged),
            "{end}"
        );
    }
}

#[test]
fn no_two_values_are_alike() {
    let ours = seal(1);
    let all: std::collections::BTreeSet<_> = [&ours, &ours, &ours.clone(), &seal(1)]
        .into_iter()
        .map(|seal| seal.seal(HERE, b"same").into_owned())
        .collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn old_keys_open_and_do_not_seal() {
    let old = seal(1).seal(HERE, b"old").into_owned();
    let both = Seal::new(&key(2), &[key(1), key(2)]).expect("made");
    assert_eq!(*both.open(HERE, &old).expect("opens"), *b"old");
    assert_eq!(key_of(&both.seal(HERE, b"new")), Some(key(2).id()));
    assert_eq!(both.keys().count(), 2);
    let none = both.without_sealing();
    assert_eq!(*none.open(HERE, &old).expect("opens"), *b"old");
    assert_eq!(*none.seal(HERE, b"plain"), *b"plain");
}

proptest! {
    #[test]
    fn whatever_is_sealed_or_left_plain_reads_back(
        value in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..600),
            proptest::collection::vec(any::<u8>(), 0..60).prop_map(|rest| {
                [&[0xfe, b'P', b'S'][..], &rest].concat()
            }),
        ],
        text in "(\u{1}PS[01]?)?.{0,40}",
        on in any::<bool>(),
    ) {
        let ours = if on { seal(3) } else { Seal::default() };
        let stored = ours.seal(HERE, &value).into_owned();
        prop_assert_eq!(&*ours.open(HERE, &stored).expect("opens"), &value[..]);
        prop_assert_eq!(key_of(&stored), ours.key());
        let stored = ours.seal_text(HERE, &text).into_owned();
        prop_assert_eq!(&*ours.open_text(HERE, &stored).expect("opens"), &text[..]);
        prop_assert_eq!(key_of_text(&stored), ours.key());
    }
}

fn database(seal: &Seal) -> Connection {
    let made = Connection::open_in_memory().expect("a database");
    register(&made, seal, "test").expect("functions");
    made.execute_batch(
        "CREATE TABLE IF NOT EXISTS keys (key INTEGER PRIMARY KEY, proof BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, name TEXT, sum, body BLOB);
         CREATE TABLE IF NOT EXISTS w (name TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID;",
    )
    .expect("tables");
    made
}

const T: Column = Column {
    table: "t",
    place: "t",
    row: "name",
    value: "body",
    checksum: Some("sum"),
    has_rowid: true,
};
const W: Column = Column {
    table: "w",
    place: "w",
    checksum: None,
    has_rowid: false,
    ..T
};

#[test]
fn a_database_is_brought_under_another_key_and_then_needs_no_other() {
    let old = seal(1);
    let made = database(&old);
    note(&made, &old, "test.db").expect("noted");
    let insert = |name: &str, body: &[u8]| {
        let sealed: Vec<u8> = made
            .query_row("SELECT sealed('t', ?1, ?2)", (name, body), |row| row.get(0))
            .expect("sealed");
        made.execute(
            "INSERT INTO t (name, sum, body) VALUES (?1, ?2, ?3)",
            (name, crc32fast::hash(&sealed), &sealed),
        )
        .expect("a row");
        made.execute(
            "INSERT OR REPLACE INTO w VALUES (?1, sealed('w', ?1, ?2))",
            (name, body),
        )
        .expect("a row");
    };
    for n in 0..1_200 {
        insert(&format!("n{n}"), format!("body {n}").as_bytes());
    }
    // From before there was a key, two whose checksums are wrong, and one of another row.
    made.execute(
        "INSERT INTO t (name, sum, body) VALUES ('p', ?1, ?2)",
        (crc32fast::hash(b"plain"), b"plain"),
    )
    .expect("a row");
    made.execute_batch(
        "INSERT INTO t (name, sum, body) SELECT 'torn', sum + 1, body FROM t WHERE id = 1;
         INSERT INTO t (name, sum, body) VALUES ('bare', 1, x'01');
         INSERT INTO t (name, sum, body) SELECT 'moved', sum, body FROM t WHERE id = 1;",
    )
    .expect("rows");

    let new = Seal::new(&key(2), &[key(1)]).expect("made");
    register(&made, &new, "test").expect("functions");
    assert_eq!(check(&made, &new, "test.db").expect("read"), Ok(()));
    note(&made, &new, "test.db").expect("noted");
    let done = reseal(&made, &new, "test", &T).expect("resealed");
    assert_eq!(
        done,
        Resealed {
            changed: 1_201,
            damaged: 3,
            plain: 1
        }
    );
    let done = reseal(&made, &new, "test", &W).expect("resealed");
    assert_eq!(
        done,
        Resealed {
            changed: 1_200,
            damaged: 0,
            plain: 0
        }
    );
    // Once more does nothing.
    let done = reseal(&made, &new, "test", &T).expect("resealed");
    assert_eq!(
        done,
        Resealed {
            changed: 0,
            damaged: 3,
            plain: 1
        }
    );
    forget(&made, &new).expect("forgotten");

    let only = seal(2);
    register(&made, &only, "test").expect("functions");
    assert_eq!(check(&made, &only, "test.db").expect("read"), Ok(()));
    let opened: i64 = made
        .query_row(
            "SELECT count(*) FROM t WHERE name NOT IN ('torn', 'moved')
             AND opened('t', name, sum, body) IN (CAST('body ' || substr(name, 2) AS BLOB),
                                                  CAST('plain' AS BLOB))",
            [],
            |row| row.get(0),
        )
        .expect("read");
    assert_eq!(opened, 1_201);
    let mut tally_of = Tally::default();
    tally(&made, "w", "body", &mut tally_of).expect("counted");
    assert_eq!(
        tally_of.to_string(),
        format!("0 plain, 1200 under key {}", key(2).id())
    );

    let mut of_column = Tally::default();
    tally_column(&made, &T, &mut of_column).expect("counted");
    assert_eq!((of_column.plain, of_column.damaged), (1, 1));

    // And under none.
    let none = only.without_sealing();
    register(&made, &none, "test").expect("functions");
    // Those that are damaged are so by their checksums, and nobody asks for their key.
    let done = reseal(&made, &none, "test", &T).expect("resealed");
    assert_eq!(
        done,
        Resealed {
            changed: 1_201,
            damaged: 2,
            plain: 0
        }
    );
    let torn: i64 = made
        .query_row(
            "SELECT count(*) FROM t WHERE name IN ('torn', 'moved')
             AND opened('t', name, sum, body) IS NULL",
            [],
            |row| row.get(0),
        )
        .expect("read");
    assert_eq!(torn, 2);
    reseal(&made, &none, "test", &W).expect("resealed");
    forget(&made, &none).expect("forgotten");
    let sealed: i64 = made
        .query_row(
            "SELECT count(*) FROM t WHERE key_of(body) <> 'plain'",
            [],
            |row| row.get(0),
        )
        .expect("read");
    assert_eq!((sealed, noted(&made).expect("read")), (2, Vec::new()));
}

#[test]
fn a_key_that_is_missing_or_wrong_is_told_from_damage() {
    let ours = seal(1);
    let made = database(&ours);
    assert!(note(&made, &ours, "test.db").expect("noted"));
    assert!(!note(&made, &ours, "test.db").expect("noted"));
    let said = |seal: &Seal| {
        check(&made, seal, "test.db")
            .expect("read")
            .map_err(|e| e.to_string())
    };
    assert_eq!(said(&ours), Ok(()));
    let id = key(1).id();
    assert_eq!(
        said(&Seal::default()),
        Err(format!(
            "test.db has values that are sealed with the key {id}, which is not given: name it \
             in [encryption] (key_file, key_env or credential)"
        ))
    );
    let wrong = said(&seal(2)).expect_err("another key");
    assert!(wrong.contains("old_keys until"), "{wrong}");
    // A flipped bit makes no key of another name, and costs no start.
    made.execute("UPDATE keys SET key = key + 1", [])
        .expect("changed");
    assert_eq!(said(&seal(2)), Ok(()));
    assert!(note(&made, &ours, "test.db").expect("noted"));
    made.execute(
        "UPDATE keys SET proof = substr(proof, 1, 40) || x'00' || substr(proof, 42)",
        [],
    )
    .expect("changed");
    assert_eq!(said(&ours), Ok(()));
}
