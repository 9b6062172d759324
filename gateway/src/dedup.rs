//! Telling the same event from another one.

pub mod window;
