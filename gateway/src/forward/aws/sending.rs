//! A batch on its way: which entries go in which request, and what became of them. They
//! are called records here, as one service does.
//!
//! Records of one partition key are a lane. A request takes the first record of as many
//! lanes as fit, and a lane goes on when its record was taken. A record that was not
//! taken ends its lane for this batch: the records behind it were not tried. A request
//! that is refused as a whole is halved until the record that is to blame stands alone; what
//! becomes of one of which nothing is taken, without anything being to blame, says
//! [`super::doubt`].

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Fault, Order,
    doubt::BLAMED_MAX,
    requests::{Answer, Limits, Requests, Service},
    unit::{TooLarge, Unit},
};
use crate::forward::{
    batch::Batch,
    destination::{Error, Outcome, Outcomes},
    refusals::Refusals,
};
use crate::record::Position;

/// See the module.
pub(super) struct Sending<'a, S> {
    requests: &'a Requests<S>,
    limits: Limits,
    batch: &'a Batch,
    units: Vec<Arc<Unit>>,
    /// Records by lane, the next one first.
    lanes: Vec<VecDeque<usize>>,
    /// The lane of each record.
    lane_of: Vec<usize>,
    /// Lanes whose next record may go.
    ready: VecDeque<usize>,
    /// Parts of requests that were refused as a whole.
    again: VecDeque<Vec<usize>>,
    outcomes: Vec<Option<Outcome>>,
    /// Events that the service refused, while it has taken none.
    refused: Vec<usize>,
    /// Records that were refused so. Their lanes go on when another is taken: they may be
    /// taken back, and must not come behind those that follow them.
    stalled: Vec<usize>,
    refusals_before: Refusals,
    /// The service is not at fault, because it took one.
    taken: bool,
    /// Records of requests of which all failed, and not by their own fault.
    failed: Vec<usize>,
    /// Why the first of them did.
    failure: Option<String>,
    /// Records that failed so, alone and again: they have had an attempt.
    blamed: Vec<usize>,
    /// Something of this batch was taken.
    took: bool,
    /// The service seems to be away: nothing more goes out.
    gives_up: bool,
    /// Nothing more goes out.
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Trouble {
    Throttled,
    Failed(Error),
}

impl<'a, S: Service> Sending<'a, S> {
    pub(super) fn new(
        requests: &'a Requests<S>,
        batch: &'a Batch,
        units: Vec<Unit>,
        too_large: TooLarge,
        taken: bool,
    ) -> Self {
        let mut outcomes = vec![None; batch.items.len()];
        for (at, reason) in too_large {
            outcomes[at] = Some(Outcome::Permanent(reason));
        }
        let limits = requests.service.limits();
        let (lanes, lane_of) = lanes(&units, limits.order);
        Self {
            requests,
            limits,
            batch,
            ready: (0..lanes.len()).collect(),
            units: units.into_iter().map(Arc::new).collect(),
            lanes,
            lane_of,
            again: VecDeque::new(),
            outcomes,
            refused: Vec::new(),
            stalled: Vec::new(),
            refusals_before: requests.refusals().clone(),
            taken,
            failed: Vec::new(),
            failure: None,
            blamed: Vec::new(),
            took: false,
            gives_up: false,
            trouble: None,
        }
    }

    pub(super) async fn run(mut self, client: &S::Client) -> Outcomes {
        // Tasks of their own: making a request and signing it takes a processor's time, and
        // there may be more than one. They end when this is dropped.
        let mut in_flight = JoinSet::new();
        loop {
            while in_flight.len() < self.limits.in_flight.max(1)
                && let Some(request) = self.next_request(in_flight.is_empty())
            {
                let units: Vec<_> = request.iter().map(|at| self.units[*at].clone()).collect();
                let (service, items) = (self.requests.service.clone(), self.batch.items.clone());
                let client = client.clone();
                in_flight.spawn(async move {
                    let answers = service.put(&client, &items, &units).await;
                    (request, answers)
                });
            }
            match in_flight.join_next().await {
                Some(Ok((request, Ok(answers)))) => self.answered(&request, answers),
                Some(Ok((request, Err(fault)))) => self.failed(request, fault),
                Some(Err(error)) => self.stop(Trouble::Failed(Error::unavailable(format!(
                    "put a request: {error}"
                )))),
                None => break,
            }
        }
        self.conclude()
    }

