//! Resident memory against frames, as SVG: one panel for each service, with its
//! samples, the line through those that count, and the server's restart.

use std::fmt::Write;

use flatframe_shared::trend::Slope;

use crate::pair::SERVICES;
use crate::report::PER_FRAMES;
use crate::sampler::Sample;

const WIDTH: f64 = 860.0;
const PANEL: f64 = 250.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 36.0;
const MIB: f64 = 1048576.0;
/// Most points drawn in a panel.
const POINTS: usize = 2_000;

/// The plot. `from` is the first sample that counts for `slopes`.
pub fn svg(samples: &[Sample], restarted_at: Option<usize>, from: usize, slopes: &[Option<Slope>]) -> String {
    let height = PANEL * SERVICES.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text{{fill:#333}} .axis{{stroke:#999;fill:none}} .rss{{fill:#2563eb}} .line{{stroke:#dc2626;stroke-width:1.5}} \
         .mark{{stroke:#999;stroke-dasharray:4 3}} .ground{{fill:#fff}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}} .ground{{fill:#111}} .rss{{fill:#60a5fa}}}}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    for (place, name) in SERVICES.iter().enumerate() {
        panel(&mut out, place, name, samples, restarted_at, from, slopes[place]);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(
    out: &mut String,
    place: usize,
    name: &str,
    samples: &[Sample],
    restarted_at: Option<usize>,
    from: usize,
    slope: Option<Slope>,
) {
    let top = PANEL * place as f64 + TOP;
    let (width, height) = (WIDTH - LEFT - RIGHT, PANEL - TOP - BOTTOM);
    let frames = samples.last().map_or(1, |sample| sample.frames).max(1) as f64;
    let rss = |sample: &Sample| sample.services[place].rss_bytes as f64 / MIB;
    // From zero: a slope that matters is seen, one that does not is not made to look like one.
    let most = samples.iter().map(rss).fold(1.0, f64::max) * 1.15;
    let x = |frame: f64| LEFT + frame / frames * width;
    let y = |mib: f64| top + height - mib / most * height;
    let mut draw = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    let told = slope.map_or("slope unknown".to_owned(), |slope| {
        let (slope, ci) = (slope.per_x * PER_FRAMES / 1e3, slope.ci95 * PER_FRAMES / 1e3);
        format!("{slope:+.1} \u{b1} {ci:.1} kB per 100,000 frames")
    });
    let budget = samples.last().map_or(0.0, |sample| sample.services[place].budget_bytes as f64 / MIB);
    draw(format_args!(
        "<text x=\"{LEFT}\" y=\"{:.1}\"><tspan font-weight=\"bold\">{name}</tspan>: resident memory, {told}; budget {budget:.0} MiB</text>",
        top - 14.0
    ));
    draw(format_args!("<path class=\"axis\" d=\"M{LEFT} {top:.1}V{:.1}H{:.1}\"/>", top + height, LEFT + width));
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (mib, frame) = (most * share, frames * share);
        draw(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mib:.1} MiB</text>",
            LEFT - 6.0,
            y(mib) + 4.0
        ));
        draw(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{frame:.0}</text>",
            x(frame),
            top + height + 16.0
        ));
    }
    draw(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">frames</text>",
        LEFT + width,
        top + height + 30.0
    ));
    for sample in samples.iter().step_by(samples.len().div_ceil(POINTS).max(1)) {
        draw(format_args!(
            "<circle class=\"rss\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.6\"/>",
            x(sample.frames as f64),
            y(rss(sample))
        ));
    }
    if let Some(restart) = restarted_at.and_then(|number| samples.get(number)) {
        let at = x(restart.frames as f64);
        draw(format_args!("<path class=\"mark\" d=\"M{at:.1} {top:.1}v{height:.1}\"/>"));
        draw(format_args!("<text x=\"{:.1}\" y=\"{:.1}\">server started again</text>", at + 4.0, top + 10.0));
    }
    let counted = &samples[from.min(samples.len())..];
    if let (Some(slope), Some(first), Some(last)) = (slope, counted.first(), counted.last()) {
        let n = counted.len() as f64;
        let mean_x = counted.iter().map(|sample| sample.frames as f64).sum::<f64>() / n;
        let mean_y = counted.iter().map(rss).sum::<f64>() / n;
        let on_line = |frame: f64| y(mean_y + slope.per_x / MIB * (frame - mean_x));
        let (a, b) = (first.frames as f64, last.frames as f64);
        draw(format_args!(
            "<line class=\"line\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            x(a),
            on_line(a),
            x(b),
            on_line(b)
        ));
    }
}
