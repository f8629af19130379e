//! A writer of small GGUF files for tests.

extern crate std;
use std::{string::String, string::ToString, vec, vec::Vec};

/// A file being put together. The pieces are public so that a test can spoil them.
#[derive(Clone)]
pub(crate) struct Writer {
    pub version: u32,
    pub alignment: usize,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub type_id: u32,
    pub data: Vec<u8>,
    /// Instead of the next free place.
    pub offset: Option<u64>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl Writer {
    pub fn new() -> Writer {
        Writer { version: 3, alignment: 32, keys: vec![], tensors: vec![] }
    }

    /// A key with the bytes of its value as they are.
    pub fn raw(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Writer {
        let mut bytes = string(key);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        self.keys.push(bytes);
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Writer {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Writer {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Writer {
        self.raw(key, 7, &[value as u8])
    }

    pub fn str(&mut self, key: &str, value: &str) -> &mut Writer {
        self.raw(key, 8, &string(value))
    }

    /// An array with the bytes of its elements as they are.
    pub fn array(&mut self, key: &str, element: u32, len: u64, elements: &[u8]) -> &mut Writer {
        let mut value = element.to_le_bytes().to_vec();
        value.extend(len.to_le_bytes());
        value.extend(elements);
        self.raw(key, 9, &value)
    }

    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Writer {
        let elements: Vec<u8> = values.iter().flat_map(|v| string(v.as_ref())).collect();
        self.array(key, 8, values.len() as u64, &elements)
    }

    /// Takes a key out again.
    pub fn without(&mut self, key: &str) -> &mut Writer {
        let start = string(key);
        self.keys.retain(|k| !k.starts_with(&start));
        self
    }

    /// A tensor of zeros of this type, of as many bytes as `bytes`.
    pub fn tensor_of(&mut self, name: &str, dims: &[u64], type_id: u32, bytes: usize) -> &mut Writer {
        let (name, dims) = (name.to_string(), dims.to_vec());
        self.tensors.push(Tensor { name, dims, type_id, data: vec![0; bytes], offset: None });
        self
    }

    /// A tensor of F32 ones.
    pub fn tensor(&mut self, name: &str, dims: &[u64]) -> &mut Writer {
        let elements = dims.iter().product::<u64>() as usize;
        self.tensor_of(name, dims, 0, 4 * elements);
        let tensor = self.tensors.last_mut().unwrap();
        tensor.data = 1f32.to_le_bytes().repeat(elements);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        self.keys.iter().for_each(|key| file.extend(key));
        let mut data: Vec<u8> = vec![];
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| file.extend(d.to_le_bytes()));
            file.extend(tensor.type_id.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        if !self.tensors.is_empty() {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
        }
        file.extend(data);
        file
    }
}
