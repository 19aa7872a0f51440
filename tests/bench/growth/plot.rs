//! The picture: a column an axis, a row a figure, both scales logarithmic, so that what is flat looks flat and what grows
//! with its axis is a diagonal.

use std::fmt::Write;

use super::{Axis, Step, bytes};
use crate::time;

const WIDTH: f64 = 190.0;
const HEIGHT: f64 = 130.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 120.0;
const GAP: f64 = 22.0;
const ROW_GAP: f64 = 52.0;

/// Read by day and by night: the page around it says which, and the lines' colours suit both.
const STYLE: &str = "
    text { font: 11px system-ui, sans-serif; fill: #57606a; }
    .title { font-weight: 600; font-size: 12px; fill: #24292f; }
    .grid { stroke: #d0d7de; stroke-width: 0.6; }
    .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
    .p99 { stroke-dasharray: 2 3; stroke-width: 1.4; }
    @media (prefers-color-scheme: dark) {
        text { fill: #9198a1; }
        .title { fill: #f0f6fc; }
        .grid { stroke: #3d444d; }
    }";
const COLOURS: [&str; 5] = ["#3b82f6", "#e8710a", "#1a9e6b", "#b264d8", "#d64550"];

/// What a row shows.
struct Figure {
    title: &'static str,
    /// The solid line, and the dashed one where there is one.
    lines: [fn(&Step) -> Option<f64>; 2],
    label: fn(f64) -> String,
}

const FIGURES: [Figure; 3] = [
    Figure {
        title: "time: p50, and dashed p99",
        lines: [|step| Some(step.p50), |step| Some(step.p99)],
        label: time,
    },
    Figure {
        title: "CPU of the server: a request, or a text of a stream",
        lines: [|step| step.cpu, |_| None],
        label: time,
    },
    Figure {
        title: "memory of the server, at most",
        lines: [|step| Some(step.memory as f64), |_| None],
        label: bytes,
    },
];

/// A logarithmic scale whose ends are powers of ten.
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let mut logs: Vec<f64> = values
            .filter(|value| *value > 0.0)
            .map(f64::log10)
            .collect();
        logs.sort_unstable_by(f64::total_cmp);
        // A hair inside, so that a power of ten is its own end.
        let from = logs.first().map_or(0, |log| (log + 1e-9).floor() as i32);
        let to = logs.last().map_or(1, |log| (log - 1e-9).ceil() as i32);
        Self {
            from,
            to: to.max(from + 1),
        }
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power))
    }
}

pub(super) fn drawn(axes: &[Axis]) -> String {
    let (columns, rows) = (axes.len() as f64, FIGURES.len() as f64);
    let width = LEFT + columns * (WIDTH + GAP);
    let height = TOP + rows * (HEIGHT + ROW_GAP);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="Time, CPU and memory by size, on logarithmic scales"><style>{STYLE}</style>"#
    );
    for (column, axis) in axes.iter().enumerate() {
        let x = LEFT + column as f64 * (WIDTH + GAP);
        legend(&mut svg, axis, x);
    }
    for (row, figure) in FIGURES.iter().enumerate() {
        let y = TOP + row as f64 * (HEIGHT + ROW_GAP);
        let values = |step: &Step| {
            figure
                .lines
                .map(|line| line(step))
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        let scale = Scale::around(axes.iter().flat_map(|axis| &axis.steps).flat_map(values));
        let _ = write!(
            svg,
            r#"<text class="title" x="0" y="{:.1}">{}</text>"#,
            y - 14.0,
            figure.title
        );
        for decade in scale.decades() {
            let at = y + HEIGHT * (1.0 - scale.place(decade));
            let label = (figure.label)(decade)
                .replace(".0 ", " ")
                .replace(".00 ", " ");
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (column, axis) in axes.iter().enumerate() {
            let x = LEFT + column as f64 * (WIDTH + GAP);
            panel(&mut svg, axis, figure, &scale, (x, y));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// What a column is about, and the colours of its lines.
fn legend(svg: &mut String, axis: &Axis, x: f64) {
    let _ = write!(
        svg,
        r#"<text class="title" x="{x:.1}" y="14">{}</text>"#,
        axis.of
    );
    for (at, what) in axis.whats().into_iter().enumerate() {
        let (y, colour) = (28.0 + 13.0 * at as f64, COLOURS[at % COLOURS.len()]);
        let _ = write!(
            svg,
            r#"<path class="line" stroke="{colour}" d="M{x:.1} {:.1}h12"/><text x="{:.1}" y="{y:.1}">{what}</text>"#,
            y - 4.0,
            x + 16.0
        );
    }
}

fn panel(svg: &mut String, axis: &Axis, figure: &Figure, scale: &Scale, (x, y): (f64, f64)) {
    let sizes = Scale::around(axis.steps.iter().map(|step| step.size as f64));
    let across = |size: f64| x + WIDTH * sizes.place(size);
    let down = |value: f64| y + HEIGHT * (1.0 - scale.place(value));
    for decade in scale.decades() {
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{x:.1} {:.1}h{WIDTH}"/>"#,
            down(decade)
        );
    }
    for decade in sizes.decades() {
        let at = across(decade);
        let power = decade.log10().round() as i32;
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{at:.1} {y:.1}v{HEIGHT}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            y + HEIGHT + 14.0,
            label(power)
        );
    }
    for (at, what) in axis.whats().into_iter().enumerate() {
        for (line, class) in figure.lines.iter().zip(["line", "line p99"]) {
            let points: Vec<_> = axis
                .steps_of(what)
                .filter_map(|step| Some((across(step.size as f64), down(line(step)?))))
                .map(|(x, y)| format!("{x:.1} {y:.1}"))
                .collect();
            if !points.is_empty() {
                let (colour, points) = (COLOURS[at % COLOURS.len()], points.join("L"));
                let _ = write!(
                    svg,
                    r#"<path class="{class}" stroke="{colour}" d="M{points}"/>"#
                );
            }
        }
    }
}

/// A power of ten in few characters.
fn label(power: i32) -> String {
    match power {
        0..3 => 10i32.pow(power as u32).to_string(),
        3..6 => format!("{}k", 10i32.pow(power as u32 - 3)),
        _ => format!("{}M", 10i32.pow(power as u32 - 6)),
    }
}
