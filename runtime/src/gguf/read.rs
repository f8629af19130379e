//! Reading GGUF's primitives, every length checked against the bytes that there are.

use super::GgufError;

/// A place in a file's bytes.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Cursor { bytes, at }
    }

    /// Byte offset from the start.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }

    pub fn left(&self) -> u64 {
        self.rest().len() as u64
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], GgufError> {
        match self.rest().get(..n) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.truncated(n as u64)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        match self.rest().first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N as u64)),
        }
    }

    pub fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length as u64, then so many bytes.
    pub fn string(&mut self) -> Result<&'a [u8], GgufError> {
        let start = self.at;
        let len = self.u64()?;
        let bytes = usize::try_from(len).ok().and_then(|n| self.rest().get(..n));
        match bytes {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => {
                let error = self.truncated(len);
                self.at = start;
                Err(error)
            }
        }
    }

    fn truncated(&self, needs: u64) -> GgufError {
        GgufError::Truncated { at: self.at as u64, needs, len: self.bytes.len() as u64 }
    }
}
