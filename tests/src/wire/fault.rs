//! What can happen to a request, to its answer, and to a connection before both.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// How a connection ends, as the one who made it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// FIN: nothing more comes.
    Close,
    /// RST: there is no such connection.
    Reset,
}

/// How much of some bytes still passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Not one.
    Nothing,
    /// The first.
    Byte,
    /// The first half of them.
    Half,
    /// All but the last.
    AllButByte,
}

impl Part {
    pub(super) fn of(self, length: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Byte => length.min(1),
            Self::Half => length / 2,
            Self::AllButByte => length.saturating_sub(1),
        }
    }
}

/// What a wire does, once. Where nothing else is said it does so to the connection over
/// which an event goes, at the chunk that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every connection is closed, and nobody listens for so long.
    Refused(Duration),
    /// Every connection ends so, and the next two as soon as they are made.
    TurnedAway(End),
    /// Every connection is closed, and the next ends after so many bytes of what comes
    /// back first: a greeting, where there is one.
    Greeting(usize, End),
    /// A part of the request passes.
    Request(Part, End),
    /// All of the request passes, and the connection ends at once.
    Sent(End),
    /// All of the request passes, and the connection ends instead of the answer.
    Lost(End),
    /// All of the request passes, and a part of the answer.
    Answer(Part, End),
    /// All of the request passes, and of the answer nothing for so long, or until
    /// whoever asked gives up.
    Silent(Duration),
    /// Nothing passes on any connection for so long, new ones included; then they are
    /// closed.
    Hole(Duration),
    /// The same, and then what was stuck passes.
    Stuck(Duration),
    /// The request passes bit by bit, in so long.
    SlowRequest(Duration),
    /// The answer does.
    SlowAnswer(Duration),
}

impl Fault {
    /// Whether it is done to every connection.
    pub(super) fn is_of_all(self) -> bool {
        matches!(self, Self::Hole(_) | Self::Stuck(_))
    }

    /// Each moment and each way, for someone who waits for an answer for `patience`.
    pub fn every(patience: Duration) -> Vec<Self> {
        let longer = patience + patience / 2;
        let mut all = vec![
            Self::Refused(Duration::from_secs(1)),
            Self::Silent(longer),
            Self::Hole(longer),
            Self::Stuck(longer),
        ];
        for time in [patience / 2, longer] {
            all.extend([Self::SlowRequest(time), Self::SlowAnswer(time)]);
        }
        for end in [End::Close, End::Reset] {
            all.extend([Self::TurnedAway(end), Self::Sent(end), Self::Lost(end)]);
            all.extend([1, 20].map(|bytes| Self::Greeting(bytes, end)));
            let of_requests = [Part::Nothing, Part::Byte, Part::Half, Part::AllButByte];
            all.extend(of_requests.map(|part| Self::Request(part, end)));
            let of_answers = [Part::Byte, Part::Half, Part::AllButByte];
            all.extend(of_answers.map(|part| Self::Answer(part, end)));
        }
        all
    }
}

/// A text that events carry, by which their requests are known.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// As it is, and as it stands in Base64, which depends on where it begins.
    forms: Vec<Vec<u8>>,
}

impl Mark {
    pub(super) fn new(text: &str) -> Self {
        let mut forms = vec![text.as_bytes().to_vec()];
        for before in 0..3 {
            let mut bytes = vec![0; before];
            bytes.extend(text.as_bytes());
            let encoded = STANDARD.encode(&bytes);
            // Characters that also say something of a neighbour are not always the same.
            let from = [0, 2, 3][before];
            let to = bytes.len() * 8 / 6;
            forms.push(encoded.as_bytes()[from..to].to_vec());
        }
        Self { forms }
    }

    /// Bytes that have to be kept to find one that comes in two pieces.
    pub(super) fn overlap(&self) -> usize {
        self.forms.iter().map(Vec::len).max().unwrap_or(1) - 1
    }

    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        let has = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
        self.forms.iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_the_clear_and_in_base64_wherever_it_begins() {
        let mark = Mark::new("turn-0017");
        for before in 0..7 {
            for after in 0..4 {
                let text = format!("{}turn-0017{}", "x".repeat(before), "}".repeat(after));
                assert!(mark.is_in(text.as_bytes()));
                assert!(mark.is_in(STANDARD.encode(&text).as_bytes()), "{text}");
            }
        }
        for other in ["turn-0018", "turn-001", ""] {
            assert!(!mark.is_in(STANDARD.encode(other).as_bytes()));
            assert!(!mark.is_in(other.as_bytes()));
        }
    }

    #[test]
    fn there_is_a_fault_for_each_moment() {
        let all = Fault::every(Duration::from_secs(2));
        for (place, fault) in all.iter().enumerate() {
            assert!(!all[..place].contains(fault), "{fault:?} is there twice");
        }
        assert_eq!(all.len(), 32);
    }
}
