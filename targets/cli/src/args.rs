//! What can be asked for on the command line.

use crate::size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use drupe::quant::{Format, KvFormat};
use std::path::PathBuf;

/// Small language models on small boards: GGUF files, memory known beforehand, no download needed to try.
#[derive(Parser)]
#[command(name = "drupe", version, max_term_width = 100)]
#[command(after_help = "Text goes to standard output; progress and figures go to standard error.\n\
                        Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.")]
pub struct Drupe {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Answer a prompt, streamed
    Run(RunArgs),
    /// Talk; what was computed for earlier turns is never computed again
    Chat(ChatArgs),
    /// Say every byte before running, and whether it fits
    Plan(PlanArgs),
    /// Measure speed, latency and memory
    Bench(BenchArgs),
    /// Show a file's keys, tensors and recipe
    Inspect(InspectArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Measure how well a model foretells a text
    Perplexity(PerplexityArgs),
    /// Write the logits of given tokens
    Logits(LogitsArgs),
    /// Write a model file in smaller formats
    Quantize(QuantizeArgs),
    /// Write a model of random weights in a real model's shape
    Synth(SynthArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  drupe completions bash > ~/.local/share/bash-completion/completions/drupe")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `drupe quantize`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe quantize model-f16.gguf model-q4.gguf q4_k_m\n\n\
                        Types: f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q5_1 q5_0 q4_k_m q4_k_s q4_1 q4_0 iq4_nl iq4_xs\n\
                        q3_k_l q3_k_m q3_k_s q2_k q2_k_s. Memory does not grow with the model.")]
pub struct QuantizeArgs {
    /// A GGUF file in F32, F16, BF16 or Q8_0; any file of a split model
    pub input: PathBuf,
    /// The file to write; it appears when complete, or not at all
    pub out: PathBuf,
    /// The type, e.g. q4_0 or q4_k_m
    #[arg(value_name = "TYPE")]
    pub mix: String,
    /// Another format for the matrices whose names contain NAME, e.g. attn_v=q8_0; the first that fits decides
    #[arg(long, value_name = "NAME=FORMAT", value_parser = crate::quantize::exception)]
    pub tensor: Vec<(String, Format)>,
    /// Threads [default: one per core]
    #[arg(short = 't', long)]
    pub threads: Option<usize>,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

/// `drupe synth`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe synth qwen2.5-0.5b:q4_k_m model.gguf")]
pub struct SynthArgs {
    /// A model's shape and type, e.g. llama3.2-1b:q4_0; an unknown one lists those known
    pub shape: String,
    /// The file to write
    pub out: PathBuf,
}

/// Where tokens that may come next are had from.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Draft {
    /// What followed the last words where they stood before
    Lookup,
}

/// Storage of keys and values.
#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Kv {
    /// Half-precision floats
    #[default]
    F16,
    /// Single-precision floats
    F32,
    /// Blocks of 32 bytes with a scale: about half the memory
    #[value(name = "q8_0")]
    Q8_0,
}

impl Kv {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kv::F16 => "f16",
            Kv::F32 => "f32",
            Kv::Q8_0 => "q8_0",
        }
    }
}

impl From<Kv> for KvFormat {
    fn from(kv: Kv) -> KvFormat {
        match kv {
            Kv::F32 => KvFormat::F32,
            Kv::F16 => KvFormat::F16,
            Kv::Q8_0 => KvFormat::Q8_0,
        }
    }
}

/// How a model is run.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// Tokens of context; generation goes on beyond it in the same memory [default: 4096, or as trained]
    #[arg(long, value_name = "TOKENS")]
    pub ctx: Option<u32>,
    /// Storage of keys and values
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    pub kv: Kv,
    /// First tokens that are never forgotten [default: 4]
    #[arg(long, value_name = "TOKENS")]
    pub sinks: Option<u32>,
    /// Worker threads [default: this machine's cores that are really there]
    #[arg(short = 't', long)]
    pub threads: Option<usize>,
    /// Most memory that the process may ever have resident, e.g. 400M; refused at start if it cannot be kept
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub memory: Option<u64>,
    /// Instruction set: scalar, avx2, avx-vnni, avx512-vnni, neon, dotprod, i8mm [default: the best here]
    #[arg(long)]
    pub isa: Option<String>,
    /// Most tokens of a prompt in one pass
    #[arg(long, hide_short_help = true)]
    pub batch: Option<u32>,
}

