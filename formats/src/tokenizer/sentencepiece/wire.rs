//! The wire format of protocol buffers, as far as a SentencePiece model needs it.
//!
//! After <https://protobuf.dev/programming-guides/encoding/>: a message is a row of fields, each a number with a type of wire and
//! a value.

/// The value of a field.
pub(super) enum Value<'a> {
    /// A number of variable length.
    Number(u64),
    /// Four bytes.
    Four([u8; 4]),
    /// Eight bytes, which no field that is read here has.
    Eight,
    /// A text, bytes, or a message within.
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The number of the next field and its value; none at the end; an error says what is wrong with the bytes.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Eight)?,
            2 => {
                let length =
                    usize::try_from(self.number()?).map_err(|_| "a field is longer than the file")?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Four([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            _ => return Err("a field has a type that there is none of"),
        };
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or("the file ends within a field: it was cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for place in 0..10 {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number has more than ten bytes")
    }
}
