//! Metrics: their names, which a birth tells once and data messages leave out, and
//! what they say.

use std::sync::Arc;

use super::{super::births, alias, unsigned, value};
use crate::{
    event::{Measurement, Quality, Value},
    normalise::{
        Class, Message, Node, Reject,
        decode::{
            ELEMENTS_MAX, Lenient,
            sparkplug::{UNSUPPORTED, is_value},
        },
        identity,
        mapping::Tag,
        measure,
        protocol::text_at,
        timestamp::{self, Said, Unit},
    },
};
use births::{Metric, Metrics};

/// What the metrics of one payload say.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) measurements: Vec<Measurement>,
    /// What describes them.
    pub(super) tags: Vec<Tag>,
    /// The names of those of the past.
    pub(super) historical: Vec<Arc<str>>,
    /// Values within arrays that there may still be.
    room: usize,
}

impl Default for Taken {
    fn default() -> Self {
        Self {
            measurements: Vec::new(),
            tags: Vec::new(),
            historical: Vec::new(),
            room: ELEMENTS_MAX,
        }
    }
}

/// Reads the metrics of one payload.
pub(super) struct Resolver<'m> {
    pub(super) message: &'m Message<'m>,
    pub(super) known: Option<Arc<Metrics>>,
    pub(super) birth: bool,
    pub(super) lenient: Lenient,
}

