//! The sweep's plot: decode speed and slowest percent of tokens against the memory limit.

use plotters::prelude::*;
use serde_json::Value;

/// An SVG of `documents`, those that ran.
pub fn limits(title: &str, documents: &[Value]) -> Result<String, String> {
    let point = |pointer: &'static str| {
        move |d: &Value| Some((d["limit"]["bytes"].as_f64()? / 1048576.0, d.pointer(pointer)?.as_f64()?))
    };
    let speed: Vec<(f64, f64)> = documents.iter().filter_map(point("/decode/tok_s")).collect();
    let slow: Vec<(f64, f64)> = documents.iter().filter_map(point("/latency_ms/p99")).collect();
    if speed.is_empty() {
        return Err("nothing to plot: no limit could be run".into());
    }
    let low = documents.iter().filter_map(|d| d["limit"]["bytes"].as_f64()).fold(f64::MAX, f64::min) / 1048576.0;
    let high = documents.iter().filter_map(|d| d["limit"]["bytes"].as_f64()).fold(0.0, f64::max) / 1048576.0;
    let top = |points: &[(f64, f64)]| points.iter().fold(0.0f64, |m, p| m.max(p.1)) * 1.1 + 1e-9;
    let margin = (high - low).max(1.0) * 0.03;
    let mut svg = String::new();
    draw(&mut svg, title, low - margin..high + margin, (&speed, top(&speed)), (&slow, top(&slow)))
        .map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    title: &str,
    x: std::ops::Range<f64>,
    (speed, top_speed): (&[(f64, f64)], f64),
    (slow, top_slow): (&[(f64, f64)], f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (900, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .right_y_label_area_size(60)
        .build_cartesian_2d(x.clone(), 0.0..top_speed)?
        .set_secondary_coord(x, 0.0..top_slow);
    chart
        .configure_mesh()
        .x_desc("memory limit, MiB")
        .y_desc("decode, tokens per second")
        .light_line_style(WHITE)
        .draw()?;
    chart.configure_secondary_axes().y_desc("99th percentile, ms per token").draw()?;
    let mark = |at: &(f64, f64), colour: RGBColor| Circle::new(*at, 4, colour.filled());
    chart
        .draw_series(LineSeries::new(speed.iter().copied(), BLUE.stroke_width(2)))?
        .label("decode speed")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLUE.stroke_width(2)));
    chart.draw_series(speed.iter().map(|p| mark(p, BLUE)))?;
    chart
        .draw_secondary_series(LineSeries::new(slow.iter().copied(), RED.stroke_width(2)))?
        .label("p99 latency")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RED.stroke_width(2)));
    chart.draw_secondary_series(slow.iter().map(|p| mark(p, RED)))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperMiddle)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_plot_of_what_ran() {
        let run = |mib: u64, tok_s: f64| json!({ "limit": { "bytes": mib << 20 }, "decode": { "tok_s": tok_s }, "latency_ms": { "p99": 1e3 / tok_s } });
        let refused = json!({ "limit": { "bytes": 10 << 20 }, "error": "too small" });
        let svg = super::limits("a model", &[refused.clone(), run(400, 3.0), run(800, 14.0)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("a model") && svg.contains("memory limit"));
        assert!(super::limits("a model", &[refused]).is_err());
    }
}
