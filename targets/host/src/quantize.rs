//! Making a model file smaller: every matrix requantised to the format that a [`Mix`] chooses for it.
//!
//! Memory does not grow with the model: a million weights at a time are read, converted on every thread of the
//! current `rayon` pool and appended to the output, while the next million are being read. A tensor that already has
//! its format is copied byte by byte. The output is written beside its final place and renamed when complete and
//! on storage; on any error, Ctrl-C or full disk, nothing of it is left and what was there before is untouched.

use crate::gguf_write::{Header, atomically};
use crate::map::{ModelFile, OpenError, Part};
use crate::mix::{Facts, Mix};
use drupe::gguf::{Gguf, GgufError, TensorInfo};
use drupe::quant::{Format, oracle};
use rayon::prelude::*;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Weights read at once. With two inputs and one output in hand, at most 12 MiB.
const CHUNK: u64 = 1 << 20;

/// Weights that one thread converts at once, through f32 in its cache. A multiple of every block.
const PIECE: usize = 1 << 14;

/// What is to be made, and how the caller follows it.
pub struct Settings<'a> {
    /// Which format each tensor takes.
    pub mix: Mix,
    /// Exceptions to the mix: the first whose text is part of a matrix's name decides. A format that does not fit the
    /// matrix's rows is an error.
    pub overrides: &'a [(String, Format)],
    /// Stops the work soon after it becomes true.
    pub cancel: &'a AtomicBool,
    /// Called after every chunk.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Bytes of weights read so far.
    pub done: u64,
    /// Bytes of weights to read.
    pub total: u64,
}

/// What was made.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Bytes of the source's files.
    pub bytes_in: u64,
    /// Bytes of the file written.
    pub bytes_out: u64,
    /// For every type in the file written: its name, tensors, bytes.
    pub types: Vec<(&'static str, u64, u64)>,
    /// Matrices whose rows do not fit the format that the mix is named after: name, and the format they took.
    pub fallbacks: Vec<(String, Format)>,
    /// Weights of the source that are NaN or infinite: a sign of a damaged file. Quantised formats hold them as 0 or
    /// as the largest value.
    pub not_finite: u64,
}

/// Why no file was made.
#[derive(Debug)]
pub enum QuantizeError {
    /// The source could not be opened.
    Open(OpenError),
    /// The source is no usable GGUF.
    Gguf {
        /// The source.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<GgufError>,
    },
    /// A tensor is already quantised; doing it again would add one error to another.
    Quantised {
        /// Its name.
        tensor: String,
        /// Its type.
        found: &'static str,
    },
    /// A tensor of a type that GGML does not define: its size is not known.
    UnknownType {
        /// Its name.
        tensor: String,
    },
    /// An exception asks for a format that the tensor's rows do not fit.
    Unfit {
        /// Its name.
        tensor: String,
        /// The format asked for.
        format: Format,
        /// Elements of its rows.
        cols: u64,
    },
    /// The source cannot be read any more.
    Read {
        /// The tensor being read.
        tensor: String,
        /// What the system said.
        error: io::Error,
    },
    /// The output would replace a file of the source.
    OntoSource {
        /// The output.
        path: PathBuf,
    },
    /// The output's name belongs to something other than a file.
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// The output cannot be written.
    Write {
        /// The output.
        path: PathBuf,
        /// Bytes that it needs.
        needed: u64,
        /// What the system said.
        error: io::Error,
    },
    /// Stopped by [`Settings::cancel`].
    Cancelled,
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use QuantizeError::*;
        match self {
            Open(e) => write!(f, "{e}"),
            Gguf { path, error } => write!(f, "{}: {error}", path.display()),
            Quantised { tensor, found } => write!(
                f,
                "tensor {tensor} is already quantised ({found}); expected F32, F16, BF16 or Q8_0: start from the \
                 original model"
            ),
            UnknownType { tensor } => write!(f, "tensor {tensor} has a type that is not known; it cannot be copied"),
            Unfit { tensor, format, cols } => write!(
                f,
                "tensor {tensor} has rows of {cols}, not a whole number of {} blocks of {}",
                format.name(),
                format.block_len()
            ),
            Read { tensor, error } => write!(f, "reading tensor {tensor}: {error}"),
            OntoSource { path } => write!(f, "{}: is the source; give the output another name", path.display()),
            NotAFile { path } => write!(f, "{}: exists and is not a regular file", path.display()),
            Write { path, needed, error } if is_full(error) => write!(
                f,
                "{}: not enough room: {needed} bytes are needed ({error}); nothing was left behind",
                path.display()
            ),
            Write { path, error, .. } => write!(f, "{}: {error}; nothing was left behind", path.display()),
            Cancelled => f.write_str("stopped; nothing was left behind"),
        }
    }
}

