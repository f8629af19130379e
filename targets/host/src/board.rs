//! Boards that one may have in mind, and how fast a model can be expected to run there.
//!
//! The figures lie in `targets/boards`, one file per board, each with its source. The estimate is a roofline: a step
//! takes as long as the slowest of reading memory, computing and reading storage, which overlap.

use crate::residency::{Access, visits};
use drupe::Model;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// What a board's file holds.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    ram_mib: Vec<u64>,
    reserved_mib: u64,
    cores: u32,
    core: String,
    ghz: f64,
    isa: String,
    cache_kib: Caches,
    read_gb_s: Read,
    int8_gmac_s: f64,
    storage: Vec<Storage>,
    sources: BTreeMap<String, String>,
}

/// Sizes of the data caches in KiB; 0 for none.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Caches {
    /// First level, per core.
    pub l1d: u32,
    /// Second level.
    pub l2: u32,
    /// Third level.
    pub l3: u32,
}

/// Speed of reading memory in GB/s.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// By one core.
    pub one: f64,
    /// By all cores.
    pub all: f64,
}

/// Storage that the board can have.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// What it is.
    pub name: String,
    /// Speed of long reads in GB/s.
    pub gb_s: f64,
}

/// A board of one memory size.
#[derive(Clone, Debug, PartialEq)]
pub struct Board {
    /// Short name for the command line: `pi-5-8gb`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Memory in bytes, and what of it a program can have.
    pub ram_bytes: u64,
    /// What the system leaves of it.
    pub usable_bytes: u64,
    /// Cores that decoding uses.
    pub cores: u32,
    /// Their kind.
    pub core: String,
    /// Their clock in GHz.
    pub ghz: f64,
    /// The kernels' instruction set there, as `--isa` names it.
    pub isa: String,
    /// Caches.
    pub cache_kib: Caches,
    /// Memory.
    pub read_gb_s: Read,
    /// Products of eight-bit numbers per second at best, all cores, in 1e9.
    pub int8_gmac_s: f64,
    /// Storage, the usual one first.
    pub storage: Vec<Storage>,
    /// Where each figure is from.
    pub sources: BTreeMap<String, String>,
}

const FILES: [(&str, &str); 9] = [
    ("pi-zero-2w", include_str!("../../boards/pi-zero-2w.toml")),
    ("pi-3bplus", include_str!("../../boards/pi-3bplus.toml")),
    ("pi-4b", include_str!("../../boards/pi-4b.toml")),
    ("pi-400", include_str!("../../boards/pi-400.toml")),
    ("pi-5", include_str!("../../boards/pi-5.toml")),
    ("orange-pi-5", include_str!("../../boards/orange-pi-5.toml")),
    ("radxa-rock-5b", include_str!("../../boards/radxa-rock-5b.toml")),
    ("jetson-orin-nano", include_str!("../../boards/jetson-orin-nano.toml")),
    ("x86-mini-pc", include_str!("../../boards/x86-mini-pc.toml")),
];

/// A board's file could not be read.
#[derive(Debug)]
pub struct BoardError {
    file: String,
    why: String,
}

impl fmt::Display for BoardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "board {}: {}", self.file, self.why)
    }
}

impl std::error::Error for BoardError {}

impl Board {
    /// Every board that comes with the program, in every memory size.
    pub fn all() -> Vec<Board> {
        // The embedded files are tested to parse.
        FILES.iter().flat_map(|(id, text)| Board::parse(id, text).unwrap_or_default()).collect()
    }

    /// The board of this id; `pi-5` alone stands for its largest memory.
    pub fn named(id: &str) -> Option<Board> {
        let all = Board::all();
        let exact = all.iter().find(|b| b.id == id);
        exact.or_else(|| all.iter().rev().find(|b| b.id.rsplit_once('-').is_some_and(|x| x.0 == id))).cloned()
    }

