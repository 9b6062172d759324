//! The way out: one task per destination reads after its cursor, sends, and
//! records what was settled.

pub mod batch;
pub mod destination;