/// `drupe plan`
#[derive(Args)]
#[command(after_help = "Examples:\n  \
                        drupe plan llama3.2-1b:q4_0 --ctx 2048 --memory 1G\n  \
                        drupe plan llama3.2-1b:q4_0 --board pi-4b-2gb\n  \
                        drupe plan qwen2.5-1.5b --board pi-5-4gb --rank\n  \
                        drupe plan --boards")]
pub struct PlanArgs {
    /// A GGUF file, or a shape such as llama3.2-1b:q4_0
    #[arg(required_unless_present = "boards")]
    pub model: Option<String>,
    /// A board to plan for, and the speed to expect there; `this` measures this machine
    #[arg(long, value_name = "NAME", hide_possible_values = true, value_parser = board_names())]
    pub board: Option<String>,
    /// Compare all quantizations of a shape on the board
    #[arg(long, requires = "board", conflicts_with = "json")]
    pub rank: bool,
    /// List the boards, with the source of each figure
    #[arg(long, exclusive = true)]
    pub boards: bool,
    #[command(flatten)]
    pub how: ModelArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `--board` takes: boards by their memory, or without it the one with most.
fn board_names() -> clap::builder::PossibleValuesParser {
    let boards = drupe_host::board::Board::all();
    let short = boards.iter().filter_map(|b| b.id.rsplit_once('-').map(|(name, _)| name.to_string()));
    let mut names: Vec<String> = boards.iter().map(|b| b.id.clone()).chain(short).collect();
    names.sort();
    names.dedup();
    names.push("this".into());
    names.into()
}

/// `drupe bench`
#[derive(Args)]
#[command(after_help = "Examples:\n  drupe bench llama3.2-1b:q4_0 -p 256 -n 64\n  \
                        drupe bench model.gguf --memory 500M\n  \
                        drupe bench model.gguf --sweep 25%..120% --plot sweep.svg\n\n\
                        A shape is run with random weights made in memory: no download is needed.")]
pub struct BenchArgs {
    /// A GGUF file, or a shape such as llama3.2-1b:q4_0
    pub model: String,
    /// Tokens of prompt
    #[arg(short = 'p', long, default_value_t = 256)]
    pub prompt: u32,
    /// Tokens to generate
    #[arg(short = 'n', long, default_value_t = 64)]
    pub tokens: u32,
    /// Tokens in the context before generating, not counted in its time
    #[arg(long, default_value_t = 0)]
    pub depth: u32,
    /// Runs that count, after one that does not; repeated until they differ by less than 5%, four times at most
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// Leave the file in the page cache: no cold start
    #[arg(long)]
    pub warm: bool,
    /// Only load, feed the prompt and print what that took
    #[arg(long, hide = true)]
    pub start_only: bool,
    /// Run under several hard memory limits, e.g. 25%..120% of the file, or 400M..1G
    #[arg(long, value_name = "RANGE", conflicts_with = "memory")]
    pub sweep: Option<String>,
    /// Draw the sweep as SVG
    #[arg(long, value_name = "FILE", requires = "sweep")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub how: ModelArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drupe inspect`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe inspect model.gguf --tensors")]
pub struct InspectArgs {
    /// A GGUF file, or a shape
    pub model: String,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drupe logits`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe logits model.gguf --tokens 1,2,3 --out logits.f32\n\n\
                        The file is raw little-endian f32, [tokens, vocab].")]
pub struct LogitsArgs {
    /// A GGUF file, or a shape
    pub model: String,
    /// Token ids, separated by commas or spaces
    #[arg(long, value_name = "IDS")]
    pub tokens: String,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub how: ModelArgs,
}

/// How the next token is chosen.
#[derive(Args, Clone)]
pub struct SampleArgs {
    /// 0 always takes the likeliest token; 1 follows the model's own probabilities [default: 0.7; built-in model: 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Choose among this many of the likeliest; 0 for all [default: 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Choose among the likeliest that together have this probability [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Choose among tokens at least this fraction as likely as the likeliest [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Choose among the most typical tokens of this probability together [default: 1]
    #[arg(long, value_name = "P", hide_short_help = true, allow_negative_numbers = true)]
    pub typical_p: Option<f32>,
    /// Makes recent tokens less likely, above 1 [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Subtracted for each recent use of a token [default: 0]
    #[arg(long, value_name = "X", hide_short_help = true, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Subtracted once for a token used recently [default: 0]
    #[arg(long, value_name = "X", hide_short_help = true, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `drupe run`
#[derive(Args)]
#[command(after_help = "Examples:\n  \
                        drupe run model.gguf \"Why is the sky blue?\"\n  \
                        cat letter.txt | drupe run -m model.gguf --system \"Summarise in one line.\"\n  \
                        drupe run -m model.gguf --raw --temp 0 -n 50 \"Once upon a time\"")]
pub struct RunArgs {
    /// The model (a GGUF file or a shape), if not given by -m, and the prompt
    #[arg(value_names = ["MODEL", "PROMPT"], num_args = 0..=2)]
    pub words: Vec<String>,
    /// The model: a GGUF file or a shape
    #[arg(short = 'm', long)]
    pub model: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Most tokens to generate
    #[arg(short = 'n', long, default_value_t = 512)]
    pub tokens: usize,
    /// What the model is told about its task
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Continue the prompt as it is: no chat form
    #[arg(long)]
    pub raw: bool,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Try several tokens at once: faster where an answer repeats what was said (code, summaries). The answer is
    /// the same but where two tokens are equally likely to the last digits
    #[arg(long, value_name = "FROM")]
    pub draft: Option<Draft>,
    /// Keep what is computed for the prompt in FILE; a prompt that begins the same need not be computed again
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    #[command(flatten)]
    pub sample: SampleArgs,
    #[command(flatten)]
    pub how: ModelArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drupe chat`
#[derive(Args)]
#[command(after_help = "Examples:\n  drupe chat model.gguf --system \"You are a ship's cook.\"\n  \
                        drupe chat model.gguf --session talk.session")]
pub struct ChatArgs {
    /// The model: a GGUF file or a shape
    pub model: Option<String>,
    /// The same
    #[arg(short = 'm', long = "model", value_name = "MODEL")]
    pub option: Option<String>,
    /// Most tokens of one answer
    #[arg(short = 'n', long, default_value_t = 1024)]
    pub tokens: usize,
    /// What the model is told about its task
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// End an answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Try several tokens at once: faster where an answer repeats what was said (code, summaries). The answer is
    /// the same but where two tokens are equally likely to the last digits
    #[arg(long, value_name = "FROM")]
    pub draft: Option<Draft>,
    /// Keep the conversation in FILE when it ends, and go on with the one that is there
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    #[command(flatten)]
    pub sample: SampleArgs,
    #[command(flatten)]
    pub how: ModelArgs,
}

/// `drupe tokenize`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe tokenize model.gguf \"Hello, world\" --ids")]
pub struct TokenizeArgs {
    /// A GGUF file, or a shape
    pub model: String,
    /// The text; without it and --file, standard input
    pub text: Option<String>,
    /// Read the text from a file
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print the ids only, separated by spaces
    #[arg(long)]
    pub ids: bool,
    /// Do not add the tokens that the model wants around a text
    #[arg(long)]
    pub no_bos: bool,
    /// Take control tokens written in the text as text
    #[arg(long)]
    pub no_special: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "ids")]
    pub json: bool,
}

/// `drupe perplexity`
#[derive(Args)]
#[command(after_help = "Example:\n  drupe perplexity model.gguf --file book.txt\n\n\
                        Each window of --ctx tokens (512 if not given) is fed from nothing and its second half is \
                        scored, as llama.cpp does, so that figures compare.")]
pub struct PerplexityArgs {
    /// A GGUF file, or a shape
    pub model: String,
    /// The text
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Most windows to score
    #[arg(long)]
    pub windows: Option<usize>,
    #[command(flatten)]
    pub how: ModelArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
