//! What a page of records does: decided and kept in one transaction with its position.

use std::time::Duration;

use penstock_broker::{Local, Publish};
use rusqlite::{Connection, Transaction};

use super::{
    Error,
    alarm::{self, Alarm, By, State},
    command::{self, Base, Place},
    failed::{self, Part},
    made::{self, Now},
    outbox, schema, throttle, topic,
    window::{State as Window, Turn},
    windows,
};
use crate::{
    event::{Event, Timestamp, Value},
    fleet::{self, Asked, Fleet},
    gateway_id::GatewayId,
    record::{Position, Record, Routes},
    rules::{Acting, ActingSet, Role, Rule, Scratch, action},
};

/// Why a command is not placed yet.
const UNTIMED: &str =
    "the clock is not set, and a command has a deadline; it is placed when the clock is";
/// Why it never is.
const NEVER_TIMED: &str = "nobody knows how long ago its event was received";
/// Commands that are placed in one transaction when the clock is set.
const UNTIMED_TOGETHER: usize = 64;

/// Bytes of messages that wait to be shown together, about.
const SHOWN_BYTES_MAX: usize = 1 << 20;

/// Shows messages to local subscribers. They may come again after a crash.
pub(super) trait Show {
    /// Whether anybody wants what is on a topic.
    fn is_wanted(&self, topic: &str) -> bool;

    /// Resolves once those that are owed it have it on disk.
    ///
    /// # Errors
    /// When the gateway ends meanwhile.
    fn show(&self, publishes: &[Publish]) -> Result<(), Error>;
}

/// Who acts.
pub(super) struct Work<'w, S> {
    pub(super) gateway: &'w GatewayId,
    pub(super) show: &'w S,
    pub(super) now: Now,
    /// Milliseconds for which devices were listened to until now.
    pub(super) listened: i64,
}

/// What came of a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Records that do not read back, and why.
    pub(super) unread: Vec<(Record, String)>,
}

/// What of a rule could not be done, and why.
type Outcome = Result<(), Vec<(Part, String)>>;

/// Under way.
struct Page<'p, S> {
    transaction: &'p Transaction<'p>,
    work: &'p Work<'p, S>,
    /// From when on commands have time.
    base: Base,
    waiting: Vec<Publish>,
    waiting_bytes: usize,
    messages: u64,
}

