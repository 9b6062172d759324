//! The harness of the end-to-end tests: real binaries, real servers, faults from outside.
//!
//! It shares no code with the gateway: what it knows of it is the command line, the
//! configuration file, `gateway.json`, the status over HTTP, and MQTT bytes on a socket.
//! Everything it starts ends with the test that started it, by process id. It waits on
//! conditions with deadlines ([`wait::until`]), never for a time to pass; where a test
//! needs a random moment, the moment comes from the printed [`seed`].
#![expect(
    clippy::print_stdout,
    reason = "what a test says is shown when it fails"
)]

pub mod audit;
pub mod by_device;
pub mod certificates;
pub mod chaos_proxy;
pub mod damage;
pub mod disk;
pub mod everywhere;
pub mod gateway;
pub mod http;
pub mod http_receiver;
pub mod http_stub;
pub mod kafka;
pub mod log;
pub mod mosquitto;
pub mod moto;
pub mod mqtt;
pub mod nats;
mod nobody;
pub mod numbered;
pub mod opensearch;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod sandbox;
pub mod seed;
pub mod setup;
pub mod sim;
pub mod skip;
pub mod status;
pub mod turns;
pub mod wait;
pub mod wire;

pub use audit::Audit;
pub use certificates::Certificates;
pub use chaos_proxy::{ChaosProxy, Mode};
pub use everywhere::Everywhere;
pub use gateway::Gateway;
pub use http_receiver::HttpReceiver;
pub use kafka::{KafkaCluster, KafkaServer};
pub use moto::MotoServer;
pub use nats::{NatsCluster, NatsServer};
pub use numbered::Numbered;
pub use opensearch::OpenSearchServer;
pub use postgres::PostgresServer;
pub use sandbox::Sandbox;
pub use setup::Setup;
pub use sim::Sim;
pub use wire::Wire;
