//! The front of satisfaction against behavior as inline SVG.

use plotters::prelude::*;

use super::contenders::Family;

const SIZE: (u32, u32) = (720, 420);
/// The page gives text and lines of this color its own ink.
const INK: RGBColor = RGBColor(128, 128, 128);
const FONT: &str = "sans-serif";

/// The chart cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the chart of the front cannot be drawn: {0}")]
pub struct ChartError(String);

/// One contender.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub family: Family,
    pub behavior_accuracy: f64,
    pub ndcg_at_10: f64,
}

/// Told apart by people who see colors differently, on white and on black (Okabe and Ito).
fn color(family: Family) -> RGBColor {
    match family {
        Family::BehaviorOnly => RGBColor(128, 128, 128),
        Family::Easq => RGBColor(0, 114, 178),
        Family::Printed => RGBColor(86, 180, 233),
        Family::Baseline => RGBColor(230, 159, 0),
        Family::Ablation => RGBColor(0, 158, 115),
    }
}

/// NDCG@10 over behavior accuracy: what is further up and to the right is better.
///
/// # Errors
/// When it cannot be drawn.
pub fn front(points: &[Point]) -> Result<String, ChartError> {
    let mut svg = String::new();
    draw(points, &mut svg).map_err(|error| ChartError(error.to_string()))?;
    let size = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Ok(svg.replacen(&size, "role=\"img\" aria-label=\"NDCG@10 over behavior accuracy\" ", 1))
}

fn draw(points: &[Point], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let range = |value: fn(&Point) -> f64| {
        let values = || points.iter().map(value);
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        let room = (0.06 * (high - low)).max(0.002);
        low - room..high + room
    };
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(range(|point| point.behavior_accuracy), range(|point| point.ndcg_at_10))?;
    let text = |size: u32| (FONT, size).into_font().color(&INK);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.25))
        .axis_style(INK)
        .label_style(text(15))
        .axis_desc_style(text(16))
        .x_desc("behavior accuracy")
        .y_desc("NDCG@10")
        .draw()?;
    for family in [Family::BehaviorOnly, Family::Easq, Family::Printed, Family::Baseline, Family::Ablation] {
        let mut of_family: Vec<_> = points.iter().filter(|point| point.family == family).collect();
        of_family.sort_by(|a, b| a.behavior_accuracy.total_cmp(&b.behavior_accuracy));
        let at = |point: &&Point| (point.behavior_accuracy, point.ndcg_at_10);
        if matches!(family, Family::Easq | Family::Printed) {
            chart.draw_series(LineSeries::new(of_family.iter().map(at), color(family).stroke_width(2)))?;
        }
        chart.draw_series(of_family.iter().map(|point| Circle::new(at(point), 5, color(family).filled())))?;
    }
    area.present()?;
    Ok(())
}
