//! Messages of queues and topics: what an event is in one.
//!
//! The body is `CloudEvents` JSON; attributes beside it let subscribers filter and dedupe
//! without looking inside. Where the queue or topic is a FIFO one, a message also says its
//! group, which is the partition key, and under which identity a copy is refused.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Batching, Fault, Paces, Texts, TooLarge, Unit, of_entry};
use crate::{
    event::{Attributes, json::time},
    forward::batch::Item,
};

/// Characters of a message group, at most.
const GROUP_CHARS_MAX: usize = 128;

/// A message for each event, in order, and the events that are too large for one.
pub(in crate::forward) fn units(items: &[Item], batching: &Batching) -> (Vec<Unit>, TooLarge) {
    let mut texts = Texts::default();
    let mut unit = |at, item: &Item| {
        let view = item.view();
        Unit {
            key: group(view.attributes.partition_key()),
            data: printable(texts.json(&view)),
            overhead: attributes_len(&view.attributes),
            items: vec![at],
        }
    };
    let numbered = items.iter().enumerate();
    batching.sort(numbered.map(|(at, item)| unit(at, item)))
}

/// The name ends so where order and identity count, of queues and topics alike.
pub(in crate::forward) fn is_fifo(name: &str) -> bool {
    name.ends_with(".fifo")
}

/// The event that a message is.
pub(in crate::forward) fn item<'i>(unit: &Unit, items: &'i [Item]) -> &'i Item {
    &items[unit.items[0]]
}

/// The body of a message.
pub(in crate::forward) fn body(unit: &Unit) -> String {
    String::from_utf8_lossy(&unit.data).into_owned()
}

/// Under which identity a copy is refused: a correction is another message.
pub(in crate::forward) fn identity(item: &Item) -> String {
    item.view().attributes.delivery_key().to_string()
}

/// What subscribers can filter and dedupe by. What no attribute can hold, such as a device
/// with a control character in its name, is only in the body.
pub(in crate::forward) fn attributes(of: &Attributes<'_>) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("type", of.kind.to_owned()),
        ("device", of.device.to_owned()),
        ("eventkey", of.key.to_string()),
    ];
    all.extend(of.site.map(|site| ("site", site.to_owned())));
    for (name, at) in [
        ("correctedtime", of.corrected),
        ("replayedtime", of.replayed),
    ] {
        let Some(at) = at else { continue };
        let mut text = Vec::with_capacity(32);
        time(at, &mut text);
        let text = String::from_utf8_lossy(&text);
        all.push((name, text.trim_matches('"').to_owned()));
    }
    all.retain(|(_, value)| !value.is_empty() && value.chars().all(is_allowed));
    all
}

/// What all attributes are of.
pub(in crate::forward) const ATTRIBUTE_TYPE: &str = "String";

fn attributes_len(of: &Attributes<'_>) -> usize {
    let all = attributes(of);
    let lengths = all.iter().map(|(name, value)| name.len() + value.len());
    lengths.sum::<usize>() + all.len() * ATTRIBUTE_TYPE.len()
}

/// Characters that the services take in bodies and values.
const fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// JSON without the two characters that JSON may have as they are and messages may not:
/// they stand in texts, so an escape means the same.
fn printable(json: Bytes) -> Bytes {
    const FIRST: &[u8] = "\u{fffe}".as_bytes();
    if memchr::memmem::find(&json, &FIRST[..2]).is_none() {
        return json;
    }
    let text = String::from_utf8_lossy(&json);
    let text = text.replace('\u{fffe}', "\\ufffe");
    text.replace('\u{ffff}', "\\uffff").into()
}

/// A group has 1 to 128 visible ASCII characters; a key that is otherwise goes by its hash.
fn group(key: &str) -> Arc<str> {
    let is_group = (1..=GROUP_CHARS_MAX).contains(&key.len());
    match is_group && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => key.into(),
        false => blake3::hash(key.as_bytes()).to_hex().as_str().into(),
    }
}

/// Message groups without room; of a queue or topic without order nothing.
#[derive(Debug, Default)]
pub(in crate::forward) struct Groups(Mutex<Paces>);

