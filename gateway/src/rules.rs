//! Rules: which events go where.
//!
//! A rule is an event pattern in the syntax of Amazon `EventBridge`, and the
//! destinations that what fits goes to. The matcher is our own: it agrees with the
//! reference in all that is documented, compares numbers exactly, and costs what nearly
//! fits, however many rules there are.
//!
//! Open these in order: `pattern` (text to alternatives), `fields` (an event as
//! patterns see it), `matcher` (many patterns against one event), `set` (rules with
//! their destinations). What rules do beside that is said in `action`, asked in `acting`
//! after the commit, and done by [`actions`](crate::actions).

pub mod acting;
pub mod action;
mod address;
mod decimal;
pub mod explain;
mod fields;
mod flatten;
mod ignore_case;
mod json;
mod matcher;
mod paths;
pub mod pattern;
mod schedule;
pub mod seen;
mod set;
mod term;
mod terms;
pub mod transform;
pub mod vectors;
mod view;
mod wildcard;
mod written;

pub use acting::{Acting, ActingSet, Role};
pub use action::Actions;
pub use matcher::{Matcher, NotMatched, Scratch, TooMuch};
pub use pattern::Pattern;
pub use schedule::Schedule;
pub use set::{ACTIONS, Routed, Rule, RuleSet};
pub use view::unknown_fields;

#[cfg(test)]
pub(crate) mod tests;
