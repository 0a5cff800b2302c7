//! What was measured, kept in `target/bench/report.json` so that parts can be
//! measured again one by one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::audit::Audit;
use super::blow::Blow;
use super::demo::Demo;
use super::figure::{Point, Values, ratio};
use super::image::Sizes;
use super::mapping::Cost;
use super::scale::Counts;
use super::table;
use crate::lab::images::Images;
use crate::site::Site;
use crate::stamp;

/// All results.
#[derive(Default, Deserialize, Serialize)]
pub struct Report {
    /// Which Xens were measured, by their images.
    xens: BTreeMap<Point, String>,
    /// Values in instructions, by figure and point.
    pub figures: Values,
    /// Mapping pages, by way and point.
    #[serde(default)]
    pub mapping: BTreeMap<String, BTreeMap<Point, Cost>>,
    /// The blow.
    pub blows: Vec<Blow>,
    /// Size of Xen.
    pub image: BTreeMap<Point, Sizes>,
    /// The verifier.
    pub audit: Option<Audit>,
    /// The demonstration.
    #[serde(default)]
    pub demo: Option<Demo>,
    /// Large simulated machines.
    #[serde(default)]
    pub scale: Vec<Counts>,
}

impl Report {
    /// Where it is kept.
    pub fn path(site: &Site) -> PathBuf {
        site.target().join("bench").join("report.json")
    }

    /// The last results, or none.
    pub fn read(site: &Site) -> Result<Self> {
        let path = Self::path(site);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: not a report; remove it", path.display()))
    }

    /// Writes the results, with what follows from them.
    pub fn write(&self, site: &Site) -> Result<()> {
        let path = Self::path(site);
        fs::create_dir_all(path.with_file_name(""))
            .with_context(|| format!("{}: cannot create its folder", path.display()))?;
        let mut value = serde_json::to_value(self).context("results")?;
        value["judged"] = self.judged();
        let text = serde_json::to_string_pretty(&value).context("results")?;
        fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))
    }

    /// Forgets what was measured of other Xens than these.
    pub fn built(&mut self, images: &Images) -> Result<()> {
        let mut xens = BTreeMap::new();
        for point in [Point::Stock, Point::DirectmapNo] {
            let image = &images.xen(point.xen())?.image;
            let bytes =
                fs::read(image).with_context(|| format!("{}: cannot read", image.display()))?;
            xens.insert(point, stamp::of_bytes(bytes));
        }
        if self.xens != xens {
            *self = Self::default();
            self.xens = xens;
        }
        Ok(())
    }

    /// True if nothing was measured yet.
    pub fn is_empty(&self) -> bool {
        self.figures.is_empty() && self.blows.is_empty() && self.image.is_empty()
    }

    /// Keeps one value.
    pub fn put(&mut self, id: &str, point: Point, value: f64) {
        let values = self.figures.entry(id.to_owned()).or_default();
        values.insert(point, value);
    }

    /// Keeps one blow, in place of the last one of the same system.
    pub fn put_blow(&mut self, blow: Blow) {
        self.blows.retain(|other| other.system != blow.system);
        self.blows.push(blow);
        self.blows.sort_by_key(|blow| blow.system);
    }

    /// Ratios, targets and verdicts, for who reads the file.
    fn judged(&self) -> Value {
        let rows = table::rows(self).into_iter().map(|row| {
            let ratios: BTreeMap<&str, f64> = Point::ALL
                .into_iter()
                .filter_map(|point| Some((point.name(), ratio(row.values, point)?)))
                .collect();
            let limits: BTreeMap<&str, f64> = Point::ALL
                .into_iter()
                .skip(1)
                .map(Point::name)
                .zip(row.target)
                .collect();
            json!({
                "figure": row.id,
                "title": row.title,
                "unit": "instructions",
                "ratios": ratios,
                "target": limits,
                "reached": row.missed().is_empty(),
            })
        });
        rows.collect()
    }
}
