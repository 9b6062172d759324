//! What answers have in common.

use serde::Serialize;
use utoipa::ToSchema;

/// All there are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct All<T> {
    pub(super) items: Vec<T>,
}

/// A page of them, by number.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// What to give as `after` for the next page; null at the end.
    pub(super) next: Option<u64>,
}

/// A page of them, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageByName<T> {
    pub(super) items: Vec<T>,
    /// What to give as `after` for the next page; null at the end.
    pub(super) next: Option<String>,
}

/// What was discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discarded {
    /// How many.
    pub(super) discarded: u64,
}