    /// The boards that a file describes, one for each memory size; `id` is the file's name without its ending.
    ///
    /// # Errors
    /// Not TOML, a field missing or unknown, or a figure that is not above 0.
    pub fn parse(id: &str, text: &str) -> Result<Vec<Board>, BoardError> {
        let error = |why: String| BoardError { file: id.into(), why };
        let f: File = toml::from_str(text).map_err(|e| error(e.to_string().trim_end().replace('\n', "; ")))?;
        let rates = [f.ghz, f.read_gb_s.one, f.read_gb_s.all, f.int8_gmac_s, f64::from(f.cores)];
        let storage = f.storage.iter().map(|s| s.gb_s);
        if rates.into_iter().chain(storage).any(|x| !(x.is_finite() && x > 0.0)) || f.storage.is_empty() {
            return Err(error("every rate, and some storage, must be given and above 0".into()));
        }
        let board = |ram: &u64| Board {
            id: if *ram < 1024 { format!("{id}-{ram}mb") } else { format!("{id}-{}gb", ram / 1024) },
            name: if *ram < 1024 { format!("{}, {ram} MB", f.name) } else { format!("{}, {} GB", f.name, ram / 1024) },
            ram_bytes: ram << 20,
            usable_bytes: ram.saturating_sub(f.reserved_mib) << 20,
            cores: f.cores,
            core: f.core.clone(),
            ghz: f.ghz,
            isa: f.isa.clone(),
            cache_kib: f.cache_kib,
            read_gb_s: f.read_gb_s,
            int8_gmac_s: f.int8_gmac_s,
            storage: f.storage.clone(),
            sources: f.sources.clone(),
        };
        Ok(f.ram_mib.iter().map(board).collect())
    }
}

/// A machine as the estimate sees it: a board, or this machine with its own measured figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Bytes per second read from memory.
    pub memory: f64,
    /// Products per second that the kernels reach.
    pub products: f64,
    /// Bytes per second read from storage.
    pub storage: f64,
}

/// The share of a processor's peak that kernels are expected to reach where arithmetic binds: the unpacking of weights
/// shares the same units.
const KERNEL_SHARE: f64 = 0.5;

impl Speeds {
    /// What `board` is expected to reach with its `storage`-th storage (the first if there is none such).
    pub fn of(board: &Board, storage: usize) -> Speeds {
        let storage = board.storage.get(storage).or(board.storage.first());
        Speeds {
            memory: board.read_gb_s.all * 1e9,
            products: board.int8_gmac_s * 1e9 * KERNEL_SHARE,
            storage: storage.map_or(f64::INFINITY, |s| s.gb_s * 1e9),
        }
    }
}

/// What one step (a token, or a batch of tokens at once) asks of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens computed at once.
    pub tokens: u64,
    /// Bytes of weights and of the cache of keys and values read from memory, in all.
    pub memory_bytes: u64,
    /// Products in all.
    pub products: u64,
    /// Bytes read from storage, because they are not resident.
    pub streamed_bytes: u64,
}

impl Work {
    /// One token of `model` with `depth` tokens before it, `streamed_bytes` of the weights coming from storage.
    pub fn decode(model: &Model, depth: u64, streamed_bytes: u64) -> Work {
        Work::batch(model, 1, depth, streamed_bytes)
    }

    /// A batch of `tokens` of a prompt with `depth` tokens before it, all computed at once; only the last one's logits
    /// are.
    pub fn batch(model: &Model, tokens: u64, depth: u64, streamed_bytes: u64) -> Work {
        let (recipe, kv) = (model.recipe(), model.plan().config.kv);
        let mut work = Work { tokens, memory_bytes: 0, products: 0, streamed_bytes };
        for v in visits(model) {
            let t = v.of_a_token();
            let products = u64::from(t.rows) * u64::from(t.cols);
            // Tokens of a batch choose different experts, at worst.
            let experts = matches!(v.access, Access::Experts { .. });
            work.memory_bytes += if experts { v.tensor.bytes().min(tokens * t.bytes()) } else { t.bytes() };
            work.products += if t == model.globals().output { products } else { tokens * products };
        }
        let head = |dim: u32| kv.head_bytes(dim as usize).unwrap_or(0) as u64;
        for layer in 0..recipe.layers {
            let window = recipe.layer(layer).window.unwrap_or(u32::MAX).min(model.plan().config.ctx);
            let seen = (depth + 1).min(window.into());
            let (keys, values) = (u64::from(recipe.key_dim), u64::from(recipe.value_dim));
            work.memory_bytes += seen * u64::from(recipe.kv_heads) * (head(recipe.key_dim) + head(recipe.value_dim));
            work.products += tokens * seen * u64::from(recipe.heads) * (keys + values);
        }
        work
    }
}

