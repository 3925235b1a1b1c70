//! Charts over time, as SVG drawn here: nothing has to be fetched to look at them.

use std::fmt::Write as _;
use std::time::Duration;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 28.0;

/// How values become heights.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// There are none.
    None,
    /// From 0 to this.
    Linear(f64),
    /// From one power of ten to another; not below the first.
    Log(i32, i32),
}

/// A chart being drawn.
pub struct Chart {
    svg: String,
    length: f64,
    scale: Scale,
}

impl Chart {
    /// An empty chart of `length`, with its axes; `unit` is told at the values.
    pub fn new(length: Duration, scale: Scale, unit: &str, label: &str) -> Self {
        let mut chart = Self { svg: String::new(), length: length.as_secs_f64().max(0.001), scale };
        let _ = write!(
            chart.svg,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            escape(label)
        );
        for (value, text) in chart.marks(unit) {
            let y = chart.y(value);
            let (end, at) = (WIDTH - RIGHT, LEFT - 6.0);
            let _ = write!(
                chart.svg,
                r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{end}" y2="{y:.1}"/><text x="{at}" y="{:.1}" text-anchor="end">{text}</text>"#,
                y + 4.0
            );
        }
        let every = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0];
        let every = every.into_iter().find(|every| chart.length / every <= 16.0).unwrap_or(36_000.0);
        let mut at = 0.0;
        while at <= chart.length {
            let (x, y) = (chart.x(at), HEIGHT - 8.0);
            let _ = write!(chart.svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{at} s</text>"#);
            at += every;
        }
        chart
    }

    fn marks(&self, unit: &str) -> Vec<(f64, String)> {
        match self.scale {
            Scale::None => Vec::new(),
            Scale::Linear(most) => (0..=4)
                .map(|n| (most * f64::from(n) / 4.0, format!("{:.0}{unit}", most * f64::from(n) / 4.0)))
                .collect(),
            Scale::Log(from, to) => (from..=to)
                .map(|power| (10_f64.powi(power), format!("{}{unit}", 10_f64.powi(power))))
                .collect(),
        }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.length).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::None => 0.0,
            Scale::Linear(most) => value / most.max(f64::MIN_POSITIVE),
            Scale::Log(from, to) => {
                let (from, to) = (f64::from(from), f64::from(to));
                (value.max(1e-9).log10() - from) / (to - from)
            }
        };
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share.clamp(0.0, 1.0))
    }

    /// A part of the time, over the whole height.
    pub fn band(&mut self, from: Duration, to: Duration, class: &str, title: &str) {
        let (from, to) = (self.x(from.as_secs_f64()), self.x(to.as_secs_f64()));
        let (width, height) = ((to - from).max(0.5), HEIGHT - TOP - BOTTOM);
        let _ = write!(
            self.svg,
            r#"<rect class="{class}" x="{from:.1}" y="{TOP}" width="{width:.1}" height="{height}"><title>{}</title></rect>"#,
            escape(title)
        );
    }

    /// Values over time, joined.
    pub fn line(&mut self, points: &[(Duration, f64)], class: &str) {
        let mut path = String::new();
        for (at, value) in points {
            let (x, y) = (self.x(at.as_secs_f64()), self.y(*value));
            let _ = write!(path, "{x:.1},{y:.1} ");
        }
        let _ = write!(self.svg, r#"<polyline class="{class}" points="{}"/>"#, path.trim_end());
    }

    /// A moment.
    pub fn moment(&mut self, at: Duration, title: &str) {
        let (x, bottom) = (self.x(at.as_secs_f64()), HEIGHT - BOTTOM);
        let _ = write!(
            self.svg,
            r#"<line class="moment" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}"><title>{}</title></line>"#,
            escape(title)
        );
    }

    /// The drawing.
    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// The next number that is easily divided by four.
pub fn round_up(number: u64) -> f64 {
    let mut unit = 1.0;
    loop {
        for factor in [4.0, 8.0, 12.0, 20.0] {
            if factor * unit >= number as f64 {
                return factor * unit;
            }
        }
        unit *= 10.0;
    }
}

/// Text as it may stand in a page.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_stays_within_its_frame() {
        let mut chart = Chart::new(Duration::from_secs(30), Scale::Log(-1, 4), " ms", "a<b");
        let points = [(Duration::ZERO, 0.0), (Duration::from_secs(99), 1e12)];
        chart.line(&points, "w");
        chart.band(Duration::from_secs(5), Duration::from_secs(4), "fault", "\"x\"");
        let svg = chart.finish();
        assert!(svg.contains("64.0,192.0 948.0,10.0"), "{svg}");
        let rounded = [0, 5, 13, 41, 3315].map(|number| round_up(number) as u64);
        assert_eq!(rounded, [4, 8, 20, 80, 4000]);
        assert!(svg.contains("a&lt;b") && svg.contains("&quot;x&quot;") && svg.ends_with("</svg>"));
    }
}
