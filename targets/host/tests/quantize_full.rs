//! A full disk, played by the largest file that this process may write. Alone in its process: the limit holds for all
//! of it.
#![cfg(target_os = "linux")]

use drupe_host::mix::Mix;
use drupe_host::quantize::{QuantizeError, Settings, quantize};
use drupe_host::{shapes::Spec, synth};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::AtomicBool;

#[test]
fn a_full_disk_leaves_nothing() {
    // SAFETY: no handler is installed, the signal is only ignored, so that the write fails instead.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    synth::write(&Spec::parse("tiny-wide:f32").unwrap(), &input, &|_| {}).unwrap();
    let settings = Settings {
        mix: Mix::find("q4_0").unwrap(),
        overrides: &[],
        cancel: &AtomicBool::new(false),
        progress: &|_| {},
    };
    let needed = quantize(&input, &output, &settings).unwrap().bytes_out;
    std::fs::remove_file(&output).unwrap();
    let most = getrlimit(Resource::Fsize).maximum;
    for room in [0, 1, 4096, needed / 2, needed - 1] {
        setrlimit(Resource::Fsize, Rlimit { current: Some(room), maximum: most }).unwrap();
        let e = quantize(&input, &output, &settings).unwrap_err();
        assert!(matches!(e, QuantizeError::Write { .. }), "{e}");
        assert!(e.to_string().contains(&format!("not enough room: {needed} bytes are needed")), "{e}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
    setrlimit(Resource::Fsize, Rlimit { current: Some(needed), maximum: most }).unwrap();
    assert_eq!(quantize(&input, &output, &settings).unwrap().bytes_out, needed);
}
