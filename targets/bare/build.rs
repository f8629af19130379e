//! Says where each image begins, and which model it carries.

use std::{env, fs, path::Path};

/// Where the boards' loaders put an image and enter it.
const IMAGES: [(&str, u64); 2] = [("virt", 0x4008_0000), ("raspi3b", 0x8_0000)];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let model = env::var("DRUPE_MODEL").unwrap_or_else(|_| format!("{here}/../model/home.gguf"));
    let model = fs::canonicalize(&model).unwrap_or_else(|e| panic!("the model {model}: {e}"));
    println!("cargo::rerun-if-env-changed=DRUPE_MODEL");
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=DRUPE_MODEL_FILE={}", model.display());

    // What defmt's macros keep; without it they keep errors alone.
    println!("cargo::rerun-if-env-changed=DEFMT_LOG");
    if env::var_os("DEFMT_LOG").is_none() {
        println!("cargo::rustc-env=DEFMT_LOG=info");
    }

    println!("cargo::rerun-if-changed=image.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let layout = fs::read_to_string("image.ld").expect("image.ld");
    for (image, start) in IMAGES {
        let script = Path::new(&out).join(format!("{image}.ld"));
        fs::write(&script, layout.replace("IMAGE_START", &format!("{start:#x}"))).expect("writing a linker script");
        println!("cargo::rustc-link-arg-bin={image}=-T{}", script.display());
        if env::var_os("CARGO_FEATURE_SEMIHOSTING").is_some() {
            println!("cargo::rustc-link-arg-bin={image}=-Tdefmt.x");
        }
    }
}
