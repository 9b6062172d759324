//! The text of an event to its fields, in one pass. The whole text is checked; only
//! what patterns name is kept.

use super::{
    decimal::Decimal,
    fields::Fields,
    json::{Error, Kind, Reader},
    paths::{PathId, Paths, ROOT},
    term::Scalar,
};

/// Adds the fields of an event.
pub(super) fn flatten<'a>(
    text: &'a str,
    paths: &Paths,
    fields: &mut Fields<'a>,
) -> Result<(), Error> {
    let mut reader = Reader::new(text);
    reader.space();
    if reader.kind()? != Kind::Object {
        return Err(Error::new(reader.at, "an event is an object"));
    }
    let mut flattening = Flattening {
        reader,
        paths,
        fields,
    };
    flattening.object(ROOT, 0)?;
    flattening.reader.end()
}

struct Flattening<'a, 'p> {
    reader: Reader<'a>,
    paths: &'p Paths,
    fields: &'p mut Fields<'a>,
}

impl Flattening<'_, '_> {
    fn object(&mut self, path: PathId, depth: usize) -> Result<(), Error> {
        self.reader.deeper(depth)?;
        let mut more = self.reader.open(b'}')?;
        while more {
            let name = self.reader.name()?;
            match self.paths.child(path, &name) {
                Some(child) => self.value(child, depth + 1)?,
                None => self.skip(depth + 1)?,
            }
            more = self.reader.more(b'}')?;
        }
        Ok(())
    }

    fn value(&mut self, path: PathId, depth: usize) -> Result<(), Error> {
        let scalar = match self.reader.kind()? {
            Kind::Object => return self.object(path, depth),
            Kind::Array => return self.array(path, depth),
            _ if !self.paths.is_end(path) => return self.skip(depth),
            Kind::Text => Scalar::Text(self.reader.text()?),
            Kind::Number => {
                let at = self.reader.at;
                let number = Decimal::parse(self.reader.number()?);
                Scalar::Number(number.ok_or_else(|| Error::new(at, "not a number"))?)
            }
            Kind::True => self.reader.word("true", Scalar::Bool(true))?,
            Kind::False => self.reader.word("false", Scalar::Bool(false))?,
            Kind::Null => self.reader.word("null", Scalar::Null)?,
        };
        self.fields.add(path, scalar);
        Ok(())
    }

    fn array(&mut self, path: PathId, depth: usize) -> Result<(), Error> {
        self.reader.deeper(depth)?;
        let array = self.fields.array();
        let mut more = self.reader.open(b']')?;
        let mut index = 0;
        while more {
            if let Kind::Object | Kind::Array = self.reader.kind()? {
                self.fields.enter(array, index);
                self.value(path, depth + 1)?;
                self.fields.leave();
            } else {
                self.value(path, depth + 1)?;
            }
            index += 1;
            more = self.reader.more(b']')?;
        }
        Ok(())
    }

    /// Checks a value that no pattern asks for.
    fn skip(&mut self, depth: usize) -> Result<(), Error> {
        let reader = &mut self.reader;
        match reader.kind()? {
            Kind::Text => reader.skip_text(),
            Kind::Number => reader.number().map(drop),
            Kind::True => reader.word("true", ()),
            Kind::False => reader.word("false", ()),
            Kind::Null => reader.word("null", ()),
            Kind::Object => {
                reader.deeper(depth)?;
                let mut more = reader.open(b'}')?;
                while more {
                    self.reader.skip_name()?;
                    self.skip(depth + 1)?;
                    more = self.reader.more(b'}')?;
                }
                Ok(())
            }
            Kind::Array => {
                reader.deeper(depth)?;
                let mut more = reader.open(b']')?;
                while more {
                    self.skip(depth + 1)?;
                    more = self.reader.more(b']')?;
                }
                Ok(())
            }
        }
    }
}
