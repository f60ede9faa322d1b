//! The charts of the report as inline SVG: no size of their own, ink that suits light and dark.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Funnel, HeldOut, JoinDelay, VersionPoint};

/// The page scales charts to their column.
const SIZE: (u32, u32) = (520, 320);
/// The page gives text and lines of this color its own ink.
const INK: RGBColor = RGBColor(128, 128, 128);
/// Told apart by people who see colors differently, on white and on black (Okabe and Ito).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const FONT: &str = "sans-serif";

/// A chart cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the chart '{chart}' cannot be drawn: {reason}")]
pub struct ChartError {
    chart: &'static str,
    reason: String,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

fn chart(name: &'static str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, ChartError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area)
            .and_then(|()| area.present().map_err(Into::into))
            .map_err(|error| ChartError { chart: name, reason: error.to_string() })?;
    }
    let size = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Ok(svg.replacen(&size, &format!("role=\"img\" aria-label=\"{name}\" "), 1))
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn anchored(size: u32, horizontal: HPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(horizontal, VPos::Center))
}

/// The stages from views to paired labels, on a logarithmic scale.
pub fn funnel(funnel: &Funnel) -> Result<String, ChartError> {
    chart("label funnel", |area| {
        let stages = funnel.stages();
        let decades = (funnel.views.max(10) as f64).log10();
        let (left, right, height) = (92.0, 84.0, f64::from(SIZE.1) / stages.len() as f64);
        for (index, (name, count)) in stages.into_iter().enumerate() {
            let share = (count.max(1) as f64).log10() / decades;
            let top = height * index as f64;
            let end = left + share * (f64::from(SIZE.0) - left - right);
            let bar = [
                (left as i32, (top + 0.18 * height) as i32),
                (end.max(left + 1.0) as i32, (top + 0.82 * height) as i32),
            ];
            area.draw(&Rectangle::new(bar, BLUE.mix(1.0 - 0.11 * index as f64).filled()))?;
            let middle = (top + 0.5 * height) as i32;
            let label = anchored(18, HPos::Right);
            area.draw(&Text::new(name, (left as i32 - 8, middle), label))?;
            let value = anchored(18, HPos::Left);
            area.draw(&Text::new(grouped(count), (end as i32 + 8, middle), value))?;
        }
        Ok(())
    })
}

/// A number with thin groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many answers were joined after how long; the slowest hundredth is left out of the axis.
pub fn join_delay(delay: &JoinDelay) -> Result<String, ChartError> {
    const BINS: usize = 24;
    chart("join delay", |area| {
        let longest = delay.p99_ms.max(1.0);
        let mut bins = [0_u32; BINS];
        for ms in &delay.sorted_ms {
            if let Some(bin) = bins.get_mut((ms / longest * BINS as f64) as usize) {
                *bin += 1;
            }
        }
        let highest = f64::from(bins.iter().copied().max().unwrap_or_default().max(1)) * 1.1;
        let mut chart = axes(area, 0.0..longest, 0.0..highest, "milliseconds", "answers")?;
        let width = longest / BINS as f64;
        chart.draw_series(bins.iter().enumerate().map(|(index, count)| {
            let from = width * index as f64;
            Rectangle::new([(from, 0.0), (from + 0.9 * width, f64::from(*count))], BLUE.filled())
        }))?;
        for (name, at) in [("p50", delay.p50_ms), ("p90", delay.p90_ms)] {
            chart.draw_series(LineSeries::new([(at, 0.0), (at, highest)], ORANGE.stroke_width(2)))?;
            // Inside the axes, also for a line near their end.
            let side = if at > longest / 2.0 { HPos::Right } else { HPos::Left };
            let label = text(16).pos(Pos::new(side, VPos::Bottom));
            chart.draw_series([Text::new(format!("{name} {at:.0} ms"), (at, highest), label)])?;
        }
        Ok(())
    })
}

