//! A conversation as the model wants to read it.

use crate::engine::Opened;
use crate::fail::Done;
use crate::term;
use crate::text::Text;
use drupe::chat::{ChatFormat, Message, Piece, Role};

/// One turn, kept.
#[derive(Clone)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// How this model's conversations are written.
pub struct Dialogue {
    /// `None`: plain text, for a model that was not trained on conversations.
    format: Option<&'static ChatFormat>,
    eos: String,
}

impl Dialogue {
    /// The format of the file's template; ChatML if it is not known and the vocabulary has ChatML's marks.
    pub fn new(opened: &Opened, text: &Text) -> Dialogue {
        let template = opened.gguf.str("tokenizer.chat_template").ok().flatten();
        let known = template.and_then(ChatFormat::detect);
        let marks = ["<|im_start|>", "<|im_end|>"].iter().all(|m| text.tokenizer.find(m.as_bytes()).is_some());
        let format = known.or_else(|| ChatFormat::named("chatml").filter(|_| marks));
        if template.is_some() && known.is_none() {
            let name = format.map_or("plain text", |f| f.name);
            term::say(&format!("note: this file's chat template is not known; using {name} (--raw uses none)"));
        }
        let eos = text.tokenizer.eos().map_or(&b""[..], |id| text.tokenizer.string(id));
        Dialogue { format, eos: String::from_utf8_lossy(eos).into_owned() }
    }

    /// The tokens of `turns`, up to where the model's answer begins. What the turns say cannot become control tokens.
    pub fn tokens(&self, text: &mut Text, turns: &[Turn]) -> Done<Vec<u32>> {
        let messages: Vec<Message> = turns.iter().map(|t| Message { role: t.role, content: &t.content }).collect();
        match self.format {
            Some(format) => text.encode_pieces(format.pieces(&messages, &self.eos, true)),
            None => {
                let plain = turns.iter().map(|t| t.content.as_str()).collect::<Vec<_>>().join("\n\n");
                text.encode_pieces(std::iter::once(Piece { text: &plain, structure: false }))
            }
        }
    }
}
