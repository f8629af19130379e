//! Text to tokens and back, with buffers that grow where needed.

use crate::engine::Opened;
use crate::fail::{Done, failed};
use drupe::chat::Piece;
use drupe::tokenizer::{EncodeOptions, Tokenizer, TokenizerError, Utf8Stream};

/// Scratch to begin with: enough for words of ordinary length.
const SCRATCH: usize = 64 << 10;

/// A tokenizer with its buffers.
pub struct Text {
    /// The tokenizer.
    pub tokenizer: Tokenizer<'static>,
    scratch: Vec<u8>,
    piece: Vec<u8>,
}

impl Text {
    /// The model's tokenizer; its tables live as long as the process.
    pub fn new(opened: &Opened) -> Done<Text> {
        let wrong = |e: TokenizerError| failed(format!("{}: {e}", opened.name));
        let bytes = Tokenizer::bytes_needed(&opened.gguf).map_err(wrong)?;
        let tokenizer = Tokenizer::new(&opened.gguf, Vec::leak(vec![0; bytes])).map_err(wrong)?;
        let piece = vec![0; tokenizer.longest_piece().max(4)];
        Ok(Text { tokenizer, scratch: vec![0; SCRATCH], piece })
    }

    /// The tokens of a text.
    pub fn encode(&mut self, text: &str, options: EncodeOptions) -> Done<Vec<u32>> {
        let mut tokens = vec![0; text.len() + 3];
        loop {
            match self.tokenizer.encode(text.as_bytes(), options, &mut self.scratch, &mut tokens) {
                Ok(count) => {
                    tokens.truncate(count);
                    return Ok(tokens);
                }
                Err(TokenizerError::ScratchTooSmall { needed, .. }) if needed > self.scratch.len() => {
                    self.scratch.resize(needed, 0);
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// The tokens of a text that comes in pieces; with `around`, with the tokens that the model wants around a text.
    pub fn encode_pieces<'p>(
        &mut self,
        pieces: impl Iterator<Item = Piece<'p>> + Clone,
        around: bool,
    ) -> Done<Vec<u32>> {
        let bytes: usize = pieces.clone().map(|p| p.text.len()).sum();
        let (mut joined, mut tokens) = (vec![0; bytes], vec![0; bytes + 3]);
        loop {
            let pieces = pieces.clone();
            match self.tokenizer.encode_pieces(pieces, around, &mut joined, &mut self.scratch, &mut tokens) {
                Ok(count) => {
                    tokens.truncate(count);
                    return Ok(tokens);
                }
                Err(TokenizerError::ScratchTooSmall { needed, .. }) if needed > self.scratch.len() => {
                    self.scratch.resize(needed, 0);
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// The bytes of a token; control tokens have none unless `special`.
    pub fn piece(&mut self, id: u32, special: bool) -> Done<&[u8]> {
        let n = self.tokenizer.decode(id, special, &mut self.piece).map_err(failed)?;
        Ok(&self.piece[..n])
    }
}

/// Text that grows by tokens and ends at a stop text.
pub struct Answer {
    stream: Utf8Stream,
    stops: Vec<String>,
    /// All of it so far.
    pub text: String,
    /// How much of it may be shown: what follows could be the beginning of a stop text.
    shown: usize,
    /// Whether a stop text was reached.
    pub stopped: bool,
}

impl Answer {
    /// An empty answer that ends before any of `stops`.
    pub fn new(stops: &[String], strip_space: bool) -> Answer {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Answer { stream: Utf8Stream::new(strip_space), stops, text: String::new(), shown: 0, stopped: false }
    }

    /// Takes a token's bytes and returns the text that can now be shown.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        let (stream, text) = (&mut self.stream, &mut self.text);
        stream.push(bytes, |t| text.push_str(t));
        self.release(false)
    }

    /// The rest, when no more tokens come.
    pub fn finish(&mut self) -> &str {
        let (stream, text) = (&mut self.stream, &mut self.text);
        stream.finish(|t| text.push_str(t));
        self.release(true)
    }

    fn release(&mut self, all: bool) -> &str {
        let from = self.shown;
        let tail = &self.text[from..];
        if let Some(at) = self.stops.iter().filter_map(|s| tail.find(s.as_str())).min() {
            self.text.truncate(from + at);
            self.stopped = true;
            self.shown = self.text.len();
            return &self.text[from..];
        }
        // The longest end of the text that begins a stop text is held back.
        let begins = |end: &str| self.stops.iter().any(|s| s.starts_with(end));
        let held = if all {
            0
        } else {
            let ends = tail.char_indices().map(|(at, _)| &tail[at..]);
            ends.into_iter().find(|end| begins(end)).map_or(0, str::len)
        };
        self.shown = self.text.len() - held;
        &self.text[from..self.shown]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_texts_are_held_back_and_cut() {
        let mut a = Answer::new(&["END".into()], false);
        assert_eq!(a.push(b"so E"), "so ");
        assert_eq!(a.push(b"N"), "");
        assert_eq!(a.push(b"ough EN"), "ENough ");
        assert_eq!(a.push(b"D more"), "");
        assert!(a.stopped);
        assert_eq!(a.text, "so ENough ");
    }

    #[test]
    fn what_was_held_comes_at_the_end() {
        let mut a = Answer::new(&["END".into()], true);
        assert_eq!(a.push(b" an EN"), "an ");
        assert_eq!(a.finish(), "EN");
        assert!(!a.stopped);
    }
}
