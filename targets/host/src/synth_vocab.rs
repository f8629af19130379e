//! Synthetic vocabularies: of any size, loadable by every GGUF reader, and real enough to cut text with.
//!
//! After the bytes come the strings of small letters in order of length, with and without a leading space, until the
//! vocabulary is full; each is the one before it plus a letter, so that merges (or scores) reach all of them. The last
//! entries are the specials of a ChatML conversation.

use crate::gguf_write::Header;
use crate::shapes::{Shape, Vocab};

/// GGUF's kinds of tokens.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const BYTE: i32 = 6;
}

const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Adds the tokenizer's keys for `shape`.
pub fn write(header: &mut Header, shape: &Shape) {
    let room = (shape.vocab as usize).saturating_sub(SPECIALS.len());
    let (mut tokens, mut kinds): (Vec<String>, Vec<i32>) = match shape.tokens {
        Vocab::Bpe(_) => ((0..=255).map(byte_char).map(String::from).collect(), vec![kind::NORMAL; 256]),
        Vocab::Spm => spm_start(&["<unk>", "<s>", "</s>"], 0),
        Vocab::GemmaSpm => spm_start(&["<pad>", "<eos>", "<bos>", "<unk>"], 3),
    };
    let space = if matches!(shape.tokens, Vocab::Bpe(_)) { 'Ġ' } else { '▁' };
    if space == '▁' {
        tokens.extend(letters(space).map(String::from));
    }
    let merges = grow(&mut tokens, room, space);
    kinds.resize(tokens.len(), kind::NORMAL);
    let special = |i: usize| (room + i) as u32;
    tokens.extend(SPECIALS.map(String::from));
    kinds.resize(tokens.len(), kind::CONTROL);
    // A vocabulary too small for its bytes is cut: it then serves for token numbers alone.
    tokens.truncate(shape.vocab as usize);
    kinds.truncate(shape.vocab as usize);

    let add_bos = match shape.tokens {
        Vocab::Bpe(pre) => {
            header.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
            header.strings("tokenizer.ggml.merges", &merges);
            header.u32("tokenizer.ggml.bos_token_id", special(0));
            pre == "llama-bpe"
        }
        Vocab::Spm | Vocab::GemmaSpm => {
            header.string("tokenizer.ggml.model", "llama").string("tokenizer.ggml.pre", "default");
            let scores: Vec<f32> =
                kinds.iter().enumerate().map(|(i, &k)| if k == kind::NORMAL { -(i as f32) } else { 0.0 }).collect();
            header.f32s("tokenizer.ggml.scores", &scores);
            let gemma = shape.tokens == Vocab::GemmaSpm;
            header.u32("tokenizer.ggml.bos_token_id", if gemma { 2 } else { 1 });
            header.u32("tokenizer.ggml.unknown_token_id", if gemma { 3 } else { 0 });
            header.bool("tokenizer.ggml.add_space_prefix", !gemma);
            true
        }
    };
    header.u32("tokenizer.ggml.eos_token_id", special(2)).u32("tokenizer.ggml.padding_token_id", special(0));
    header.bool("tokenizer.ggml.add_bos_token", add_bos).bool("tokenizer.ggml.add_eos_token", false);
    header.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    header.string("tokenizer.chat_template", CHATML);
}

/// The letters that strings are made of, the space first.
fn letters(space: char) -> impl Iterator<Item = char> {
    std::iter::once(space).chain('a'..='z')
}

fn spm_start(specials: &[&str], unknown: usize) -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = specials.iter().map(|s| s.to_string()).collect();
    let mut kinds = vec![kind::CONTROL; specials.len()];
    kinds[unknown] = kind::UNKNOWN;
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    kinds.resize(tokens.len(), kind::BYTE);
    (tokens, kinds)
}

/// Adds strings in order of length until there are `room` tokens; returns the merge that makes each.
fn grow(tokens: &mut Vec<String>, room: usize, space: char) -> Vec<String> {
    let mut merges = Vec::with_capacity(room.saturating_sub(tokens.len()));
    let mut shorter: Vec<String> = letters(space).map(String::from).collect();
    while tokens.len() < room {
        let mut level = Vec::new();
        for (before, letter) in shorter.iter().flat_map(|s| ('a'..='z').map(move |c| (s, c))) {
            if tokens.len() >= room {
                break;
            }
            let mut token = String::with_capacity(before.len() + 1);
            token.push_str(before);
            token.push(letter);
            merges.push(format!("{before} {letter}"));
            tokens.push(token.clone());
            level.push(token);
        }
        shorter = level;
    }
    merges
}

/// GPT-2's printable character for a byte: itself if it prints, else one from U+0100 on, in order.
fn byte_char(byte: u8) -> char {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|&b| !prints(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_map_as_in_gpt2() {
        assert_eq!((byte_char(b' '), byte_char(b'\n'), byte_char(b'a'), byte_char(0xAD)), ('Ġ', 'Ċ', 'a', 'Ń'));
    }

    #[test]
    fn tokens_are_distinct_and_reached() {
        let mut tokens: Vec<String> = (0..=255).map(byte_char).map(String::from).collect();
        let merges = grow(&mut tokens, 30_000, 'Ġ');
        assert_eq!((tokens.len(), merges.len()), (30_000, 30_000 - 256));
        assert_eq!(tokens.iter().collect::<std::collections::HashSet<_>>().len(), tokens.len());
    }
}
