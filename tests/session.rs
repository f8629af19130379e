//! What a session promises whatever the model: the same answer however the work is cut, shared out, stopped, gone back
//! over, saved and taken back; and no more memory than planned.

use drupe::arena::ArenaTooSmall;
use drupe::gguf::Gguf;
use drupe::model::ModelError;
use drupe::quant::{Kernels, KvFormat};
use drupe::session::{FeedError, never};
use drupe::state::StateError;
use drupe::weights::{TensorRef, WeightsError};
use drupe::{Arena, Config, Engine, InMemory, Model, Plan, Session, Solo, Team, Weights};
use drupe_host::shapes::Spec;
use drupe_host::synth::Synth;
use drupe_host::team::{Cores, ThreadTeam};
use drupe_tests::{Memory, plan, relative_l2, session};
use std::cell::Cell;

/// A tiny model with windowed and whole-context layers, soft caps and norms before and after.
const MODEL: &str = "tiny-gemma3:q4_0";

fn model(name: &str) -> Vec<u8> {
    drupe_host::synth::in_memory(&Spec::parse(name).expect("a shape")).expect("a model")
}

fn text(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + i * i * 7 % 199).collect()
}

/// Calls `f` with a new session of `config`.
fn with<R>(bytes: &[u8], config: &Config, f: impl FnOnce(Session, &Plan) -> R) -> R {
    let kernels = Kernels::detect();
    let plan = plan(bytes, &kernels, config);
    let mut memory = Memory::new(plan.total());
    f(session(bytes, &kernels, &plan, memory.bytes()), &plan)
}

fn feed(session: &mut Session, bytes: &[u8], team: &dyn Team, tokens: &[u32]) -> Vec<f32> {
    let parts = [bytes];
    let mut weights = InMemory::new(&parts);
    let mut engine = Engine { team, weights: &mut weights, cancelled: &never };
    session.feed(&mut engine, tokens).expect("fed").to_vec()
}

#[test]
fn generation_past_the_context_does_not_depend_on_how_the_text_was_cut() {
    // Weights in f32: with quantised ones a difference in the last bit can turn the rounding of an activation, which is
    // worth a thousand times more.
    let bytes = model("tiny-gemma3:f32");
    let text = text(150);
    for (kv, bound) in [(KvFormat::F32, 1e-4), (KvFormat::F16, 1e-2), (KvFormat::Q8_0, 1e-1)] {
        let answer = |batch: u32| {
            let config = Config { batch, kv, sinks: 3, ..Config::new(40) };
            with(&bytes, &config, |mut session, _| feed(&mut session, &bytes, &Solo, &text))
        };
        let one = answer(1);
        assert!(one.iter().all(|v| v.is_finite()));
        for batch in [2, 7, 16, 40] {
            let distance = relative_l2(&answer(batch), &one);
            println!("{kv:?}, batches of {batch} against 1: {distance:.1e}");
            assert!(distance < bound, "{kv:?}, batches of {batch}: {distance:e}");
        }
    }
}

#[test]
fn logits_are_the_same_bits_for_any_number_of_workers() {
    [MODEL, "tiny-qwen2moe:q8_0"].into_iter().for_each(same_bits_for_any_number_of_workers);
}

fn same_bits_for_any_number_of_workers(name: &str) {
    let bytes = model(name);
    let text = text(90);
    let answer = |workers: u32, team: &dyn Team| {
        let config = Config { workers, ..Config::new(64) };
        with(&bytes, &config, |mut session, _| {
            let prompt = feed(&mut session, &bytes, team, &text);
            [prompt, feed(&mut session, &bytes, team, &[5])].concat()
        })
    };
    let alone = answer(1, &Solo);
    for workers in [2, 3, 5] {
        let team = ThreadTeam::new(workers, &Cores::all()).expect("a team");
        assert_eq!(alone, answer(workers as u32, &team), "{workers} workers");
    }
}

