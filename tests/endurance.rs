//! Weights streamed from a real file for a long time, and storage that fails on the way.
//!
//! `DRUPE_ENDURANCE_SECONDS=28800 cargo test --release -p drupe-tests --test endurance` decodes for eight hours.

use drupe::gguf::Gguf;
use drupe::model::Model;
use drupe::quant::Kernels;
use drupe::session::{FeedError, never};
use drupe::weights::WeightsError;
use drupe::{Arena, Config, Engine, InMemory, Session, Team, Weights};
use drupe_host::map::ModelFile;
use drupe_host::residency::{Residency, ResidencyPlan, Shape, visits};
use drupe_host::shapes::Spec;
use drupe_host::synth;
use drupe_host::team::{Cores, ThreadTeam};
use drupe_host::usage::Usage;
use drupe_tests::{Memory, plan};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CTX: u32 = 64;
const SHAPE: Shape = Shape { piece: 8 << 10, buffers: 4, readers: 2 };

/// A made-up model in a file, and half the memory that it would take.
struct Place {
    dir: PathBuf,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("drupe-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let path = dir.join("m.gguf");
        synth::write(&Spec::parse("tiny-llama:q4_0").expect("a shape"), &path, &|_| ()).expect("temporary file");
        let bytes = std::fs::read(&path).expect("the same");
        Place { dir, path, bytes }
    }

    /// Runs `with` a session and weights of which about half are streamed.
    fn run(&self, with: impl FnOnce(&mut Session, &mut Residency, &dyn Team)) {
        let kernels = Kernels::detect();
        let plan = plan(&self.bytes, &kernels, &Config { workers: 2, batch: 4, ..Config::new(CTX) });
        let gguf = Gguf::parse(&self.bytes).expect("a whole file");
        let mut memory = Memory::new(plan.total());
        let mut arena = Arena::new(memory.bytes());
        let model = Model::bind(&gguf, &plan, &kernels, &mut arena).expect("all tensors");
        let visits = visits(&model);
        let mut session = Session::new(&model, &mut arena).expect("the planned memory");
        let least = ResidencyPlan::with_shape(&visits, 0, SHAPE).expect_err("no budget").minimum;
        let all = ResidencyPlan::with_shape(&visits, u64::MAX >> 8, SHAPE).expect("a large budget").total_bytes;
        let held = ResidencyPlan::with_shape(&visits, (least + all) / 2, SHAPE).expect("enough");
        assert!(held.streamed_bytes > 0);
        let file = ModelFile::open(&self.path).expect("a model");
        let mut weights = Residency::open(&held, &file).expect("a source");
        let team = ThreadTeam::new(2, &Cores::all()).expect("a team");
        with(&mut session, &mut weights, &team);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn feed(
    session: &mut Session,
    weights: &mut dyn Weights,
    team: &dyn Team,
    tokens: &[u32],
) -> Result<Vec<u32>, FeedError> {
    let logits = session.feed(&mut Engine { team, weights, cancelled: &never }, tokens)?;
    Ok(logits.iter().map(|x| x.to_bits()).collect())
}

#[test]
fn memory_stays_flat_and_latency_even() {
    let seconds = std::env::var("DRUPE_ENDURANCE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let place = Place::new("endurance");
    place.run(|session, weights, team| {
        let mut engine = Engine { team, weights, cancelled: &never };
        // Tenths of the time: each one's median token, and the memory at its end.
        let mut tenths: Vec<(Duration, u64)> = Vec::new();
        // Its memory is written to beforehand, so that what grows is not this list.
        let mut times = vec![Duration::MAX; 1 << 20];
        times.clear();
        let (begin, whole) = (Instant::now(), Duration::from_secs(seconds));
        let mut token = 1;
        while tenths.len() < 10 {
            let start = Instant::now();
            let logits = session.feed(&mut engine, &[token]).expect("a token");
            assert!(logits[0].is_finite());
            if times.len() < times.capacity() {
                times.push(start.elapsed());
            }
            token = (token + 7) % 200;
            if begin.elapsed() > whole * (tenths.len() as u32 + 1) / 10 {
                times.sort_unstable();
                tenths.push((times[times.len() / 2], Usage::now().anonymous.unwrap_or(0)));
                times.clear();
            }
        }
        println!("{} tokens: {tenths:?}", session.position());
        assert!(session.position() > 10 * u64::from(CTX));
        let (first, last) = (tenths[0], tenths[9]);
        assert!(last.1 <= first.1 + (1 << 20), "memory grew from {} to {} bytes", first.1, last.1);
        // Other tests and programs run beside this one: a drift would go on and on, noise does not.
        let quickest = |part: &[(Duration, u64)]| part.iter().map(|t| t.0).min().unwrap_or_default();
        let (early, late) = (quickest(&tenths[..5]), quickest(&tenths[5..]));
        assert!(late < early * 2, "tokens took {early:?}, then {late:?}");
    });
}

#[test]
fn a_file_that_is_cut_while_in_use() {
    let place = Place::new("cut");
    place.run(|session, weights, team| {
        let parts = [&place.bytes[..]];
        let mut whole = InMemory::new(&parts);
        let prompt = [1, 5, 9, 14, 20];
        feed(session, &mut whole, team, &prompt).expect("a prompt");
        let expected = feed(session, &mut whole, team, &[33]).expect("a token");
        session.rewind(0).expect("a fresh start");

        feed(session, weights, team, &prompt).expect("a prompt");
        let file = std::fs::OpenOptions::new().write(true).open(&place.path).expect("the file");
        file.set_len(place.bytes.len() as u64 / 2).expect("a cut");
        // What was read ahead may last for a token more.
        let mut fed = 0;
        let error = loop {
            match feed(session, weights, team, &[33]) {
                Ok(_) => fed += 1,
                Err(e) => break e,
            }
            assert!(fed < 3, "nobody noticed");
        };
        assert!(matches!(error, FeedError::Weights(WeightsError::Storage { errno: 0, .. })), "{error}");
        assert!(error.to_string().contains("truncated"), "{error}");
        let position = prompt.len() as u64 + fed;
        assert_eq!(session.position(), position, "a token that failed was not fed");
        // It goes on failing in the same way, and works again when the file is whole again.
        assert!(feed(session, weights, team, &[33]).is_err());
        assert_eq!(session.position(), position);
        std::fs::write(&place.path, &place.bytes).expect("the file");
        session.rewind(prompt.len() as u64).expect("one token back");
        assert_eq!(feed(session, weights, team, &[33]).expect("a token"), expected, "other logits");
    });
}
