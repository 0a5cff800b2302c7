//! Xen's address space as a picture: one row an area, one bar a machine, so that two machines (before and after) stand
//! side by side at the same scale. Where a column of the bar stands for several owners, the worst is drawn.

use crate::space::{AREAS, ELSEWHERE, Kind, Region, Space};
use std::ops::Range;
use svg::Document;
use svg::node::element::{Group, Rectangle, Text, Title};

/// Pixels.
const MARGIN: usize = 16;
const BAR: usize = 24;
const ROW: usize = 64;
const HEAD: usize = 56;
const LEGEND: usize = 20;
const COLUMNS: usize = 560;
/// The strip below a bar that shows permissions.
const STRIP: usize = 6;

/// One machine.
pub struct Side<'a> {
    /// Over its bars.
    pub title: String,
    /// Its roots; drawn into one another.
    pub spaces: &'a [Space],
}

/// What a column of a bar shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    kind: Kind,
    writable: bool,
    executable: bool,
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Protected => "#c0182b",
        Kind::Table => "#e07b00",
        Kind::Guest => "#4a8f3c",
        Kind::Free => "#c9b458",
        Kind::Xen => "#6f9fd8",
        Kind::FrameTable => "#9a86c9",
        Kind::Image => "#2b4d8c",
        Kind::Device => "#8a8a8a",
    }
}

fn strip(cell: Cell) -> Option<(&'static str, &'static str)> {
    match (cell.writable, cell.executable) {
        (true, true) => Some(("#d000d0", "writable and executable")),
        (false, true) => Some(("#000000", "executable")),
        (true, false) => Some(("#999999", "writable")),
        (false, false) => None,
    }
}

fn regions<'a>(side: &'a Side, area: &str) -> Vec<&'a Region> {
    let all = side.spaces.iter().flat_map(|s| &s.regions);
    all.filter(|r| r.area == area).collect()
}

/// What of an area is in use, on any side.
fn extent(sides: &[Side], area: &str) -> Option<Range<u64>> {
    let all: Vec<_> = sides.iter().flat_map(|s| regions(s, area)).collect();
    let start = all.iter().map(|r| r.address.0).min()?;
    let end = all
        .iter()
        .map(|r| r.address.0.saturating_add(r.bytes))
        .max()?;
    Some(start..end.max(start + 1))
}

fn cells(regions: &[&Region], extent: &Range<u64>) -> Vec<Option<Cell>> {
    let span = u128::from(extent.end - extent.start);
    let column = |va: u64, up: u128| {
        ((u128::from(va - extent.start) * COLUMNS as u128 + up) / span) as usize
    };
    let mut cells: Vec<Option<Cell>> = vec![None; COLUMNS];
    for region in regions {
        let first = column(region.address.0, 0).min(COLUMNS - 1);
        let last = column(region.address.0.saturating_add(region.bytes), span - 1);
        let flag = |letter| region.permissions.contains(letter);
        for cell in &mut cells[first..last.clamp(first + 1, COLUMNS)] {
            let new = Cell {
                kind: region.kind,
                writable: flag('w'),
                executable: flag('x'),
            };
            let seen = cell.get_or_insert(new);
            seen.kind = seen.kind.min(new.kind);
            seen.writable |= new.writable;
            seen.executable |= new.executable;
        }
    }
    cells
}

fn rectangle(x: usize, y: usize, width: usize, height: usize, fill: &str) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", width)
        .set("height", height)
        .set("fill", fill)
}

fn text(x: usize, y: usize, size: usize, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("font-size", size)
}

fn bar(x: usize, y: usize, cells: &[Option<Cell>]) -> Group {
    let frame = rectangle(x, y, COLUMNS, BAR + STRIP, "#f4f4f4").set("stroke", "#bbbbbb");
    let mut group = Group::new().add(frame);
    let mut at = 0;
    for run in cells.chunk_by(|a, b| a == b) {
        if let Some(cell) = run[0] {
            let name = Kind::ALL.iter().find(|(k, _)| *k == cell.kind);
            let mut words = name.map_or(String::new(), |(_, name)| (*name).to_owned());
            let mut piece =
                Group::new().add(rectangle(x + at, y, run.len(), BAR, colour(cell.kind)));
            if let Some((fill, what)) = strip(cell) {
                words += &format!(", {what}");
                piece = piece.add(rectangle(x + at, y + BAR, run.len(), STRIP, fill));
            }
            group = group.add(piece.add(Title::new(words)));
        }
        at += run.len();
    }
    group
}

/// Bytes in the unit that fits.
pub fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        b if b >= 1 << 30 => (1u64 << 30, "GiB"),
        b if b >= 1 << 20 => (1 << 20, "MiB"),
        _ => (1 << 10, "KiB"),
    };
    let tenths = bytes * 10 / unit;
    if tenths.is_multiple_of(10) {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// The picture, as an SVG file's text.
pub fn draw(sides: &[Side]) -> String {
    let areas: Vec<_> = AREAS
        .iter()
        .map(|(name, _)| *name)
        .chain([ELSEWHERE])
        .filter_map(|name| Some((name, extent(sides, name)?)))
        .collect();
    let width = MARGIN + sides.len() * (COLUMNS + MARGIN);
    let legend = HEAD + areas.len() * ROW;
    let height = legend + (Kind::ALL.len() / 2 + 2) * LEGEND + MARGIN;
    let mut document = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .add(rectangle(0, 0, width, height, "#ffffff"));
    for (i, side) in sides.iter().enumerate() {
        let x = MARGIN + i * (COLUMNS + MARGIN);
        document = document.add(text(x, 30, 16, &side.title));
        for (row, (name, extent)) in areas.iter().enumerate() {
            let y = HEAD + row * ROW;
            let regions = regions(side, name);
            let words = match regions.iter().map(|r| r.bytes).sum() {
                0 => format!("{name}: nothing mapped"),
                mapped => format!("{name}, from {:#x}: {} mapped", extent.start, size(mapped)),
            };
            document = document.add(text(x, y + 12, 12, &words)).add(bar(
                x,
                y + 18,
                &cells(&regions, extent),
            ));
        }
    }
    let entries = Kind::ALL
        .iter()
        .map(|&(kind, name)| (colour(kind), name, BAR / 2));
    let strips = [(true, false), (false, true), (true, true)].map(|(writable, executable)| Cell {
        kind: Kind::Device,
        writable,
        executable,
    });
    let strips = strips
        .into_iter()
        .filter_map(strip)
        .map(|(fill, name)| (fill, name, STRIP));
    for (i, (fill, name, tall)) in entries.chain(strips).enumerate() {
        let (x, y) = (MARGIN + i % 2 * (COLUMNS / 2), legend + i / 2 * LEGEND);
        document = document
            .add(rectangle(x, y + 12 - tall, 18, tall, fill))
            .add(text(x + 24, y + 12, 12, name));
    }
    document.to_string()
}
