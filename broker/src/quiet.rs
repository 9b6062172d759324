//! Keeps clients from filling the log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that clients may cause per [`WINDOW`], over all clients, unless said otherwise.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a bounded number of lines pass per second.
#[derive(Debug)]
pub struct Quiet {
    window: Mutex<Option<Window>>,
    lines: u32,
}

impl Default for Quiet {
    fn default() -> Self {
        Self::of(LINES)
    }
}

#[derive(Debug)]
struct Window {
    began: Instant,
    passed: u32,
    held_back: u64,
}

impl Quiet {
    /// Lets so many lines pass per second.
    pub const fn of(lines: u32) -> Self {
        Self {
            window: Mutex::new(None),
            lines,
        }
    }

    /// Whether a line may be written now; if so, how many were held back before.
    pub fn pass(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let window = window.get_or_insert(Window {
            began: now,
            passed: 0,
            held_back: 0,
        });
        if now.duration_since(window.began) > WINDOW {
            *window = Window {
                began: now,
                passed: 0,
                held_back: window.held_back,
            };
        }
        if window.passed == self.lines {
            window.held_back += 1;
            return None;
        }
        window.passed += 1;
        Some(std::mem::take(&mut window.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_told_later() {
        let quiet = Quiet::default();
        let passed = (0..LINES + 5).filter(|_| quiet.pass().is_some()).count();
        assert!(passed >= LINES as usize);
        quiet.window.lock().unwrap().as_mut().unwrap().began -= 2 * WINDOW;
        let held_back = u64::from(LINES + 5) - passed as u64;
        assert_eq!(quiet.pass(), Some(held_back));
    }
}
