mod experts;

use super::*;
use drupe::weights::InMemory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// A file in memory whose storage can be slow, short, failing or truncated.
#[derive(Clone, Default)]
struct Fake {
    bytes: Arc<Vec<u8>>,
    /// Longest read; 0 for any.
    short: usize,
    delay: Duration,
    /// Bytes that are left of the file, if fewer.
    len: Arc<AtomicU64>,
    errno: Arc<AtomicI32>,
    interrupt: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    read_bytes: Arc<AtomicU64>,
}

impl Source for Fake {
    fn read_at(&self, part: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        assert_eq!((offset % 4096, buffer.len() % 4096, buffer.as_ptr().addr() % 4096), (0, 0, 0), "not aligned");
        self.reads.fetch_add(1, SeqCst);
        std::thread::sleep(self.delay);
        if self.interrupt.swap(false, SeqCst) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match self.errno.load(SeqCst) {
            0 => {}
            e => return Err(io::Error::from_raw_os_error(e)),
        }
        let file = if part == 0 { &self.bytes[..self.len.load(SeqCst) as usize] } else { &[] };
        let from = file.len().min(offset as usize);
        let n = buffer.len().min(file.len() - from).min(if self.short == 0 { usize::MAX } else { self.short });
        buffer[..n].copy_from_slice(&file[from..from + n]);
        self.read_bytes.fetch_add(n as u64, SeqCst);
        Ok(n)
    }
}

struct Case {
    fake: Fake,
    visits: Vec<Visit>,
}

const SMALL: Shape = Shape { piece: 16 << 10, buffers: 4, readers: 2 };

/// A model-like file: a table read by row and as the head, layers of a norm and matrices of several formats.
fn case() -> Case {
    let mut at = 1000 / 32 * 32;
    let mut tensor = |rows: u32, cols: u32, format_id: u32| {
        let t = TensorRef { offset: at, rows, cols, format_id, part: 0 };
        at = (at + t.bytes()).next_multiple_of(32);
        t
    };
    let mut visits = Vec::new();
    let head = tensor(600, 256, 14);
    let whole = |tensor| Visit { tensor, access: Access::Whole };
    visits.push(Visit { tensor: head, access: Access::Rows });
    for _ in 0..6 {
        visits.push(whole(tensor(1, 256, 0)));
        for (rows, format) in [(256, 2), (64, 8), (64, 8), (700, 12), (256, 14)] {
            visits.push(whole(tensor(rows, 256, format)));
        }
    }
    visits.push(whole(tensor(1, 256, 0)));
    visits.push(whole(head));
    let mut seed = 1u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 56) as u8
    };
    let bytes: Vec<u8> = (0..at + 77).map(|_| byte()).collect();
    let fake = Fake { len: Arc::new((bytes.len() as u64).into()), bytes: Arc::new(bytes), ..Fake::default() };
    Case { fake, visits }
}

impl Case {
    fn plan(&self, budget: u64) -> ResidencyPlan {
        ResidencyPlan::with_shape(&self.visits, budget, SMALL).unwrap()
    }

    fn minimum(&self) -> u64 {
        ResidencyPlan::with_shape(&self.visits, 0, SMALL).unwrap_err().minimum
    }

    /// The least budget (to 4 KiB) under which nothing is streamed.
    fn all(&self) -> u64 {
        let streams = |b: &u64| self.plan(*b).streamed_bytes > 0;
        (self.minimum()..).step_by(4096).find(|b| !streams(b)).unwrap()
    }

    fn bytes_of_pass(&self) -> u64 {
        self.visits.iter().filter(|v| v.access == Access::Whole).map(|v| v.tensor.bytes()).sum()
    }

    fn open(&self, budget: u64) -> Residency {
        let plan = self.plan(budget);
        let source = Arc::new(self.fake.clone());
        let readers = Residency::threads(&plan, source.clone()).unwrap();
        let buffers = [plan.buffers().unwrap(), plan.expert_slots().unwrap()];
        Residency::assemble(&plan, source, buffers, readers, Way::Threads).unwrap()
    }

    /// One pass as the forward pass makes it: rows of the table, then every tensor whole. Returns bytes compared.
    fn pass(&self, weights: &mut Residency, tokens: &[u32]) -> Result<u64, WeightsError> {
        weights.begin();
        let mut compared = 0;
        for v in &self.visits {
            match v.access {
                Access::Rows => {
                    for t in tokens {
                        compared += self.compare(weights, &v.tensor, *t..*t + 1)?;
                    }
                }
                Access::Whole => compared += self.compare(weights, &v.tensor, 0..v.tensor.rows)?,
                // Those have passes of their own.
                Access::Experts { .. } => {}
            }
        }
        Ok(compared)
    }

