//! The matcher against the vectors, and against a simple one.

mod cost;
mod docs;
mod random;
mod simple;
mod vectors;
mod view;
