//! THROWAWAY
use std::{path::{Path,PathBuf}, sync::Arc, time::Duration};
use crate::*;
pub struct Config { pub data_dir: PathBuf, pub broker: penstock_broker::Config, pub http: http::Config, pub store: store::Config, pub ingest: ingest::Config, pub destinations: Vec<forward::Config>, pub log: telemetry::Config, pub shutdown_grace_period: Duration }
impl Config { pub fn load(p: Option<&Path>) -> anyhow::Result<Self> {
  let t: toml::Table = toml::from_str(&std::fs::read_to_string(p.unwrap())?)?;
  let data_dir = PathBuf::from(t["data_dir"].as_str().unwrap());
  let d = t["destination"].as_array().unwrap()[0].as_table().unwrap();
  let name: Arc<str> = d["name"].as_str().unwrap().into();
  let kind = if d["type"].as_str()==Some("file") { let mut f = forward::file::Config::new(data_dir.join("events")); f.files_max=2; forward::Kind::File(f) } else { todo!() };
  Ok(Self { broker: penstock_broker::Config{ listen: t["broker"]["listen"].as_str().unwrap().parse()?, ..Default::default() }, http: http::Config{ listen: t["http"]["listen"].as_str().unwrap().parse()?, allow_anonymous:false},
   store: store::Config { dir: data_dir.clone(), max_bytes: 20<<30, max_age: None, on_full: store::OnFull::PushBack, reserve_bytes: 16<<20, dedup_age: Duration::from_secs(86400), dedup_count: 2_000_000, dedup_memory_bytes: 128<<20, destinations: vec![name.clone()] },
   ingest: Default::default(), destinations: vec![forward::Config{name, kind, retry_first: Duration::from_millis(200), retry_max: Duration::from_secs(30), attempts_max: 20}], log: telemetry::Config{level:"warn".into(), ..Default::default()}, shutdown_grace_period: Duration::from_secs(20), data_dir })
}}
