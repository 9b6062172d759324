//! The seed of everything random in a test.

use std::{env, thread};

use rand::{SeedableRng as _, rngs::StdRng};

/// Randomness that can be had again: the seed is printed, and `PENSTOCK_TEST_SEED` (or
/// `cargo xtask test --seed`) gives it back.
///
/// # Panics
/// When `PENSTOCK_TEST_SEED` is not a number.
pub fn seeded() -> (u64, StdRng) {
    let seed = env::var("PENSTOCK_TEST_SEED").map_or_else(
        |_| u64::from(rand::random::<u32>()),
        |text| text.parse().expect("PENSTOCK_TEST_SEED is a number"),
    );
    let test = thread::current().name().unwrap_or("").to_owned();
    println!("seed {seed}; again with: cargo xtask test --seed {seed} {test}");
    (seed, StdRng::seed_from_u64(seed))
}
