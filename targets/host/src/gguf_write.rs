//! Writing GGUF v3 (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>) as a stream: the header first, then
//! every tensor's bytes in the order in which they were announced. Memory does not grow with the model.
//!
//! The `gguf-rs` crate reads our files in the tests as an independent check, but does not write them: its writer
//! opens the path itself, fills the whole data section with zeros before the first tensor, takes each tensor as
//! one slice, and reckons IQ4_NL in blocks of 256.

use drupe::gguf::Value;
use drupe::quant::Format;
use std::io::{self, Write};
use std::path::Path;

/// Alignment of tensors in the files that this project writes, bytes.
pub const ALIGNMENT: u64 = 32;

/// GGUF's numbers for the types of values.
mod value_type {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
}

/// The head of a GGUF file in the making: keys, then tensors, in the order of the calls.
#[derive(Clone, Default)]
pub struct Header {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    /// Bytes of each tensor, without padding.
    sizes: Vec<u64>,
    data_len: u64,
}

impl Header {
    /// A header with nothing in it.
    pub fn new() -> Self {
        Header::default()
    }

    /// A key whose value is given as in the file: the type's number (`u32`, little-endian), then the payload.
    /// This is how a key is copied from another file without being understood.
    pub fn raw(&mut self, key: &str, value: &[u8]) -> &mut Self {
        string(&mut self.keys, key.as_bytes());
        self.keys.extend_from_slice(value);
        self.key_count += 1;
        self
    }

    /// A key with the value that another file has for it.
    pub fn value(&mut self, key: &str, value: &Value) -> &mut Self {
        let mut bytes = (value.kind() as u32).to_le_bytes().to_vec();
        match value {
            Value::Array(array) => {
                bytes.extend_from_slice(&(array.element() as u32).to_le_bytes());
                bytes.extend_from_slice(&(array.len() as u64).to_le_bytes());
                array.strings().for_each(|s| string(&mut bytes, s));
                array.values().for_each(|v| scalar(&mut bytes, &v));
            }
            value => scalar(&mut bytes, value),
        }
        self.raw(key, &bytes)
    }

    fn typed(&mut self, key: &str, kind: u32, payload: &[u8]) -> &mut Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend_from_slice(payload);
        self.raw(key, &value)
    }

    fn array(&mut self, key: &str, kind: u32, len: usize, payload: &[u8]) -> &mut Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend_from_slice(&(len as u64).to_le_bytes());
        value.extend_from_slice(payload);
        self.typed(key, value_type::ARRAY, &value)
    }

    /// A `u32`.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.typed(key, value_type::U32, &value.to_le_bytes())
    }

    /// An `f32`.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.typed(key, value_type::F32, &value.to_le_bytes())
    }

    /// A boolean.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.typed(key, value_type::BOOL, &[value as u8])
    }

    /// A string.
    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        let mut payload = Vec::new();
        string(&mut payload, value.as_bytes());
        self.typed(key, value_type::STRING, &payload)
    }

    /// An array of `f32`.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let payload: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, value_type::F32, values.len(), &payload)
    }

    /// An array of `i32`.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let payload: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, value_type::I32, values.len(), &payload)
    }

    /// An array of strings, which GGUF allows to be any bytes.
    pub fn strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let mut payload = Vec::new();
        for value in values {
            string(&mut payload, value.as_ref());
        }
        self.array(key, value_type::STRING, values.len(), &payload)
    }

    /// Announces the next tensor; `dims` has the row's length first, as GGUF has it.
    ///
    /// Fails with [`io::ErrorKind::InvalidInput`] if a row is not a whole number of the format's blocks, or if the
    /// size overflows.
    pub fn tensor(&mut self, name: &str, dims: &[u64], format: Format) -> io::Result<&mut Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("tensor {name} {dims:?}: {what}"));
        let cols = dims.first().and_then(|&c| usize::try_from(c).ok()).ok_or_else(|| wrong("no dimensions"))?;
        let row = format.row_bytes(cols).ok_or_else(|| {
            wrong(&format!(
                "a row of {cols} is not a whole number of {} blocks of {}",
                format.name(),
                format.block_len()
            ))
        })?;
        let rows = dims[1..].iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(|| wrong("too many rows"))?;
        let size = rows.checked_mul(row as u64).ok_or_else(|| wrong("too many bytes"))?;
        self.raw_tensor(name, dims, format as u32, size)
    }

    /// Announces the next tensor by its type's number and its size in bytes, which need not be understood.
    ///
    /// Fails with [`io::ErrorKind::InvalidInput`] if the file's size overflows.
    pub fn raw_tensor(&mut self, name: &str, dims: &[u64], type_id: u32, bytes: u64) -> io::Result<&mut Self> {
        let end = self.data_len.checked_add(bytes).and_then(|e| e.checked_next_multiple_of(ALIGNMENT));
        let end = end.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("tensor {name}: {bytes} bytes are too many"))
        })?;
        string(&mut self.tensors, name.as_bytes());
        self.tensors.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            self.tensors.extend_from_slice(&dim.to_le_bytes());
        }
        self.tensors.extend_from_slice(&type_id.to_le_bytes());
        self.tensors.extend_from_slice(&self.data_len.to_le_bytes());
        self.sizes.push(bytes);
        self.data_len = end;
        Ok(self)
    }

    /// Bytes of the head as it will be written, padding included: the offset of the first tensor.
    pub fn len(&self) -> u64 {
        (4 + 4 + 8 + 8 + self.keys.len() as u64 + self.tensors.len() as u64).next_multiple_of(ALIGNMENT)
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.key_count == 0 && self.sizes.is_empty()
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.len() + self.data_len
    }

    /// Writes the head to `out` and returns where the tensors' bytes go.
    pub fn start<W: Write>(self, mut out: W) -> io::Result<Body<W>> {
        self.head(&mut out)?;
        let mut body = Body { out, sizes: self.sizes, tensor: 0, written: 0 };
        body.close_full_tensors()?;
        Ok(body)
    }

    /// Writes the head alone: [`Header::len`] bytes.
    pub fn head(&self, mut out: impl Write) -> io::Result<()> {
        let padding = self.len() - (24 + self.keys.len() as u64 + self.tensors.len() as u64);
        out.write_all(b"GGUF")?;
        out.write_all(&3u32.to_le_bytes())?;
        out.write_all(&(self.sizes.len() as u64).to_le_bytes())?;
        out.write_all(&self.key_count.to_le_bytes())?;
        out.write_all(&self.keys)?;
        out.write_all(&self.tensors)?;
        out.write_all(&[0; ALIGNMENT as usize][..padding as usize])
    }
}

