//! Curves drawn by the server: small ones in lists, and the whole chart for a browser without script.

use std::fmt::Write;

use askama::Template;

use super::text;

/// A curve as `x,y` pairs; a value that is not finite breaks the line.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Steps and values, by step.
    pub points: Vec<(f64, f64)>,
}

/// The points of an SVG polyline in a box of 100 × 30, or nothing for fewer than two points.
pub fn spark(points: &[(f64, f64)]) -> Option<String> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
    if finite.len() < 2 {
        return None;
    }
    let (x, y) = (Range::of(finite.iter().map(|p| p.0)), Range::of(finite.iter().map(|p| p.1)));
    Some(polyline(&finite, |value| x.place(value) * 100.0, |value| 29.0 - y.place(value) * 28.0))
}

/// A chart as an SVG document.
#[derive(Template)]
#[template(path = "chart.svg", escape = "xml")]
pub struct Drawn {
    /// Said by screen readers and shown above the plot.
    pub title: String,
    /// Colours.
    pub palette: Palette,
    lines: Vec<Line>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    seams: Vec<String>,
}

struct Line {
    name: String,
    colour: &'static str,
    legend_x: usize,
    segments: Vec<String>,
}

struct Tick {
    at: String,
    label: String,
}

/// Colours of a drawn chart; an image cannot read the page's properties.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    /// Text.
    pub ink: &'static str,
    /// Lines of the grid.
    pub grid: &'static str,
    curves: [&'static str; 6],
}

impl Palette {
    /// For a light page.
    pub const LIGHT: Palette = Palette {
        ink: "#5a5247",
        grid: "#ece6db",
        curves: ["#b5531b", "#1c6b8a", "#4f7a2c", "#7a4c9e", "#a83a5c", "#7f6c12"],
    };
    /// For a dark page.
    pub const DARK: Palette = Palette {
        ink: "#bdb2a2",
        grid: "#2c2620",
        curves: ["#e8935a", "#62b5d6", "#9bc46f", "#bd97de", "#e8839f", "#d3bd55"],
    };
}

const LEFT: f64 = 62.0;
const RIGHT: f64 = 940.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 286.0;

impl Drawn {
    /// Draws `curves` over their steps, with a dashed mark where a later attempt went on.
    pub fn new(title: impl Into<String>, curves: &[Curve], seams: &[f64], palette: Palette) -> Self {
        let all = || curves.iter().flat_map(|curve| curve.points.iter());
        let x = Range::of(all().map(|p| p.0)).rounded();
        let y = Range::of(all().map(|p| p.1).filter(|value| value.is_finite())).rounded();
        let to_x = |value: f64| LEFT + x.place(value) * (RIGHT - LEFT);
        let to_y = |value: f64| BOTTOM - y.place(value) * (BOTTOM - TOP);
        let lines = curves
            .iter()
            .enumerate()
            .map(|(place, curve)| Line {
                name: curve.name.clone(),
                colour: palette.curves[place % palette.curves.len()],
                legend_x: LEFT as usize + place * 150,
                segments: segments(&curve.points).iter().map(|part| polyline(part, to_x, to_y)).collect(),
            })
            .collect();
        let tick = |place: f64, value: f64| Tick { at: format!("{place:.1}"), label: text::value(value) };
        Drawn {
            title: title.into(),
            palette,
            lines,
            x_ticks: x.ticks().map(|value| tick(to_x(value), value)).collect(),
            y_ticks: y.ticks().map(|value| tick(to_y(value), value)).collect(),
            seams: seams.iter().map(|step| format!("{:.1}", to_x(*step))).collect(),
        }
    }
}

/// Parts of a curve between values that are not finite.
fn segments(points: &[(f64, f64)]) -> Vec<&[(f64, f64)]> {
    points.split(|(_, y)| !y.is_finite()).filter(|part| !part.is_empty()).collect()
}

fn polyline(points: &[(f64, f64)], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut text = String::with_capacity(points.len() * 12);
    for (at, value) in points {
        let _ = write!(text, "{:.1},{:.1} ", x(*at), y(*value));
    }
    text.truncate(text.trim_end().len());
    text
}

#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high { Range { low: 0.0, high: 1.0 } } else { Range { low, high } }
    }

    /// Where `value` lies between the ends, 0 to 1; the middle when the ends are one.
    fn place(self, value: f64) -> f64 {
        if self.high > self.low { (value - self.low) / (self.high - self.low) } else { 0.5 }
    }

    /// Distance of about four ticks: 1, 2 or 5 times a power of ten.
    fn step(self) -> f64 {
        let rough = (self.high - self.low).max(f64::MIN_POSITIVE) / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough).unwrap_or(10.0);
        factor * power
    }

    /// The range widened to whole ticks.
    fn rounded(self) -> Self {
        if self.high <= self.low {
            let half = if self.low == 0.0 { 0.5 } else { self.low.abs() * 0.1 };
            return Range { low: self.low - half, high: self.high + half };
        }
        let step = self.step();
        Range { low: (self.low / step).floor() * step, high: (self.high / step).ceil() * step }
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let step = self.step();
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last.min(first + 12)).map(move |n| n as f64 * step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_finite_breaks_the_line() {
        let curve =
            Curve { name: "loss".into(), points: vec![(1.0, 0.5), (2.0, f64::NAN), (3.0, 0.4), (4.0, 0.3)] };
        let drawn = Drawn::new("Loss", &[curve], &[], Palette::LIGHT);
        assert_eq!(drawn.lines[0].segments.len(), 2);
        assert!(!drawn.render().expect("renders").contains("NaN"));
    }

    #[test]
    fn a_chart_without_points_is_still_a_chart() {
        let drawn = Drawn::new("Loss", &[], &[], Palette::DARK);
        assert!(drawn.render().expect("renders").starts_with("<svg"));
    }

    #[test]
    fn a_flat_curve_lies_in_the_middle() {
        let points = spark(&[(1.0, 0.5), (2.0, 0.5)]).expect("two points");
        assert_eq!(points, "0.0,15.0 100.0,15.0");
    }

    #[test]
    fn names_from_people_cannot_leave_the_drawing() {
        let curve = Curve { name: "</text><script>".into(), points: vec![(0.0, 1.0)] };
        let svg = Drawn::new("<b>", &[curve], &[], Palette::LIGHT).render().expect("renders");
        assert!(!svg.contains("<script>") && !svg.contains("<b>"));
    }
}
