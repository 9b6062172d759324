//! The matcher against the vectors, and against a simple one.

mod random;
mod simple;
mod vectors;
