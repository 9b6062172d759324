//! Values with bounds: numbers, durations, sizes, and addresses.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    super::unit::{Bytes, Written, parse_duration, parse_size},
    Table,
};
use crate::event::Value;

impl<'t> Table<'_, '_, 't> {
    /// A whole number within bounds.
    pub(in crate::config) fn number<N>(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: N,
    ) -> N
    where
        N: TryFrom<u64>,
    {
        let read = || {
            let value = self.ask(key)?;
            let DeValue::Integer(integer) = value.get_ref() else {
                self.wrong_type(key, value, "a whole number");
                return None;
            };
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
            let number = number.filter(|number| range.contains(number));
            if number.is_none() {
                let (least, most) = (range.start(), range.end());
                let what = format!("{integer} is not between {least} and {most}");
                self.mistake(Some(&value.span()), key, what);
            }
            N::try_from(number?).ok()
        };
        read().unwrap_or(default)
    }

    /// A finite number, with a fraction or without.
    pub(in crate::config) fn float(&self, key: &'static str) -> Option<f64> {
        let value = self.ask(key)?;
        match self.scalar(value) {
            Some(Value::Float(x)) if x.is_finite() => Some(x),
            #[expect(clippy::cast_precision_loss, reason = "factors are small")]
            Some(Value::Int(n)) => Some(n as f64),
            _ => {
                self.wrong_type(key, value, "a number");
                None
            }
        }
    }

    /// A duration within bounds.
    pub(in crate::config) fn duration(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let text = |value: &Spanned<DeValue<'_>>| self.duration_text(key, value);
        let read = || {
            self.within(key, self.ask(key)?, &range, text, |duration| {
                Written(*duration)
            })
        };
        read().unwrap_or(default)
    }

    /// A duration, or `never`.
    pub(in crate::config) fn duration_or_never(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        match self.find(key).map(Spanned::get_ref) {
            Some(DeValue::String(text)) if text == "never" => {
                self.know(key);
                None
            }
            Some(_) => Some(self.duration(key, range, default.unwrap_or_default())),
            None => {
                self.know(key);
                default
            }
        }
    }

    fn duration_text(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Duration> {
        if let DeValue::Integer(number) = value.get_ref() {
            let what = format!("{number} has no unit; for example \"{number}s\"");
            self.mistake(Some(&value.span()), key, what);
            return None;
        }
        let text = self.text_of(key, value)?;
        let mut example = String::new();
        if text.value.bytes().all(|b| b.is_ascii_digit()) && !text.value.is_empty() {
            example = format!(" (such as \"{0}s\" or \"{0}h\")", text.written);
        }
        self.parse(key, &text, |value| {
            parse_duration(value).map_err(|error| format!("{error}{example}"))
        })
    }

    /// A size within bounds; a bare number counts bytes.
    pub(in crate::config) fn size(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let read_value = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::Integer(integer) => {
                let bytes = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
                if bytes.is_none() {
                    let what = format!("{integer} is not a number of bytes");
                    self.mistake(Some(&value.span()), key, what);
                }
                bytes
            }
            _ => self.parse(key, &self.text_of(key, value)?, parse_size),
        };
        let read = || {
            self.within(key, self.ask(key)?, &range, read_value, |bytes| {
                Bytes(*bytes)
            })
        };
        read().unwrap_or(default)
    }

    fn within<T: PartialOrd, D: Display>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'t>>,
        range: &RangeInclusive<T>,
        read: impl FnOnce(&'t Spanned<DeValue<'t>>) -> Option<T>,
        show: impl Fn(&T) -> D,
    ) -> Option<T> {
        let found = read(value)?;
        if range.contains(&found) {
            return Some(found);
        }
        let what = format!(
            "{} is not between {} and {}",
            show(&found),
            show(range.start()),
            show(range.end())
        );
        self.mistake(Some(&value.span()), key, what);
        None
    }

    /// An address to listen on.
    pub(in crate::config) fn address(&self, key: &'static str, default: SocketAddr) -> SocketAddr {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                let port = text
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse::<u16>().ok());
                let example =
                    SocketAddr::from(([127, 0, 0, 1], port.unwrap_or_else(|| default.port())));
                format!("an address is an IP address and a port; for example \"{example}\"")
            })
        };
        self.parsed(key, parse).unwrap_or(default)
    }
}
