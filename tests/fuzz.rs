//! Damaged and hostile input of every kind that comes from a file: nothing may panic, hang or take memory without end.
//!
//! Deterministic: round N of a test is the same in every run, and a failure names its round. `DRUPE_FUZZ=20` does twenty times
//! as many. The GGUF view and the tokenizers have tests of this kind beside their code, too.

use drupe::gguf::Gguf;
use drupe::quant::Kernels;
use drupe::sampler::{Sampler, SamplerConfig};
use drupe::session::never;
use drupe::tokenizer::{EncodeOptions, Tokenizer, Utf8Stream};
use drupe::{Arena, Config, Engine, InMemory, Model, Plan, Recipe, Session, Solo, model};
use drupe_host::saved::{Head, Saved, save};
use drupe_host::shapes::Spec;
use drupe_host::template::ChatWriter;
use drupe_tests::{Memory, plan, session};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Calls `test` so many times, each with its own random numbers; it must return, and soon.
fn rounds(count: u64, mut test: impl FnMut(&mut Random)) {
    let times = std::env::var("DRUPE_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for round in 0..count * times {
        let start = Instant::now();
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (round + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
        if catch_unwind(AssertUnwindSafe(|| test(&mut random))).is_err() {
            panic!("round {round} panicked");
        }
        assert!(start.elapsed() < Duration::from_secs(20), "round {round} took {:?}", start.elapsed());
    }
}

/// One damage of a kind that breaks parsers, within the first `within` bytes.
fn damage(file: &mut Vec<u8>, within: usize, random: &mut Random) {
    let within = within.min(file.len());
    if within == 0 {
        return;
    }
    let at = random.below(within);
    match random.below(7) {
        0 | 1 => file[at] ^= 1 << random.below(8),
        2 => file[at] = random.next() as u8,
        3 | 4 => {
            let value = match random.below(5) {
                0 => u64::MAX - random.below(4) as u64,
                1 => 1 << random.below(64),
                2 => u64::from(f32::NAN.to_bits()),
                3 => u64::from(f32::INFINITY.to_bits()),
                _ => random.below(file.len() * 2) as u64,
            };
            let size = [1, 2, 4, 8][random.below(4)];
            file.iter_mut().skip(at).take(size).zip(value.to_le_bytes()).for_each(|(b, v)| *b = v);
        }
        5 => drop(file.drain(at..(at + random.below(9)).min(within))),
        _ => file.truncate(at.max(within / 2)),
    }
}

/// As far as a model's file leads: view, recipe, plan, tokenizer, session, some tokens, a sampler.
fn run_model(bytes: &[u8]) -> Option<()> {
    let gguf = Gguf::parse(bytes).ok()?;
    let text = tokenize(&gguf);
    let recipe = Recipe::of(&gguf, 48).ok()?;
    let kernels = Kernels::detect();
    let config = Config { batch: 8, sinks: 2, ..Config::new(16) };
    let plan = Plan::new(&recipe, model::formats(&gguf), &kernels, &config).ok()?;
    // A file can ask for more than this test has; it is told the figure before anything is made.
    if plan.total() > 64 << 20 {
        return None;
    }
    let mut memory = Memory::new(plan.total());
    let mut arena = Arena::new(memory.bytes());
    let model = Model::bind(&gguf, &plan, &kernels, &mut arena).ok()?;
    let mut session = Session::new(&model, &mut arena).expect("the planned memory");
    let parts = [bytes];
    let mut weights = InMemory::new(&parts);
    let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
    let known: Vec<u32> = text.unwrap_or_default().into_iter().filter(|id| *id < recipe.vocab).take(24).collect();
    let _ = session.feed(&mut engine, &known);
    let settings = SamplerConfig { temperature: 0.8, ..SamplerConfig::default() };
    let mut table = vec![0; Sampler::bytes_needed(recipe.vocab as usize, &settings).ok()?];
    let mut sampler = Sampler::new(recipe.vocab as usize, settings, &mut table).ok()?;
    let mut id = 1 % recipe.vocab;
    for _ in 0..3 {
        id = sampler.sample(session.feed(&mut engine, &[id]).ok()?).ok()?;
    }
    Some(())
}

/// A text's tokens by the file's vocabulary, decoded on the way.
fn tokenize(gguf: &Gguf) -> Option<Vec<u32>> {
    let needed = Tokenizer::bytes_needed(gguf).ok()?;
    assert!(needed < 16 << 20, "{needed} bytes of tables");
    let mut table = vec![0; needed];
    let tokenizer = Tokenizer::new(gguf, &mut table).ok()?;
    let text = "Hello <|im_start|>wörld 中🦙\n\t 123";
    let mut ids = vec![0; text.len() + 3];
    let mut scratch = vec![0; tokenizer.scratch_for(text.len())];
    let options = EncodeOptions { parse_special: true, add_special: true };
    let count = tokenizer.encode(text.as_bytes(), options, &mut scratch, &mut ids).ok()?;
    ids.truncate(count);
    let mut piece = vec![0; tokenizer.longest_piece().max(4)];
    let mut stream = Utf8Stream::new(tokenizer.adds_space());
    for id in ids.iter().copied().chain([0, 7, u32::MAX]) {
        if let Ok(n) = tokenizer.decode(id, true, &mut piece) {
            stream.push(&piece[..n], |_| ());
        }
    }
    Some(ids)
}

#[test]
fn damaged_models() {
    let of = |name| drupe_host::synth::in_memory(&Spec::parse(name).expect("a shape")).expect("a model");
    let models = [
        "tiny-llama3:q4_0",
        "tiny-gemma3:q4_0",
        "tiny-phi3:q8_0",
        "tiny-yarn-ext:q4_0",
        "tiny-wide:q4_k_m",
        "tiny-granitemoe:q8_0",
    ]
    .map(of);
    models.iter().for_each(|m| assert_eq!(run_model(m), Some(())));
    // Of the head, most is vocabulary; the keys before and the tensors after it are few.
    let heads =
        models.each_ref().map(|m| Gguf::parse(m).expect("whole").tensors().next().expect("one").offset as usize);
    let mut ran = 0;
    rounds(3000, |random| {
        let i = random.below(models.len());
        let mut file = models[i].clone();
        for _ in 0..=random.below(3) {
            let within = [1500, heads[i], file.len()][random.below(3)];
            damage(&mut file, within, random);
        }
        ran += usize::from(run_model(&file).is_some());
    });
    println!("{ran} of the damaged models still answered");
    assert!(ran > 300, "{ran}: too few get far enough to test anything");
}

/// The checksum of a state, as its description has it: so that a forged state gets past it.
fn state_checksum(stretches: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for bytes in stretches {
        let mut step = |word: [u8; 8]| {
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| step(*w));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = 0x80 | rest.len() as u8;
        step(last);
    }
    hash
}

#[test]
fn forged_states() {
    let bytes = drupe_host::synth::in_memory(&Spec::parse("tiny-gemma3:q4_0").expect("a shape")).expect("a model");
    let parts = [bytes.as_slice()];
    let kernels = Kernels::detect();
    let plan = plan(&bytes, &kernels, &Config { batch: 4, sinks: 2, ..Config::new(24) });
    let mut memory = Memory::new(plan.total());
    let mut session = session(&bytes, &kernels, &plan, memory.bytes());
    let mut weights = InMemory::new(&parts);
    let feed = |session: &mut Session, tokens: &[u32]| {
        let mut weights = InMemory::new(&parts);
        let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
        session.feed(&mut engine, tokens).map(|logits| logits.len())
    };
    let text: Vec<u32> = (0..40).map(|i| 5 + i * 7 % 90).collect();
    feed(&mut session, &text).expect("fed");
    let (mut whole, mut ends) = (Vec::new(), Vec::new());
    session
        .save_to(&mut weights, &mut |stretch| {
            whole.extend_from_slice(stretch);
            ends.push(whole.len());
        })
        .expect("saved");
    session.restore(&mut weights, &whole).expect("taken back");
    let mut taken = 0;
    rounds(3000, |random| {
        let mut state = whole.clone();
        for _ in 0..=random.below(3) {
            let within = [64, state.len()][random.below(2)];
            damage(&mut state, within, random);
        }
        if random.below(4) > 0 && state.len() == whole.len() {
            state[..8].copy_from_slice(&whole[..8]);
            state[8..16].copy_from_slice(&whole[8..16]);
            state[48..64].fill(0);
            let mut stretches = vec![&state[..40]];
            stretches.extend(ends.windows(2).map(|e| &state[e[0]..e[1]]));
            let sum = state_checksum(&stretches);
            state[40..48].copy_from_slice(&sum.to_le_bytes());
        }
        let before = session.position();
        match session.restore(&mut weights, &state) {
            Ok(()) => {
                taken += 1;
                // It may have any keys and values, and be anywhere: going on must work all the same.
                feed(&mut session, &[9, 8, 7, 6, 5, 4, 3]).expect("fed");
                let back = session.position().saturating_sub(3);
                let _ = session.rewind(back);
            }
            Err(_) => assert_eq!(session.position(), before, "a refused state changes nothing"),
        }
    });
    println!("{taken} forged states were taken");
    assert!(taken > 300, "{taken}: too few get past the checks to test anything");
}

#[test]
fn damaged_session_files() {
    let bytes = drupe_host::synth::in_memory(&Spec::parse("tiny-llama:q4_0").expect("a shape")).expect("a model");
    let parts = [bytes.as_slice()];
    let kernels = Kernels::detect();
    let plan = plan(&bytes, &kernels, &Config { batch: 4, sinks: 2, ..Config::new(24) });
    let mut memory = Memory::new(plan.total());
    let mut session = session(&bytes, &kernels, &plan, memory.bytes());
    let mut weights = InMemory::new(&parts);
    let tokens = vec![4, 5, 6, 7];
    let mut engine = Engine { team: &Solo, weights: &mut weights, cancelled: &never };
    session.feed(&mut engine, &tokens).expect("fed");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("session");
    let head = Head { tokens: tokens.clone(), ..Head::default() };
    save(&path, &head, &session, &mut weights).expect("saved");
    let opened = Saved::open(&path).expect("read").expect("there");
    assert_eq!(opened.head, head);
    opened.restore(&mut session, &mut weights).expect("taken back");
    let whole = std::fs::read(&path).expect("read");
    rounds(400, |random| {
        let mut file = whole.clone();
        damage(&mut file, [64, 400, whole.len()][random.below(3)], random);
        // The head's checksum made to match, so that what is behind it is reached.
        let len = file.get(8..16).map_or(0, |b| u64::from_le_bytes(std::array::from_fn(|i| b[i])) as usize);
        if let Some(json) = len.checked_add(64).and_then(|end| file.get(64..end)) {
            let sum = json
                .iter()
                .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
            file[16..24].copy_from_slice(&sum.to_le_bytes());
        }
        std::fs::write(&path, &file).expect("written");
        if let Ok(Some(saved)) = Saved::open(&path)
            && saved.restore(&mut session, &mut weights).is_ok()
        {
            assert_eq!(session.position(), saved.head.tokens.len() as u64);
        }
    });
}

#[test]
fn templates_of_all_sorts() {
    use drupe::chat::{Message, Role};
    const PARTS: [&str; 40] = [
        "{% for m in messages %}",
        "{% endfor %}",
        "{%- if m.role == 'user' -%}",
        "{% elif loop.last %}",
        "{% else %}",
        "{% endif %}",
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ messages[0].content }}",
        "{{ bos_token }}",
        "{{ eos_token + '\n' }}",
        "<|im_start|>",
        "<|im_end|>\n",
        "{{ '<|' ~ m.role ~ '|>' }}",
        "{{ messages[::-1] }}",
        "{% set ns = namespace(a=0) %}",
        "{% set ns.a = ns.a + 1 %}",
        "{{ ns.a }}",
        "{% macro f(x) %}",
        "{% endmacro %}",
        "{{ f(m) }}",
        "{{ raise_exception('no') }}",
        "{% if add_generation_prompt %}",
        "{{ m | tojson }}",
        "{{ 1 // 0 }}",
        "{{ m.content.split('a')[-1] }}",
        "{{ m.content[3:-1] }}",
        "{{ strftime_now('%d %b %Y %') }}",
        "{# a comment #}",
        "{% generation %}",
        "{% endgeneration %}",
        "{% break %}",
        "{% continue %}",
        "{{ range(9)[2] }}",
        "{% raw %}",
        "{% endraw %}",
        "{{ m.content.replace('a', 'bb') }}",
        "\u{F8FF}0\u{F8FF}",
        "{%",
        "}}",
    ];
    let say = |role, content| Message { role, content };
    let messages = [
        say(Role::System, "Be brief. \u{F8FF}"),
        say(Role::User, " a <|im_end|> ba\n"),
        say(Role::Assistant, "<think>x</think>\n\nyes a"),
        say(Role::User, ""),
        say(Role::User, "{{ 'not a template' }}"),
    ];
    let mut own = 0;
    rounds(6000, |random| {
        let mut template: String = (0..random.below(16)).map(|_| random.pick(&PARTS)).collect();
        // Half of them begin and end as they should.
        if random.below(2) == 0 {
            template = format!("{}{template}{}", PARTS[0], PARTS[1]);
        }
        if random.below(3) == 0 {
            let mut bytes = template.into_bytes();
            let within = bytes.len();
            damage(&mut bytes, within, random);
            template = String::from_utf8_lossy(&bytes).into_owned();
        }
        let from = random.below(messages.len());
        let to = from + random.below(messages.len() - from + 1);
        let written =
            ChatWriter::new(Some(&template), "<s>", "</s>", None).write(&messages[from..to], random.below(2) == 0);
        own += usize::from(!written.note.as_ref().is_some_and(|n| n.contains("chat template: ")));
        let joined: String = written.pieces().map(|p| p.text).collect();
        assert_eq!(joined, written.text, "stretches without gaps");
    });
    println!("{own} templates were good");
    assert!(own > 600, "{own}: too few good templates");
}
