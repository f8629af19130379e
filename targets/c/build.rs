//! Gives the shared library its name for the dynamic linker: programs keep running with later versions of the same major
//! and minor number.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of = |part: &str| env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets the version");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdrupe.so.{}.{}", of("MAJOR"), of("MINOR"));
    }
}