/// What binds a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Reading memory.
    Memory,
    /// Arithmetic.
    Compute,
    /// Reading storage.
    Storage,
}

/// An expected speed and its bounds, in tokens per second; infinite where nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// If reading memory were all.
    pub memory: f64,
    /// If arithmetic were all.
    pub compute: f64,
    /// If reading storage were all.
    pub storage: f64,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Memory => "memory",
            Bound::Compute => "arithmetic",
            Bound::Storage => "storage",
        })
    }
}

impl Estimate {
    /// The estimate of `work` on a machine of `speeds`.
    pub fn of(work: &Work, speeds: &Speeds) -> Estimate {
        let rate = |asked: u64, speed: f64| work.tokens as f64 * speed / asked as f64;
        let rate = |asked: u64, speed: f64| if asked == 0 { f64::INFINITY } else { rate(asked, speed) };
        Estimate {
            memory: rate(work.memory_bytes, speeds.memory),
            compute: rate(work.products, speeds.products),
            storage: rate(work.streamed_bytes, speeds.storage),
        }
    }

    /// The expected speed, the least of the bounds, and which it is.
    pub fn expected(&self) -> (f64, Bound) {
        let all = [(self.memory, Bound::Memory), (self.compute, Bound::Compute), (self.storage, Bound::Storage)];
        all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, Bound::Memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_every_figure_has_its_source() {
        let mut ids = Vec::new();
        for (id, text) in FILES {
            for board in Board::parse(id, text).unwrap() {
                for field in ["ram_mib", "cache_kib", "read_gb_s", "int8_gmac_s", "storage"] {
                    assert!(board.sources.get(field).is_some_and(|s| s.len() > 10), "{id}: {field}");
                }
                assert!(board.usable_bytes > board.ram_bytes / 2 && board.usable_bytes < board.ram_bytes, "{id}");
                ids.push(board.id);
            }
        }
        let wanted = [
            "pi-zero-2w-512mb",
            "pi-3bplus-1gb",
            "pi-4b-2gb",
            "pi-4b-4gb",
            "pi-4b-8gb",
            "pi-400-4gb",
            "pi-5-4gb",
            "pi-5-16gb",
        ];
        assert!(wanted.iter().all(|w| ids.iter().any(|i| i == w)), "{ids:?}");
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../boards");
        let files = std::fs::read_dir(folder).unwrap().flatten();
        let toml = files.filter(|f| f.path().extension().is_some_and(|e| e == "toml")).count();
        assert_eq!(toml, FILES.len(), "a board's file is not embedded");
    }

    #[test]
    fn names() {
        assert_eq!(Board::named("pi-5-8gb").unwrap().ram_bytes, 8 << 30);
        assert_eq!(Board::named("pi-5").unwrap().ram_bytes, 16 << 30);
        assert_eq!(Board::named("pi-zero-2w").unwrap().id, "pi-zero-2w-512mb");
        assert!(Board::named("pi").is_none());
    }

    #[test]
    fn bad_files() {
        let good = FILES[0].1;
        assert!(Board::parse("x", good).is_ok());
        for bad in [
            "".to_string(),
            "name = ".to_string(),
            good.replace("cores = 4", "cores = 0"),
            good.replace("one = 2.1", "one = nan"),
            good.replace("ghz", "gigahertz"),
        ] {
            let e = Board::parse("x", &bad).unwrap_err().to_string();
            assert!(e.starts_with("board x: ") && !e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn rooflines() {
        let speeds = Speeds::of(&Board::named("pi-5-8gb").unwrap(), 0);
        // Llama 3.2 1B in Q4_0.
        let decode = Work { tokens: 1, memory_bytes: 763_000_000, products: 1_236_000_000, streamed_bytes: 0 };
        let estimate = Estimate::of(&decode, &speeds);
        let (speed, bound) = estimate.expected();
        assert!((14.0..16.0).contains(&speed) && bound == Bound::Memory, "{speed}");
        assert!(estimate.storage.is_infinite());
        let (speed, bound) = Estimate::of(&Work { streamed_bytes: 100_000_000, ..decode }, &speeds).expected();
        assert!((0.84..0.86).contains(&speed) && bound == Bound::Storage, "{speed}");
        let prefill = Work { tokens: 512, products: 512 * 973_000_000, ..decode };
        assert_eq!(Estimate::of(&prefill, &speeds).expected().1, Bound::Compute);
    }
}
