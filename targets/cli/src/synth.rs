//! `drupe synth`: writes a synthetic model.

use crate::args::SynthArgs;
use crate::fail::{Done, Fail, failed, usage};
use crate::term::Stoppable;
use crate::{size, term};
use drupe_host::gguf_write::atomically;
use drupe_host::shapes::Spec;
use drupe_host::synth::Synth;
use std::io;
use std::path::Path;

pub fn run(args: &SynthArgs) -> Done {
    let spec = Spec::parse(&args.shape).map_err(usage)?;
    let bytes = write(&spec, &args.out)?;
    term::say(&format!("{}: {} of random weights in {}", spec.name(), size::show(bytes), args.out.display()));
    Ok(())
}

/// Writes the model to `path`, whole or not at all, and returns its bytes; Ctrl-C ends it.
pub fn write(spec: &Spec, path: &Path) -> Done<u64> {
    let synth = Synth::new(spec).map_err(failed)?;
    let bytes = synth.file_len();
    term::heed_ctrl_c();
    let bar = term::progress(bytes, "writing random weights", true);
    let fill = |out: &mut dyn io::Write| synth.stream(Stoppable(out), &|done| bar.set_position(done)).map(|_| ());
    let written = atomically(path, |out| fill(out));
    bar.finish_and_clear();
    match written {
        Err(_) if term::stopped() => Err(Fail::Interrupted),
        written => written.map(|()| bytes).map_err(|e| failed(format!("writing {}: {e}", path.display()))),
    }
}
