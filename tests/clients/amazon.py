"""Speaks to a stand-in for Amazon's services: makes what destinations need, and writes what
arrived there, one event a line.

    amazon.py PORT stream NAME
    amazon.py PORT stream-events NAME DIR      a file for each shard, in its order
    amazon.py PORT queue NAME                  prints its URL
    amazon.py PORT topic NAME                  prints its ARN
    amazon.py PORT subscribe ARN URL FILTER    the queue gets what the filter lets through
    amazon.py PORT bus NAME                    a group of logs of that name gets all of it
    amazon.py PORT bus-events NAME FILE        what the group has
    amazon.py PORT messages URL FILE           takes all messages out of the queue
    amazon.py PORT bucket NAME
    amazon.py PORT objects NAME DIR            a file for each object, by its name
"""

import gzip
import json
import os
import sys

import boto3


def client(service):
    return boto3.client(
        service,
        endpoint_url="http://127.0.0.1:" + sys.argv[1],
        region_name="eu-central-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


def stream(name):
    kinesis = client("kinesis")
    kinesis.create_stream(StreamName=name, ShardCount=4)
    kinesis.get_waiter("stream_exists").wait(StreamName=name)


def stream_events(name, directory):
    kinesis = client("kinesis")
    for shard in kinesis.list_shards(StreamName=name)["Shards"]:
        shard = shard["ShardId"]
        at = kinesis.get_shard_iterator(
            StreamName=name, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        with open(os.path.join(directory, shard + ".ndjson"), "wb") as out:
            while True:
                page = kinesis.get_records(ShardIterator=at, Limit=10000)
                for record in page["Records"]:
                    out.write(record["Data"] + b"\n")
                if not page["Records"] and page["MillisBehindLatest"] == 0:
                    break
                at = page["NextShardIterator"]


def fifo(name, attribute):
    return {attribute: "true"} if name.endswith(".fifo") else {}


def queue(name):
    made = client("sqs").create_queue(QueueName=name, Attributes=fifo(name, "FifoQueue"))
    print(made["QueueUrl"])


def topic(name):
    made = client("sns").create_topic(Name=name, Attributes=fifo(name, "FifoTopic"))
    print(made["TopicArn"])


def arn_of(url):
    asked = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return asked["Attributes"]["QueueArn"]


def subscribe(topic_arn, url, policy):
    attributes = {"RawMessageDelivery": "true"}
    if policy:
        attributes["FilterPolicy"] = policy
    client("sns").subscribe(
        TopicArn=topic_arn, Protocol="sqs", Endpoint=arn_of(url), Attributes=attributes
    )


def bus(name):
    client("logs").create_log_group(logGroupName=name)
    events = client("events")
    events.create_event_bus(Name=name)
    pattern = json.dumps({"source": ["penstock"]})
    events.put_rule(Name="all", EventBusName=name, EventPattern=pattern)
    arn = "arn:aws:logs:eu-central-1:123456789012:log-group:" + name
    events.put_targets(Rule="all", EventBusName=name, Targets=[{"Id": "log", "Arn": arn}])


def bus_events(name, file):
    pages = client("logs").get_paginator("filter_log_events").paginate(logGroupName=name)
    with open(file, "w") as out:
        for page in pages:
            for entry in page["events"]:
                out.write(json.dumps(json.loads(entry["message"])["detail"]) + "\n")


def messages(url, file):
    sqs = client("sqs")
    with open(file, "w") as out:
        while True:
            page = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            if not page:
                break
            for message in page:
                out.write(message["Body"] + "\n")
            done = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(page)]
            sqs.delete_message_batch(QueueUrl=url, Entries=done)


def bucket(name):
    client("s3").create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )


def objects(name, directory):
    s3 = client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        for found in page.get("Contents", []):
            key = found["Key"]
            body = s3.get_object(Bucket=name, Key=key)["Body"].read()
            if key.endswith(".gz"):
                body = gzip.decompress(body)
            plain = key.rsplit("/", 1)[-1].split(".ndjson")[0] + ".ndjson"
            with open(os.path.join(directory, plain), "wb") as out:
                out.write(body)


VERBS = {
    "stream": stream,
    "stream-events": stream_events,
    "queue": queue,
    "topic": topic,
    "subscribe": subscribe,
    "bus": bus,
    "bus-events": bus_events,
    "messages": messages,
    "bucket": bucket,
    "objects": objects,
}
VERBS[sys.argv[2]](*sys.argv[3:])
