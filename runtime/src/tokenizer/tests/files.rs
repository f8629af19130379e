//! Vocabularies for tests: where the published ones are, and made-up ones.

use std::path::PathBuf;

/// Where the published vocabularies and models are, beside the workspace.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if path.exists() {
        Some(path)
    } else {
        std::eprintln!("skipped: {} is not there", path.display());
        None
    }
}