impl<S: Show + Place> Work<'_, S> {
    /// Acts on records after `position`; those up to it were acted on before. With
    /// `again` they are ones that are tried once more, whatever their position.
    pub(super) fn page(
        &self,
        connection: &mut Connection,
        rules: &ActingSet,
        scratch: &mut Scratch,
        records: &[Record],
        again: bool,
    ) -> Result<Done, Error> {
        let mut done = Done::default();
        let transaction = connection.transaction()?;
        let before = schema::position(&transaction)?;
        let mut page = Page::begin(&transaction, self);
        let mut last = before;
        for record in records {
            if record.position <= before && !again {
                continue;
            }
            last = last.max(record.position);
            match record.event() {
                Ok(event) => page.record(rules, scratch, record, &event)?,
                Err(error) => done.unread.push((record.clone(), error.to_string())),
            }
        }
        page.end()?;
        schema::set_position(&transaction, last)?;
        schema::set_listened(&transaction, self.listened)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Looks at some of the windows whose time has come; false where there is none.
    pub(super) fn tick(
        &self,
        connection: &mut Connection,
        rules: &ActingSet,
    ) -> Result<bool, Error> {
        let due = windows::due(connection, self.now.at, self.listened)?;
        if due.is_empty() {
            return Ok(false);
        }
        let transaction = connection.transaction()?;
        let mut page = Page::begin(&transaction, self);
        for (rule, device) in due {
            page.look(rules, &rule, &device)?;
        }
        page.end()?;
        schema::set_listened(&transaction, self.listened)?;
        transaction.commit()?;
        Ok(true)
    }

    /// Places some of the commands that waited for a clock, in their order; false where none
    /// does any more. `repaired` knows when events came that were received before.
    pub(super) fn place_untimed(
        &self,
        connection: &mut Connection,
        rules: &ActingSet,
        repaired: impl Fn(Record) -> Record,
    ) -> Result<bool, Error> {
        let waiting = failed::untimed(connection, UNTIMED_TOGETHER)?;
        if waiting.is_empty() {
            return Ok(false);
        }
        let transaction = connection.transaction()?;
        let page = Page::begin(&transaction, self);
        for one in waiting {
            let rule = rules.find(&one.rule);
            let rule = rule.filter(|rule| rule.actions.command.is_some());
            let done = match (rule, Event::from_cbor(&one.body)) {
                (None, _) => Err(format!("no rule {:?} places a command any more", one.rule)),
                (_, Err(error)) => Err(error.to_string()),
                (Some(rule), Ok(event)) => {
                    let record = Record {
                        position: one.position,
                        key: event.key,
                        received: event.received,
                        routes: Routes::NONE,
                        body: one.body,
                    };
                    match repaired(record).event() {
                        // What was asked for yesterday moves no machine today.
                        Ok(event) if event.received.is_unset() => Err(NEVER_TIMED.to_owned()),
                        Ok(event) => page.command(rule, &event)?,
                        Err(error) => Err(error.to_string()),
                    }
                }
            };
            match done {
                Ok(()) => drop(failed::remove(&transaction, one.id)?),
                Err(reason) => failed::fails(&transaction, one.id, &reason)?,
            }
        }
        page.end()?;
        transaction.commit()?;
        Ok(true)
    }

    /// Tries once more what a rule could not do. `None` where it is not there; else
    /// whether it is done.
    pub(super) fn retry(
        &self,
        connection: &mut Connection,
        rules: &ActingSet,
        id: u64,
    ) -> Result<Option<Result<(), String>>, Error> {
        let transaction = connection.transaction()?;
        let Some(failed) = failed::find(&transaction, id)? else {
            return Ok(None);
        };
        let Some(rule) = rules.find(&failed.rule) else {
            let what = format!("there is no rule {:?} that has anything to do", failed.rule);
            return Ok(Some(Err(what)));
        };
        let event = match Event::from_cbor(&failed.body) {
            Ok(event) => event,
            Err(error) => return Ok(Some(Err(error.to_string()))),
        };
        let mut page = Page::begin(&transaction, self);
        // Whoever tries again wants it now.
        page.base = Base::Now;
        let part = failed::part(&transaction, id)?;
        let done = match (part, made::turn(rule, &event)) {
            // What was done the first time is not done again.
            (Part::Alarm, _) => page.raise(rule, &event)?.map_err(|what| vec![(part, what)]),
            (Part::Message, _) => page.tell(rule, &event)?.map_err(|what| vec![(part, what)]),
            (Part::Command | Part::Untimed, _) => page
                .command(rule, &event)?
                .map_err(|what| vec![(part, what)]),
            (Part::All, Some(Turn::Began)) => page.fire(rule, &event, true)?,
            (Part::All, Some(Turn::Ended)) => page.end_turned(rule, &event, true)?,
            (Part::All, None) => {
                let role = Role::Takes;
                page.act(Acting { rule, role }, &event)?
            }
        };
        if let Err(reasons) = done {
            let reasons: Vec<String> = reasons.into_iter().map(|(_, what)| what).collect();
            return Ok(Some(Err(reasons.join("; "))));
        }
        page.end()?;
        failed::remove(&transaction, id)?;
        transaction.commit()?;
        Ok(Some(Ok(())))
    }
}

/// What a person does about an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Which.
    pub id: u64,
    /// How it stands from then on.
    pub state: State,
    /// Who.
    pub actor: String,
    /// What he says.
    pub note: Option<String>,
}

/// Does what a person says about an alarm: `None` where it is not there, `Err` with the
/// alarm where it is cleared already.
pub(super) fn said(
    connection: &mut Connection,
    said: &Said,
    now: &Now,
) -> Result<Option<Result<Alarm, Alarm>>, Error> {
    let transaction = connection.transaction()?;
    let Some(alarm) = alarm::find(&transaction, said.id)? else {
        return Ok(None);
    };
    // Said twice is as good as said once.
    if alarm.state == said.state {
        return Ok(Some(Ok(alarm)));
    }
    if alarm.state == State::Cleared {
        return Ok(Some(Err(alarm)));
    }
    let by = By::Person(&said.actor, said.note.as_deref());
    let alarm = alarm::change(&transaction, alarm, said.state, by, now)?;
    transaction.commit()?;
    Ok(Some(Ok(alarm)))
}

impl<'p, S: Show + Place> Page<'p, S> {
    const fn begin(transaction: &'p Transaction<'p>, work: &'p Work<'p, S>) -> Self {
        Self {
            transaction,
            work,
            base: Base::Received,
            waiting: Vec::new(),
            waiting_bytes: 0,
            messages: 0,
        }
    }

