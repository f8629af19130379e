//! A conversation as the model wants to read it.

use crate::engine::Opened;
use crate::fail::Done;

/// One turn.
#[derive(Clone)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

/// A conversation in the model's own form.
pub struct Prompt {
    /// The text, up to where the model's answer begins.
    pub text: String,
    /// Whether it is written with the model's control tokens.
    pub structured: bool,
    /// Whether the beginning-of-text token is written in it.
    pub has_bos: bool,
}

impl Prompt {
    /// `messages` in the form that `opened` was trained on: ChatML where its vocabulary has the marks for it, else
    /// plain text.
    pub fn of(opened: &Opened, messages: &[Message]) -> Done<Prompt> {
        let marks = ["<|im_start|>", "<|im_end|>"];
        let has = |mark: &str| {
            let tokens = opened.gguf.array("tokenizer.ggml.tokens").ok().flatten();
            tokens.is_some_and(|t| t.strings().any(|s| s == mark.as_bytes()))
        };
        if marks.into_iter().all(has) {
            let turn = |m: &Message| format!("<|im_start|>{}\n{}<|im_end|>\n", m.role, m.content);
            let text = messages.iter().map(turn).collect::<String>() + "<|im_start|>assistant\n";
            return Ok(Prompt { text, structured: true, has_bos: false });
        }
        let text = messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n\n");
        Ok(Prompt { text, structured: false, has_bos: false })
    }
}
