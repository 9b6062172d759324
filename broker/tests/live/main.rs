//! The broker over real sockets, byte for byte, with a gateway that the test holds.

mod clients;
mod hostile;
mod limits;
mod publishing;
mod sessions;
mod subscribing;
mod support;
