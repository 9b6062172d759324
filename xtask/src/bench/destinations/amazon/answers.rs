//! What each service answers.

use std::{borrow::Cow, fmt::Write as _};

use anyhow::{Context as _, Result};
use md5::{Digest as _, Md5};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Taken,
    http::{Answer, Request},
};

const JSON: &str = "application/x-amz-json-1.1";
const XML: &str = "text/xml";

/// A record of a stream, as it came and as it is read back.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Record {
    data: String,
    partition_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRecords<'a> {
    #[serde(borrow)]
    stream_name: Cow<'a, str>,
    records: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Records {
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator<'a> {
    #[serde(borrow)]
    stream_name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords<'a> {
    #[serde(borrow)]
    shard_iterator: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessageBatch<'a> {
    #[serde(borrow)]
    queue_url: Cow<'a, str>,
    #[serde(borrow)]
    entries: Vec<Message<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    message_body: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutEvents<'a> {
    #[serde(borrow)]
    entries: Vec<BusEvent<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BusEvent<'a> {
    #[serde(borrow)]
    event_bus_name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeEventBus<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// The answer; to what is not known, that it is not.
pub(super) fn of(request: &Request<'_>, taken: &Taken) -> Answer {
    let operation = request.target.split_once('.');
    let body = match operation.map(|(_, name)| name) {
        Some("PutRecords") => put_records(request.body, taken),
        Some("ListShards") => Ok(SHARDS.to_owned()),
        Some("GetShardIterator") => shard_iterator(request.body),
        Some("GetRecords") => get_records(request.body, taken),
        Some("SendMessageBatch") => send_message_batch(request.body, taken),
        Some("PutEvents") => put_events(request.body, taken),
        Some("DescribeEventBus") => describe_event_bus(request.body),
        Some(other) => Err(anyhow::anyhow!("{other} is not known here")),
        None => return without_target(request, taken),
    };
    json(body)
}

fn json(body: Result<String>) -> Answer {
    match body {
        Ok(body) => Answer {
            status: "200 OK",
            media_type: JSON,
            body,
        },
        Err(error) => Answer {
            status: "400 Bad Request",
            media_type: JSON,
            body: serde_json::json!({
                "__type": "ValidationException",
                "message": format!("{error:#}"),
            })
            .to_string(),
        },
    }
}

/// A topic speaks forms and XML; a bucket has its objects in the path.
fn without_target(request: &Request<'_>, taken: &Taken) -> Answer {
    let xml = |status, body: String| Answer {
        status,
        media_type: XML,
        body,
    };
    let bucket = request.path.split('/').nth(1).unwrap_or_default();
    match request.method {
        "POST" => match publish_batch(request.body, taken) {
            Ok(body) => xml("200 OK", body),
            Err(error) => xml(
                "400 Bad Request",
                format!(
                    "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidParameter</Code>\
                     <Message>{error:#}</Message></Error></ErrorResponse>"
                ),
            ),
        },
        "PUT" => {
            taken.add(bucket, 1);
            xml("200 OK", String::new())
        }
        _ => xml(
            "404 Not Found",
            "<Error><Code>NoSuchKey</Code><Message>nothing is kept</Message></Error>".to_owned(),
        ),
    }
}

fn put_records(body: &[u8], taken: &Taken) -> Result<String> {
    let PutRecords {
        stream_name,
        records,
    } = serde_json::from_slice(body)?;
    if !taken.has_first(&stream_name) {
        let whole: Records = serde_json::from_slice(body)?;
        taken.keep(&stream_name, whole.records);
    }
    let before = taken.add(&stream_name, records.len());
    let mut out = String::with_capacity(64 + 128 * records.len());
    out.push_str(r#"{"FailedRecordCount":0,"Records":["#);
    for (n, _) in (before..).zip(&records) {
        if n > before {
            out.push(',');
        }
        // As many digits as real ones have.
        write!(
            out,
            r#"{{"SequenceNumber":"4966{n:052}","ShardId":"shardId-000000000000"}}"#
        )?;
    }
    out.push_str("]}");
    Ok(out)
}

const SHARDS: &str = r#"{"Shards":[{"ShardId":"shardId-000000000000","HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"340282366920938463463374607431768211455"},"SequenceNumberRange":{"StartingSequenceNumber":"0"}}]}"#;

fn shard_iterator(body: &[u8]) -> Result<String> {
    let of: GetShardIterator<'_> = serde_json::from_slice(body)?;
    Ok(serde_json::json!({ "ShardIterator": of.stream_name }).to_string())
}

fn get_records(body: &[u8], taken: &Taken) -> Result<String> {
    let of: GetRecords<'_> = serde_json::from_slice(body)?;
    let numbered = taken.first(&of.shard_iterator).into_iter().enumerate();
    let records: Vec<_> = numbered
        .map(|(n, record)| {
            serde_json::json!({
                "Data": record.data,
                "PartitionKey": record.partition_key,
                "SequenceNumber": n.to_string(),
            })
        })
        .collect();
    Ok(serde_json::json!({
        "Records": records,
        "NextShardIterator": of.shard_iterator,
        "MillisBehindLatest": 0,
    })
    .to_string())
}

fn send_message_batch(body: &[u8], taken: &Taken) -> Result<String> {
    let SendMessageBatch { queue_url, entries } = serde_json::from_slice(body)?;
    let queue = queue_url.rsplit('/').next().unwrap_or_default();
    let before = taken.add(queue, entries.len());
    let mut out = String::with_capacity(64 + 256 * entries.len());
    out.push_str(r#"{"Failed":[],"Successful":["#);
    for (n, entry) in (before..).zip(&entries) {
        if n > before {
            out.push(',');
        }
        write!(
            out,
            r#"{{"Id":"{}","MessageId":"00000000-0000-4000-8000-{n:012x}","MD5OfMessageBody":""#,
            entry.id
        )?;
        for byte in Md5::digest(entry.message_body.as_bytes()) {
            write!(out, "{byte:02x}")?;
        }
        out.push('"');
        if queue.ends_with(".fifo") {
            write!(out, r#","SequenceNumber":"{n:020}""#)?;
        }
        out.push('}');
    }
    out.push_str("]}");
    Ok(out)
}

fn publish_batch(form: &[u8], taken: &Taken) -> Result<String> {
    let form = std::str::from_utf8(form)?;
    let pairs = || form.split('&').filter_map(|pair| pair.split_once('='));
    let (_, topic) = pairs()
        .find(|(name, _)| *name == "TopicArn")
        .context("no TopicArn")?;
    let topic = topic.rsplit("%3A").next().unwrap_or_default();
    let is_id = |name: &str| {
        let entry = name.strip_prefix("PublishBatchRequestEntries.member.");
        entry.is_some_and(|entry| entry.split_once('.').is_some_and(|(_, of)| of == "Id"))
    };
    let ids: Vec<&str> = pairs()
        .filter(|(name, _)| is_id(name))
        .map(|(_, id)| id)
        .collect();
    let before = taken.add(topic, ids.len());
    let mut out = String::with_capacity(512 + 256 * ids.len());
    out.push_str(
        "<PublishBatchResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">\
         <PublishBatchResult><Failed/><Successful>",
    );
    for (n, id) in (before..).zip(ids) {
        write!(
            out,
            "<member><Id>{id}</Id><MessageId>00000000-0000-4000-8000-{n:012x}</MessageId>"
        )?;
        if topic.ends_with(".fifo") {
            write!(out, "<SequenceNumber>{n:020}</SequenceNumber>")?;
        }
        out.push_str("</member>");
    }
    out.push_str(
        "</Successful></PublishBatchResult><ResponseMetadata>\
         <RequestId>00000000-0000-4000-8000-000000000000</RequestId>\
         </ResponseMetadata></PublishBatchResponse>",
    );
    Ok(out)
}

fn put_events(body: &[u8], taken: &Taken) -> Result<String> {
    let PutEvents { entries } = serde_json::from_slice(body)?;
    let bus = entries.first().context("no entry")?;
    let before = taken.add(&bus.event_bus_name, entries.len());
    let mut out = String::with_capacity(64 + 64 * entries.len());
    out.push_str(r#"{"FailedEntryCount":0,"Entries":["#);
    for (n, _) in (before..).zip(&entries) {
        if n > before {
            out.push(',');
        }
        write!(out, r#"{{"EventId":"00000000-0000-4000-8000-{n:012x}"}}"#)?;
    }
    out.push_str("]}");
    Ok(out)
}

fn describe_event_bus(body: &[u8]) -> Result<String> {
    let of: DescribeEventBus<'_> = serde_json::from_slice(body)?;
    Ok(serde_json::json!({
        "Name": of.name,
        "Arn": format!("arn:aws:events:eu-central-1:123456789012:event-bus/{}", of.name),
        // Always the same: it was not made anew.
        "CreationTime": 1_700_000_000.0,
        "LastModifiedTime": 1_700_000_000.0,
    })
    .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, body: &str, taken: &Taken) -> serde_json::Value {
        let request = Request {
            method: "POST",
            path: "/",
            target,
            body: body.as_bytes(),
        };
        serde_json::from_str(&of(&request, taken).body).unwrap()
    }

    #[test]
    fn each_record_of_a_stream_is_answered_counted_and_the_first_are_read_back() {
        let taken = Taken::default();
        let body = r#"{"StreamName":"s","Records":[{"Data":"YQ==","PartitionKey":"k"},{"Data":"Yg==","PartitionKey":"l"}]}"#;
        let answer = ask("Kinesis_20131202.PutRecords", body, &taken);
        assert_eq!(answer["Records"].as_array().unwrap().len(), 2);
        assert_ne!(
            answer["Records"][0]["SequenceNumber"],
            answer["Records"][1]["SequenceNumber"]
        );
        assert_eq!(taken.lock()["s"].count, 2);
        let body = r#"{"ShardIterator":"s"}"#;
        let answer = ask("Kinesis_20131202.GetRecords", body, &taken);
        assert_eq!(answer["Records"][1]["Data"], "Yg==");
        assert_eq!(answer["Records"][1]["PartitionKey"], "l");
    }

    #[test]
    fn each_message_of_a_queue_is_answered_with_its_digest() {
        let taken = Taken::default();
        let body = r#"{"QueueUrl":"http://h/1/q.fifo","Entries":[{"Id":"0","MessageBody":"a\"b"},{"Id":"1","MessageBody":""}]}"#;
        let answer = ask("AmazonSQS.SendMessageBatch", body, &taken);
        let all = answer["Successful"].as_array().unwrap();
        assert_eq!((all[0]["Id"].as_str(), all.len()), (Some("0"), 2));
        // `md5sum` of nothing.
        assert_eq!(
            all[1]["MD5OfMessageBody"],
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        assert!(all[0]["SequenceNumber"].is_string());
        assert_eq!(taken.lock()["q.fifo"].count, 2);
    }

    #[test]
    fn each_message_of_a_topic_is_answered_whatever_its_attributes_are_called() {
        let taken = Taken::default();
        let form = "Action=PublishBatch&TopicArn=arn%3Aaws%3Asns%3Ax%3A1%3At\
                    &PublishBatchRequestEntries.member.1.Id=7\
                    &PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Id=no\
                    &PublishBatchRequestEntries.member.1.Message=a%26PublishBatch.Id%3D8";
        let answer = publish_batch(form.as_bytes(), &taken).unwrap();
        assert_eq!(answer.matches("<Id>").count(), 1);
        assert!(answer.contains("<Id>7</Id>"));
        assert_eq!(taken.lock()["t"].count, 1);
    }

    #[test]
    fn a_bus_is_there_and_its_events_are_counted() {
        let taken = Taken::default();
        let bus = ask("AWSEvents.DescribeEventBus", r#"{"Name":"b"}"#, &taken);
        assert_eq!(bus["Name"], "b");
        let body = r#"{"Entries":[{"EventBusName":"b","Detail":"{}"}]}"#;
        let answer = ask("AWSEvents.PutEvents", body, &taken);
        assert_eq!(answer["Entries"].as_array().unwrap().len(), 1);
        let answer = ask("AWSEvents.Other", "{}", &taken);
        assert_eq!(answer["__type"], "ValidationException");
        assert_eq!(taken.lock()["b"].count, 1);
    }
}
