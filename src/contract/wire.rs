//! A walk over the fields of an encoded message that allocates and copies nothing.
//!
//! prost's derive would build owned strings for every field of every view, most of which the join
//! never looks at; this walk reads keys and varints through prost and leaves the rest in place.

use prost::encoding::{WireType, decode_key, decode_varint};

/// What a field holds, still encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64,
    Fixed32,
    Bytes(&'a [u8]),
}

/// Not the encoding of a message, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Malformed(pub &'static str);

const WRONG_TYPE: Malformed = Malformed("a field has another wire type than the contract's");

impl<'a> Value<'a> {
    pub fn varint(self) -> Result<u64, Malformed> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(WRONG_TYPE),
        }
    }

    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WRONG_TYPE),
        }
    }

    pub fn utf8(self) -> Result<&'a [u8], Malformed> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(Malformed("a string is not UTF-8")),
        }
    }

    pub fn fixed32(self) -> Result<(), Malformed> {
        if self == Value::Fixed32 { Ok(()) } else { Err(WRONG_TYPE) }
    }

    /// Number of elements of a `repeated float` that this field adds, packed or not.
    pub fn floats(self) -> Result<usize, Malformed> {
        match self {
            Value::Fixed32 => Ok(1),
            Value::Bytes(packed) if packed.len().is_multiple_of(4) => Ok(packed.len() / 4),
            _ => Err(Malformed("features.dense is not a list of floats")),
        }
    }

    /// Checks a `repeated fixed64`, packed or not.
    pub fn fixed64s(self) -> Result<(), Malformed> {
        match self {
            Value::Fixed64 => Ok(()),
            Value::Bytes(packed) if packed.len().is_multiple_of(8) => Ok(()),
            _ => Err(Malformed("features.sparse.ids is not a list of fixed64")),
        }
    }
}

/// The fields of a message, in the order of its bytes.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message, total: message.len() }
    }

    /// Where the field that [`next`](Fields::next) returned ends in the message.
    pub fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// The next field's number and value, or `None` at the end.
    ///
    /// Groups, which proto3 never writes, are refused even in unknown fields: they nest, and a
    /// record that is copied into an output must not come out deeper than its readers allow.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (field, wire_type) = self.key()?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Fixed64)?,
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Fixed32)?,
            WireType::LengthDelimited => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed("a field is a group")),
        };
        Ok(Some((field, value)))
    }

    /// Most keys are one byte, as all of the contract's are.
    #[inline]
    fn key(&mut self) -> Result<(u32, WireType), Malformed> {
        match self.rest {
            [byte @ 0x08..0x80, rest @ ..] if let Ok(wire_type) = WireType::try_from(u64::from(byte & 7)) => {
                self.rest = rest;
                Ok((u32::from(byte >> 3), wire_type))
            }
            _ => decode_key(&mut self.rest).map_err(|_| Malformed("a field's key is broken")),
        }
    }

    /// Most lengths and flags are one byte.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte @ 0..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => decode_varint(&mut self.rest).map_err(|_| Malformed("a varint is broken")),
        }
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(Malformed("a field ends after its message"))?;
        self.rest = rest;
        Ok(taken)
    }
}
