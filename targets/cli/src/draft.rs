//! Speculation by lookup: what followed the last words where they stood before is tried as what follows them now. A small
//! batch costs little more than one token, so that what is right comes almost for free.
//!
//! Each token is still chosen by the sampler, from logits after the tokens that were chosen before it: answers are the same
//! as without, as far as the logits of a batch are those of single tokens. With quantised weights they may differ in their
//! last digits, so that of two choices that are equally good to four digits the other may be taken.

/// Tokens of context that must be the same: as many as there are, at least the last of these.
const WORDS: [usize; 2] = [3, 2];

/// Most tokens tried at once.
pub const MOST: usize = 7;

/// Tries after which is asked whether they are worth it, the share that must have been right, and tokens without tries if not.
const TRIES: usize = 21;
const WORTH: f64 = 0.25;
const PAUSE: usize = 64;

/// Tokens so far, and how tries went.
#[derive(Default)]
pub struct Lookup {
    tokens: Vec<u32>,
    /// Tokens tried, and how many of them were right.
    pub tried: usize,
    pub right: usize,
    /// The same since it was last asked whether they are worth it.
    lately: (usize, usize),
    /// No tries until there are so many tokens.
    paused_until: usize,
}

impl Lookup {
    /// After this text.
    pub fn new(tokens: &[u32]) -> Lookup {
        Lookup { tokens: tokens.to_vec(), ..Lookup::default() }
    }

    /// Notes the next token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Up to `most` tokens that may come next; often none.
    pub fn guess(&self, most: usize) -> Vec<u32> {
        if self.tokens.len() < self.paused_until {
            return Vec::new();
        }
        for words in WORDS {
            let Some((before, last)) = self.tokens.len().checked_sub(words).map(|at| self.tokens.split_at(at)) else {
                continue;
            };
            // The latest place; the end itself is none.
            let found = (0..before.len()).rev().find(|at| self.tokens[*at..].starts_with(last));
            let Some(at) = found else { continue };
            let mut guess: Vec<u32> = Vec::new();
            for from in (at + words..).take(most.min(MOST)) {
                // Where it runs into the end, it goes on with itself: what repeats goes on repeating.
                guess.push(self.tokens.get(from).copied().unwrap_or_else(|| guess[from - self.tokens.len()]));
            }
            return guess;
        }
        Vec::new()
    }

    /// Notes how a guess went.
    pub fn judge(&mut self, tried: usize, right: usize) {
        (self.tried, self.right) = (self.tried + tried, self.right + right);
        self.lately = (self.lately.0 + tried, self.lately.1 + right);
        if self.lately.0 >= TRIES {
            if (self.lately.1 as f64) < WORTH * self.lately.0 as f64 {
                self.paused_until = self.tokens.len() + PAUSE;
            }
            self.lately = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_tried() {
        let mut lookup = Lookup::new(&[9, 1, 2, 3, 4, 5, 6, 1, 2]);
        assert_eq!(lookup.guess(3), [3, 4, 5]);
        assert_eq!(lookup.guess(100), [3, 4, 5, 6, 1, 2, 3]);
        lookup.push(3);
        assert_eq!(lookup.guess(1), [4]);
        lookup.push(7);
        assert!(lookup.guess(5).is_empty());
        assert!(Lookup::new(&[]).guess(5).is_empty() && Lookup::new(&[1, 1]).guess(5).is_empty());
        assert_eq!(Lookup::new(&[5, 1, 1, 1, 1]).guess(5), [1; 5]);
    }

    #[test]
    fn what_is_seldom_right_is_given_up_for_a_while() {
        let mut lookup = Lookup::new(&[1, 2, 3, 1, 2]);
        for _ in 0..3 {
            lookup.judge(7, 6);
        }
        assert_eq!(lookup.guess(1), [3]);
        for _ in 0..3 {
            lookup.judge(7, 1);
        }
        assert!(lookup.guess(1).is_empty());
        (0..PAUSE).for_each(|i| lookup.push([1, 2][i % 2]));
        assert!(!lookup.guess(1).is_empty());
        assert_eq!((lookup.tried, lookup.right), (42, 21));
    }
}
