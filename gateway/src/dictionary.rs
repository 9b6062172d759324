//! Dictionaries of Zstandard (RFC 8878, section 5): what small events have in common, once on
//! each side instead of in every message.
//!
//! A compressor learns from what it has seen of a payload, and has seen next to nothing of
//! one with a few hundred bytes. With a dictionary both sides begin where they would be
//! after many events. A frame names its dictionary by number, so a receiver can have several
//! ([decision 210](../../docs/decisions/0210-a-dictionary-on-both-sides.md)).

use std::{
    fs::File,
    io::Read as _,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use zstd_safe::{CCtx, CDict, DCtx, DDict};

/// A dictionary has at most so many bytes. More than some ten thousand are of little use.
pub const BYTES_MAX: usize = 1024 * 1024;
/// As [`Format`](crate::forward::format::Format) has it: more costs time and gives little.
pub(crate) const LEVEL: i32 = 3;

/// What both sides have.
#[derive(Debug, Clone)]
pub struct Dictionary {
    id: NonZeroU32,
    bytes: Arc<[u8]>,
}

impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Dictionary {}

impl Dictionary {
    /// Reads one from a file. Blocking.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => Self::parse(&bytes),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }

    /// Takes the bytes of one.
    ///
    /// # Errors
    /// Why they are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > BYTES_MAX {
            return Err(format!("a dictionary has at most {BYTES_MAX} bytes"));
        }
        let Some(id) = zstd_safe::get_dict_id_from_dict(bytes) else {
            return Err(
                "is not a dictionary of Zstandard with a number; `penstock dictionary train` makes one"
                    .to_owned(),
            );
        };
        if CDict::try_create(bytes, LEVEL).is_none() || DDict::try_create(bytes).is_none() {
            return Err("is a damaged dictionary".to_owned());
        }
        Ok(Self {
            id,
            bytes: bytes.into(),
        })
    }

    /// Makes one of at most `bytes_max` bytes from payloads like those to come.
    ///
    /// # Errors
    /// When they are too few, or too different.
    pub fn train(samples: &[Vec<u8>], bytes_max: usize) -> Result<Self, String> {
        let sizes: Vec<usize> = samples.iter().map(Vec::len).collect();
        let mut bytes = Vec::with_capacity(bytes_max.min(BYTES_MAX));
        zstd_safe::train_from_buffer(&mut bytes, &samples.concat(), &sizes).map_err(|code| {
            format!(
                "{} events are too few, or have too little in common, for a dictionary of {bytes_max} bytes: {}",
                samples.len(),
                zstd_safe::get_error_name(code)
            )
        })?;
        Self::parse(&bytes)
    }

    /// The number by which frames name it.
    pub const fn id(&self) -> u32 {
        self.id.get()
    }

    /// What stands in its file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What says of a payload that it is a frame of Zstandard, as in HTTP (RFC 8878, section 7.2).
pub const ENCODING: &str = "zstd";
/// The header, or user property, that says it.
pub const ENCODING_NAME: &str = "content-encoding";

/// Compresses with a dictionary.
pub struct Packer {
    id: u32,
    dictionary: CDict<'static>,
    /// Some hundred kilobytes: one for all.
    context: Mutex<CCtx<'static>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("id", &self.id).finish()
    }
}

impl Packer {
    /// One where there is a dictionary.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn of(dictionary: Option<&Dictionary>) -> Result<Option<Self>, &'static str> {
        dictionary.map(Self::new).transpose()
    }

    /// One for this dictionary.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(dictionary: &Dictionary) -> Result<Self, &'static str> {
        let made = CDict::try_create(dictionary.bytes(), LEVEL);
        Ok(Self {
            id: dictionary.id(),
            dictionary: made.ok_or(NO_MEMORY)?,
            context: Mutex::new(CCtx::try_create().ok_or(NO_MEMORY)?),
        })
    }

    /// `payload` as one frame that names the dictionary and its own size; `None` where that
    /// is not smaller.
    pub fn pack(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(payload.len()));
        let mut context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let packed = context.compress_using_cdict(&mut frame, payload, &self.dictionary);
        drop(context);
        frame.shrink_to_fit();
        packed
            .is_ok_and(|size| size < payload.len())
            .then_some(frame)
    }
}

const NO_MEMORY: &str = "there is no memory for a dictionary";

/// The dictionaries that frames may name.
#[derive(Clone, Default)]
pub struct Known(Arc<[(u32, DDict<'static>)]>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(id, _)| id))
            .finish()
    }
}

impl Known {
    /// All of these.
    ///
    /// # Errors
    /// When two have one number, or there is no memory.
    pub fn new(dictionaries: &[Dictionary]) -> Result<Self, String> {
        let mut known: Vec<(u32, DDict<'static>)> = Vec::with_capacity(dictionaries.len());
        for dictionary in dictionaries {
            if known.iter().any(|(id, _)| *id == dictionary.id()) {
                return Err(format!(
                    "two dictionaries have the number {}",
                    dictionary.id()
                ));
            }
            let made = DDict::try_create(dictionary.bytes());
            known.push((dictionary.id(), made.ok_or(NO_MEMORY)?));
        }
        Ok(Self(known.into()))
    }

    /// Inflates one frame into a buffer that does not grow, with the dictionary of this
    /// number; `None` where it is not known.
    pub fn inflate(
        &self,
        id: u32,
        frame: &[u8],
        into: &mut Vec<u8>,
    ) -> Option<Result<usize, usize>> {
        let (_, dictionary) = self.0.iter().find(|(known, _)| *known == id)?;
        Some(DCtx::create().decompress_using_ddict(into, frame, dictionary))
    }
}

#[cfg(test)]
pub(crate) mod tests;
