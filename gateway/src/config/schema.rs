//! `[[schema]]`: what the payloads of a type of event should look like.

use std::path::Path;

use super::{read_text, reader::Table};
use crate::normalise::schema::{Mismatch, Schema, Schemas};

/// Reads them all; files are relative to `dir`.
pub(super) fn read(root: &Table<'_, '_, '_>, dir: &Path) -> Schemas {
    let mut schemas: Vec<Schema> = Vec::new();
    for table in root.tables("schema").unwrap_or_default() {
        if !cfg!(feature = "schema") {
            table.know_all();
            let what = "is not in this program; build it with the feature schema";
            table.mistake(None, "", what);
            continue;
        }
        let kind = table.required("type", "\"iot.telemetry.v1\"");
        let file = table.text("file");
        let inline = table.text("schema");
        let mismatch = table.word("on_mismatch", &Mismatch::WORDS, Mismatch::Quarantine);
        table.finish();
        let Some(kind) = kind else { continue };
        if schemas.iter().any(|other| *other.kind() == *kind.value) {
            let what = format!("there is another schema for {:?}", kind.written);
            table.mistake(Some(&kind.span), "type", what);
            continue;
        }
        let parse = |text: &str| Schema::parse(&kind.value, mismatch, text);
        match (file, inline) {
            (Some(file), None) => schemas
                .extend(table.parse("file", &file, |file| parse(&read_text(&dir.join(file))?))),
            // Without the schema in the words: it may be long.
            (None, Some(inline)) => match parse(&inline.value) {
                Ok(schema) => schemas.push(schema),
                Err(what) => table.mistake(Some(&inline.span), "schema", what),
            },
            (Some(file), Some(_)) => {
                let what = "either file or schema";
                table.mistake(Some(&file.span), "file", what);
            }
            (None, None) => {
                let what = "is missing; for example file = \"telemetry.schema.json\"";
                table.mistake(None, "file", what);
            }
        }
    }
    Schemas::new(schemas)
}