type Axes<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn axes<'a, 'b>(
    area: &'a Area<'b>,
    x: Range<f64>,
    y: Range<f64>,
    x_name: &str,
    y_name: &str,
) -> Result<Axes<'a, 'b>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_top(22)
        .margin_right(16)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.25))
        .axis_style(INK)
        .x_labels(7)
        .y_labels(6)
        .label_style(text(16))
        .axis_desc_style(text(17))
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    Ok(chart)
}

/// Whole numbers without decimals, others with two.
fn short(value: f64) -> String {
    if (value - value.round()).abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// A line of a chart over the seconds of the run.
pub struct Line {
    pub value: fn(&VersionPoint) -> f64,
}

/// Up to three figures of the versions over time, in the colors of the page's legend.
pub fn lines(
    name: &'static str,
    y_name: &str,
    points: &[VersionPoint],
    lines: &[Line],
) -> Result<String, ChartError> {
    chart(name, |area| {
        let end = points.last().map_or(1.0, |point| point.loaded_at_seconds.max(1.0));
        // Before its first pair a figure is 0, which says nothing.
        let known = |line: &Line| -> Vec<(f64, f64)> {
            let values = points.iter().map(|point| (point.loaded_at_seconds, (line.value)(point)));
            values.filter(|(_, value)| *value != 0.0 && value.is_finite()).collect()
        };
        let values = || lines.iter().flat_map(known).map(|(_, value)| value);
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
        let room = 0.12 * (high - low);
        let mut chart = axes(area, 0.0..end, low - room..high + room, "seconds", y_name)?;
        for (line, color) in lines.iter().zip([BLUE, ORANGE, GREEN]) {
            let points = known(line);
            let dots: Vec<_> = points.iter().map(|at| Circle::new(*at, 2, color.filled())).collect();
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
            chart.draw_series(dots)?;
        }
        Ok(())
    })
}

/// Version numbers over time; checkpoints stand out.
pub fn versions(points: &[VersionPoint]) -> Result<String, ChartError> {
    chart("versions over time", |area| {
        let end = points.last().map_or(1.0, |point| point.loaded_at_seconds.max(1.0));
        let last = points.last().map_or(1.0, |point| point.version as f64);
        let mut chart = axes(area, 0.0..end * 1.02, 0.0..last * 1.1, "seconds", "version")?;
        let at = |point: &VersionPoint| (point.loaded_at_seconds, point.version as f64);
        chart.draw_series(LineSeries::new(points.iter().map(at), BLUE.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| {
            let (color, size) = if point.checkpoint { (ORANGE, 5) } else { (BLUE, 3) };
            Circle::new(at(point), size, color.filled())
        }))?;
        Ok(())
    })
}

/// Production beside its twin, metric by metric.
pub fn held_out(held_out: &HeldOut) -> Result<String, ChartError> {
    chart("held-out lists", |area| {
        let rows: Vec<_> = held_out
            .rows()
            .into_iter()
            .filter(|(name, ..)| ["NDCG@10", "HR@1", "MRR", "behavior accuracy"].contains(name))
            .collect();
        let height = f64::from(SIZE.1) / rows.len() as f64;
        let (left, right) = (148.0, 60.0);
        let scale = f64::from(SIZE.0) - left - right;
        for (index, (name, ours, twin)) in rows.into_iter().enumerate() {
            let top = height * index as f64;
            let label = anchored(18, HPos::Right);
            area.draw(&Text::new(name, (left as i32 - 8, (top + 0.5 * height) as i32), label))?;
            for (value, color, from) in [(ours, BLUE, 0.14), (twin, ORANGE, 0.52)] {
                let end = left + value.clamp(0.0, 1.0) * scale;
                let (upper, lower) = (top + from * height, top + (from + 0.34) * height);
                let bar = [(left as i32, upper as i32), (end as i32, lower as i32)];
                area.draw(&Rectangle::new(bar, color.filled()))?;
                let middle = ((upper + lower) / 2.0) as i32;
                let style = anchored(16, HPos::Left);
                area.draw(&Text::new(format!("{value:.3}"), (end as i32 + 6, middle), style))?;
            }
        }
        Ok(())
    })
}
