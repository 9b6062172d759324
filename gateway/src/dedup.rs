//! Telling the same event sent twice from two events that look alike.

pub mod key;
pub mod window;
