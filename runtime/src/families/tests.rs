extern crate std;
use crate::gguf::Gguf;
use crate::recipe::*;
use crate::tensors::{LayerTensors, bind_tensors};
use std::{eprintln, fs, path::Path, vec};

#[test]
fn the_stories_models_bind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    for name in ["stories260K-f32", "stories260K-q8_0", "stories260K-q4_0"] {
        let Ok(bytes) = fs::read(folder.join(name).with_extension("gguf")) else {
            eprintln!("skipped: {name} is not there");
            continue;
        };
        let gguf = Gguf::parse(&bytes).unwrap();
        let recipe = Recipe::of(&gguf, 128).unwrap();
        assert_eq!((recipe.family, recipe.layers, recipe.width, recipe.vocab), ("llama", 5, 64, 512));
        assert_eq!((recipe.heads, recipe.kv_heads, recipe.key_dim, recipe.ffn), (8, 4, 8, 172));
        let mut layers = vec![LayerTensors::default(); 5];
        let globals = bind_tensors(&gguf, &recipe, &mut layers).unwrap();
        assert!(globals.output.present() && layers.iter().all(|l| l.down.rows == 64 && l.down.cols == 172));
        assert_eq!(Some(layers[3].k), gguf.tensor_ref("blk.3.attn_k.weight").unwrap());
    }
}
