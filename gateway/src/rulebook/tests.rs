//! Rules that are put, over restarts and beside those of the configuration.

use super::*;
use crate::{
    clock::{Clock, SystemClock},
    rules::tests::event_of,
    store::Store,
};

const NOW: Timestamp = Timestamp::from_millis(1_772_366_400_000);

struct Bench {
    _store: Store,
    config: Config,
    ingest: Arc<Ingest>,
    handle: store::Handle,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text =
            format!("[[destination]]\nname = \"lake\"\ntype = \"file\"\npath = \"lake\"\n{rules}");
        let config = Config::from_text(&text, dir.path(), &|_| None).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, _) = Store::open(config.store.clone(), clock.clone()).unwrap();
        let handle = store.handle();
        let gateway = crate::gateway_id::GatewayId::random();
        let ingest = crate::app::ingest(&config, &gateway, &handle, &clock).unwrap();
        Self {
            _store: store,
            config,
            ingest: Arc::new(ingest),
            handle,
            dir,
        }
    }

    fn open(&self) -> Rulebook {
        let (ingest, store) = (self.ingest.clone(), self.handle.clone());
        Rulebook::open(self.dir.path(), &self.config, ingest, store).unwrap()
    }

    /// Whether an event of a device goes to the lake.
    fn takes(&self, device: &str) -> bool {
        let lake = self.handle.destination_id("lake").unwrap();
        let made = self.ingest.made(&event_of(device, &[]), None);
        made.event.routes.contains(lake)
    }
}

#[test]
fn a_rule_that_acts_is_refused_where_there_is_no_number_for_what_it_does() {
    let mut bench = Bench::new("");
    let alarm = r#"{"pattern": {"device": ["x"]}, "alarm": {"text": "hot"}}"#;
    let put = |bench: &Bench| bench.open().put("a", alarm, None, "ann", NOW);
    put(&bench).unwrap();
    let text = std::fs::read_to_string(bench.dir.path().join("rulebook.json"));
    assert!(text.is_ok_and(|text| text.contains("hot")));
    // As it is with a journal of an earlier version, which has given all numbers.
    let mut config = bench.config.store.clone();
    config.destinations.retain(|name| &**name != ACTIONS);
    config.dir = bench.dir.path().join("other");
    std::fs::create_dir(&config.dir).unwrap();
    let (store, _) = Store::open(config, Arc::new(SystemClock)).unwrap();
    bench.handle = store.handle();
    let (ingest, handle) = (bench.ingest.clone(), bench.handle.clone());
    let opened = Rulebook::open(bench.dir.path(), &bench.config, ingest, handle);
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("destination remove"), "{error}");
    std::fs::remove_file(bench.dir.path().join("rulebook.db")).unwrap();
    std::fs::remove_file(bench.dir.path().join("rulebook.json")).unwrap();
    let error = put(&bench).unwrap_err().to_string();
    assert!(error.contains("destination remove"), "{error}");
    // One that only sends needs none.
    bench
        .open()
        .put("b", &self::text("y"), None, "ann", NOW)
        .unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_is_there_and_cannot_be_opened_is_not_taken_for_one_that_is_gone() {
    let bench = Bench::new("");
    bench.open().put("a", &text("x"), None, "ann", NOW).unwrap();
    let file = bench.dir.path().join(FILE);
    std::fs::remove_file(&file).unwrap();
    // As one that another user owns, which root would read all the same.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    assert!(kept::open_read_only(bench.dir.path()).is_err());
    assert!(kept::damage(bench.dir.path()).is_err());
    assert!(rescue(bench.dir.path(), &bench.config, NOW).is_err());
    assert!(file.is_symlink());
}

