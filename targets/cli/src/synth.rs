//! `drupe synth`: writes a synthetic model.

use crate::args::SynthArgs;
use crate::fail::{Done, failed, usage};
use crate::{size, term};
use drupe_host::shapes::Spec;
use drupe_host::synth::{self, Synth};

pub fn run(args: &SynthArgs) -> Done {
    let spec = Spec::parse(&args.shape).map_err(usage)?;
    let bytes = Synth::new(&spec).map_err(failed)?.file_len();
    let bar = term::progress(bytes, "writing", true);
    let written = synth::write(&spec, &args.out, &|done| bar.set_position(done));
    bar.finish_and_clear();
    written.map_err(|e| failed(format!("writing {}: {e}", args.out.display())))?;
    term::say(&format!("{}: {} of random weights in {}", spec.name(), size::show(bytes), args.out.display()));
    Ok(())
}
