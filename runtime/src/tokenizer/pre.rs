//! Pre-tokenizers: how byte-level BPE cuts a text into words before merging.
//!
//! The published tokenizers give one or several regular expressions, each applied to the pieces that the one before
//! left: matches and the gaps between them become pieces. Here every expression is a [`Split`] written by hand; a
//! [`PreTokenizer`] is a list of them, chosen by `tokenizer.ggml.pre`. Every split reads a text a bounded number of
//! times, so that no text takes more than linear time.

use super::splits::Split;

/// What `tokenizer.ggml.pre` means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreTokenizer {
    /// Applied in order.
    splits: &'static [Split],
    /// See [`PreTokenizer::whole_words`].
    whole_words: bool,
    /// See [`PreTokenizer::adds_bos`].
    add_bos: bool,
}

/// Splits of the longest list.
const MOST_SPLITS: usize = 6;

impl PreTokenizer {
    /// The pre-tokenizer of this name; `None` for an unknown one. A file without the name means `default`.
    pub(crate) fn named(name: &[u8]) -> Option<PreTokenizer> {
        use Split::*;
        let llama3: &[Split] = &[Words { contractions: true, marks: false, digits: 3, tail: true }];
        let qwen2: &[Split] = &[Words { contractions: true, marks: false, digits: 1, tail: true }];
        let gpt2: &[Split] = &[Gpt2];
        let splits: &[Split] = match name {
            b"default" | b"" => &[Punctuation { backtick: false }, Gpt2, Digits(usize::MAX), ThreeAsciiDigits],
            b"gpt-2" | b"phi-2" | b"jina-es" | b"jina-de" | b"jina-v2-es" | b"jina-v2-de" | b"jina-v1-en"
            | b"jina-v2-code" | b"roberta-bpe" | b"gigachat" | b"a.x-4.0" | b"mellum" | b"modern-bert" | b"exaone4"
            | b"mpt" | b"olmo" | b"jais" | b"trillion" | b"granite-docling" => gpt2,
            b"starcoder" | b"refact" | b"command-r" | b"smollm" | b"codeshell" | b"exaone" | b"minerva-7b"
            | b"mellum2" => &[Digits(1), Gpt2],
            b"falcon" => &[Punctuation { backtick: true }, Gpt2, ThreeAsciiDigits],
            b"llama3" | b"llama-v3" | b"llama-bpe" | b"falcon3" | b"falcon-h1" | b"pixtral" | b"midm-2.0" | b"lfm2"
            | b"jina-v5-nano" | b"dbrx" | b"smaug-bpe" | b"chatglm-bpe" | b"glm4" | b"glm5" => llama3,
            b"qwen2" | b"deepseek-r1-qwen" | b"kormo" | b"f2llmv2" | b"megrez" | b"stablelm2" | b"hunyuan"
            | b"solar-open" | b"grok-2" | b"bailingmoe" | b"bailingmoe2" | b"llada-moe" => qwen2,
            b"laguna" => &[Lines, Words { contractions: true, marks: false, digits: 1, tail: true }],
            b"qwen35" => &[Words { contractions: true, marks: true, digits: 1, tail: true }],
            b"seed-coder" => &[Words { contractions: true, marks: false, digits: 1, tail: false }],
            b"ufakzeka" => &[Words { contractions: false, marks: false, digits: 1, tail: true }],
            b"minicpm5" => &[Digits(3), Words { contractions: true, marks: false, digits: usize::MAX, tail: true }],
            b"tekken" => &[CasedWords { contractions: false, digits: 1 }],
            b"gpt-4o" | b"llama4" | b"kanana2" | b"talkie" | b"minimax-m2" => {
                &[CasedWords { contractions: true, digits: 3 }]
            }
            b"deepseek-llm" => {
                &[Newline, DeepSeekLetters, DeepSeekPunctuation, TrailingSpace, DeepSeekCjk, Digits(usize::MAX)]
            }
            b"deepseek-coder" => &[Newline, SpacedLetters, SpacedPunctuation, DeepSeekCjk, Digits(1)],
            b"deepseek-v3" | b"hunyuan-dense" | b"joyai-llm" | b"hy_v4" => &[Digits(3), HanKana, DeepSeekWords],
            b"bloom" | b"poro-chat" | b"gpt3-finnish" => &[Sentences],
            b"viking" => &[Sentences, Digits(1)],
            _ => return None,
        };
        debug_assert!(splits.len() <= MOST_SPLITS);
        let llama3_like = matches!(
            name,
            b"llama3"
                | b"llama-v3"
                | b"llama-bpe"
                | b"falcon3"
                | b"falcon-h1"
                | b"pixtral"
                | b"midm-2.0"
                | b"lfm2"
                | b"jina-v5-nano"
                | b"tekken"
        );
        Some(PreTokenizer {
            splits,
            whole_words: llama3_like || matches!(name, b"minicpm5" | b"glm4" | b"glm5"),
            add_bos: llama3_like,
        })
    }

    /// Whether a word that is a token is that token, whatever the merges would make of it.
    pub(crate) fn whole_words(self) -> bool {
        self.whole_words
    }

    /// Whether a BOS goes before a text when the file does not say.
    pub(crate) fn adds_bos(self) -> bool {
        self.add_bos
    }

    /// The words of a text, in order; together they are the text.
    pub(crate) fn words<'t>(&self, text: &'t [u8]) -> Words<'t> {
        Words { text, splits: self.splits, levels: [Level::default(); MOST_SPLITS], at: 0 }
    }
}

/// Where one split of the list stands.
#[derive(Clone, Copy, Default)]
struct Level {
    /// End of its current piece.
    end: usize,
    /// Its next match at or after the current position, as far as it is known: valid while its end lies ahead.
    found: (usize, usize),
}

/// Iterator over the words of a text.
pub(crate) struct Words<'t> {
    text: &'t [u8],
    splits: &'static [Split],
    levels: [Level; MOST_SPLITS],
    at: usize,
}

impl<'t> Iterator for Words<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        let at = self.at;
        if at >= self.text.len() {
            return None;
        }
        let mut end = self.text.len();
        for (split, level) in self.splits.iter().zip(&mut self.levels) {
            if level.end <= at {
                if level.found.1 <= at {
                    level.found = split.find(&self.text[..end], at).unwrap_or((end, end));
                }
                level.end = if level.found.0 > at { level.found.0 } else { level.found.1 };
            }
            end = level.end;
        }
        self.at = end;
        Some(&self.text[at..end])
    }
}