#[test]
fn a_rule_that_was_taken_away_stays_so_where_the_file_has_lost_that() {
    let bench = Bench::new("");
    let file = bench.dir.path().join(FILE);
    let book = bench.open();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    book.put("b", &text("y"), None, "ann", NOW).unwrap();
    drop(book);
    // As one that comes back out of a backup.
    let before = std::fs::read(&file).unwrap();
    let book = bench.open();
    book.delete("a", None, "ann", NOW).unwrap();
    drop(book);
    std::fs::write(&file, before).unwrap();
    rescue(bench.dir.path(), &bench.config, NOW).unwrap();
    let book = bench.open();
    assert!(!bench.takes("x") && bench.takes("y"));
    // Its numbers go on.
    let again = book.put("a", &text("q"), Some(0), "ann", NOW).unwrap();
    assert_eq!(again.number, 3);
    drop(book);
    assert!(kept::damage(bench.dir.path()).unwrap().is_none());
}

fn text(device: &str) -> String {
    format!(r#"{{"pattern": {{"device": ["{device}"]}}, "destinations": ["lake"]}}"#)
}

#[test]
fn what_was_put_is_in_force_at_once_and_after_a_restart_and_its_versions_are_kept() {
    let bench = Bench::new("");
    let book = bench.open();
    assert!(bench.takes("x"), "without rules everything goes everywhere");
    let put = |device: &str, over| book.put("a", &text(device), over, "ann", NOW);
    assert_eq!(put("x", None).unwrap().number, 1);
    assert!(bench.takes("x") && !bench.takes("y"));
    assert_eq!(put("x", Some(1)).unwrap().number, 1, "the same again");
    assert_eq!(put("y", Some(1)).unwrap().number, 2);
    assert!(!bench.takes("x") && bench.takes("y"));
    assert!(matches!(put("z", Some(1)), Err(Error::Changed(2))));
    drop(book);

    bench.ingest.set_rules(RuleSet::default());
    let book = bench.open();
    assert!(!bench.takes("x") && bench.takes("y"));
    assert_eq!(put_in(bench.dir.path(), &bench.config).unwrap().len(), 1);
    book.delete("a", Some(2), "bob", NOW).unwrap();
    assert!(bench.takes("x") && bench.takes("y"));
    assert!(matches!(
        book.delete("a", None, "bob", NOW),
        Err(Error::Missing)
    ));
    let versions = book.versions("a").unwrap();
    let said: Vec<_> = versions
        .iter()
        .map(|one| (one.number, &*one.actor, one.text.is_some()))
        .collect();
    assert_eq!(
        said,
        [(3, "bob", false), (2, "ann", true), (1, "ann", true)]
    );
    // What comes after it goes on counting.
    let again = book.put("a", &text("q"), Some(0), "ann", NOW).unwrap();
    assert_eq!(again.number, 4);
}

#[test]
fn the_configuration_has_the_last_word_and_what_is_wrong_changes_nothing() {
    let of_file =
        "[[rule]]\nname = \"a\"\npattern = '{\"device\": [\"x\"]}'\ndestinations = [\"lake\"]\n";
    let bench = Bench::new(of_file);
    let book = bench.open();
    let put = |name: &str, text: &str| book.put(name, text, None, "ann", NOW);
    assert!(matches!(put("a", &text("y")), Err(Error::OfFile)));
    assert!(matches!(
        book.delete("a", None, "ann", NOW),
        Err(Error::OfFile)
    ));
    for (name, text, part) in [
        ("b", "{", "it is not JSON"),
        (
            "b",
            r#"{"name": "c", "pattern": {"a": [1]}}"#,
            "the path says \"b\"",
        ),
        ("B", &text("y"), "lower-case"),
        (
            "b",
            r#"{"pattern": {"a": [1]}, "destinations": ["sea"]}"#,
            "should be one of lake",
        ),
    ] {
        let error = put(name, text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(bench.takes("x") && !bench.takes("y"));
    put("b", &text("y")).unwrap();
    assert!(bench.takes("x") && bench.takes("y"));
    // A configuration with a rule of that name: what was put waits.
    let mut rules = bench.config.rules.clone();
    let mut named = rules[0].clone();
    named.name = "b".into();
    rules.push(named);
    let exchange = |destination: &str, rules| {
        let names = vec![destination.into()];
        book.exchange(names, rules, |set| bench.ingest.set_rules(set))
            .unwrap();
    };
    exchange("lake", rules);
    assert!(bench.takes("x") && !bench.takes("y"));
    let shown = book.list();
    assert!(shown.iter().all(|one| one.problem.is_none()) && shown.len() == 2);
    exchange("lake", Vec::new());
    assert!(!bench.takes("x") && bench.takes("y"));
    // Its destination is gone, and comes back: it is kept meanwhile, and said.
    exchange("sea", Vec::new());
    let problem = |book: &Rulebook| book.list()[0].problem.clone();
    assert!(problem(&book).is_some_and(|said| said.contains("should be one of sea")));
    exchange("lake", Vec::new());
    assert!(bench.takes("y") && problem(&book).is_none());
}

#[test]
fn what_names_a_destination_that_is_gone_still_narrows_the_others() {
    let mut bench =
        Bench::new("[[destination]]\nname = \"old\"\ntype = \"file\"\npath = \"old\"\n");
    let text = r#"{"pattern": {"device": ["x"]}, "destinations": ["old", "lake"]}"#;
    bench.open().put("a", text, None, "ann", NOW).unwrap();
    bench
        .config
        .destinations
        .retain(|known| &*known.name != "old");
    bench.open();
    assert!(bench.takes("x") && !bench.takes("y"));
}

/// Overwrites a piece of a file of the bench.
fn damage(bench: &Bench, file: &str, at: usize, with: &[u8]) {
    let path = bench.dir.path().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    std::fs::write(path, bytes).unwrap();
}

fn find(bench: &Bench, file: &str, what: &[u8]) -> usize {
    let bytes = std::fs::read(bench.dir.path().join(file)).unwrap();
    let mut windows = bytes.windows(what.len());
    windows.position(|window| window == what).unwrap()
}

fn rescued(bench: &Bench) -> Rulebook {
    rescue(bench.dir.path(), &bench.config, NOW).unwrap();
    bench.ingest.set_rules(RuleSet::default());
    bench.open()
}

const LOG: &str = "rulebook.db-wal";

/// The database and its log as they were before an orderly end.
type OnDisk = (Vec<u8>, Vec<u8>);

#[test]
fn a_damaged_file_opens_nothing_and_its_rules_go_on() {
    type Damages = fn(&Bench, &OnDisk);
    let damages: [(&str, Damages); 8] = [
        ("no database", |bench, _| damage(bench, FILE, 0, &[7; 4096])),
        ("another text", |bench, _| {
            let at = find(bench, FILE, br#"["x"]"#);
            damage(bench, FILE, at, br#"["y"]"#);
        }),
        ("a name that is not in the index", |bench, _| {
            let at = find(bench, FILE, b"penned");
            damage(bench, FILE, at, b"Penned");
        }),
        ("gone", |bench, _| {
            std::fs::remove_file(bench.dir.path().join(FILE)).unwrap();
        }),
        ("empty", |bench, _| {
            std::fs::write(bench.dir.path().join(FILE), []).unwrap();
        }),
        ("a bit of the log", |bench, (file, log)| {
            std::fs::write(bench.dir.path().join(FILE), file).unwrap();
            let mut log = log.clone();
            let last = log.len() - 7;
            log[last] ^= 1;
            std::fs::write(bench.dir.path().join(LOG), log).unwrap();
        }),
        ("no log", |bench, (file, _)| {
            std::fs::write(bench.dir.path().join(FILE), file).unwrap();
        }),
        (
            "gone, and killed while another one was made",
            |bench, (file, _)| {
                std::fs::remove_file(bench.dir.path().join(FILE)).unwrap();
                // All that it has is in its log.
                std::fs::write(crate::aside::fresh(bench.dir.path(), FILE).unwrap(), file).unwrap();
            },
        ),
    ];
    for (what, damages) in damages {
        let bench = Bench::new("");
        let book = bench.open();
        book.put("penned", &text("q"), None, "ann", NOW).unwrap();
        book.put("penned", &text("x"), None, "ann", NOW).unwrap();
        let on_disk = [FILE, LOG].map(|file| std::fs::read(bench.dir.path().join(file)).unwrap());
        drop(book);
        damages(&bench, &on_disk.into());
        let book = rescued(&bench);
        assert!(bench.takes("x") && !bench.takes("y"), "{what}");
        let known = book.text("penned").unwrap();
        assert_eq!((known.number, &*known.actor), (2, "ann"), "{what}");
        let asides = crate::aside::list(bench.dir.path(), FILE).unwrap().len();
        assert_eq!(asides, usize::from(!what.starts_with("gone")), "{what}");
        let next = book.put("penned", &text("y"), Some(2), "ann", NOW).unwrap();
        assert_eq!(next.number, 3, "{what}");
        drop(book);
        // Once is enough.
        drop(rescued(&bench));
        let again = crate::aside::list(bench.dir.path(), FILE).unwrap().len();
        assert_eq!(again, asides, "{what}");
        assert!(!bench.takes("x") && bench.takes("y"), "{what}");
    }
}

#[test]
fn without_file_and_copy_everything_that_rules_may_have_kept_back_is_held() {
    let of_file =
        "[[rule]]\nname = \"f\"\npattern = '{\"device\": [\"f\"]}'\ndestinations = [\"lake\"]\n";
    let bench = Bench::new(&format!(
        "[[destination]]\nname = \"open\"\ntype = \"file\"\npath = \"open\"\n{of_file}"
    ));
    bench.open().put("a", &text("x"), None, "ann", NOW).unwrap();
    damage(&bench, FILE, 0, &[7; 4096]);
    is_held_until_somebody_says_otherwise(&bench);
    // That there is a copy says that there were rules.
    bench.open().put("a", &text("x"), None, "ann", NOW).unwrap();
    std::fs::remove_file(bench.dir.path().join(FILE)).unwrap();
    is_held_until_somebody_says_otherwise(&bench);
}

fn is_held_until_somebody_says_otherwise(bench: &Bench) {
    damage(bench, copy::FILE, 20, b"~");
    for _ in 0..2 {
        let book = rescued(bench);
        let routes = |device: &str| bench.ingest.made(&event_of(device, &[]), None).event.routes;
        assert_eq!(routes("x"), crate::record::Routes::NOWHERE);
        assert!(bench.takes("f"), "what the configuration says still goes");
        let shown = book.list();
        assert!(
            shown.iter().any(|one| &*one.name == rescue::LOST),
            "{shown:?}"
        );
    }
    let book = bench.open();
    book.delete(rescue::LOST, None, "ann", NOW).unwrap();
    let open = bench.handle.destination_id("open").unwrap();
    let made = bench.ingest.made(&event_of("x", &[]), None);
    assert!(made.event.routes.contains(open) && !bench.takes("x"));
}

#[test]
fn a_rule_that_cannot_be_read_goes_on_narrowing_what_it_names() {
    let bench = Bench::new("");
    let book = bench.open();
    let version = Version {
        number: 1,
        at: NOW,
        actor: "a later version".to_owned(),
        text: Some(
            r#"{"name": "a", "pattern": {"device": ["x"]}, "destinations": ["lake"], "later": 1}"#
                .to_owned(),
        ),
    };
    kept::add(&mut book.inner().connection, "a", &version).unwrap();
    drop(book);
    let book = bench.open();
    assert!(!bench.takes("x") && !bench.takes("y"));
    let shown = book.list().remove(0);
    assert!(!shown.in_force && shown.problem.unwrap().contains("later"));
}

#[test]
fn a_rule_that_is_not_even_json_narrows_everything() {
    let bench = Bench::new("");
    let book = bench.open();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    let cut = "UPDATE versions SET text = substr(text, 2)";
    book.inner().connection.execute_batch(cut).unwrap();
    drop(book);
    copy::forget(bench.dir.path()).unwrap();
    drop(rescued(&bench));
    assert!(!bench.takes("x") && !bench.takes("y"));
    let asides = crate::aside::list(bench.dir.path(), FILE).unwrap();
    assert_eq!(asides, [""; 0], "the others go on");
}

#[test]
fn a_rule_that_the_configuration_hides_goes_on_narrowing_what_it_names() {
    let bench = Bench::new("[[destination]]\nname = \"open\"\ntype = \"file\"\npath = \"open\"\n");
    let book = bench.open();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    let of_put = named("a", &text("x")).unwrap();
    let mut of_file = read(&of_put, &names(&bench.config)).unwrap();
    of_file.destinations = vec!["open".into()];
    let enforce = |set| bench.ingest.set_rules(set);
    let exchange = |rules| book.exchange(names(&bench.config), rules, enforce);
    exchange(vec![of_file]).unwrap();
    assert!(!bench.takes("x") && !bench.takes("y"));
    book.delete("a", None, "ann", NOW).unwrap();
    assert!(bench.takes("x") && bench.takes("y"));
}

#[test]
fn a_copy_that_cannot_be_written_is_not_left_behind_and_comes_again() {
    let bench = Bench::new("");
    let book = bench.open();
    let copy = bench.dir.path().join(copy::FILE);
    let in_the_way = bench.dir.path().join(format!("{}.new", copy::FILE));
    std::fs::create_dir(&in_the_way).unwrap();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    // One that is empty says that there may have been rules, as none at all would not.
    assert_eq!(std::fs::read(&copy).unwrap(), b"");
    std::fs::remove_dir(in_the_way).unwrap();
    book.put("a", &text("y"), None, "ann", NOW).unwrap();
    assert_ne!(std::fs::read(&copy).unwrap(), b"");
}

#[test]
fn a_copy_that_is_behind_brings_nothing_back() {
    let bench = Bench::new("");
    let book = bench.open();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    let copy = std::fs::read(bench.dir.path().join(copy::FILE)).unwrap();
    book.delete("a", None, "ann", NOW).unwrap();
    drop(book);
    // Killed after the commit.
    std::fs::write(bench.dir.path().join(copy::FILE), copy).unwrap();
    drop(rescued(&bench));
    assert!(bench.takes("x") && bench.takes("y"));
}

/// A rule of 2.7 KB with 131,072 fields.
fn large(name: &str) -> String {
    let or = |n: u32| format!(r#"{{"o{n}a":[1]}},{{"o{n}b":[1]}}"#);
    // Nine times one of two.
    let nested = (0..9).fold(String::new(), |inner, n| match inner.is_empty() {
        true => format!(r#""$or":[{}]"#, or(n)),
        false => format!(r#""$or":[{}],"n{n}":{{{inner}}}"#, or(n)),
    });
    let fields: Vec<_> = (0..247).map(|n| format!(r#""f{n}":[1]"#)).collect();
    let pattern = format!("{{{nested},{}}}", fields.join(","));
    format!(r#"{{"name": "{name}", "pattern": {pattern}, "destinations": ["lake"]}}"#)
}

#[test]
fn rules_that_are_tried_together_have_no_more_fields_than_can_be_put() {
    let bench = Bench::new("");
    let book = bench.open();
    book.put("r0", &large("r0"), None, "ann", NOW).unwrap();
    let mut trial = book.trial();
    assert_eq!(fields(&trial.in_force[0]), 131_072);
    // One takes the place of what is in force.
    for n in 0..7 {
        trial.read(&large(&format!("r{n}"))).unwrap();
    }
    let said = trial.read(&large("r7")).unwrap_err().to_string();
    assert_eq!(said, "all rules together have more than 1000000 fields");
}

#[test]
fn of_one_name_one_rule_is_tried() {
    let bench = Bench::new("");
    let book = bench.open();
    book.put("a", &text("x"), None, "ann", NOW).unwrap();
    let mut trial = book.trial();
    let named = |name: &str| {
        format!(r#"{{"name": "{name}", "pattern": {{"device": ["y"]}}, "destinations": ["lake"]}}"#)
    };
    trial.read(&named("a")).unwrap();
    trial.read(&named("b")).unwrap();
    for name in ["a", "b"] {
        let said = trial.read(&named(name)).unwrap_err().to_string();
        assert_eq!(said, format!("name: another one is named {name:?} as well"));
    }
    assert_eq!(trial.changes.len(), 2);
}