impl Groups {
    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Paces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers for the messages of a request. `failed` are those that were not taken, by
    /// their place in it, with what they are told and whether they are to blame. A message
    /// that is in neither list makes the answer one that says nothing.
    ///
    /// # Errors
    /// Where the lists do not say of each message what became of it.
    pub(in crate::forward) fn answers<'a>(
        &self,
        units: &[Arc<Unit>],
        is_fifo: bool,
        taken: impl Iterator<Item = &'a str>,
        failed: impl Iterator<Item = (&'a str, &'a str, &'a str, bool)>,
    ) -> Result<Vec<Answer>, Fault> {
        let now = Instant::now();
        let mut answers = vec![None; units.len()];
        let mut reasons = vec![String::new(); units.len()];
        let mut tell = |id: &str, answer: Answer| {
            let place = id.parse().ok().and_then(|at: usize| answers.get_mut(at));
            if let Some(place) = place {
                *place = Some(answer);
            }
        };
        for id in taken {
            tell(id, Answer::Taken);
        }
        for (id, code, message, to_blame) in failed {
            tell(id, Answer::Not(of_entry(code, message, to_blame)));
            let place = id.parse().ok();
            if let Some(reason) = place.and_then(|at: usize| reasons.get_mut(at)) {
                *reason = format!("{code}: {message}");
            }
        }
        let answers: Option<Vec<Answer>> = answers.into_iter().collect();
        let mut answers = answers.ok_or_else(|| {
            Fault::Unavailable("an answer that does not say what became of each message".to_owned())
        })?;
        let throttled = |answer: &Answer| *answer == Answer::Not(Fault::Throttled);
        // One group may have no room, but where none has it is the whole that has none.
        if is_fifo && (answers.len() == 1 || !answers.iter().all(throttled)) {
            for ((unit, answer), reason) in units.iter().zip(&mut answers).zip(reasons) {
                match answer {
                    Answer::Taken => self.lock().taken(&unit.key, now),
                    // Other groups may have room.
                    Answer::Not(Fault::Throttled) => {
                        *answer = Answer::Paced(self.lock().refused(&unit.key, now), reason);
                    }
                    _ => {}
                }
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{large_record_of, record};

    #[test]
    fn a_group_that_the_service_would_not_take_goes_by_its_hash() {
        assert_eq!(&*group("press-7"), "press-7");
        assert_eq!(&*group(&"a".repeat(128)), "a".repeat(128));
        for other in ["", "press 7", "prässe", &"a".repeat(129)] {
            assert_eq!(group(other).len(), 64, "{other:?}");
        }
    }

    #[test]
    fn a_body_has_no_character_that_messages_may_not_have_and_says_the_same() {
        let json = "{\"a\":\"x\u{fffe}y\u{ffff}\u{fffd}ü\"}";
        let printable = printable(Bytes::copy_from_slice(json.as_bytes()));
        let text = String::from_utf8(printable.into()).unwrap();
        assert!(text.chars().all(is_allowed), "{text}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&text), value(json));
    }

    #[test]
    fn what_no_attribute_can_hold_is_only_in_the_body() {
        let stored = record(1, 1);
        let event = stored.event().unwrap();
        let attributes = |device: &str| {
            let mut event = event.clone();
            event.device = device.into();
            let all = attributes(&event.attributes());
            all.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(attributes("press-7"), ["type", "device", "eventkey"]);
        assert_eq!(attributes("press\u{1}7"), ["type", "eventkey"]);
    }

    #[test]
    fn an_event_that_is_too_large_is_left_out_and_says_so() {
        let batching = Batching {
            record_bytes_max: 2_000,
            ..Batching::of_bytes(4_000)
        };
        let items = [(1, 10), (2, 2_000), (3, 10)]
            .map(|(n, bytes)| Item::check(large_record_of(n, 1, bytes)).unwrap());
        let (messages, too_large) = units(&items, &batching);
        let which: Vec<_> = messages.iter().map(|unit| unit.items[0]).collect();
        assert_eq!(which, [0, 2]);
        assert_eq!(too_large[0].0, 1);
        assert!(too_large[0].1.ends_with("at most 2000 can go"));
        // Attributes count.
        assert!(messages[0].len() > messages[0].data.len() + 32);
    }
}
