//! The header of a GGUF of version 3, written.

use super::kind::TensorKind;

/// A value with the width that other readers expect.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// Metadata in the order in which they are written.
pub(super) type Entries = Vec<(String, Entry)>;

/// A tensor as the header lists it.
pub(super) struct Listed<'a> {
    pub(super) name: &'a str,
    /// In Hugging Face's order.
    pub(super) shape: &'a [u64],
    pub(super) kind: TensorKind,
    pub(super) bytes: u64,
}

/// What tensors, and the first of them, are aligned to.
pub(super) const ALIGNMENT: u64 = 32;

/// The whole header, filled up to where tensors begin.
pub(super) fn header(entries: &Entries, tensors: &[Listed<'_>]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, entry) in entries {
        text(&mut out, key);
        value(&mut out, entry);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(tensor.kind.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, entry: &Entry) {
    let mut sort = |id: u32| out.extend(id.to_le_bytes());
    match entry {
        Entry::U32(_) => sort(4),
        Entry::F32(_) => sort(6),
        Entry::Bool(_) => sort(7),
        Entry::Text(_) => sort(8),
        Entry::Texts(_) => [9, 8].map(sort).into_iter().collect(),
        Entry::I32s(_) => [9, 5].map(sort).into_iter().collect(),
        Entry::F32s(_) => [9, 6].map(sort).into_iter().collect(),
    }
    let count = |out: &mut Vec<u8>, length: usize| out.extend((length as u64).to_le_bytes());
    match entry {
        Entry::U32(value) => out.extend(value.to_le_bytes()),
        Entry::F32(value) => out.extend(value.to_le_bytes()),
        Entry::Bool(value) => out.push(u8::from(*value)),
        Entry::Text(value) => text(out, value),
        Entry::Texts(list) => {
            count(out, list.len());
            list.iter().for_each(|value| text(out, value));
        }
        Entry::I32s(list) => {
            count(out, list.len());
            list.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Entry::F32s(list) => {
            count(out, list.len());
            list.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}