    fn record(
        &mut self,
        rules: &ActingSet,
        scratch: &mut Scratch,
        record: &Record,
        event: &Event,
    ) -> Result<(), Error> {
        let fail = |page: &Self, rule: &str, part: Part, reason: &str| {
            let of = failed::Of {
                position: record.position,
                device: &event.device,
                body: &record.body,
                part,
            };
            failed::add(page.transaction, rule, of, page.work.now.at, reason)
        };
        let (acting, asked) = rules.of(event, scratch);
        // When it came there was less to compare: one rule that acts was enough then.
        if let Err(error) = asked {
            fail(self, "", Part::All, &error.to_string())?;
        }
        for acting in acting {
            if let Err(reasons) = self.act(acting, event)? {
                for (part, reason) in reasons {
                    fail(self, &acting.rule.name, part, &reason)?;
                }
            }
        }
        Ok(())
    }

    /// Does what a rule asks for; says what of it cannot be done, and why.
    fn act(&mut self, acting: Acting<'_>, event: &Event) -> Result<Outcome, Error> {
        let Acting { rule, role } = acting;
        let makes = made::may_follow(rule, event);
        match (role, &rule.actions.window) {
            // Whoever tries again has decided.
            (Role::Takes, None)
                if self.base == Base::Received
                    && self.is_held_back(rule, event, makes, event.received)? =>
            {
                Ok(Ok(()))
            }
            (Role::Takes, None) => self.fire(rule, event, makes),
            // A window is of what devices say: one that ends by time would forget the chain.
            (Role::Takes, Some(window)) if !made::is_made(event) => {
                let (device, transaction) = (&*event.device, self.transaction);
                let known = windows::load(transaction, &rule.name, device)?;
                let is_new = known.is_none();
                let mut state = Window::of(known, window);
                let may_begin = rule.may_begin(event.received);
                let turn = state.take(window, event, self.work.listened, may_begin);
                let cause = Some(event);
                self.follow(rule, turn, &mut state, device, cause, may_begin)?;
                if turn.is_none() && is_new {
                    // It may have been evicted while it held.
                    alarm::clear(transaction, rule, event, &self.work.now)?;
                }
                self.keep(rule, window, &state, device, is_new, cause)?;
                Ok(Ok(()))
            }
            (Role::Clears, _) if makes => {
                alarm::clear(self.transaction, rule, event, &self.work.now)?;
                Ok(Ok(()))
            }
            _ => Ok(Ok(())),
        }
    }

    /// Looks at a window whose time has come.
    fn look(&mut self, rules: &ActingSet, name: &str, device: &str) -> Result<(), Error> {
        let rule = rules.find(name);
        let window = rule.and_then(|rule| Some((rule, rule.actions.window.as_deref()?)));
        let known = windows::load(self.transaction, name, device)?;
        let (Some((rule, window)), true) = (window, known.is_some()) else {
            return windows::forget(self.transaction, name, device);
        };
        let mut state = Window::of(known, window);
        let (now, listened) = (self.work.now.at, self.work.listened);
        let may_begin = rule.may_begin(now);
        let turn = state.look(window, now, listened, may_begin);
        self.follow(rule, turn, &mut state, device, None, may_begin)?;
        self.keep(rule, window, &state, device, false, None)
    }

    /// Keeps a window. One whose rule is throttled is looked at when that ends, and one that
    /// waited for hours that began before this was done now.
    fn keep(
        &self,
        rule: &Rule,
        window: &action::Window,
        state: &Window,
        device: &str,
        is_new: bool,
        cause: Option<&Event>,
    ) -> Result<(), Error> {
        let now = self.work.now.at;
        let again = if state.waits && rule.may_begin(now) {
            Some(now)
        } else if state.quiet {
            throttle::until(self.transaction, rule, device, self.when(cause))?
        } else {
            None
        };
        let of = (&*rule.name, device);
        windows::save(self.transaction, of, window, state, is_new, again)
    }

    /// When what there is to do something for came: a window turns with an event, or now.
    fn when(&self, cause: Option<&Event>) -> throttle::When {
        let now = self.work.now.at;
        let at = cause.map_or(now, |cause| cause.received);
        throttle::When { at, now }
    }

