//! `drupe inspect`: what is in a file.

use crate::args::InspectArgs;
use crate::engine::Opened;
use crate::fail::Done;
use crate::{size, term};
use drupe::gguf::{Gguf, Value, ValueType};
use drupe::{Config, Recipe};
use serde_json::json;
use std::collections::BTreeMap;

/// Characters of a value that are shown.
const SHOWN: usize = 80;

pub fn run(args: &InspectArgs) -> Done {
    let opened = Opened::look(Some(&args.model))?;
    let gguf = &opened.gguf;
    // The recipe is what this program makes of the file; that it makes none is worth showing too.
    let recipe = Recipe::of(gguf, Config::new(4096).ctx).map_err(|e| e.to_string());
    let unsupported: Vec<String> = gguf
        .tensors()
        .filter(|t| t.format.is_err())
        .map(|t| format!("tensor {} has type {}, for which there are no kernels", t.name, t.type_name()))
        .collect();
    if args.json {
        return term::line(&as_json(&opened, recipe.as_ref(), &unsupported).to_string());
    }
    let mut text = format!(
        "{}: GGUF v{}, {} in {} file{}, {} tensors, alignment {}\n\nkeys\n",
        opened.name,
        gguf.version(),
        size::show(opened.bytes()),
        opened.parts.len(),
        if opened.parts.len() == 1 { "" } else { "s" },
        gguf.tensor_count(),
        gguf.alignment()
    );
    for (key, value) in gguf.keys() {
        text += &format!("  {key} = {}\n", show(&value));
    }
    text += "\ntypes\n";
    for (name, (count, elements, bytes)) in types(gguf) {
        let bits = bytes as f64 * 8.0 / elements.max(1) as f64;
        text += &format!("  {name:7} {count:5} tensors {:>11} {bits:6.2} bits per weight\n", size::show(bytes));
    }
    if args.tensors {
        text += "\ntensors\n";
        for t in gguf.tensors() {
            let dims: Vec<String> = t.dims[..t.n_dims as usize].iter().map(|d| d.to_string()).collect();
            text +=
                &format!("  {:40} {:7} {:20} {:>11}\n", t.name, t.type_name(), dims.join(" × "), size::show(t.bytes));
        }
    }
    match &recipe {
        Ok(recipe) => text += &format!("\nrecipe\n{}", show_recipe(recipe)),
        Err(why) => text += &format!("\nnot supported: {why}\n"),
    }
    for line in &unsupported {
        text += &format!("not supported: {line}\n");
    }
    term::bytes(text.as_bytes())
}

/// Type name → tensors, elements, bytes.
fn types(gguf: &Gguf) -> BTreeMap<&'static str, (u64, u64, u64)> {
    let mut types = BTreeMap::new();
    for t in gguf.tensors() {
        let of: &mut (u64, u64, u64) = types.entry(t.type_name()).or_default();
        *of = (of.0 + 1, of.1 + t.elements(), of.2 + t.bytes);
    }
    types
}

fn show(value: &Value) -> String {
    let cut = |text: String| match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text,
    };
    match value {
        Value::String(bytes) => cut(format!("{:?}", String::from_utf8_lossy(bytes))),
        Value::Array(array) => {
            let text = |s: &[u8]| show(&Value::String(s));
            let mut first: Vec<String> = array.values().take(4).map(|v| show(&v)).collect();
            if array.element() == ValueType::String {
                first = array.strings().take(4).map(text).collect();
            }
            let more = if array.len() > 4 { ", …" } else { "" };
            format!("[{}{more}] ({} × {})", first.join(", "), array.len(), array.element().name())
        }
        Value::F32(x) => x.to_string(),
        other => plain(other).to_string(),
    }
}

fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Array(array) => json!({ "len": array.len(), "of": array.element().name() }),
        other => match other.integer() {
            Some(i) => u64::try_from(i).map_or_else(|_| json!(i as i64), |i| json!(i)),
            None => serde_json::Value::Null,
        },
    }
}

fn show_recipe(recipe: &Recipe) -> String {
    // The derived form has every field by name, one to a line.
    format!("{recipe:#?}").lines().filter(|l| l.starts_with(' ')).map(|l| format!("{}\n", &l[2..])).collect()
}

fn as_json(opened: &Opened, recipe: Result<&Recipe, &String>, unsupported: &[String]) -> serde_json::Value {
    let gguf = &opened.gguf;
    let tensors: Vec<_> = gguf
        .tensors()
        .map(|t| {
            let dims = &t.dims[..t.n_dims as usize];
            json!({ "name": t.name, "type": t.type_name(), "dims": dims, "bytes": t.bytes, "offset": t.offset })
        })
        .collect();
    let keys: serde_json::Map<_, _> = gguf.keys().map(|(k, v)| (k.to_string(), plain(&v))).collect();
    json!({
        "model": opened.name,
        "version": gguf.version(),
        "bytes": opened.bytes(),
        "files": opened.parts.len(),
        "keys": keys,
        "tensors": tensors,
        "supported": recipe.is_ok() && unsupported.is_empty(),
        "why_not": recipe.err().into_iter().chain(unsupported).collect::<Vec<_>>(),
    })
}