    /// What to put next: a whole request, or what there is if nothing else is `idle`.
    fn next_request(&mut self, idle: bool) -> Option<Vec<usize>> {
        if self.trouble.is_some() || self.gives_up {
            return None;
        }
        if let Some(part) = self.again.pop_front() {
            return Some(part);
        }
        let limits = self.limits;
        let is_whole = self.ready.len() >= limits.records;
        if self.ready.is_empty() || !is_whole && !idle {
            return None;
        }
        let (mut request, mut bytes) = (Vec::new(), 0);
        while request.len() < limits.records
            && let Some(lane) = self.ready.front()
        {
            let unit = self.lanes[*lane][0];
            let more = self.units[unit].len();
            if !request.is_empty() && bytes + more > limits.bytes {
                break;
            }
            bytes += more;
            request.push(unit);
            self.ready.pop_front();
        }
        Some(request)
    }

    /// The request was done: each record has an answer of its own.
    fn answered(&mut self, request: &[usize], answers: Vec<Answer>) {
        if answers.len() != request.len() {
            let (of, count) = (answers.len(), request.len());
            let reason = format!("an answer about {of} of {count} records");
            self.stop(Trouble::Failed(Error::unavailable(reason)));
            return;
        }
        let failed = |answer: &Answer| matches!(answer, Answer::Not(Fault::Unavailable(_)));
        if answers.iter().all(failed)
            && let Some(Answer::Not(Fault::Unavailable(reason))) = answers.first()
        {
            self.failed_whole(request, reason);
            return;
        }
        for (unit, answer) in request.iter().zip(answers) {
            match answer {
                Answer::Taken => self.taken(*unit),
                Answer::Paced(retry_after, reason) => {
                    let outcome = Outcome::Paced {
                        retry_after,
                        reason,
                    };
                    self.settle(*unit, &outcome);
                }
                Answer::Not(Fault::Unavailable(reason)) => {
                    self.settle(*unit, &Outcome::Transient(reason));
                }
                Answer::Not(fault) => self.failed(vec![*unit], fault),
            }
        }
    }

    /// All of a request failed, and not by its own fault.
    fn failed_whole(&mut self, request: &[usize], reason: &str) {
        let events = self.events(request);
        let failed_before = self.requests.doubt().is_about(&events);
        let is_all = request.len() == self.units.len() && self.requests.doubt().takes_others();
        let is_enough = !self.took && self.blamed.len() >= BLAMED_MAX;
        match request {
            [one] if !is_enough && (failed_before || is_all) => {
                self.blamed.push(*one);
                self.settle(*one, &Outcome::Transient(reason.to_owned()));
            }
            [_, _, ..] if !is_enough && failed_before => self.halve(request),
            _ => {
                let is_second = !self.failed.is_empty();
                self.failed.extend(request);
                self.failure.get_or_insert_with(|| reason.to_owned());
                // Others were tried, and fared no better.
                self.gives_up |= is_second && !self.took && self.blamed.is_empty();
            }
        }
    }

    /// Positions of the events of these records.
    fn events(&self, units: &[usize]) -> Vec<Position> {
        let items = units.iter().flat_map(|unit| &self.units[*unit].items);
        items.map(|at| self.batch.items[*at].position()).collect()
    }

    /// Each half goes by itself.
    fn halve(&mut self, request: &[usize]) {
        let (first, second) = request.split_at(request.len().div_ceil(2));
        self.again.extend([first.to_vec(), second.to_vec()]);
    }

    fn taken(&mut self, unit: usize) {
        self.taken = true;
        self.took = true;
        self.refused.clear();
        for refused in std::mem::take(&mut self.stalled) {
            self.go_on(refused);
        }
        *self.requests.refusals() = Refusals::default();
        let events = self.units[unit].items.iter();
        let positions = events.map(|at| self.batch.items[*at].position());
        self.requests.doubt().forget(positions);
        self.settle(unit, &Outcome::Acknowledged);
        self.go_on(unit);
    }

    /// The lane of a record that is done with.
    fn go_on(&mut self, unit: usize) {
        let lane = self.lane_of[unit];
        self.lanes[lane].pop_front();
        if !self.lanes[lane].is_empty() {
            self.ready.push_back(lane);
        }
    }

    fn settle(&mut self, unit: usize, outcome: &Outcome) {
        for at in &self.units[unit].items {
            self.outcomes[*at] = Some(outcome.clone());
        }
    }