    /// Does what there is to do when a window turned, or when it holds and what there was to
    /// do was held back.
    fn follow(
        &mut self,
        rule: &Rule,
        turn: Option<Turn>,
        state: &mut Window,
        device: &str,
        cause: Option<&Event>,
        may_begin: bool,
    ) -> Result<(), Error> {
        let turn = match turn {
            Some(turn) => turn,
            None if state.quiet && may_begin => {
                let when = self.when(cause);
                if throttle::until(self.transaction, rule, device, when)?.is_some() {
                    return Ok(());
                }
                Turn::Began
            }
            None => return Ok(()),
        };
        self.turned(rule, turn, state, device, cause)
    }

    /// A window began to hold, or ended.
    fn turned(
        &mut self,
        rule: &Rule,
        turn: Turn,
        state: &mut Window,
        device: &str,
        cause: Option<&Event>,
    ) -> Result<(), Error> {
        let event = self.turn_event(rule, turn, state, device, cause);
        // Destinations were told when it turned; they know nothing of a throttle.
        let again = state.quiet && turn == Turn::Began;
        if !rule.destinations.is_empty() && !again {
            outbox::add(self.transaction, &event, Some(&rule.name))?;
        }
        let was_quiet = std::mem::take(&mut state.quiet);
        let done = match turn {
            Turn::Began if self.is_held_back(rule, &event, true, self.when(cause).at)? => {
                state.quiet = true;
                Ok(())
            }
            Turn::Began => self.fire(rule, &event, true)?,
            Turn::Ended => self.end_turned(rule, &event, !was_quiet)?,
        };
        for (part, reason) in done.err().into_iter().flatten() {
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            let of = failed::Of {
                position: Position(0),
                device,
                body: &body,
                part,
            };
            failed::add(self.transaction, &rule.name, of, self.work.now.at, &reason)?;
        }
        Ok(())
    }

    /// The event of a window that turned.
    fn turn_event(
        &self,
        rule: &Rule,
        turn: Turn,
        state: &Window,
        device: &str,
        cause: Option<&Event>,
    ) -> Event {
        let kind = made::kind(turn);
        let mut values = vec![
            ("rule", Value::Text((&*rule.name).into())),
            ("state", Value::Text(made::word(turn).into())),
        ];
        let window = rule.actions.window.as_deref();
        if let Some(value) = window.and_then(|window| state.value(window)) {
            values.push(("value", Value::Float(value)));
        }
        let cause_key = cause.map(|event| event.attributes().delivery_key());
        if let Some(key) = cause_key {
            values.push(("cause", Value::Text(key.to_string())));
        }
        let of = made::Of {
            device: &device.into(),
            site: state.site.as_ref(),
            cause,
        };
        // The same each time this turn is made, also where a crash comes before it is kept.
        let key = topic::key(kind, &rule.name, state.turn_key(device));
        made::event(kind, &rule.name, of, Some(key), &self.work.now, values)
    }

    /// Does what a rule asks for when its window ends, and says so to who was `told` that it
    /// began; says what of it cannot be done.
    fn end_turned(&mut self, rule: &Rule, event: &Event, told: bool) -> Result<Outcome, Error> {
        if rule.actions.alarm.is_some() {
            alarm::clear(self.transaction, rule, event, &self.work.now)?;
        }
        if !told {
            return Ok(Ok(()));
        }
        let told = self.tell(rule, event)?;
        Ok(told.map_err(|reason| vec![(Part::Message, reason)]))
    }

    /// Whether the rule's throttle holds back what there is to do for an event, by the time at
    /// which it came: that of a window is made later. What only counts for an alarm that
    /// holds is nothing that anybody hears of.
    fn is_held_back(
        &self,
        rule: &Rule,
        event: &Event,
        makes: bool,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let actions = &rule.actions;
        let Some(throttle) = &actions.throttle else {
            return Ok(false);
        };
        let (transaction, device) = (self.transaction, &*event.device);
        let holds = actions.alarm.is_some() && alarm::holds(transaction, &rule.name, device)?;
        let raises = makes && actions.alarm.is_some() && !holds;
        let commands = makes && actions.command.is_some();
        if !raises && !commands && actions.topic.is_none() {
            return Ok(false);
        }
        let now = self.work.now.at;
        let when = throttle::When { at, now };
        if throttle::take(transaction, &rule.name, throttle, device, when)? {
            return Ok(false);
        }
        if makes && holds {
            // It holds already, so that this only counts the event.
            self.raise(rule, event)?.unwrap_or_default();
        }
        Ok(true)
    }