impl Resolver<'_> {
    /// A metric's name and type, from the message itself or from the birth. The members
    /// of a template have its name before their own.
    pub(super) fn named(&self, metric: &Node<'_>, within: Option<&str>) -> Result<Metric, Reject> {
        let own = metric.child("datatype").and_then(unsigned);
        let name = text_at(metric, "name").filter(|name| !name.is_empty());
        let known = self.known.as_deref();
        match (name, alias(metric)) {
            (Some(name), _) => {
                let before = within.map_or(0, |within| within.len() + 1);
                if before + name.len() > measure::NAME_BYTES_MAX {
                    return Err(measure::name_too_long());
                }
                let name: Arc<str> = match within {
                    Some(within) => format!("{within}.{name}").into(),
                    None => name.into(),
                };
                Ok(Metric {
                    datatype: match self.birth {
                        true => own,
                        false => own.or_else(|| known?.datatype(&name)),
                    },
                    name,
                })
            }
            (None, _) if self.birth => {
                let reason = "a metric of a birth has no name";
                Err(Reject::new(Class::Missing, reason))
            }
            (None, Some(alias)) => {
                let known = known.and_then(|known| known.by_alias(alias));
                let known = known.ok_or_else(|| {
                    let reason = format!(
                        "metric {alias} has no name, and no birth was seen that says which one it is"
                    );
                    Reject::new(Class::State, reason)
                })?;
                Ok(Metric {
                    name: known.name.clone(),
                    datatype: own.or(known.datatype),
                })
            }
            (None, None) => {
                let reason = "a metric has neither a name nor an alias";
                Err(Reject::new(Class::Missing, reason))
            }
        }
    }

    /// What a birth says of a metric, and of the members of a template.
    pub(super) fn describe(
        &self,
        metric: &Node<'_>,
        named: &Metric,
        into: &mut Vec<(Option<u64>, Metric)>,
    ) -> Result<(), Reject> {
        into.push((alias(metric), named.clone()));
        for member in members(metric.child("template")) {
            let named = self.named(member, Some(&named.name))?;
            self.describe(member, &named, into)?;
        }
        Ok(())
    }

    /// What a metric says.
    pub(super) fn measurement(
        &self,
        named: &Metric,
        metric: &Node<'_>,
        taken: &mut Taken,
    ) -> Result<(), Reject> {
        let Node::Map(fields) = metric else {
            return Err(Reject::new(Class::Syntax, "a metric is an object"));
        };
        if metric.child(UNSUPPORTED).is_some() {
            let reason = "extensions of Sparkplug's values are not read";
            return Err(Reject::new(Class::Unsupported, reason));
        }
        let null = metric.child("null") == Some(&Node::Bool(true));
        let at = match metric.child("timestamp") {
            Some(at) => timestamp::read(at, Unit::Millis, None, self.message.received)?,
            None => Said::Nothing,
        };
        let time = match at {
            Said::Plausible { at, .. } => Some(at),
            Said::Nothing | Said::Implausible => None,
        };
        let from = taken.measurements.len();
        let given = fields.iter().find(|(name, _)| is_value(name));
        match given.filter(|_| !null) {
            Some((field, template)) if field == "template" => {
                self.template(named, template, taken)?;
                let members = taken.measurements[from..].iter_mut();
                members.for_each(|member| member.time = member.time.or(time));
            }
            given => {
                let value = match given {
                    Some((field, node)) => {
                        let of = (named, self.lenient);
                        value::read(of, field, node, &mut taken.room)?
                    }
                    None => Value::Null,
                };
                taken.measurements.push(one(named, value, metric, time)?);
            }
        }
        if metric.child("historical") == Some(&Node::Bool(true)) {
            let names = taken.measurements[from..].iter();
            taken.historical.extend(names.map(|m| m.name.clone()));
        }
        Ok(())
    }

    /// An instance of a template: its members are measured, its parameters describe it.
    /// A definition describes all instances, and measures nothing.
    fn template(
        &self,
        named: &Metric,
        template: &Node<'_>,
        taken: &mut Taken,
    ) -> Result<(), Reject> {
        let name = &named.name;
        let mut tag = |what: &str, text: String| {
            let name = format!("{name}.{what}");
            if name.len() > measure::NAME_BYTES_MAX {
                return Err(measure::name_too_long());
            }
            taken.tags.push((name.into(), text.into()));
            Ok(())
        };
        for (field, what) in [("template_ref", "template"), ("version", "version")] {
            if let Some(text) = text_at(template, field).filter(|text| !text.is_empty()) {
                tag(what, text.to_owned())?;
            }
        }
        if template.child("is_definition") == Some(&Node::Bool(true)) {
            return tag("definition", "true".to_owned());
        }
        if let Some(Node::Array(parameters)) = template.child("parameters") {
            for parameter in parameters {
                let Node::Map(fields) = parameter else {
                    continue;
                };
                let called = text_at(parameter, "name").unwrap_or_default();
                let given = fields.iter().find(|(name, _)| is_value(name));
                let text = match given {
                    Some((_, Node::Bool(said))) => said.to_string(),
                    Some((field, node)) => {
                        let datatype = parameter.child("datatype").and_then(unsigned);
                        match value::typed(called, datatype, field, node)? {
                            Value::Int(n) => n.to_string(),
                            Value::UInt(n) => n.to_string(),
                            _ => identity::text(node).unwrap_or_else(|| "NaN".to_owned()),
                        }
                    }
                    None => continue,
                };
                tag(called, text)?;
            }
        }
        for member in members(Some(template)) {
            let inner = self.named(member, Some(name))?;
            self.measurement(&inner, member, taken)?;
        }
        Ok(())
    }
}

/// The metrics within a template.
fn members<'n, 'a>(template: Option<&'n Node<'a>>) -> &'n [Node<'a>] {
    match template.and_then(|template| template.child("metrics")) {
        Some(Node::Array(members)) => members,
        _ => &[],
    }
}

/// A metric with one value.
fn one(
    named: &Metric,
    value: Value,
    metric: &Node<'_>,
    time: Option<crate::event::Timestamp>,
) -> Result<Measurement, Reject> {
    let property = |name: &str| metric.child("properties")?.child(name);
    // Sparkplug 3.0, section 6.4.11: 192 is good, 0 bad, 500 stale.
    let quality = match property("Quality") {
        _ if value == Value::Null => Quality::Bad,
        None | Some(Node::Int(192) | Node::Null) => Quality::Good,
        Some(Node::Int(0)) => Quality::Bad,
        Some(_) => Quality::Uncertain,
    };
    let unit = match property("engUnit").or_else(|| property("Engineering Units")) {
        Some(Node::Text(unit)) if !unit.is_empty() => Some(measure::unit(unit)?),
        _ => None,
    };
    Ok(Measurement {
        name: named.name.clone(),
        value,
        unit,
        quality,
        time,
    })
}
