//! Exact ratios of whole numbers.

/// A ratio in lowest terms, above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ratio {
    over: u128,
    under: u128,
}

impl Ratio {
    pub(super) const ONE: Self = Self { over: 1, under: 1 };

    /// `over / under`; both are above 0.
    pub(super) const fn new(over: u128, under: u128) -> Self {
        let common = gcd(over, under);
        Self {
            over: over / common,
            under: under / common,
        }
    }

    /// Ten to a power.
    pub(super) const fn ten(power: i8) -> Self {
        let tens = 10_u128.pow(power.unsigned_abs() as u32);
        match power < 0 {
            true => Self::new(1, tens),
            false => Self::new(tens, 1),
        }
    }

    /// Times another to a power; `None` where the numbers become too large.
    pub(super) fn times(self, other: Self, power: i8) -> Option<Self> {
        let other = match power < 0 {
            true => Self::new(other.under, other.over),
            false => other,
        };
        (0..power.unsigned_abs()).try_fold(self, |so_far, _| so_far.once(other))
    }

    fn once(self, other: Self) -> Option<Self> {
        let (a, b) = (
            Self::new(self.over, other.under),
            Self::new(other.over, self.under),
        );
        Some(Self::new(
            a.over.checked_mul(b.over)?,
            a.under.checked_mul(b.under)?,
        ))
    }

    /// This much of a value.
    #[expect(
        clippy::cast_precision_loss,
        reason = "rounded once each, as any float is"
    )]
    pub(super) fn of(self, value: f64) -> f64 {
        value * self.over as f64 / self.under as f64
    }
}

const fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
