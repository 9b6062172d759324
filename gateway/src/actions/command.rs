//! Commands that rules place: which one an event asks for, and what becomes of it.
//!
//! A command is placed while a page of records is worked on, before what that came to is
//! kept. Its key is made of the rule and the event, so that a rule that acts again after a
//! crash finds the command that is there, whatever its text says by then.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Error, made, topic};
use crate::{
    event::{Event, Timestamp},
    fleet::{Asked, Change, Command, Deadline, NotChanged, Order, Refusal},
    rules::action,
    store::Stopped,
};

/// Places commands. The same one may be placed again after a crash.
pub(super) trait Place {
    /// How long commands have where nobody says it, and at most.
    fn times(&self) -> (Duration, Duration);

    /// Resolves once it is on disk, or with the reason why it cannot be.
    ///
    /// # Errors
    /// When the gateway ends meanwhile.
    fn place(&self, order: Order, asked: Asked) -> Result<Result<(), String>, Error>;
}

/// From when on a command has time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// From when its event was received: what was long ago moves no machine today.
    Received,
    /// From now: somebody wants it to be done after all.
    Now,
}

impl Base {
    /// That instant.
    pub(super) fn of(self, event: &Event, now: Timestamp) -> Timestamp {
        match self {
            // Without a clock nobody knows how long ago it was.
            Self::Received if !event.received.is_unset() => event.received,
            _ => now,
        }
    }
}

/// What a rule asks a device to do for an event. It has time from `from` on: as long as the
/// rule says, or else the first of `times`, and never longer than the second from `now` on.
///
/// # Errors
/// When that can be no command.
pub(super) fn order(
    asked: &action::Command,
    rule: &str,
    event: &Event,
    from: Timestamp,
    now: Timestamp,
    times: (Duration, Duration),
) -> Result<(Order, Asked), String> {
    let too_long = |error: crate::rules::transform::TooLong| error.to_string();
    let mut members = Map::new();
    if let Some(name) = &asked.name {
        let name = name.apply(rule, event).map_err(too_long)?;
        members.insert("name".into(), Value::String(name));
    }
    if let Some(payload) = &asked.payload {
        let text = payload.apply(rule, event).map_err(too_long)?;
        let payload = serde_json::from_str(&text)
            .map_err(|error| format!("what the template gives is not JSON: {error}"))?;
        members.insert("payload".into(), payload);
    }
    members.insert("qos".into(), asked.qos.into());
    let device = match &asked.device {
        Some(device) => device.of(rule, event).map_err(too_long)?,
        None => event.device.to_string(),
    };
    let mut order = Order::read(&device, members).map_err(|refusal| refusal.to_string())?;
    let after = |from: Timestamp, time: Duration| {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        from.as_millis().saturating_add(ms)
    };
    let deadline = after(from, asked.deadline.unwrap_or(times.0));
    // The rule may be older than that bound, and the clock may have gone back since.
    order.deadline = Deadline::At(deadline.min(after(now, times.1)));
    order.rules = Some(made::chain(rule, Some(event)).to_string());
    let key = topic::key("command", rule, event.attributes().delivery_key());
    let asked = Asked {
        actor: format!("rule:{rule}").into(),
        key: Some(key.to_string().into()),
    };
    Ok((order, asked))
}

/// What came of one, for the rule.
///
/// # Errors
/// When the gateway ends.
pub(super) fn outcome(
    placed: Result<Change<Command>, NotChanged>,
) -> Result<Result<(), String>, Error> {
    match placed {
        // There is a command of this rule and event; since then the rule says something
        // else, or the row is damaged. A second one is never made.
        Ok(_) | Err(NotChanged::Refused(Refusal::KeyReused)) => Ok(Ok(())),
        Err(NotChanged::Refused(refusal)) => Ok(Err(refusal.to_string())),
        Err(NotChanged::Full(why)) => Ok(Err(why.to_owned())),
        // Nobody waits for what is in hand to place a command.
        Err(NotChanged::Busy) => Ok(Err("commands are in hand".to_owned())),
        Err(NotChanged::Stopped) => Err(Error::Stopped(Stopped)),
    }
}
