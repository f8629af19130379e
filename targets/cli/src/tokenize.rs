//! `drupe tokenize`: the tokens of a text.

use crate::args::TokenizeArgs;
use crate::engine::Opened;
use crate::fail::{Done, usage};
use crate::term;
use crate::text::Text;
use drupe::tokenizer::EncodeOptions;
use serde_json::json;

pub fn run(args: &TokenizeArgs) -> Done {
    let opened = Opened::look(Some(&args.model))?;
    let given = match (&args.text, &args.file) {
        (Some(text), None) => text.clone(),
        (None, Some(path)) => term::text_of(path)?,
        (Some(_), Some(_)) => return Err(usage("give a text or --file, not both")),
        (None, None) => term::piped_input()?.ok_or_else(|| usage("give a text, --file, or pipe one in"))?,
    };
    let mut text = Text::new(&opened)?;
    let options = EncodeOptions { parse_special: !args.no_special, add_special: !args.no_bos };
    let ids = text.encode(&given, options)?;
    if args.json {
        let pieces = ids.iter().map(|id| Ok(String::from_utf8_lossy(text.piece(*id, true)?).into_owned()));
        let pieces = pieces.collect::<Done<Vec<_>>>()?;
        return term::line(&json!({ "tokens": ids, "pieces": pieces }).to_string());
    }
    if args.ids {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        return term::line(&ids.join(" "));
    }
    let mut table = String::new();
    for id in &ids {
        let piece = text.piece(*id, true)?;
        table += &match std::str::from_utf8(piece) {
            Ok(piece) => format!("{id:8} {piece:?}\n"),
            Err(_) => format!("{id:8} bytes {piece:02x?}\n"),
        };
    }
    term::bytes(table.as_bytes())
}
