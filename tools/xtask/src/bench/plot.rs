//! Plots of the blow as SVG, over the size of the guest. Both axes are
//! logarithmic.

use std::fmt::Write as _;

use super::blow::{Blow, CPUS, TARGET};

/// Size of the picture and its margins.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours of the lines.
const COLOURS: [&str; 3] = ["#1b6ca8", "#d1721b", "#3f8f4f"];

/// A line: its name, and points of size in MiB and value.
type Line = (String, Vec<(f64, f64)>);

/// A logarithmic axis from `low` to `high`, on the picture from `start` to
/// `end`.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.start + part * (self.end - self.start)
    }
}

/// Instructions on one CPU, in millions: a line for each `directmap=`. None
/// where there is nothing to draw a line between.
pub fn counted(blows: &[Blow]) -> Option<String> {
    let lines = [false, true].map(|directmap| {
        let chosen = blows
            .iter()
            .filter(|b| b.system.counted && b.system.directmap == directmap);
        let name = format!("directmap={}", if directmap { "yes" } else { "no" });
        (name, points(chosen))
    });
    let title = "protect and lock on one CPU, millions of instructions";
    draw(title, &lines, Some((TARGET as f64 / 1e6, "target, 1 GiB")))
}

/// Time in the emulator, in milliseconds: a line for each number of CPUs.
pub fn timed(blows: &[Blow]) -> Option<String> {
    let lines = CPUS.map(|cpus| {
        let chosen = blows
            .iter()
            .filter(|b| !b.system.counted && b.system.cpus == cpus);
        let name = format!("{cpus} CPU{}", if cpus == 1 { "" } else { "s" });
        (name, points(chosen))
    });
    let title = "protect and lock, milliseconds in the emulator (not repeatable)";
    draw(title, &lines, None)
}

fn points<'a>(blows: impl Iterator<Item = &'a Blow>) -> Vec<(f64, f64)> {
    blows
        .map(|b| (b.system.mib as f64, b.total() as f64 / 1e6))
        .collect()
}

fn draw(title: &str, lines: &[Line], mark: Option<(f64, &str)>) -> Option<String> {
    let all = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let values = || all().map(|(_, value)| value).chain(mark.map(|(at, _)| at));
    let mut sizes: Vec<f64> = all().map(|(size, _)| size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let [first, .., last] = sizes[..] else {
        return None;
    };
    let x = Axis {
        low: first,
        high: last,
        start: LEFT,
        end: WIDTH - RIGHT,
    };
    let y = Axis {
        low: 10f64.powf(values().fold(f64::MAX, f64::min).log10().floor()),
        high: 10f64.powf(values().fold(0.0, f64::max).log10().ceil()),
        start: HEIGHT - BOTTOM,
        end: TOP,
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut out, (LEFT, 24.0), "start", "#000", title);
    let mut decade = y.low;
    while decade <= y.high * 1.001 {
        let at = y.at(decade);
        stroke(&mut out, (x.start, at), (x.end, at), "#ddd", "");
        let label = decade.to_string();
        text(&mut out, (LEFT - 8.0, at + 4.0), "end", "#000", &label);
        decade *= 10.0;
    }
    for size in sizes {
        let at = x.at(size);
        stroke(&mut out, (at, y.start), (at, y.end), "#eee", "");
        let label = format!("{size} MiB");
        text(&mut out, (at, y.start + 22.0), "middle", "#000", &label);
    }
    if let Some((value, label)) = mark {
        let at = y.at(value);
        stroke(&mut out, (x.start, at), (x.end, at), "#b00", "6 4");
        text(&mut out, (x.end + 8.0, at + 4.0), "start", "#b00", label);
    }
    for ((_, points), colour) in lines.iter().zip(COLOURS) {
        let places: Vec<(f64, f64)> = points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
        for pair in places.windows(2) {
            stroke(&mut out, pair[0], pair[1], colour, "");
        }
        for (cx, cy) in &places {
            let _ = writeln!(
                out,
                "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
            );
        }
    }
    // Names beside the lines' ends, apart from each other.
    let mut ends: Vec<(f64, &str, &str)> = lines
        .iter()
        .zip(COLOURS)
        .filter_map(|((name, points), colour)| Some((y.at(points.last()?.1), &**name, colour)))
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::MIN;
    for (at, name, colour) in ends {
        let at = at.max(free);
        text(&mut out, (x.end + 8.0, at + 4.0), "start", colour, name);
        free = at + 16.0;
    }
    out += "</svg>\n";
    Some(out)
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}

fn stroke(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
    let dashes = match dashes {
        "" => String::new(),
        lengths => format!(" stroke-dasharray=\"{lengths}\""),
    };
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"{dashes}/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::blow::System;

    fn blow(counted: bool, mib: u64, cpus: u32, lock: u64) -> Blow {
        Blow {
            system: System {
                counted,
                directmap: false,
                mib,
                cpus,
            },
            protect: 1_000_000,
            lock,
            stopped: 1,
            leaves: 0,
            splits: 0,
            tables: 0,
            tried: 0,
            snapshot: 0,
        }
    }

    #[test]
    fn axes_are_logarithmic() {
        let axis = Axis {
            low: 1.0,
            high: 100.0,
            start: 0.0,
            end: 10.0,
        };
        assert!((axis.at(10.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_line_for_each_number_of_cpus() {
        let seen = [
            blow(false, 192, 1, 9_000_000),
            blow(false, 192, 2, 20_000_000),
            blow(false, 1024, 1, 60_000_000),
            blow(false, 1024, 2, 120_000_000),
            blow(true, 192, 1, 1),
        ];
        let picture = timed(&seen).unwrap();
        assert_eq!(picture.matches("<circle").count(), 4);
        assert!(picture.contains(">1024 MiB<") && picture.contains(">2 CPUs<"));
        assert!(picture.ends_with("</svg>\n"));
        // One size is no line.
        assert!(counted(&seen).is_none());
    }
}