#[test]
fn a_stopped_prefill_goes_on_as_if_nothing_had_happened() {
    let bytes = model(MODEL);
    let text = text(60);
    let config = Config { batch: 8, sinks: 2, ..Config::new(32) };
    let whole = with(&bytes, &config, |mut session, _| feed(&mut session, &bytes, &Solo, &text));
    for asked in [0, 1, 50, 333] {
        let stopped = with(&bytes, &config, |mut session, _| {
            let left = Cell::new(asked);
            let cancelled = || left.replace(left.get() - 1) == 0;
            let parts = [bytes.as_slice()];
            let mut weights = InMemory::new(&parts);
            let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &cancelled };
            assert_eq!(session.feed(&mut engine, &text).err(), Some(FeedError::Cancelled));
            let done = session.position() as usize;
            assert!(done < text.len() && done.is_multiple_of(8), "{done}");
            feed(&mut session, &bytes, &Solo, &text[done..])
        });
        assert_eq!(whole, stopped, "stopped after {asked} questions");
    }
}

/// Weights that count the bytes handed out since the caller was last asked whether to stop.
struct Counting<'a> {
    parts: InMemory<'a>,
    since: &'a Cell<u64>,
    most: &'a Cell<u64>,
}

impl Weights for Counting<'_> {
    fn rows(&mut self, tensor: &TensorRef, rows: std::ops::Range<u32>) -> Result<&[u8], WeightsError> {
        let bytes = self.parts.rows(tensor, rows)?;
        self.since.set(self.since.get() + bytes.len() as u64);
        self.most.set(self.most.get().max(self.since.get()));
        Ok(bytes)
    }
}

#[test]
fn a_caller_is_asked_often_whether_to_stop() {
    // Its output matrix has 30 MB. What its weights are does not matter.
    let spec = Spec::parse("smollm2-135m:q8_0").expect("a shape");
    let bytes = Synth::new(&spec).and_then(Synth::hollow).expect("a model");
    let bytes = &bytes[..];
    let parts = [bytes];
    with(bytes, &Config::new(64), |mut session, _| {
        let (since, most) = (Cell::new(0), Cell::new(0));
        let asked = || {
            since.set(0);
            false
        };
        let mut weights = Counting { parts: InMemory::new(&parts), since: &since, most: &most };
        let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &asked };
        session.feed(&mut engine, &text(40)).expect("fed");
        let first = most.replace(0);
        session.feed(&mut engine, &[5]).expect("fed");
        println!("{first} bytes between two questions in the first pass, {} later", most.get());
        assert!(first < 3 << 20, "weights may have to come from storage: {first}");
        assert!(most.get() < 17 << 20, "{}", most.get());
    });
}

#[test]
fn what_was_gone_back_over_is_forgotten() {
    let bytes = model(MODEL);
    let config = Config { batch: 8, sinks: 2, ..Config::new(32) };
    for length in [10, 30, 70] {
        let text = text(length);
        let straight = with(&bytes, &config, |mut session, _| {
            feed(&mut session, &bytes, &Solo, &text);
            feed(&mut session, &bytes, &Solo, &[9, 8, 7])
        });
        with(&bytes, &config, |mut session, _| {
            feed(&mut session, &bytes, &Solo, &text);
            feed(&mut session, &bytes, &Solo, &[1, 2, 3, 4, 5]);
            session.rewind(length as u64).expect("less than a batch back");
            assert_eq!(feed(&mut session, &bytes, &Solo, &[9, 8, 7]), straight, "after {length}");
            assert!(session.rewind(length as u64 + 100).is_err(), "the future");
            if length == 70 {
                assert!(session.rewind(20).is_err(), "overwritten long ago");
                assert_eq!(session.position(), 73);
            }
            session.rewind(0).expect("the start");
            feed(&mut session, &bytes, &Solo, &text);
            assert_eq!(feed(&mut session, &bytes, &Solo, &[9, 8, 7]), straight, "again from the start");
        });
    }
}

