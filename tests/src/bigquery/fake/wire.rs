//! A minimal protobuf decoder: the fields of a message in order, and rows decoded by the descriptor that a client sent. Knows no table;
//! returns values or errors.

use prost_types::DescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};
use std::collections::HashMap;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Text(String),
    Int(i64),
    Bool(bool),
    Double(f64),
    Bytes(Vec<u8>),
}

/// A field in its encoded form.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A type that the fake does not know.
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of one message, in order: number and value. Ends after the first error.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn field(&mut self) -> Option<(u32, Raw<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let raw = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Raw::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Raw::Fixed32)?,
            _ => return None,
        };
        Some((number, raw))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "not a protocol buffer message: it ends within a field, or has an invalid wire type".to_owned()))
    }
}

/// A field that a row may have.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Type,
    required: bool,
}

/// A row descriptor, ready for decoding.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    by_number: HashMap<u32, Field>,
}

impl Layout {
    /// Parses a client's descriptor.
    pub(super) fn of(descriptor: &DescriptorProto) -> Result<Self, String> {
        let mut by_number = HashMap::new();
        for field in &descriptor.field {
            let name = field.name().to_owned();
            if field.label() == Label::Repeated {
                return Err(format!("field {name} is repeated: the fake's tables have no repeated columns"));
            }
            let known = [Type::String, Type::Int64, Type::Int32, Type::Uint32, Type::Bool, Type::Double, Type::Bytes];
            if !known.contains(&field.r#type()) {
                return Err(format!("field {name} has a type that the fake cannot decode: {}", field.r#type().as_str_name()));
            }
            let number = u32::try_from(field.number()).ok().filter(|number| *number > 0);
            let number = number.ok_or_else(|| format!("field {name} has the number {}", field.number()))?;
            let field = Field { name: name.clone(), kind: field.r#type(), required: field.label() == Label::Required };
            if by_number.insert(number, field).is_some() {
                return Err(format!("two fields have the number {number}, {name} is one of them"));
            }
        }
        Ok(Self { by_number })
    }

    /// All fields, in no particular order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.by_number.values()
    }

    /// Decodes one row: names and values, with the last value of each field, as in protobuf.
    pub(super) fn decode(&self, row: &[u8]) -> Result<HashMap<&str, Scalar>, String> {
        let mut values = HashMap::new();
        for field in Fields::of(row) {
            let (number, raw) = field?;
            let field = self.by_number.get(&number).ok_or_else(|| format!("field number {number} is not in the descriptor"))?;
            let scalar = scalar(field.kind, raw).map_err(|what| format!("field {}: {what}", field.name))?;
            values.insert(field.name.as_str(), scalar);
        }
        match self.fields().find(|field| field.required && !values.contains_key(field.name.as_str())) {
            Some(field) => Err(format!("Missing required fields: {}", field.name)),
            None => Ok(values),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "that is how protocol buffers decode 32 bit numbers")]
fn scalar(kind: Type, raw: Raw<'_>) -> Result<Scalar, &'static str> {
    match (kind, raw) {
        (Type::String, Raw::Bytes(bytes)) => {
            std::str::from_utf8(bytes).map(|text| Scalar::Text(text.to_owned())).map_err(|_| "a string that is not UTF-8")
        }
        (Type::Bytes, Raw::Bytes(bytes)) => Ok(Scalar::Bytes(bytes.to_owned())),
        (Type::Int64, Raw::Varint(number)) => Ok(Scalar::Int(number.cast_signed())),
        (Type::Int32, Raw::Varint(number)) => Ok(Scalar::Int((number as u32).cast_signed().into())),
        (Type::Uint32, Raw::Varint(number)) => Ok(Scalar::Int((number as u32).into())),
        (Type::Bool, Raw::Varint(number)) => Ok(Scalar::Bool(number != 0)),
        (Type::Double, Raw::Fixed64(bits)) => Ok(Scalar::Double(f64::from_bits(bits))),
        _ => Err("the wire type does not match the descriptor"),
    }
}