impl std::error::Error for QuantizeError {}

fn is_full(e: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Writes to `output` the model of `input` (any file of a split one) in the formats that `settings` choose.
///
/// Keys are copied in their order, but for those about the split, the alignment (32 here), `general.file_type` and
/// `general.quantization_version`, which come new at the end. A model in several files becomes one.
pub fn quantize(input: &Path, output: &Path, settings: &Settings) -> Result<Report, QuantizeError> {
    let file = ModelFile::open(input).map_err(QuantizeError::Open)?;
    check_output(output, &file)?;
    let slices = file.slices();
    let gguf = Gguf::parse_parts(&slices)
        .map_err(|e| QuantizeError::Gguf { path: input.to_path_buf(), error: Box::new(e) })?;
    let (header, jobs, mut report) = plan(&gguf, settings)?;
    report.bytes_in = file.len();
    report.bytes_out = header.file_len();

    let needed = report.bytes_out;
    let mut failure = None;
    let not_finite = AtomicU64::new(0);
    let written = atomically(output, |out| {
        reserve(out.get_ref(), needed)?;
        let work = Work { file: &file, jobs: &jobs, settings, not_finite: &not_finite };
        work.run(header, out).map_err(|e| match e {
            Stop::Write(e) => e,
            Stop::Other(e) => {
                failure = Some(e);
                io::Error::other("given up")
            }
        })
    });
    report.not_finite = not_finite.into_inner();
    match (written, failure) {
        (Ok(()), _) => Ok(report),
        (Err(_), Some(e)) => Err(e),
        (Err(error), None) => Err(QuantizeError::Write { path: output.to_path_buf(), needed, error }),
    }
}

/// Refuses what a rename would destroy: the source itself, a device, a directory.
fn check_output(output: &Path, source: &ModelFile) -> Result<(), QuantizeError> {
    let path = || output.to_path_buf();
    // A name that cannot be looked up, or that nothing has, is for the write to judge.
    let Ok(there) = output.metadata() else { return Ok(()) };
    if !there.is_file() {
        return Err(QuantizeError::NotAFile { path: path() });
    }
    let same = |part: &Part| part.path.canonicalize().ok() == output.canonicalize().ok();
    match source.parts().iter().any(same) {
        true => Err(QuantizeError::OntoSource { path: path() }),
        false => Ok(()),
    }
}

/// Takes the room at once, so that a disk too full is known before the work, not after it. Where the file system
/// cannot, the writes find out.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        let e = io::Error::from(e);
        if is_full(&e) {
            return Err(e);
        }
    }
    let _ = (file, len);
    Ok(())
}

/// One tensor of the output.
struct Job<'a> {
    tensor: TensorInfo<'a>,
    /// The formats it is read and written in; `None` if its bytes are copied.
    convert: Option<(Format, Format)>,
}

