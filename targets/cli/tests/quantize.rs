//! `drupe quantize` as a person meets it.

use assert_cmd::Command;
use predicates::str::contains;

fn drupe() -> Command {
    Command::cargo_bin("drupe").unwrap()
}

#[test]
fn makes_the_file_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drupe().arg("synth").arg("tiny-wide:f16").arg(at("in.gguf")).assert().success();

    let made = drupe().arg("quantize").args([at("in.gguf"), at("out.gguf")]).arg("Q4_K").assert();
    made.success().stdout("").stderr(contains("Q4_K"));
    drupe().arg("inspect").arg(at("out.gguf")).assert().success();

    let json = drupe().arg("quantize").args([at("in.gguf"), at("out.gguf")]).args(["q4_0", "--json"]).assert();
    let json: serde_json::Value = serde_json::from_slice(&json.success().get_output().stdout).unwrap();
    assert_eq!(json["bytes_out"], at("out.gguf").metadata().unwrap().len());

    let exception = ["q4_0", "--tensor", "attn_v=q8_0", "--json"];
    let json = drupe().arg("quantize").args([at("in.gguf"), at("v.gguf")]).args(exception).assert();
    let json: serde_json::Value = serde_json::from_slice(&json.success().get_output().stdout).unwrap();
    let tensors = |kind: &str| json["types"].as_array().unwrap().iter().find(|t| t["type"] == kind).cloned();
    assert_eq!(tensors("Q8_0").unwrap()["tensors"], 2);
    std::fs::remove_file(at("v.gguf")).unwrap();

    let wrong = [at("in.gguf"), at("new.gguf")];
    drupe().arg("quantize").args(&wrong).arg("q9").assert().code(2).stderr(contains("known: f32 f16"));
    drupe().arg("quantize").args(&wrong).args(["q4_0", "--tensor", "a=b"]).assert().code(2);
    drupe().arg("quantize").args([at("none.gguf"), at("new.gguf")]).arg("q4_0").assert().code(1);
    // Q4_0 once more would be quantising twice.
    let twice = drupe().arg("quantize").args([at("out.gguf"), at("new.gguf")]).arg("q4_k_s").assert();
    twice.code(1).stderr(contains("already quantised"));
    assert_eq!(folder.path().read_dir().unwrap().count(), 2);
}
