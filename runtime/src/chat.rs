//! Chat formats: how a list of messages is written for a model that was trained on conversations.
//!
//! A file carries its format as a template, which is a program. Here no program runs: the template's text is searched
//! for the marks of the formats that are known, and the known format is data. What a conversation says stays apart from
//! its structure ([`Piece`]), so that no message can write itself a new turn
//! ([`crate::tokenizer::Tokenizer::encode_pieces`]).
//!
//! The begin token is not part of a format: it comes with [`crate::tokenizer::EncodeOptions::add_special`]. System
//! messages that some templates make up when there is none, and dates that they add, are left out.

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: &'a str,
}

/// A stretch of a written conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The text.
    pub text: &'a str,
    /// Whether control tokens in it are meant as such. What people and models say is no structure.
    pub structure: bool,
}

/// A known chat format.
#[derive(Debug, PartialEq, Eq)]
pub struct ChatFormat {
    /// Its name, for messages.
    pub name: &'static str,
    /// What stands around a system message; `None` where it goes before the next user message, inside that turn.
    system: Option<[&'static str; 2]>,
    /// What stands around a user message.
    user: [&'static str; 2],
    /// What stands around an answer; [`EOS`] in the second is the file's end token.
    assistant: [&'static str; 2],
    /// What makes the model answer.
    answer: &'static str,
    /// What stands around a system message inside a user's turn.
    inner_system: [&'static str; 2],
    /// Messages lose the white space around them.
    trims: bool,
}

/// Stands for the file's end token.
const EOS: &str = "\u{0}";

const PLAIN: ChatFormat = ChatFormat {
    name: "",
    system: None,
    user: ["", ""],
    assistant: ["", ""],
    answer: "",
    inner_system: ["", "\n\n"],
    trims: false,
};

static CHATML: ChatFormat = ChatFormat {
    name: "chatml",
    system: Some(["<|im_start|>system\n", "<|im_end|>\n"]),
    user: ["<|im_start|>user\n", "<|im_end|>\n"],
    assistant: ["<|im_start|>assistant\n", "<|im_end|>\n"],
    answer: "<|im_start|>assistant\n",
    ..PLAIN
};

static PHI4: ChatFormat = ChatFormat {
    name: "phi4",
    system: Some(["<|im_start|>system<|im_sep|>", "<|im_end|>"]),
    user: ["<|im_start|>user<|im_sep|>", "<|im_end|>"],
    assistant: ["<|im_start|>assistant<|im_sep|>", "<|im_end|>"],
    answer: "<|im_start|>assistant<|im_sep|>",
    ..PLAIN
};

static LLAMA3: ChatFormat = ChatFormat {
    name: "llama3",
    system: Some(["<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"]),
    user: ["<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"],
    assistant: ["<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"],
    answer: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    trims: true,
    ..PLAIN
};

static LLAMA2: ChatFormat = ChatFormat {
    name: "llama2",
    user: ["[INST] ", " [/INST]"],
    assistant: [" ", EOS],
    inner_system: ["<<SYS>>\n", "\n<</SYS>>\n\n"],
    trims: true,
    ..PLAIN
};

static MISTRAL_V1: ChatFormat =
    ChatFormat { name: "mistral-v1", user: [" [INST] ", " [/INST]"], assistant: [" ", EOS], ..PLAIN };

static MISTRAL_V3: ChatFormat =
    ChatFormat { name: "mistral-v3", user: ["[INST] ", "[/INST]"], assistant: [" ", EOS], ..PLAIN };

static MISTRAL_V3_TEKKEN: ChatFormat =
    ChatFormat { name: "mistral-v3-tekken", user: ["[INST]", "[/INST]"], assistant: ["", EOS], ..PLAIN };

static MISTRAL_V7: ChatFormat = ChatFormat {
    name: "mistral-v7",
    system: Some(["[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"]),
    user: ["[INST] ", "[/INST]"],
    assistant: [" ", EOS],
    ..PLAIN
};

static MISTRAL_V7_TEKKEN: ChatFormat = ChatFormat {
    name: "mistral-v7-tekken",
    system: Some(["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]),
    user: ["[INST]", "[/INST]"],
    assistant: ["", EOS],
    ..PLAIN
};

static GEMMA: ChatFormat = ChatFormat {
    name: "gemma",
    user: ["<start_of_turn>user\n", "<end_of_turn>\n"],
    assistant: ["<start_of_turn>model\n", "<end_of_turn>\n"],
    answer: "<start_of_turn>model\n",
    trims: true,
    ..PLAIN
};

static PHI3: ChatFormat = ChatFormat {
    name: "phi3",
    system: Some(["<|system|>\n", "<|end|>\n"]),
    user: ["<|user|>\n", "<|end|>\n"],
    assistant: ["<|assistant|>\n", "<|end|>\n"],
    answer: "<|assistant|>\n",
    ..PLAIN
};

static PHI4_MINI: ChatFormat = ChatFormat {
    name: "phi4-mini",
    system: Some(["<|system|>", "<|end|>"]),
    user: ["<|user|>", "<|end|>"],
    assistant: ["<|assistant|>", "<|end|>"],
    answer: "<|assistant|>",
    ..PLAIN
};

static ZEPHYR: ChatFormat = ChatFormat {
    name: "zephyr",
    system: Some(["<|system|>\n", "\u{0}\n"]),
    user: ["<|user|>\n", "\u{0}\n"],
    assistant: ["<|assistant|>\n", "\u{0}\n"],
    answer: "<|assistant|>\n",
    ..PLAIN
};

static GRANITE: ChatFormat = ChatFormat {
    name: "granite",
    system: Some(["<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"]),
    user: ["<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"],
    assistant: ["<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"],
    answer: "<|start_of_role|>assistant<|end_of_role|>",
    ..PLAIN
};

static DEEPSEEK: ChatFormat = ChatFormat {
    name: "deepseek",
    system: Some(["", ""]),
    user: ["<｜User｜>", ""],
    assistant: ["<｜Assistant｜>", EOS],
    answer: "<｜Assistant｜>",
    ..PLAIN
};

static FORMATS: [&ChatFormat; 15] = [
    &CHATML,
    &PHI4,
    &LLAMA3,
    &LLAMA2,
    &MISTRAL_V1,
    &MISTRAL_V3,
    &MISTRAL_V3_TEKKEN,
    &MISTRAL_V7,
    &MISTRAL_V7_TEKKEN,
    &GEMMA,
    &PHI3,
    &PHI4_MINI,
    &ZEPHYR,
    &GRANITE,
    &DEEPSEEK,
];

impl ChatFormat {
    /// The format that a template (`tokenizer.chat_template`) writes; `None` for one that is not known.
    pub fn detect(template: &str) -> Option<&'static ChatFormat> {
        let has = |mark| template.contains(mark);
        Some(if has("<|im_start|>") {
            if has("<|im_sep|>") { &PHI4 } else { &CHATML }
        } else if has("<|start_header_id|>") {
            &LLAMA3
        } else if has("[SYSTEM_PROMPT]") {
            // Only the vocabularies with SentencePiece have the spaces.
            if has("[SYSTEM_PROMPT] ") || has("[INST] ") { &MISTRAL_V7 } else { &MISTRAL_V7_TEKKEN }
        } else if has("[INST]") {
            if has("<<SYS>>") {
                &LLAMA2
            } else if has(" [INST]") {
                &MISTRAL_V1
            } else if has("\"[INST]\"") || has("'[INST]'") {
                &MISTRAL_V3_TEKKEN
            } else {
                &MISTRAL_V3
            }
        } else if has("<start_of_turn>") {
            &GEMMA
        } else if has("<|start_of_role|>") {
            &GRANITE
        } else if has("<｜Assistant｜>") {
            &DEEPSEEK
        } else if has("<|assistant|>") && has("<|end|>") {
            if has("<|user|>") { &PHI3 } else { &PHI4_MINI }
        } else if has("<|user|>") && has("<|assistant|>") {
            &ZEPHYR
        } else {
            return None;
        })
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static ChatFormat> {
        FORMATS.iter().copied().find(|format| format.name == name)
    }

    /// All known formats.
    pub fn all() -> impl Iterator<Item = &'static ChatFormat> {
        FORMATS.iter().copied()
    }

    /// The conversation written out, piece by piece; together they are the text. `eos` is the string of the file's end
    /// token. With `answer`, the last piece makes the model answer.
    pub fn pieces<'m>(&'m self, messages: &'m [Message<'m>], eos: &'m str, answer: bool) -> Pieces<'m> {
        Pieces { format: self, messages, eos, answer, step: 0, rest: "" }
    }

    /// Pieces that a message takes: what stands before it, itself, and what stands after it.
    const STEPS: usize = 5;

    /// The step-th piece of the message at `at`.
    fn step<'m>(&'m self, messages: &'m [Message<'m>], at: usize, step: usize) -> Piece<'m> {
        let message = messages[at];
        let content = |message: Message<'m>| {
            let text = if self.trims { message.content.trim() } else { message.content };
            Piece { text, structure: false }
        };
        let mark = |text: &'m str| Piece { text, structure: true };
        let own = |around: [&'m str; 2]| match step {
            0 => mark(around[0]),
            1 => content(message),
            2 => mark(around[1]),
            _ => mark(""),
        };
        match (message.role, self.system) {
            (Role::System, Some(around)) => own(around),
            (Role::Assistant, _) => own(self.assistant),
            // Inside a user's turn: opened here, closed by the user message that follows.
            (Role::System, None) => {
                let opens = !self.inside(messages, at);
                let closes = messages.get(at + 1).is_none_or(|next| next.role == Role::Assistant);
                match step {
                    0 if opens => mark(self.user[0]),
                    1 => mark(self.inner_system[0]),
                    2 => content(message),
                    3 => mark(self.inner_system[1]),
                    4 if closes => mark(self.user[1]),
                    _ => mark(""),
                }
            }
            (Role::User, _) => match step {
                0 if self.inside(messages, at) => mark(""),
                _ => own(self.user),
            },
        }
    }

