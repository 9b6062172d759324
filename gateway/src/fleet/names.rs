//! What devices, keys and tags may be called.

use serde_json::Value;

use super::Refusal;

/// How deep documents may be nested: what stands around them in a row must be read too.
const DEPTH_MAX: usize = 64;

/// The longest name of a device, in bytes.
const ID_BYTES_MAX: usize = 256;
/// The longest Idempotency-Key.
const KEY_BYTES_MAX: usize = 255;
/// Names that the API has below `/devices`.
const TAKEN: [&str; 2] = ["clocks", "waiting"];

/// Whether a device may have this name.
pub(super) fn check_id(id: &str) -> Result<(), Refusal> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!(
            "the id of a device has 1 to {ID_BYTES_MAX} bytes, and no control characters"
        )));
    }
    if TAKEN.contains(&id) || id == "." || id == ".." {
        return Err(Refusal::invalid(format!(
            "{id:?} is no id of a device: the API has another meaning for it"
        )));
    }
    Ok(())
}

/// Whether this may be an Idempotency-Key.
pub(super) fn check_key(key: &str) -> Result<(), Refusal> {
    let is_visible = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_visible {
        return Err(Refusal::invalid(format!(
            "an Idempotency-Key has 1 to {KEY_BYTES_MAX} printable ASCII characters"
        )));
    }
    Ok(())
}

/// Whether a text has something in it, and no more than `max` bytes of it.
pub(super) fn check_text(what: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!(
            "{what} has 1 to {max} bytes, and no control characters"
        )));
    }
    Ok(())
}

/// Whether a document is nested no deeper than can be read again.
pub(super) fn check_depth(what: &str, document: &Value) -> Result<(), Refusal> {
    match is_deep(document, DEPTH_MAX) {
        true => Err(Refusal::invalid(format!(
            "{what} is nested {DEPTH_MAX} levels deep at most"
        ))),
        false => Ok(()),
    }
}

fn is_deep(document: &Value, left: usize) -> bool {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match document {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => return false,
    };
    left == 0 || inner.any(|one| is_deep(one, left - 1))
}