    fn compare(&self, weights: &mut Residency, tensor: &TensorRef, rows: Range<u32>) -> Result<u64, WeightsError> {
        let parts = [&self.fake.bytes[..]];
        let mut oracle = InMemory::new(&parts);
        let mut at = rows.start;
        while at < rows.end {
            let got = weights.rows(tensor, at..rows.end)?;
            let n = got.len() / tensor.row_bytes();
            assert!(n >= 1 && got.len() == n * tensor.row_bytes() && at + n as u32 <= rows.end);
            assert_eq!(got, oracle.rows(tensor, at..at + n as u32).unwrap(), "{tensor:?} rows {at}");
            at += n as u32;
        }
        Ok(u64::from(rows.end - rows.start) * tensor.row_bytes() as u64)
    }
}

#[test]
fn same_bytes_under_every_budget() {
    let case = case();
    let (least, all) = (case.minimum(), case.all());
    for budget in [least, least + 50_000, least + 300_000, least + 700_000, all - 20_000, all] {
        let mut weights = case.open(budget);
        for pass in 0..4 {
            let tokens = [0, 599, 17 * pass, 300];
            case.pass(&mut weights, &tokens).unwrap();
        }
    }
}

#[test]
fn each_pass_reads_what_the_plan_says() {
    let case = case();
    for budget in [case.minimum(), case.minimum() + 400_000, case.all()] {
        let plan = case.plan(budget);
        let mut weights = case.open(budget);
        case.pass(&mut weights, &[]).unwrap();
        let after_first = weights.figures().bytes;
        for _ in 0..10 {
            case.pass(&mut weights, &[]).unwrap();
        }
        // Readers are ahead of the consumer by the ring at most.
        let ahead = u64::from(plan.shape.buffers) * plan.shape.piece;
        assert!(after_first <= case.bytes_of_pass() + ahead);
        assert_eq!(weights.figures().restarts, 0);
        let read = weights.figures().bytes - after_first;
        let expected = 10 * plan.streamed_bytes;
        assert!(read <= expected + ahead && read + ahead >= expected, "{read}, expected {expected}");
    }
}

#[test]
fn nothing_is_read_before_the_first_pass() {
    let case = case();
    let weights = case.open(case.all());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(weights.figures(), Figures::default());
}

#[test]
fn any_order() {
    let case = case();
    let mut seed = 7u64;
    for budget in [case.minimum(), case.minimum() + 300_000, case.all()] {
        let mut weights = case.open(budget);
        for i in 0..2000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            let v = case.visits[(seed >> 33) as usize % case.visits.len()];
            let a = (seed >> 20) as u32 % v.tensor.rows;
            let b = a + 1 + (seed >> 40) as u32 % (v.tensor.rows - a);
            case.compare(&mut weights, &v.tensor, a..b).unwrap();
            case.compare(&mut weights, &v.tensor.slice(a..b), 0..b - a).unwrap();
            if i % 37 == 0 {
                weights.begin();
            }
        }
        case.pass(&mut weights, &[1, 2, 3]).unwrap();
    }
}

#[test]
fn passes_without_the_head_and_cut_short() {
    let case = case();
    let mut weights = case.open(case.minimum() + 200_000);
    for upto in [3, 30, case.visits.len() - 1, 1, 20, case.visits.len()] {
        weights.begin();
        for v in case.visits[..upto].iter().filter(|v| v.access == Access::Whole) {
            case.compare(&mut weights, &v.tensor, 0..v.tensor.rows).unwrap();
        }
    }
}

#[test]
fn tensors_that_were_not_planned() {
    let mut case = case();
    let dropped = case.visits.remove(4);
    let mut weights = case.open(case.minimum());
    case.compare(&mut weights, &dropped.tensor, 0..dropped.tensor.rows).unwrap();
    // Rows of another length over planned pieces.
    let odd = TensorRef { offset: 4321, rows: 100, cols: 32 * 100, format_id: 8, part: 0 };
    case.compare(&mut weights, &odd, 0..odd.rows).unwrap();
    case.pass(&mut weights, &[5]).unwrap();
    // No such file, no such place, no row that any buffer holds.
    let bad = [
        TensorRef { part: 3, ..odd },
        TensorRef { offset: 1 << 50, ..odd },
        TensorRef { offset: u64::MAX - 5, ..odd },
        TensorRef { cols: 1 << 31, ..odd },
        TensorRef { rows: 0, cols: 0, ..odd },
    ];
    for t in bad {
        assert!(weights.rows(&t, 0..1).is_err(), "{t:?}");
    }
    assert!(weights.rows(&odd, 5..5).is_err());
    case.pass(&mut weights, &[5]).unwrap();
}

#[test]
fn short_and_interrupted_reads() {
    let mut case = case();
    for short in [1000, 4096, 5000, 12_289] {
        case.fake.short = short;
        let mut weights = case.open(case.minimum() + 200_000);
        case.fake.interrupt.store(true, SeqCst);
        case.pass(&mut weights, &[9, 400]).unwrap_or_else(|e| {
            // A storage that gives fewer bytes than a block can never get on.
            assert!(short < 4096, "{e}");
            0
        });
    }
}