/// The output's head, what is to be done for each tensor, and the part of the report that is known beforehand.
fn plan<'a>(gguf: &Gguf<'a>, settings: &Settings) -> Result<(Header, Vec<Job<'a>>, Report), QuantizeError> {
    let mut header = Header::new();
    const REPLACED: [&str; 6] = [
        "general.alignment",
        "general.file_type",
        "general.quantization_version",
        "split.no",
        "split.count",
        "split.tensors.count",
    ];
    for (key, value) in gguf.keys().filter(|(key, _)| !REPLACED.contains(key)) {
        header.value(key, &value);
    }
    // Version 2 of the quantised formats: the only one there is in GGUF v2 and v3.
    header.u32("general.quantization_version", 2).u32("general.file_type", settings.mix.file_type);

    let facts = facts(gguf);
    let (mut jobs, mut report) = (Vec::with_capacity(gguf.tensor_count()), Report::default());
    for tensor in gguf.tensors() {
        let name = || tensor.name.to_string();
        let dims = &tensor.dims[..tensor.n_dims as usize];
        let chosen = settings.mix.format(tensor.name, &tensor.dims, facts);
        let exception = settings.overrides.iter().find(|(part, _)| tensor.name.contains(part.as_str()));
        let target = match (chosen, exception) {
            (Some(_), Some((_, format))) if tensor.dims[0] % format.block_len() as u64 != 0 => {
                return Err(QuantizeError::Unfit { tensor: name(), format: *format, cols: tensor.dims[0] });
            }
            (Some(_), Some((_, format))) => Some(*format),
            (chosen, _) => chosen,
        };
        if chosen == target
            && let Some(format) = target
            && tensor.dims[0] % settings.mix.base.block_len() as u64 != 0
        {
            report.fallbacks.push((name(), format));
        }
        let convert = match (tensor.format, target) {
            (Err(_), _) if tensor.bytes == 0 => return Err(QuantizeError::UnknownType { tensor: name() }),
            (_, None) => None,
            (Ok(from), Some(to)) if from == to => None,
            (Ok(from @ (Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0)), Some(to)) => Some((from, to)),
            _ => return Err(QuantizeError::Quantised { tensor: name(), found: tensor.type_name() }),
        };
        let (type_name, type_id, bytes) = match convert {
            Some((_, to)) => {
                (to.name(), to as u32, tensor.elements() / to.block_len() as u64 * to.block_bytes() as u64)
            }
            None => (tensor.type_name(), tensor.format.map_or_else(|id| id, |f| f as u32), tensor.bytes),
        };
        header.raw_tensor(tensor.name, dims, type_id, bytes).map_err(|error| QuantizeError::Write {
            path: PathBuf::new(),
            needed: 0,
            error,
        })?;
        match report.types.iter_mut().find(|t| t.0 == type_name) {
            Some(t) => (t.1, t.2) = (t.1 + 1, t.2 + bytes),
            None => report.types.push((type_name, 1, bytes)),
        }
        jobs.push(Job { tensor, convert });
    }
    report.types.sort_by_key(|t| std::cmp::Reverse(t.2));
    Ok((header, jobs, report))
}

/// What the mix asks about the model. A key that is missing or odd counts as 0: the choice is then the plain one.
fn facts(gguf: &Gguf) -> Facts {
    let family = gguf.architecture().unwrap_or_default();
    let number = |key: &'static str| {
        let first = || gguf.array((family, key)).ok().flatten().and_then(|a| a.u32s().next());
        gguf.u32((family, key)).ok().flatten().or_else(first).unwrap_or(0)
    };
    let (heads, kv_heads) = (number("attention.head_count"), number("attention.head_count_kv"));
    Facts {
        layers: number("block_count"),
        heads_per_kv: heads.checked_div(kv_heads).unwrap_or(1),
        experts: number("expert_count"),
        tied: gguf.tensor("output.weight").is_none(),
    }
}

/// Why the work stops: the output's writer failed, or anything else.
enum Stop {
    Write(io::Error),
    Other(QuantizeError),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Write(e)
    }
}

/// A stretch of one tensor: its bytes in the source, and which tensor.
#[derive(Clone, Copy)]
struct Chunk {
    job: usize,
    at: u64,
    bytes: usize,
}