    /// The request was not done as a whole, or nobody knows.
    fn failed(&mut self, request: Vec<usize>, fault: Fault) {
        match fault {
            Fault::Throttled => self.stop(Trouble::Throttled),
            Fault::Unavailable(reason) => self.stop(Trouble::Failed(Error::unavailable(reason))),
            Fault::Misconfigured(reason) => {
                self.stop(Trouble::Failed(Error::Misconfigured(reason)));
            }
            Fault::Refused(reason) if request.len() == 1 => self.refuse(request[0], &reason),
            Fault::Refused(_) => self.halve(&request),
        }
    }

    /// A record stood alone and was refused: the event in it is to blame, or the service is.
    fn refuse(&mut self, unit: usize, reason: &str) {
        let service = &self.requests.service;
        let apart = service.apart(&self.units[unit], &self.batch.items);
        if apart.len() > 1 {
            self.take_apart(unit, apart);
            return;
        }
        if matches!(&self.trouble, Some(Trouble::Failed(Error::Refusing { .. }))) {
            // The service may be at fault: what was on its way is not given up either.
            return;
        }
        let outcome = Outcome::Permanent(reason.to_owned());
        self.settle(unit, &outcome);
        let at = self.units[unit].items[0];
        self.refused.push(at);
        let key = self.batch.items[at].partition_key();
        let mut refusals = self.requests.refusals();
        refusals.add(key, &outcome);
        if refusals.are_too_many() && !self.taken {
            let before = std::mem::take(&mut self.refusals_before);
            let refusing = refusals.begin(before, reason, Instant::now());
            drop(refusals);
            // None of these is given up: it may not be to blame.
            for at in std::mem::take(&mut self.refused) {
                self.outcomes[at] = None;
            }
            self.stop(Trouble::Failed(refusing));
            return;
        }
        drop(refusals);
        match self.taken {
            true => self.go_on(unit),
            false => self.stalled.push(unit),
        }
    }

    /// Its events go one by one, instead of it.
    fn take_apart(&mut self, unit: usize, apart: Vec<Unit>) {
        let lane = self.lane_of[unit];
        self.lanes[lane].pop_front();
        for part in apart.into_iter().rev() {
            self.lanes[lane].push_front(self.units.len());
            self.lane_of.push(lane);
            self.units.push(Arc::new(part));
        }
        self.ready.push_back(lane);
    }

    /// The first trouble counts; what is in flight lands.
    fn stop(&mut self, trouble: Trouble) {
        self.trouble.get_or_insert(trouble);
    }

    /// What failed whole is put off, or the service is away.
    fn look_at_failures(&mut self) {
        let failed = [&self.failed[..], &self.blamed[..]].concat();
        let mut doubt = self.requests.doubt();
        if failed.is_empty() {
            if self.took {
                doubt.taken();
            }
            return;
        }
        let put_off = doubt.failed(self.events(&failed), self.took);
        drop(doubt);
        if let Some(retry_after) = put_off {
            let outcome = Outcome::Paced {
                retry_after,
                reason: self.failure.take().unwrap_or_default(),
            };
            for unit in std::mem::take(&mut self.failed) {
                self.settle(unit, &outcome);
            }
        } else if let Some(reason) = self.failure.take() {
            self.stop(Trouble::Failed(Error::unavailable(reason)));
        }
    }

    fn conclude(mut self) -> Outcomes {
        self.look_at_failures();
        let open = match self.trouble {
            None => Outcome::Behind,
            Some(Trouble::Throttled) => Outcome::Throttled { retry_after: None },
            Some(Trouble::Failed(error)) if self.outcomes.iter().all(Option::is_none) => {
                return Err(error);
            }
            // What is known is told first; the rest comes again.
            Some(Trouble::Failed(error)) => Outcome::Unknown(error.to_string()),
        };
        let outcomes = self.outcomes.into_iter();
        Ok(outcomes
            .map(|known| known.unwrap_or_else(|| open.clone()))
            .collect())
    }
}

/// Records by lane, and the lane of each.
fn lanes(units: &[Unit], order: Order) -> (Vec<VecDeque<usize>>, Vec<usize>) {
    let mut by_key = HashMap::new();
    let (mut lanes, mut lane_of) = (Vec::<VecDeque<usize>>::new(), Vec::new());
    for (at, unit) in units.iter().enumerate() {
        let lane = match order {
            Order::Strict => *by_key.entry(&unit.key).or_insert(lanes.len()),
            Order::Relaxed => lanes.len(),
        };
        if lane == lanes.len() {
            lanes.push(VecDeque::new());
        }
        lanes[lane].push_back(at);
        lane_of.push(lane);
    }
    (lanes, lane_of)
}