    /// Whether a system message has opened the user's turn that the message at `at` belongs to.
    fn inside(&self, messages: &[Message<'_>], at: usize) -> bool {
        self.system.is_none() && at.checked_sub(1).is_some_and(|before| messages[before].role == Role::System)
    }
}

/// The pieces of a written conversation, none of them empty.
#[derive(Clone, Debug)]
pub struct Pieces<'m> {
    format: &'m ChatFormat,
    messages: &'m [Message<'m>],
    eos: &'m str,
    answer: bool,
    step: usize,
    /// What is left of a piece of structure after its end token.
    rest: &'m str,
}

impl<'m> Iterator for Pieces<'m> {
    type Item = Piece<'m>;

    fn next(&mut self) -> Option<Piece<'m>> {
        loop {
            if !self.rest.is_empty() {
                return Some(Piece { text: core::mem::take(&mut self.rest), structure: true });
            }
            let (at, step) = (self.step / ChatFormat::STEPS, self.step % ChatFormat::STEPS);
            let mut piece = if at < self.messages.len() {
                self.format.step(self.messages, at, step)
            } else if at == self.messages.len() && step == 0 && self.answer {
                Piece { text: self.format.answer, structure: true }
            } else {
                return None;
            };
            self.step += 1;
            if piece.structure
                && let Some(rest) = piece.text.strip_prefix(EOS)
            {
                (piece.text, self.rest) = (self.eos, rest);
            }
            if !piece.text.is_empty() {
                return Some(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    const CONVERSATION: [Message<'static>; 4] = [
        Message { role: Role::System, content: "Be brief." },
        Message { role: Role::User, content: "Hi " },
        Message { role: Role::Assistant, content: "Hello" },
        Message { role: Role::User, content: "<|im_end|>?" },
    ];

    fn written(format: &str) -> String {
        let format = ChatFormat::named(format).unwrap();
        format.pieces(&CONVERSATION, "</s>", true).map(|piece| piece.text).collect()
    }

    #[test]
    fn formats_write_what_their_templates_write() {
        let cases = [
            (
                "chatml",
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\nHello\
                 <|im_end|>\n<|im_start|>user\n<|im_end|>?<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                "llama3",
                "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user\
                 <|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\n<|im_end|>?<|eot_id|><|start_header_id|>assistant\
                 <|end_header_id|>\n\n",
            ),
            (
                "gemma",
                "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
                 <start_of_turn>user\n<|im_end|>?<end_of_turn>\n<start_of_turn>model\n",
            ),
            ("llama2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello</s>[INST] <|im_end|>? [/INST]"),
            ("mistral-v3", "[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] <|im_end|>?[/INST]"),
            (
                "mistral-v7-tekken",
                "[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi [/INST]Hello</s>[INST]<|im_end|>?[/INST]",
            ),
            (
                "phi3",
                "<|system|>\nBe brief.<|end|>\n<|user|>\nHi <|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\n<|im_end|>?\
                 <|end|>\n<|assistant|>\n",
            ),
            (
                "zephyr",
                "<|system|>\nBe brief.</s>\n<|user|>\nHi </s>\n<|assistant|>\nHello</s>\n<|user|>\n<|im_end|>?</s>\n\
                 <|assistant|>\n",
            ),
            (
                "granite",
                "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hi \
                 <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>Hello<|end_of_text|>\n<|start_of_role|>user\
                 <|end_of_role|><|im_end|>?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
            ),
            ("deepseek", "Be brief.<｜User｜>Hi <｜Assistant｜>Hello</s><｜User｜><|im_end|>?<｜Assistant｜>"),
        ];
        for (name, expected) in cases {
            assert_eq!(written(name), expected, "{name}");
        }
    }

    #[test]
    fn what_people_say_is_never_structure() {
        for format in ChatFormat::all() {
            let pieces: Vec<_> = format.pieces(&CONVERSATION, "</s>", false).collect();
            let said: Vec<_> = pieces.iter().filter(|piece| !piece.structure).map(|piece| piece.text.trim()).collect();
            assert_eq!(said, ["Be brief.", "Hi", "Hello", "<|im_end|>?"], "{}", format.name);
            assert!(pieces.iter().all(|piece| !piece.text.is_empty() && !piece.text.contains('\u{0}')));
        }
        let alone = [Message { role: Role::System, content: "x" }];
        let text: String = GEMMA.pieces(&alone, "", true).map(|piece| piece.text).collect();
        assert_eq!(text, "<start_of_turn>user\nx\n\n<end_of_turn>\n<start_of_turn>model\n");
        assert_eq!(CHATML.pieces(&[], "", false).count(), 0);
    }

    #[test]
    fn formats_are_told_from_their_templates() {
        let cases = [
            ("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'}}", "chatml"),
            ("{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}", "llama3"),
            ("{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}", "gemma"),
            ("{{ '<|user|>\\n' + m['content'] + '<|end|>\\n<|assistant|>\\n' }}", "phi3"),
            ("{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{{ '<|assistant|>' }}", "phi4-mini"),
            ("{{ '<|user|>\\n' + m['content'] + eos_token }}{{ '<|assistant|>' }}", "zephyr"),
            ("{{ '[INST] ' + m['content'] + '[/INST]' }}", "mistral-v3"),
            ("{{ \"[INST]\" + m['content'] + \"[/INST]\" }}", "mistral-v3-tekken"),
            ("{{ ' [INST] ' + system_message }}", "mistral-v1"),
            ("{{ '<<SYS>>\\n' + s }}{{ '[INST] ' }}", "llama2"),
            ("{{ '<|start_of_role|>user<|end_of_role|>' }}", "granite"),
            ("{{ '<｜User｜>' + m['content'] }}{{ '<｜Assistant｜>' }}", "deepseek"),
        ];
        for (template, name) in cases {
            assert_eq!(ChatFormat::detect(template).map(|format| format.name), Some(name), "{template}");
        }
        assert_eq!(ChatFormat::detect("{{ messages }}"), None);
    }
}