#[test]
fn wrong_tokens_are_refused_and_change_nothing() {
    let bytes = model(MODEL);
    with(&bytes, &Config::new(32), |mut session, plan| {
        let vocab = plan.recipe.vocab;
        let parts = [bytes.as_slice()];
        let mut weights = InMemory::new(&parts);
        let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
        assert_eq!(session.feed(&mut engine, &[]).err(), Some(FeedError::Empty));
        let error = FeedError::Token { id: vocab, index: 1, vocab };
        assert_eq!(session.feed(&mut engine, &[1, vocab]).err(), Some(error));
        assert_eq!(session.position(), 0);
    });
}

#[test]
fn an_arena_smaller_than_planned_is_refused_with_both_figures() {
    let bytes = model(MODEL);
    let kernels = Kernels::detect();
    let plan = plan(&bytes, &kernels, &Config::new(16));
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let total = plan.total() as usize;
    let mut memory = Memory::new(plan.total() + 64);
    for len in (0..total).step_by(997).chain(total.saturating_sub(300)..total) {
        let all = memory.bytes();
        all.fill(0xA5);
        let (given, beyond) = all.split_at_mut(len);
        let found = Model::bind(&gguf, &plan, &kernels, &mut Arena::new(given)).err();
        let expected = ArenaTooSmall { needed: total as u64, given: len as u64 };
        assert_eq!(found, Some(ModelError::Arena(expected)), "{len} of {total} bytes");
        assert!(beyond.iter().all(|b| *b == 0xA5), "written beyond {len} bytes");
    }
}

#[test]
fn a_saved_session_goes_on_where_it_was() {
    let bytes = model(MODEL);
    let parts = [bytes.as_slice()];
    for (length, kv) in [(5, KvFormat::F16), (33, KvFormat::Q8_0), (100, KvFormat::F16)] {
        let config = Config { batch: 8, sinks: 2, kv, ..Config::new(32) };
        let text = text(length);
        let (state, logits, next) = with(&bytes, &config, |mut session, _| {
            let logits = feed(&mut session, &bytes, &Solo, &text);
            let mut state = vec![0; session.state_bytes() as usize];
            session.save(&mut InMemory::new(&parts), &mut state).expect("saved");
            (state, logits, feed(&mut session, &bytes, &Solo, &[4, 5]))
        });
        with(&bytes, &config, |mut session, _| {
            session.restore(&mut InMemory::new(&parts), &state).expect("taken back");
            assert_eq!(session.position(), length as u64);
            assert_eq!(session.logits(), logits);
            assert_eq!(feed(&mut session, &bytes, &Solo, &[4, 5]), next);
        });
        let other = Config { ctx: 33, ..config };
        with(&bytes, &other, |mut session, _| {
            let found = session.restore(&mut InMemory::new(&parts), &state).err();
            assert!(matches!(found, Some(StateError::Fingerprint { .. })), "{found:?}");
        });
    }
}

#[test]
fn a_damaged_state_is_refused_and_changes_nothing() {
    let bytes = model(MODEL);
    let parts = [bytes.as_slice()];
    let config = Config { batch: 8, sinks: 2, ..Config::new(32) };
    with(&bytes, &config, |mut session, _| {
        feed(&mut session, &bytes, &Solo, &text(20));
        let mut state = vec![0; session.state_bytes() as usize];
        session.save(&mut InMemory::new(&parts), &mut state).expect("saved");
        let mut weights = InMemory::new(&parts);
        for len in (0..state.len()).step_by(101).chain(0..70) {
            assert!(session.restore(&mut weights, &state[..len]).is_err(), "cut off at {len}");
        }
        for at in (0..48).chain((64..state.len()).step_by(97)) {
            for flip in [1, 0x80] {
                state[at] ^= flip;
                assert!(session.restore(&mut weights, &state).is_err(), "byte {at} damaged");
                state[at] ^= flip;
            }
        }
        assert_eq!(session.position(), 20);
        session.restore(&mut weights, &state).expect("whole again");
    });
}