struct Work<'a> {
    file: &'a ModelFile,
    jobs: &'a [Job<'a>],
    settings: &'a Settings<'a>,
    not_finite: &'a AtomicU64,
}

impl Work<'_> {
    fn run(&self, header: Header, out: &mut BufWriter<&mut File>) -> Result<(), Stop> {
        let total = self.jobs.iter().map(|j| j.tensor.bytes).sum();
        let mut body = header.start(out)?;
        let (mut current, mut next, mut converted) = (Vec::new(), Vec::new(), Vec::new());
        let mut chunks = self.chunks();
        let mut chunk = chunks.next();
        if let Some(c) = chunk {
            self.read(c, &mut next)?;
        }
        let mut done = 0;
        while let Some(c) = chunk {
            if self.cancelled() {
                return Err(Stop::Other(QuantizeError::Cancelled));
            }
            std::mem::swap(&mut current, &mut next);
            chunk = chunks.next();
            let read = || chunk.map_or(Ok(()), |c| self.read(c, &mut next));
            let (read, bytes) = rayon::join(read, || self.convert(c, &current, &mut converted));
            if self.cancelled() {
                return Err(Stop::Other(QuantizeError::Cancelled));
            }
            body.write(bytes)?;
            read?;
            done += c.bytes as u64;
            (self.settings.progress)(Progress { tensor: self.jobs[c.job].tensor.name, done, total });
        }
        body.finish()?;
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.settings.cancel.load(Ordering::Relaxed)
    }

    /// Every tensor cut into chunks of whole blocks, in order. Rows do not matter: they are whole blocks too.
    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.jobs.iter().enumerate().flat_map(|(job, j)| {
            let step = match j.convert {
                Some((from, _)) => CHUNK / from.block_len() as u64 * from.block_bytes() as u64,
                None => 4 * CHUNK,
            };
            let end = j.tensor.bytes;
            (0..end.div_ceil(step)).map(move |i| Chunk { job, at: i * step, bytes: step.min(end - i * step) as usize })
        })
    }

    /// Reads by the file, not by the map: what was read then does not count as this process's memory, and a file that
    /// shrinks is an error, not a signal.
    fn read(&self, chunk: Chunk, to: &mut Vec<u8>) -> Result<(), Stop> {
        let tensor = &self.jobs[chunk.job].tensor;
        to.resize(chunk.bytes, 0);
        let mut read = || {
            let part = self.file.parts().get(tensor.part as usize).ok_or(io::ErrorKind::NotFound)?;
            let mut file = part.file();
            file.seek(SeekFrom::Start(tensor.offset + chunk.at))?;
            file.read_exact(to)
        };
        read().map_err(|error| Stop::Other(QuantizeError::Read { tensor: tensor.name.to_string(), error }))
    }

    /// The chunk's bytes in the output's format.
    fn convert<'b>(&self, chunk: Chunk, from: &'b [u8], to: &'b mut Vec<u8>) -> &'b [u8] {
        let Some((source, target)) = self.jobs[chunk.job].convert else { return from };
        let bytes = |format: Format, weights: usize| weights / format.block_len() * format.block_bytes();
        let weights = from.len() / source.block_bytes() * source.block_len();
        to.resize(bytes(target, weights), 0);
        let pieces = from.par_chunks(bytes(source, PIECE)).zip(to.par_chunks_mut(bytes(target, PIECE)));
        pieces.for_each_init(
            || vec![0.0f32; PIECE],
            |values, (from, to)| {
                if self.cancelled() {
                    return;
                }
                let values = &mut values[..from.len() / source.block_bytes() * source.block_len()];
                oracle::dequantize(source, from, values);
                let odd = values.iter().filter(|v| !v.is_finite()).count();
                if odd > 0 {
                    self.not_finite.fetch_add(odd as u64, Ordering::Relaxed);
                }
                oracle::quantize(target, values, to);
            },
        );
        to
    }
}
