//! The table, and the one statement that fills it.
//!
//! Columns have the names of an event's attributes. `deliverykey` is what makes a row
//! unique: the event's key, or, of a correction, one of its own.

use std::fmt::Write as _;

use super::config::{Config, Layout};

/// Name and type of each column, in the order of their values.
type Columns = &'static [(&'static str, &'static str)];

const OF_EVENTS: Columns = &[
    ("deliverykey", "uuid NOT NULL"),
    ("eventkey", "uuid NOT NULL"),
    ("correctedtime", "timestamptz"),
    ("time", "timestamptz NOT NULL"),
    ("recordedtime", "timestamptz NOT NULL"),
    ("device", "text NOT NULL"),
    ("site", "text"),
    ("type", "text NOT NULL"),
    ("event", "jsonb NOT NULL"),
];

const OF_MEASUREMENTS: Columns = &[
    ("deliverykey", "uuid NOT NULL"),
    ("n", "integer NOT NULL"),
    ("eventkey", "uuid NOT NULL"),
    ("correctedtime", "timestamptz"),
    ("time", "timestamptz NOT NULL"),
    ("recordedtime", "timestamptz NOT NULL"),
    ("device", "text NOT NULL"),
    ("site", "text"),
    ("type", "text NOT NULL"),
    ("name", "text"),
    ("number", "double precision"),
    ("value", "jsonb"),
    ("unit", "text"),
    ("quality", "text"),
    ("tags", "jsonb"),
];

/// Statements for one table.
#[derive(Debug)]
pub(super) struct Schema {
    create: Option<String>,
    insert: String,
    /// The table as a statement would name it.
    table: String,
}

impl Schema {
    pub(super) fn of(config: &Config) -> Self {
        let table = config.table.to_string();
        let (columns, mut unique, index) = match config.layout {
            Layout::Event => (OF_EVENTS, "deliverykey".to_owned(), "device, time DESC"),
            Layout::Measurement => (
                OF_MEASUREMENTS,
                "deliverykey, n".to_owned(),
                "device, name, time DESC",
            ),
        };
        if config.partitioned {
            unique.push_str(", time");
        }
        let create = config
            .create_table
            .then(|| create(&table, columns, &unique, index));
        Self {
            create,
            insert: insert(&table, columns, &unique),
            table,
        }
    }

    /// Makes the table with its index, if that is wanted.
    pub(super) fn create(&self) -> Option<&str> {
        self.create.as_deref()
    }

    /// Inserts rows, whose columns are arrays, unless they are there.
    pub(super) fn insert(&self) -> &str {
        &self.insert
    }

    /// The table as a statement would name it.
    pub(super) fn table(&self) -> &str {
        &self.table
    }
}

fn create(table: &str, columns: Columns, unique: &str, index: &str) -> String {
    let mut text = format!("CREATE TABLE IF NOT EXISTS {table} (\n");
    for (name, kind) in columns {
        writeln!(text, "    {name} {kind},").expect("a string takes text");
    }
    write!(
        text,
        "    PRIMARY KEY ({unique})\n);\nCREATE INDEX ON {table} ({index});\n"
    )
    .expect("a string takes text");
    text
}

fn insert(table: &str, columns: Columns, unique: &str) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut values = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for (n, (name, kind)) in (1..).zip(columns) {
        let kind = kind.trim_end_matches(" NOT NULL");
        // JSON goes as text, and is read where it is inserted.
        let (sent, value) = match kind {
            "jsonb" => ("text", format!("r.{name}::jsonb")),
            kind => (kind, format!("r.{name}")),
        };
        arrays.push(format!("${n}::{sent}[]"));
        values.push(value);
    }
    format!(
        "INSERT INTO {table} ({names}) SELECT {values} FROM unnest({arrays}) AS r({names}) ON CONFLICT ({unique}) DO NOTHING",
        names = names.join(", "),
        values = values.join(", "),
        arrays = arrays.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::forward::postgres::{Server, Table};

    fn config(layout: Layout) -> Config {
        let server = Server::parse("h").unwrap();
        Config {
            layout,
            table: Table::parse("plant.Events").unwrap(),
            ..Config::new(vec![server], "d", "u")
        }
    }

    #[test]
    fn a_table_of_events_is_made_and_filled() {
        let schema = Schema::of(&config(Layout::Event));
        assert_snapshot!(schema.create().unwrap(), @r#"
        CREATE TABLE IF NOT EXISTS "plant"."Events" (
            deliverykey uuid NOT NULL,
            eventkey uuid NOT NULL,
            correctedtime timestamptz,
            time timestamptz NOT NULL,
            recordedtime timestamptz NOT NULL,
            device text NOT NULL,
            site text,
            type text NOT NULL,
            event jsonb NOT NULL,
            PRIMARY KEY (deliverykey)
        );
        CREATE INDEX ON "plant"."Events" (device, time DESC);
        "#);
        assert_snapshot!(schema.insert(), @r#"INSERT INTO "plant"."Events" (deliverykey, eventkey, correctedtime, time, recordedtime, device, site, type, event) SELECT r.deliverykey, r.eventkey, r.correctedtime, r.time, r.recordedtime, r.device, r.site, r.type, r.event::jsonb FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[]) AS r(deliverykey, eventkey, correctedtime, time, recordedtime, device, site, type, event) ON CONFLICT (deliverykey) DO NOTHING"#);
    }

    #[test]
    fn a_table_of_measurements_that_is_divided_by_time_has_it_in_its_key() {
        let config = Config {
            partitioned: true,
            ..config(Layout::Measurement)
        };
        let schema = Schema::of(&config);
        assert_snapshot!(schema.create().unwrap(), @r#"
        CREATE TABLE IF NOT EXISTS "plant"."Events" (
            deliverykey uuid NOT NULL,
            n integer NOT NULL,
            eventkey uuid NOT NULL,
            correctedtime timestamptz,
            time timestamptz NOT NULL,
            recordedtime timestamptz NOT NULL,
            device text NOT NULL,
            site text,
            type text NOT NULL,
            name text,
            number double precision,
            value jsonb,
            unit text,
            quality text,
            tags jsonb,
            PRIMARY KEY (deliverykey, n, time)
        );
        CREATE INDEX ON "plant"."Events" (device, name, time DESC);
        "#);
        assert_snapshot!(schema.insert(), @r#"INSERT INTO "plant"."Events" (deliverykey, n, eventkey, correctedtime, time, recordedtime, device, site, type, name, number, value, unit, quality, tags) SELECT r.deliverykey, r.n, r.eventkey, r.correctedtime, r.time, r.recordedtime, r.device, r.site, r.type, r.name, r.number, r.value::jsonb, r.unit, r.quality, r.tags::jsonb FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::text[], $9::text[], $10::text[], $11::double precision[], $12::text[], $13::text[], $14::text[], $15::text[]) AS r(deliverykey, n, eventkey, correctedtime, time, recordedtime, device, site, type, name, number, value, unit, quality, tags) ON CONFLICT (deliverykey, n, time) DO NOTHING"#);
    }
}
