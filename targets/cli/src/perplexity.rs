//! `drupe perplexity`: how well a model foretells a text.

use crate::args::{ModelArgs, PerplexityArgs};
use crate::engine::{Loaded, Opened, Setup};
use crate::fail::{Done, Fail, failed, usage};
use crate::term;
use crate::text::Text;
use drupe::tokenizer::EncodeOptions;
use serde_json::json;
use std::time::Instant;

/// Positions whose logits are computed at once.
const AT_ONCE: u32 = 16;

/// Window without `--ctx`: the one that published figures use.
const WINDOW: u32 = 512;

pub fn run(args: &PerplexityArgs) -> Done {
    let setup = Setup::new(&args.how)?;
    let opened = Opened::open(Some(&args.model))?;
    let given = term::text_of(&args.file)?;
    let mut text = Text::new(&opened)?;
    let ids = text.encode(&given, EncodeOptions { parse_special: false, add_special: false })?;
    let how = ModelArgs { ctx: Some(args.how.ctx.unwrap_or(WINDOW)), ..args.how.clone() };
    let mut loaded = Loaded::new(opened, &setup, &how, 1, AT_ONCE)?;
    let window = loaded.plan.config.ctx as usize;
    let bos = text.tokenizer.bos().filter(|_| text.tokenizer.adds_bos());
    if window < 4 {
        return Err(usage("--ctx must be at least 4 for a perplexity"));
    }
    if ids.len() < window {
        let (has, file) = (ids.len(), args.file.display());
        return Err(usage(format!(
            "{file} has {has} tokens, a window is {window}: give a longer text or a smaller --ctx"
        )));
    }
    let windows: Vec<&[u32]> = ids.chunks_exact(window).take(args.windows.unwrap_or(usize::MAX)).collect();
    let bar = term::progress(windows.len() as u64, "scoring", false);
    let start = Instant::now();
    let mut loss = Loss::default();
    for tokens in &windows {
        let mut tokens = tokens.to_vec();
        if let Some(bos) = bos {
            tokens[0] = bos;
        }
        loaded.session.rewind(0).map_err(failed)?;
        let first = window / 2;
        let fed = loaded.feed_each(&tokens, &mut |at, logits| {
            if at >= first && at + 1 < tokens.len() {
                loss.add(surprise(logits, tokens[at + 1]));
            }
        });
        match fed {
            Err(Fail::Interrupted) if loss.count > 0 => break,
            fed => fed?,
        }
        bar.inc(1);
        bar.set_message(format!("perplexity {:.4}", loss.perplexity().0));
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let (perplexity, error) = loss.perplexity();
    if !perplexity.is_finite() {
        return Err(failed("the model's logits are not numbers: its weights are damaged"));
    }
    let fed = bar.position() as f64 * window as f64;
    term::say(&format!("{} tokens scored in {seconds:.1} s, {:.1} tok/s", loss.count, fed / seconds));
    if args.json {
        let document = json!({
            "model": loaded.opened.name, "perplexity": perplexity, "standard_error": error, "scored": loss.count,
            "window": window, "seconds": seconds, "tok_s": fed / seconds, "complete": !term::stopped(),
        });
        term::line(&document.to_string())?;
    } else {
        term::line(&format!("perplexity {perplexity:.4} ± {error:.4}"))?;
    }
    if term::stopped() { Err(Fail::Interrupted) } else { Ok(()) }
}

/// Sums of the losses: their mean and its standard error.
#[derive(Default)]
struct Loss {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Loss {
    fn add(&mut self, loss: f64) {
        self.count += 1;
        self.sum += loss;
        self.squares += loss * loss;
    }

    /// `exp(mean)`, and its standard error to first order.
    fn perplexity(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        (perplexity, perplexity * (variance / (n - 1.0).max(1.0)).sqrt())
    }
}

/// `-ln softmax(logits)[token]`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let top = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
    let sum: f64 = logits.iter().map(|l| ((l - top) as f64).exp()).sum();
    sum.ln() - (logits[token as usize] - top) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses() {
        assert!((surprise(&[0.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
        let mut loss = Loss::default();
        loss.add(1.0);
        loss.add(3.0);
        let (perplexity, error) = loss.perplexity();
        assert!((perplexity - 2f64.exp()).abs() < 1e-9 && (error - 2f64.exp()).abs() < 1e-9);
    }
}
