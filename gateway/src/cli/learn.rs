//! `penstock learn`: mappings and schemas from messages that are seen.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::Value;

use super::{ConfigFile, offline, output};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    learn::{BYTES_MAX, MESSAGES_MAX, Observed, Proposal, propose},
};

/// A file of messages has at most so many bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What to learn from.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Subscribe to this topic filter at the broker, and watch
    #[cfg(feature = "mqtt")]
    #[arg(long, short, value_name = "FILTER", group = "from")]
    topic: Option<String>,
    /// The broker, mqtt://HOST:PORT or with TLS mqtts://HOST:PORT
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", value_parser = crate::config::mqtt::parse_address)]
    server: crate::config::mqtt::Address,
    /// Certificates that the broker's must come from (PEM), instead of those of the system
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our own certificate, for brokers that ask for one (PEM)
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Who subscribes; the password is taken from PENSTOCK_PASSWORD
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How long to watch, such as 30s
    #[cfg(feature = "mqtt")]
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = crate::config::parse_duration)]
    duration: std::time::Duration,
    /// Learn from a file instead: a JSON object a line with "topic", and "payload" or "payload_base64"
    #[arg(long, value_name = "FILE.ndjson", group = "from")]
    messages: Option<PathBuf>,
    /// Learn from what is in quarantine
    #[arg(long, group = "from")]
    quarantine: bool,
    /// Write the proposal into this directory, which has none of its files yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let observed = match (&args.messages, args.quarantine) {
        (Some(path), _) => of_file(path)?,
        (None, true) => of_quarantine(&args.file.load()?)?,
        (None, false) => watched(args)?,
    };
    let Some(proposal) = propose(&observed, SystemClock.now()) else {
        bail!("no messages were seen");
    };
    let tried = proposal.tried;
    let header = format!(
        "# Proposed from {} messages. Under it {} become events, {} are no data, {} would be\n# quarantined, and {} events are not as their schema says.\n# Compare with docs/mapping.md: names, units and what identifies an event are yours to say.\n\n",
        observed.len(),
        tried.fine,
        tried.nothing,
        tried.quarantined,
        tried.mismatched,
    );
    match &args.out {
        Some(dir) => write(dir, &header, &proposal)?,
        None => {
            output::line(format_args!("{header}{}", proposal.config));
            for (file, schema) in &proposal.schemas {
                output::line(format_args!("# {file}\n{schema}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the proposal; nothing that is there is overwritten.
fn write(dir: &Path, header: &str, proposal: &Proposal) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let config = (
        "mappings.toml".to_owned(),
        format!("{header}{}", proposal.config),
    );
    for (name, text) in proposal.schemas.iter().chain([&config]) {
        let path = dir.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("failed to write {}", path.display()))?;
        output::line(format_args!("{}", path.display()));
    }
    Ok(())
}

/// Adds a message, unless there are enough.
fn add(all: &mut Vec<Observed>, bytes: &mut usize, message: Observed) -> bool {
    *bytes += message.payload.len() + message.topic.len();
    if all.len() >= MESSAGES_MAX || *bytes > BYTES_MAX {
        return false;
    }
    all.push(message);
    true
}

fn of_file(path: &Path) -> Result<Vec<Observed>> {
    let cannot = || format!("failed to read {}", path.display());
    let known = fs::metadata(path).with_context(cannot)?;
    if known.len() > FILE_BYTES_MAX {
        bail!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
    }
    let text = fs::read_to_string(path).with_context(cannot)?;
    let (mut all, mut bytes) = (Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let message = observed(line).with_context(|| format!("{}:{number}", path.display()))?;
        if !add(&mut all, &mut bytes, message) {
            break;
        }
    }
    Ok(all)
}

/// A message out of one line.
fn observed(line: &str) -> Result<Observed> {
    let line: Value = serde_json::from_str(line).context("not JSON")?;
    let topic = line["topic"].as_str().context("there is no \"topic\"")?;
    let encoded = ["payload_base64", "payload_b64"];
    let encoded = encoded.iter().find_map(|name| line[*name].as_str());
    let payload = match (&line["payload"], encoded) {
        (_, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .context("the payload is not base64")?,
        (Value::Null, None) => bail!("there is no \"payload\""),
        (Value::String(text), None) => text.as_bytes().to_vec(),
        (other, None) => other.to_string().into_bytes(),
    };
    Ok(Observed {
        topic: topic.to_owned(),
        payload,
    })
}

fn of_quarantine(config: &Config) -> Result<Vec<Observed>> {
    let listing = offline::listing(config)?;
    let (mut all, mut bytes, mut after) = (Vec::new(), 0, 0);
    loop {
        let page = listing.quarantine(after, 100)?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        after = last.id;
        for item in page {
            let message = Observed {
                topic: item.topic,
                payload: item.payload.to_vec(),
            };
            if !add(&mut all, &mut bytes, message) {
                return Ok(all);
            }
        }
    }
}

#[cfg(not(feature = "mqtt"))]
fn watched(_: &Args) -> Result<Vec<Observed>> {
    bail!("say what to learn from: --messages FILE or --quarantine");
}

/// The broker to watch.
#[cfg(feature = "mqtt")]
fn server(args: &Args) -> Result<crate::mqtt::Server> {
    use crate::{
        forward::Secret,
        mqtt::{Server, Tls},
    };

    let address = &args.server;
    let identity = args.certificate.clone().zip(args.key.clone());
    if !address.encrypted && (args.ca.is_some() || identity.is_some()) {
        bail!("--ca and --certificate are for TLS; --server should begin with mqtts://");
    }
    let tls = address.encrypted.then(|| Tls {
        ca: args.ca.clone(),
        identity,
        alpn: Vec::new(),
    });
    let password = std::env::var("PENSTOCK_PASSWORD").ok().map(Secret::from);
    Ok(Server {
        tls,
        user: args.user.clone(),
        password,
        ..Server::new(address.host.clone(), address.port)
    })
}

#[cfg(feature = "mqtt")]
fn watched(args: &Args) -> Result<Vec<Observed>> {
    use crate::mqtt::link::{Opening, PACKET_BYTES_MAX, Received, Signal, prepare};

    let Some(filter) = &args.topic else {
        bail!("say what to learn from: --topic FILTER, --messages FILE or --quarantine");
    };
    let server = server(args)?;
    let opening = Opening {
        client_id: format!("penstock-learn-{}", std::process::id()),
        session_expiry: None,
        in_flight: 16,
        packet_bytes_max: PACKET_BYTES_MAX.min(16 << 20),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    runtime.block_on(async {
        let broken = |broken: crate::mqtt::reason::Broken| anyhow::anyhow!("{}", broken.reason);
        let (client, mut link) = prepare(&server, &opening).map_err(broken)?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        let watch = async {
            loop {
                match link.poll().await.map_err(broken)? {
                    Signal::Connected(_) => {
                        let asked = client.subscribe(&[(filter.clone(), 0)]).await;
                        asked.ok().context("the connection ended")?;
                    }
                    Signal::Subscribed(filters) => {
                        if let Some(refused) = filters.into_iter().find_map(Result::err) {
                            bail!("the broker does not let us subscribe to {filter:?}: {refused}");
                        }
                    }
                    Signal::Received(received) => {
                        let (topic, payload) = match &received {
                            Received::V4(publish) => {
                                (publish.topic.clone(), publish.payload.to_vec())
                            }
                            Received::V5(publish) => (
                                String::from_utf8_lossy(&publish.topic).into_owned(),
                                publish.payload.to_vec(),
                            ),
                        };
                        if !add(&mut all, &mut bytes, Observed { topic, payload }) {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        };
        match tokio::time::timeout(args.duration, watch).await {
            Ok(ended) => ended?,
            Err(_watched_long_enough) => {}
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_topic_and_a_payload_as_text_as_json_or_in_base64() {
        for (line, expect) in [
            (r#"{"topic":"a","payload":"21.5"}"#, &b"21.5"[..]),
            (r#"{"topic":"a","payload":{"v":1}}"#, b"{\"v\":1}"),
            (r#"{"topic":"a","payload":7}"#, b"7"),
            (r#"{"topic":"a","payload_base64":"AAE="}"#, b"\0\x01"),
        ] {
            assert_eq!(observed(line).unwrap().payload, expect, "{line}");
        }
        for wrong in [
            "",
            "{}",
            r#"{"topic":"a"}"#,
            r#"{"topic":"a","payload_base64":"?"}"#,
        ] {
            assert!(observed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proposal_is_written_beside_nothing_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let messages = dir.path().join("seen.ndjson");
        fs::write(
            &messages,
            "{\"topic\":\"x/a\",\"payload\":{\"v\":1}}\n\n{\"topic\":\"x/b\",\"payload\":{\"v\":2}}\n",
        )
        .unwrap();
        let observed = of_file(&messages).unwrap();
        let proposal = propose(&observed, SystemClock.now()).unwrap();
        let out = dir.path().join("out");
        write(&out, "# seen\n", &proposal).unwrap();
        let config = crate::config::Config::load(Some(&out.join("mappings.toml"))).unwrap();
        assert_eq!(config.ingest.mappings.len(), 1);
        assert!(write(&out, "# seen\n", &proposal).is_err());
    }
}
