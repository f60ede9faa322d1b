//! Charts side by side, as SVG.

use plotters::prelude::*;
use plotters::style::FontFamily;

const COLUMNS: usize = 3;
const SIZE: (u32, u32) = (1200, 810);
const INK: RGBColor = RGBColor(70, 70, 70);
/// Told apart by people who see colors differently (Okabe and Ito).
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
];
/// More lines than this are not named.
const NAMED: usize = 8;

/// A panel with what it shows: names, and values by seconds since the begin.
pub struct Chart {
    pub title: String,
    /// Of Grafana.
    pub unit: String,
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

pub fn grid(charts: &[Chart]) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).expect("a background");
        for (area, chart) in root.split_evenly((charts.len().div_ceil(COLUMNS), COLUMNS)).iter().zip(charts) {
            draw(area, chart);
        }
        root.present().expect("a picture");
    }
    svg
}

fn text(size: u32) -> TextStyle<'static> {
    (FontFamily::SansSerif, size).into_font().color(&INK)
}

fn draw(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, chart: &Chart) {
    let points = || chart.lines.iter().flat_map(|(_, points)| points);
    let end = points().map(|(time, _)| *time).fold(1.0, f64::max);
    let high = points().map(|(_, value)| *value).fold(f64::MIN, f64::max);
    let low = points().map(|(_, value)| *value).fold(f64::MAX, f64::min);
    // From 0 where that leaves something to see.
    let low = if low > 0.0 && low < 0.6 * high { 0.0 } else { low };
    let room = 0.08 * (high - low).max(1e-9);
    let bottom = if low == 0.0 { 0.0 } else { low - room };
    // The names stand above the lines.
    let named = chart.lines.len().clamp(1, NAMED) as f64;
    let top = high + room * (1.0 + named);
    let unit = chart.unit.clone();
    let mut context = ChartBuilder::on(area)
        .caption(&chart.title, text(17))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end / 60.0, bottom..top)
        .expect("axes");
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.15))
        .axis_style(INK.mix(0.4))
        .x_labels(7)
        .y_labels(5)
        .label_style(text(12))
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|value| shown(*value, &unit))
        .draw()
        .expect("a mesh");
    for (index, (name, points)) in chart.lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let line =
            LineSeries::new(points.iter().map(|(time, value)| (time / 60.0, *value)), color.stroke_width(2));
        let drawn = context.draw_series(line).expect("a line");
        if index < NAMED {
            let sample = move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color.stroke_width(2));
            drawn.label(name).legend(sample);
        }
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.6))
        .label_font(text(12))
        .draw()
        .expect("a legend");
}

/// A value in the unit of its panel.
fn shown(value: f64, unit: &str) -> String {
    let short = |value: f64| match value.abs() {
        large if large >= 10_000.0 => format!("{:.0} k", value / 1_000.0),
        large if large >= 100.0 || (value - value.round()).abs() < 1e-9 => format!("{value:.0}"),
        large if large >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    };
    match unit {
        "s" if value.abs() < 1.0 => format!("{:.0} ms", 1_000.0 * value),
        "s" => format!("{} s", short(value)),
        "cps" => format!("{}/s", short(value)),
        "percentunit" => format!("{:.0} %", 100.0 * value),
        "bytes" => format!("{} MiB", short(value / 1_048_576.0)),
        _ => short(value),
    }
}
