//! A plot of the blow as SVG: instructions over the size of the guest, a line
//! for each number of CPUs. Both axes are logarithmic.

use std::fmt::Write as _;

use super::blow::{Blow, CPUS, TARGET};

/// Size of the picture and its margins.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// A colour for each number of CPUs.
const COLOURS: [&str; 3] = ["#1b6ca8", "#d1721b", "#3f8f4f"];

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

/// Draws the blows of one `directmap=`; none if there are fewer than two.
pub fn blows(blows: &[Blow], directmap: bool) -> Option<String> {
    let chosen: Vec<&Blow> = blows.iter().filter(|b| b.directmap == directmap).collect();
    let sum = |b: &Blow| (b.protect + b.lock) as f64;
    let sizes = chosen.iter().map(|b| b.mib as f64);
    let (least, most) = (
        sizes.clone().fold(f64::MAX, f64::min),
        sizes.fold(0.0, f64::max),
    );
    if least >= most {
        return None;
    }
    let lowest = chosen.iter().map(|b| sum(b)).fold(TARGET as f64, f64::min);
    let highest = chosen.iter().map(|b| sum(b)).fold(TARGET as f64, f64::max);
    let x = Axis {
        low: least,
        high: most,
        start: LEFT,
        end: WIDTH - RIGHT,
    };
    let y = Axis {
        low: 10f64.powf(lowest.log10().floor()),
        high: 10f64.powf(highest.log10().ceil()),
        start: HEIGHT - BOTTOM,
        end: TOP,
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">protect and lock, directmap={}: instructions on all CPUs together</text>\n",
        if directmap { "yes" } else { "no" }
    );
    let mut decade = y.low;
    while decade <= y.high * 1.001 {
        let at = y.at(decade);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} M</text>",
            x.end,
            LEFT - 8.0,
            at + 4.0,
            decade / 1e6
        );
        decade *= 10.0;
    }
    let mut sizes: Vec<u64> = chosen.iter().map(|b| b.mib).collect();
    sizes.dedup();
    for mib in sizes {
        let at = x.at(mib as f64);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#eee\"/>\n<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mib} MiB</text>",
            y.start,
            y.start + 22.0
        );
    }
    let at = y.at(TARGET as f64);
    let _ = writeln!(
        out,
        "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#b00\" stroke-dasharray=\"6 4\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#b00\">target, 1 GiB</text>",
        x.end,
        x.end + 8.0,
        at + 4.0
    );
    for (cpus, colour) in CPUS.into_iter().zip(COLOURS) {
        let line: Vec<&&Blow> = chosen.iter().filter(|b| b.cpus == cpus).collect();
        let points: Vec<String> = line
            .iter()
            .map(|b| format!("{:.1},{:.1}", x.at(b.mib as f64), y.at(sum(b))))
            .collect();
        let Some(last) = line.last() else { continue };
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            if let Some((cx, cy)) = point.split_once(',') {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.5\" fill=\"{colour}\"/>"
                );
            }
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{cpus} CPU{}</text>",
            x.at(last.mib as f64) + 8.0,
            y.at(sum(last)) + 4.0,
            if cpus == 1 { "" } else { "s" }
        );
    }
    out += "</svg>\n";
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blow(mib: u64, cpus: u32, lock: u64) -> Blow {
        Blow {
            mib,
            cpus,
            directmap: false,
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
            blow(192, 1, 9_000_000),
            blow(192, 2, 20_000_000),
            blow(1024, 1, 60_000_000),
            blow(1024, 2, 120_000_000),
        ];
        let picture = blows(&seen, false).unwrap();
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_eq!(picture.matches("<circle").count(), 4);
        assert!(picture.contains("1024 MiB") && picture.ends_with("</svg>\n"));
        assert!(blows(&seen, true).is_none());
    }
}
