//! A conversation as the model wants to read it.

use crate::engine::Opened;
use crate::fail::Done;
use crate::term;
use crate::text::Text;
use drupe::chat::{ChatFormat, Message, Role};
use drupe_host::template::{ChatWriter, Stretch, Written};

/// One turn, kept.
#[derive(Clone)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The tokens that the model chose to say it; empty for what people say.
    pub ids: Vec<u32>,
}

impl Turn {
    /// What a person says.
    pub fn new(role: Role, content: &str) -> Turn {
        Turn { role, content: content.into(), ids: Vec::new() }
    }

    /// The role's name, as templates have it.
    pub fn role_name(&self) -> &'static str {
        ROLES.iter().find(|(role, _)| *role == self.role).map_or("user", |(_, name)| name)
    }

    /// The role of this name.
    pub fn role_named(name: &str) -> Option<Role> {
        ROLES.iter().find(|(_, n)| *n == name).map(|(role, _)| *role)
    }
}

const ROLES: [(Role, &str); 3] = [(Role::System, "system"), (Role::User, "user"), (Role::Assistant, "assistant")];

/// How this model's conversations are written.
pub struct Dialogue {
    writer: ChatWriter,
    /// What was said about it last: once is enough.
    told: Option<String>,
}

impl Dialogue {
    /// By the file's own template; where that cannot be, in the known format that it looks like, or ChatML if the
    /// vocabulary has ChatML's marks, or as plain text.
    pub fn new(opened: &Opened, text: &Text) -> Dialogue {
        let string = |id: Option<u32>| {
            let bytes = id.map_or(&b""[..], |id| text.tokenizer.string(id));
            String::from_utf8_lossy(bytes).into_owned()
        };
        let template = opened.gguf.str("tokenizer.chat_template").ok().flatten();
        let marks = ["<|im_start|>", "<|im_end|>"].iter().all(|m| text.tokenizer.find(m.as_bytes()).is_some());
        let chatml = ChatFormat::named("chatml").filter(|_| marks);
        let (bos, eos) = (string(text.tokenizer.bos()), string(text.tokenizer.eos()));
        Dialogue { writer: ChatWriter::new(template, &bos, &eos, chatml), told: None }
    }

    /// The tokens of `turns`, up to where the model's answer begins. What the turns say cannot become control tokens. An
    /// answer that the template leaves as it was keeps the tokens that it was given in.
    pub fn tokens(&mut self, text: &mut Text, turns: &[Turn]) -> Done<Vec<u32>> {
        let messages: Vec<Message> = turns.iter().map(|t| Message { role: t.role, content: &t.content }).collect();
        let written = self.writer.write(&messages, true);
        if written.note.is_some() && written.note != self.told {
            term::say(&format!("note: {} (--raw uses none)", written.note.as_deref().unwrap_or_default()));
            self.told.clone_from(&written.note);
        }
        encode(text, &written, turns)
    }
}

/// The tokens of what was written.
fn encode(text: &mut Text, written: &Written, turns: &[Turn]) -> Done<Vec<u32>> {
    let mut tokens = Vec::new();
    if written.begins && !text.tokenizer.adds_bos() {
        tokens.extend(text.tokenizer.bos());
    }
    let mut from = 0;
    for (at, (range, what)) in written.spans.iter().enumerate() {
        let Stretch::Message(i) = what else { continue };
        let turn = &turns[*i];
        // Text goes on after it: cut there, it would get a space of its own where the vocabulary adds one.
        let structure_follows = written.spans.get(at + 1).is_none_or(|next| next.1 == Stretch::Structure);
        let cut = structure_follows || !text.tokenizer.adds_space();
        if turn.ids.is_empty() || !cut || written.text[range.clone()] != turn.content {
            continue;
        }
        tokens.extend(pieces(text, written, from..at)?);
        tokens.extend_from_slice(&turn.ids);
        from = at + 1;
    }
    tokens.extend(pieces(text, written, from..written.spans.len())?);
    Ok(tokens)
}

/// The tokens of some of the stretches; the model's begin token comes before the first.
fn pieces(text: &mut Text, written: &Written, spans: std::ops::Range<usize>) -> Done<Vec<u32>> {
    let first = spans.start == 0;
    text.encode_pieces(written.spans[spans].iter().map(|(range, what)| written.piece(range, *what)), first)
}