#[test]
fn an_error_is_told_and_the_next_pass_works() {
    let case = case();
    for budget in [case.minimum(), case.minimum() + 300_000, case.all() - 200_000] {
        let mut weights = case.open(budget);
        // On the first pass, while the resident part is being read, and on a later one.
        for _ in 0..3 {
            case.fake.errno.store(libc::EIO, SeqCst);
            let mut failed = false;
            for _ in 0..3 {
                if let Err(e) = case.pass(&mut weights, &[3]) {
                    assert!(matches!(e, WeightsError::Storage { errno: libc::EIO, .. }), "{e}");
                    failed = true;
                }
            }
            let plan = case.plan(budget);
            assert!(failed, "budget {budget}, streamed {} of {}", plan.streamed_bytes, case.bytes_of_pass());
            case.fake.errno.store(0, SeqCst);
            case.pass(&mut weights, &[3]).unwrap();
            case.pass(&mut weights, &[3]).unwrap();
        }
    }
}

#[test]
fn what_failed_ahead_is_read_again_when_it_is_needed() {
    let case = case();
    for budget in [case.minimum(), case.minimum() + 300_000, case.all() - 200_000] {
        let mut weights = case.open(budget);
        case.fake.errno.store(libc::EIO, SeqCst);
        let before = case.fake.reads.load(SeqCst);
        // As when a pass fails before it asks for anything that was read ahead.
        weights.begin();
        while case.fake.reads.load(SeqCst) < before + u64::from(SMALL.readers) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(2));
        case.fake.errno.store(0, SeqCst);
        case.pass(&mut weights, &[3]).unwrap();
    }
}

#[test]
fn a_truncated_file_is_told() {
    let case = case();
    let mut weights = case.open(case.minimum() + 300_000);
    case.pass(&mut weights, &[3]).unwrap();
    let len = case.fake.len.swap(case.fake.bytes.len() as u64 / 2, SeqCst);
    let e = case.pass(&mut weights, &[3]).and_then(|_| case.pass(&mut weights, &[3])).unwrap_err();
    assert!(matches!(e, WeightsError::Storage { errno: 0, .. }), "{e}");
    assert!(e.to_string().contains("truncated"));
    case.fake.len.store(len, SeqCst);
    case.pass(&mut weights, &[3]).unwrap();
}

#[test]
fn reading_overlaps_computing() {
    let mut case = case();
    case.fake.delay = Duration::from_micros(1500);
    let mut weights = case.open(case.minimum() + 300_000);
    case.pass(&mut weights, &[]).unwrap();
    let before = weights.figures();
    weights.begin();
    for v in case.visits.iter().filter(|v| v.access == Access::Whole) {
        case.compare(&mut weights, &v.tensor, 0..v.tensor.rows).unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    let waited = weights.figures().waiting - before.waiting;
    let alone = Duration::from_micros(1500) * (weights.figures().reads - before.reads) as u32;
    assert!(waited < alone / 2, "waited {waited:?} of {alone:?}");
}

#[test]
fn dropped_at_any_moment() {
    let mut case = case();
    case.fake.delay = Duration::from_micros(300);
    for upto in 0..case.visits.len() {
        let mut weights = case.open(case.minimum());
        weights.begin();
        for v in case.visits[..upto].iter().filter(|v| v.access == Access::Whole) {
            case.compare(&mut weights, &v.tensor, 0..1).unwrap();
        }
    }
    drop(case.open(case.minimum()));
}

/// Real files, read in every way: on a disk, and on a file system that is memory.
#[test]
fn real_files() {
    let case = case();
    let dirs = [std::env::temp_dir(), "/dev/shm".into(), std::env::current_dir().unwrap()];
    for dir in dirs.iter().filter(|d| d.is_dir()) {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, &case.fake.bytes[..]).unwrap();
        for best in [Way::Uring, Way::Threads, Way::Cached] {
            let model = ModelFile::open(&path).unwrap();
            let mut weights = Residency::open_by(&case.plan(case.minimum() + 300_000), &model, best).unwrap();
            println!("{}: {}", dir.path().display(), weights.way());
            for i in 0..3 {
                case.pass(&mut weights, &[i, 599]).unwrap();
            }
            assert!(weights.read_speed(Duration::from_millis(5)).unwrap().unwrap() > 1e6);
            case.pass(&mut weights, &[7]).unwrap();
            assert!(weights.figures().restarts < 4);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(case.fake.bytes.len() as u64 / 2).unwrap();
            for _ in 0..2 {
                let e = case.pass(&mut weights, &[3]).and_then(|_| case.pass(&mut weights, &[3])).unwrap_err();
                assert!(matches!(e, WeightsError::Storage { errno: 0, .. }), "{e}");
            }
            std::fs::write(&path, &case.fake.bytes[..]).unwrap();
            case.pass(&mut weights, &[3]).unwrap();
        }
    }
}
