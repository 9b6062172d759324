//! The text of an event as patterns see it: as destinations receive it, with `values`
//! beside `data`, and without `position`, which no event has when rules are asked.

use super::{
    json::{self, Member, Node, Value},
    matcher::NotMatched,
    written::Quoted,
};
use crate::event::{Event, json as event_json};

/// An event of the gateway.
pub fn of_event(event: &Event) -> String {
    let mut text = Vec::new();
    event.to_json(None, &mut text);
    text.pop();
    text.extend_from_slice(br#","values":{"#);
    for (n, measurement) in event.measurements.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        event_json::string(&measurement.name, &mut text);
        text.push(b':');
        event_json::value(&measurement.value, &mut text);
    }
    text.extend_from_slice(b"}}");
    String::from_utf8_lossy(&text).into_owned()
}

/// An event as a destination received it. What has `values`, or no measurements in
/// `data`, stays as it is.
///
/// # Errors
/// When the text is not JSON.
pub fn of_text(text: &str) -> Result<String, NotMatched> {
    let node = json::parse(text).map_err(|json::Error { at, what }| NotMatched::Malformed {
        at,
        what: what.into(),
    })?;
    let Some(measurements) = measurements(&node) else {
        return Ok(text.to_owned());
    };
    let Value::Object(members) = &node.value else {
        return Ok(text.to_owned());
    };
    let kept = members.iter().filter(|member| member.name != "position");
    let mut parts: Vec<String> = kept
        .map(|member| format!("{}:{}", Quoted(&member.name), member.node))
        .collect();
    let values: Vec<String> = measurements
        .iter()
        .filter_map(|one| {
            let Value::Text(name) = &member(one, "n")?.value else {
                return None;
            };
            Some(format!("{}:{}", Quoted(name), member(one, "v")?))
        })
        .collect();
    parts.push(format!("\"values\":{{{}}}", values.join(",")));
    Ok(format!("{{{}}}", parts.join(",")))
}

/// `data.m` of an event that has no `values`.
fn measurements<'n, 'a>(event: &'n Node<'a>) -> Option<&'n [Node<'a>]> {
    if member(event, "values").is_some() {
        return None;
    }
    match &member(member(event, "data")?, "m")?.value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn member<'n, 'a>(node: &'n Node<'a>, name: &str) -> Option<&'n Node<'a>> {
    let Value::Object(members) = &node.value else {
        return None;
    };
    let found = |one: &&Member<'_>| one.name == name;
    members.iter().find(found).map(|one| &one.node)
}
