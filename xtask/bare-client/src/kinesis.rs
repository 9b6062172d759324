//! Kinesis: requests as large as they may be, each in a task of its own, as many at a time as
//! the gateway has.

use anyhow::{Context as _, Result, ensure};
use aws_config::{
    BehaviorVersion, Region, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::Credentials;
use aws_sdk_kinesis::{
    Client,
    types::{PutRecordsRequestEntry, ShardIteratorType},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use tokio::task::JoinSet;

use crate::{Args, TEMPLATES, Took, Watch};

/// As the gateway has them by default.
const IN_FLIGHT: usize = 4;
const REQUEST_RECORDS: usize = 500;

pub(crate) async fn run(args: &Args) -> Result<Took> {
    let client = client(args).await;
    let templates = templates(&client, args).await?;
    let mut left = args.count;
    let mut all = templates.iter().cycle();
    let mut requests = JoinSet::new();
    let watch = Watch::start()?;
    while left > 0 || !requests.is_empty() {
        while left > 0 && requests.len() < IN_FLIGHT {
            let count = REQUEST_RECORDS.min(usize::try_from(left).unwrap_or(REQUEST_RECORDS));
            left -= count as u64;
            let entries: Vec<_> = all.by_ref().take(count).cloned().collect();
            requests.spawn(put(client.clone(), args.to.clone(), entries));
        }
        if let Some(done) = requests.join_next().await {
            done??;
        }
    }
    watch.stop()
}

async fn put(client: Client, stream: String, entries: Vec<PutRecordsRequestEntry>) -> Result<()> {
    let count = entries.len();
    let request = client.put_records().stream_name(stream);
    let answer = Box::pin(request.set_records(Some(entries)).send()).await?;
    ensure!(
        answer.failed_record_count.unwrap_or_default() == 0 && answer.records.len() == count,
        "some of {count} records were not taken"
    );
    Ok(())
}

async fn client(args: &Args) -> Client {
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let credentials = Credentials::new("AKIA", "secret", None, None, "bench");
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .region(Region::new("eu-central-1"))
        .endpoint_url(&args.server)
        .credentials_provider(credentials);
    Client::new(&Box::pin(loader.load()).await)
}

async fn templates(client: &Client, args: &Args) -> Result<Vec<PutRecordsRequestEntry>> {
    let shards = Box::pin(client.list_shards().stream_name(&args.from).send()).await?;
    let mut templates = Vec::with_capacity(TEMPLATES);
    for shard in shards.shards() {
        let iterator = client
            .get_shard_iterator()
            .stream_name(&args.from)
            .shard_id(shard.shard_id())
            .shard_iterator_type(ShardIteratorType::TrimHorizon);
        let iterator = Box::pin(iterator.send()).await?.shard_iterator;
        let page = client
            .get_records()
            .shard_iterator(iterator.context("an iterator")?);
        let page = Box::pin(page.limit(1_000).send()).await?;
        for record in page.records.into_iter().take(TEMPLATES - templates.len()) {
            let copy = PutRecordsRequestEntry::builder()
                .data(record.data)
                .partition_key(record.partition_key.context("a record has a key")?);
            templates.push(copy.build()?);
        }
    }
    ensure!(
        templates.len() == TEMPLATES,
        "the stream has too few records"
    );
    Ok(templates)
}
