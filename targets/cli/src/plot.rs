//! The sweep's plot: decode speed, and below it how long tokens take, against the memory limit.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde_json::Value;
use std::error::Error;
use std::ops::Range;

type Points = Vec<(f64, f64)>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const SPEED: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const SLOWEST: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const TYPICAL: RGBColor = RGBColor(0xe0, 0x8a, 0x3c);
const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);

/// What is drawn; limits in MiB.
struct Picture {
    x: Range<f64>,
    /// Size of the file, if it lies in `x`.
    file: Option<f64>,
    /// Limits under which the model cannot run.
    refused: Vec<f64>,
    speed: Points,
    expected: Points,
    p50: Points,
    p99: Points,
}

/// An SVG of a sweep's `documents`.
///
/// # Errors
/// No limit could be run.
pub fn limits(title: &str, documents: &[Value]) -> Result<String, String> {
    let mib = |d: &Value| d["limit"]["bytes"].as_f64().map(|b| b / f64::from(1 << 20));
    let points = |pointer: &str| -> Points {
        documents.iter().filter_map(|d| Some((mib(d)?, d.pointer(pointer)?.as_f64()?))).collect()
    };
    let all: Vec<f64> = documents.iter().filter_map(mib).collect();
    let (low, high) = all.iter().fold((f64::MAX, 0f64), |(l, h), x| (l.min(*x), h.max(*x)));
    let margin = (high - low).max(1.0) * 0.04;
    let x = low - margin..high + margin;
    let file = documents.iter().find_map(|d| Some(mib(d)? / d["limit_of_model"].as_f64()?));
    let picture = Picture {
        file: file.filter(|f| x.contains(f)),
        x,
        refused: documents.iter().filter(|d| d["error"].is_string()).filter_map(mib).collect(),
        speed: points("/decode/tok_s"),
        expected: points("/expected/tok_s"),
        p50: points("/latency_ms/p50"),
        p99: points("/latency_ms/p99"),
    };
    if picture.speed.is_empty() {
        return Err("nothing to plot: no limit could be run".into());
    }
    let ran = documents.iter().find(|d| d["error"].is_null()).unwrap_or(&Value::Null);
    let text = |key: &str| ran[key].as_str().unwrap_or("").to_string();
    let line = format!("{}, {} threads, {}", text("cpu"), ran["threads"], text("isa"));
    let mut svg = String::new();
    draw(&mut svg, title, &line, &picture).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw(svg: &mut String, title: &str, line: &str, picture: &Picture) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::with_string(svg, (900, 700)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.margin(14, 8, 8, 24);
    area.draw_text(title, &("sans-serif", 20).into_text_style(&area), (62, 0))?;
    area.draw_text(line, &("sans-serif", 13).into_text_style(&area).color(&GREY), (62, 26))?;
    let (upper, lower) = area.margin(50, 0, 0, 0).split_vertically(310);

    let mut chart = panel(&upper, picture, top(&[&picture.speed, &picture.expected]), "decode, tokens per second", "")?;
    series(&mut chart, &picture.speed, SPEED, "measured")?;
    dashes(&mut chart, &picture.expected, "expected of this machine")?;
    marks(&mut chart, picture, true)?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;

    let mut chart = panel(&lower, picture, top(&[&picture.p99]), "milliseconds per token", "memory limit, MiB")?;
    series(&mut chart, &picture.p99, SLOWEST, "99th percentile")?;
    series(&mut chart, &picture.p50, TYPICAL, "median")?;
    marks(&mut chart, picture, false)?;
    legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    area.present()?;
    Ok(())
}

/// A little above the highest point.
fn top(lists: &[&Points]) -> f64 {
    lists.iter().flat_map(|l| l.iter()).fold(0f64, |m, p| m.max(p.1)) * 1.15 + 1e-9
}

fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    picture: &Picture,
    top: f64,
    y: &str,
    x: &str,
) -> Result<Chart<'a>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(6)
        .x_label_area_size(if x.is_empty() { 26 } else { 46 })
        .y_label_area_size(62)
        .build_cartesian_2d(picture.x.clone(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_labels(10)
        .y_labels(6)
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| if *v == v.trunc() { format!("{v:.0}") } else { format!("{v:.1}") })
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.2))
        .axis_style(GREY)
        .draw()?;
    Ok(chart)
}

fn series(chart: &mut Chart, points: &Points, colour: RGBColor, name: &str) -> Result<(), Box<dyn Error>> {
    chart
        .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    chart.draw_series(points.iter().map(|p| Circle::new(*p, 4, colour.filled())))?;
    Ok(())
}

fn dashes(chart: &mut Chart, points: &Points, name: &str) -> Result<(), Box<dyn Error>> {
    if points.is_empty() {
        return Ok(());
    }
    chart.draw_series(DashedLineSeries::new(points.iter().copied(), 6, 5, GREY.stroke_width(2)))?.label(name).legend(
        |at| {
            let dash = |x: i32| PathElement::new([(x, 0), (x + 8, 0)], GREY.stroke_width(2));
            EmptyElement::at(at) + dash(0) + dash(12)
        },
    );
    Ok(())
}

/// Where the whole file would fit, and limits that were refused.
fn marks(chart: &mut Chart, picture: &Picture, words: bool) -> Result<(), Box<dyn Error>> {
    let top = chart.as_coord_spec().get_y_range().end;
    if let Some(file) = picture.file {
        let line = [(file, 0.0), (file, top)];
        chart.draw_series(DashedLineSeries::new(line, 2, 4, GREY.stroke_width(1)))?;
        if words {
            let style = ("sans-serif", 12).into_font().color(&GREY);
            chart.draw_series([Text::new(format!("the file: {file:.0} MiB"), (file, top * 0.06), style)])?;
        }
    }
    if !picture.refused.is_empty() {
        let cross = |x: &f64| Cross::new((*x, top * 0.03), 5, GREY.stroke_width(2));
        let drawn = chart.draw_series(picture.refused.iter().map(cross))?;
        if words {
            drawn.label("refused: too small").legend(|(x, y)| Cross::new((x + 10, y), 5, GREY.stroke_width(2)));
        }
    }
    Ok(())
}

fn legend(chart: &mut Chart, position: SeriesLabelPosition) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .position(position)
        .margin(12)
        .legend_area_size(26)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.85))
        .border_style(GREY.mix(0.4))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_plot_of_what_ran() {
        let run = |mib: u64, tok_s: f64| {
            json!({
                "cpu": "a board", "isa": "neon", "threads": 4, "limit": { "bytes": mib << 20 },
                "limit_of_model": mib as f64 / 731.0, "decode": { "tok_s": tok_s }, "expected": { "tok_s": tok_s * 1.1 },
                "latency_ms": { "p50": 1e3 / tok_s, "p99": 1.2e3 / tok_s },
            })
        };
        let refused = json!({ "limit": { "bytes": 90 << 20 }, "limit_of_model": 90.0 / 731.0, "error": "too small" });
        let sweep = [refused.clone(), run(190, 3.0), run(350, 4.1), run(510, 6.2), run(670, 13.0), run(880, 20.0)];
        let svg = super::limits("a model", &sweep).unwrap();
        if let Ok(path) = std::env::var("DRUPE_TEST_PLOT") {
            std::fs::write(path, &svg).unwrap();
        }
        assert!(svg.starts_with("<svg"));
        for word in
            ["a model", "a board, 4 threads, neon", "memory limit", "the file: 731 MiB", "refused", "percentile"]
        {
            assert!(svg.contains(word), "{word}");
        }
        assert!(super::limits("a model", &[refused]).is_err());
    }
}