    /// Raises the alarm of a rule and places its command, if it may make something of the
    /// event, and tells local subscribers; none of them waits for the others.
    fn fire(&mut self, rule: &Rule, event: &Event, makes: bool) -> Result<Outcome, Error> {
        let mut failed = Vec::new();
        let commands = makes && rule.actions.command.is_some();
        if commands && self.work.now.at.is_unset() {
            failed.push((Part::Untimed, UNTIMED.to_owned()));
        } else if commands && let Err(reason) = self.command(rule, event)? {
            failed.push((Part::Command, reason));
        }
        if makes && let Err(reason) = self.raise(rule, event)? {
            failed.push((Part::Alarm, reason));
        }
        if let Err(reason) = self.tell(rule, event)? {
            failed.push((Part::Message, reason));
        }
        Ok(if failed.is_empty() {
            Ok(())
        } else {
            Err(failed)
        })
    }

    /// Raises the alarm of a rule, if it has one.
    fn raise(&self, rule: &Rule, event: &Event) -> Result<Result<(), String>, Error> {
        match rule.actions.alarm.as_deref() {
            Some(asked) => alarm::raise(self.transaction, rule, asked, event, &self.work.now),
            None => Ok(Ok(())),
        }
    }

    /// Places the command of a rule, if it has one. It is in the journal before this page is
    /// kept: after a crash it is placed once more under the same key, and is the same one.
    fn command(&self, rule: &Rule, event: &Event) -> Result<Result<(), String>, Error> {
        let Some(asked) = rule.actions.command.as_deref() else {
            return Ok(Ok(()));
        };
        let (place, now) = (self.work.show, self.work.now.at);
        let from = self.base.of(event, now);
        match command::order(asked, &rule.name, event, from, now, place.times()) {
            Ok((order, asked)) => place.place(order, asked),
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Tells local subscribers.
    fn tell(&mut self, rule: &Rule, event: &Event) -> Result<Result<(), String>, Error> {
        let actions = &rule.actions;
        let Some(asked) = &actions.topic else {
            return Ok(Ok(()));
        };
        let made = topic::name(asked, event).and_then(|name| {
            if !asked.retain && !self.work.show.is_wanted(&name) {
                return Ok(None);
            }
            topic::publish(name, &rule.name, actions, event, self.work.gateway).map(Some)
        });
        match made {
            Ok(Some(publish)) => self.show(publish)?,
            Ok(None) => {}
            Err(reason) => return Ok(Err(reason)),
        }
        Ok(Ok(()))
    }

    fn show(&mut self, publish: Publish) -> Result<(), Error> {
        self.waiting_bytes += publish.payload.len() + publish.topic.len();
        self.waiting.push(publish);
        self.messages += 1;
        if self.waiting_bytes > SHOWN_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            self.work.show.show(&self.waiting)?;
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), Error> {
        self.flush()?;
        self.transaction
            .prepare_cached("UPDATE state SET messages = messages + ?1")?
            .execute([self.messages.cast_signed()])?;
        Ok(())
    }
}

/// The broker's subscribers, and devices.
#[derive(Debug, Clone)]
pub(super) struct Outside {
    pub(super) local: Local,
    pub(super) fleet: Fleet,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: tokio_util::sync::CancellationToken,
}

impl Show for Outside {
    fn is_wanted(&self, topic: &str) -> bool {
        self.local.is_wanted(topic)
    }

    fn show(&self, publishes: &[Publish]) -> Result<(), Error> {
        let shown = self.local.show_patiently(publishes);
        let shown = self.runtime.block_on(self.stop.run_until_cancelled(shown));
        shown.map(drop).ok_or(Error::Ending)
    }
}

impl Place for Outside {
    fn times(&self) -> (Duration, Duration) {
        let config = self.fleet.config();
        (config.deadline, config.deadline_max)
    }

    fn place(&self, order: fleet::Order, asked: Asked) -> Result<Result<(), String>, Error> {
        let placed = self.fleet.order(order, asked);
        let placed = self
            .runtime
            .block_on(self.stop.run_until_cancelled(placed))
            .ok_or(Error::Ending)?;
        command::outcome(placed)
    }
}

/// The position up to which a file says that everything was done, against that of the
/// journal: one of another journal counts for nothing.
pub(super) fn agree(connection: &Connection, committed: Position) -> Result<(), Error> {
    if schema::position(connection)? > committed {
        tracing::warn!("rules.db is of another journal; going on with this one");
        schema::set_position(connection, Position(0))?;
    }
    Ok(())
}