/// The tensors' bytes, written one after another in pieces of any size. Padding between them is added here.
pub struct Body<W> {
    out: W,
    sizes: Vec<u64>,
    /// The tensor being written, and how much of it is there.
    tensor: usize,
    written: u64,
}

impl<W: Write> Body<W> {
    /// Writes the next bytes of the current tensor. More than it still lacks is an error: pieces never cross tensors.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lacking = self.sizes.get(self.tensor).map_or(0, |size| size - self.written);
        if bytes.len() as u64 > lacking {
            let what = format!("{} bytes for tensor {}, which lacks {lacking}", bytes.len(), self.tensor);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        self.close_full_tensors()
    }

    fn close_full_tensors(&mut self) -> io::Result<()> {
        while self.sizes.get(self.tensor) == Some(&self.written) {
            let padding = self.written.next_multiple_of(ALIGNMENT) - self.written;
            self.out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
            self.tensor += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and gives the sink back; an error if bytes are lacking.
    pub fn finish(mut self) -> io::Result<W> {
        if self.tensor < self.sizes.len() {
            let what = format!("tensor {} of {} is not complete", self.tensor, self.sizes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The payload of everything but arrays.
fn scalar(to: &mut Vec<u8>, value: &Value) {
    match *value {
        Value::U8(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => to.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => to.push(v as u8),
        Value::String(v) => string(to, v),
        Value::Array(_) => {} // arrays of arrays are refused when a file is read
    }
}

fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.extend_from_slice(bytes);
}

/// Makes the file at `path` through `write`, all or nothing: the bytes go to a temporary file beside it, which takes
/// the name at the end and vanishes on any error. A file already there keeps its content until then.
pub fn atomically<T>(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<&mut std::fs::File>) -> io::Result<T>,
) -> io::Result<T> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".drupe-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the umask takes its share.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // The error would name the temporary file, which means nothing to the reader.
    let mut file = builder.tempfile_in(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(e.kind(), "there is no such folder"),
        kind => io::Error::new(kind, kind.to_string()),
    })?;
    let mut out = io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let done = write(&mut out)?;
    out.flush()?;
    drop(out);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Header {
        let mut header = Header::new();
        header.string("general.architecture", "llama").u32("llama.block_count", 1).f32("llama.eps", 1e-5);
        header.strings("tokenizer.ggml.tokens", &["a", "b"]).f32s("scores", &[0.0, -1.0]).bool("yes", true);
        header.tensor("a", &[5], Format::F32).unwrap().tensor("b", &[32, 3], Format::Q4_0).unwrap();
        header
    }

    #[test]
    fn layout_is_aligned_and_complete() {
        let header = small();
        let (head, total) = (header.len(), header.file_len());
        let mut body = header.start(Vec::new()).unwrap();
        body.write(&[1; 20]).unwrap();
        for _ in 0..3 {
            body.write(&[2; 18]).unwrap();
        }
        let bytes = body.finish().unwrap();
        assert_eq!(bytes.len() as u64, total);
        assert_eq!(head % ALIGNMENT, 0);
        let data = &bytes[head as usize..];
        assert_eq!((&data[..20], &data[20..32]), (&[1u8; 20][..], &[0u8; 12][..]));
        assert_eq!(&data[32..86], &[2u8; 54][..]);
    }

    #[test]
    fn wrong_amounts_are_errors() {
        let mut body = small().start(Vec::new()).unwrap();
        assert!(body.write(&[0; 21]).is_err());
        body.write(&[0; 20]).unwrap();
        assert!(body.finish().is_err());
        assert!(Header::new().tensor("c", &[33], Format::Q4_0).is_err());
        assert!(Header::new().tensor("c", &[32, u64::MAX, 2], Format::Q4_0).is_err());
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        std::fs::write(&path, "before").unwrap();
        let failed = atomically(&path, |out| {
            out.write_all(b"half")?;
            Err::<(), _>(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        atomically(&path, |out| out.write_all(b"after")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"after");
    }
}
