//! `synth SHAPE[:TYPE] OUT`: writes a synthetic model.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, out] = &args[..] else { return Err("usage: synth SHAPE[:TYPE] OUT".into()) };
    let spec = drupe_host::shapes::Spec::parse(shape)?;
    drupe_host::synth::write(&spec, out.as_ref(), &|_| ())?;
    Ok(())
}
