//! Charts, drawn here as SVG: they need no script, and each comes with the same as a table.

use askama::Template;

use super::time::iso;
use crate::domain::history::Series;

/// Moments of a chart: one every few pixels.
pub const POINTS: usize = 121;
/// Rows of its table.
const ROWS: usize = 7;
/// Versions with a colour of their own; the rest are one.
pub const VERSIONS_SHOWN: usize = 6;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 160.0;

/// Devices by version over time, one area above the other.
#[derive(Template)]
#[template(path = "chart.html")]
pub struct Areas {
    areas: Vec<Area>,
    /// Most devices at any moment: the top of the chart.
    top: u64,
    from: String,
    rows: Vec<Row>,
    label: String,
}

struct Area {
    name: String,
    colour: usize,
    points: String,
    now: u64,
}

struct Row {
    at: String,
    counts: Vec<u64>,
}

impl Areas {
    /// None where nothing was known at any moment.
    pub fn new(series: &Series) -> Option<Self> {
        let shown = folded(series);
        let totals = totals(&shown, series.at.len());
        let top = totals.iter().copied().max().filter(|top| *top > 0)?;
        let mut below = vec![0; series.at.len()];
        let mut areas = Vec::new();
        for (colour, (name, counts)) in shown.iter().enumerate() {
            let points = polygon(&below, counts, top);
            for (sum, count) in below.iter_mut().zip(counts) {
                *sum += count;
            }
            areas.push(Area {
                name: name.clone(),
                colour,
                points,
                now: counts.last().copied().unwrap_or(0),
            });
        }
        let step = (series.at.len().max(2) - 1) / (ROWS - 1);
        let row = |point: usize| Row {
            at: iso(series.at[point]),
            counts: shown.iter().map(|(_, counts)| counts[point]).collect(),
        };
        let label = areas
            .iter()
            .map(|area| format!("{} on {}", area.now, area.name));
        Some(Self {
            top,
            from: iso(series.at[0]),
            rows: (0..series.at.len()).step_by(step.max(1)).map(row).collect(),
            label: label.collect::<Vec<_>>().join(", "),
            areas,
        })
    }
}

/// The versions with the most devices, and the sum of the rest.
fn folded(series: &Series) -> Vec<(String, Vec<u64>)> {
    let mut shown = series.versions.clone();
    if shown.len() <= VERSIONS_SHOWN + 1 {
        return shown;
    }
    let rest = shown.split_off(VERSIONS_SHOWN);
    let name = format!("{} more versions", rest.len());
    shown.push((name, totals(&rest, series.at.len())));
    shown
}

fn totals(rows: &[(String, Vec<u64>)], points: usize) -> Vec<u64> {
    let sum = |point: usize| rows.iter().map(|(_, counts)| counts[point]).sum();
    (0..points).map(sum).collect()
}

/// Along the upper edge and back along the lower one. Counts change in steps: a slope would show
/// devices that never were.
fn polygon(below: &[u64], counts: &[u64], top: u64) -> String {
    let x = |point: usize| WIDTH * point as f64 / (counts.len().max(2) - 1) as f64;
    let y = |count: u64| HEIGHT * (1.0 - count as f64 / top as f64);
    let mut points = Vec::new();
    for point in 0..counts.len() {
        let height = y(below[point] + counts[point]);
        if point > 0 {
            points.push(format!(
                "{:.1},{:.1}",
                x(point),
                y(below[point - 1] + counts[point - 1])
            ));
        }
        points.push(format!("{:.1},{height:.1}", x(point)));
    }
    for point in (0..counts.len()).rev() {
        points.push(format!("{:.1},{:.1}", x(point), y(below[point])));
        if point > 0 {
            points.push(format!("{:.1},{:.1}", x(point), y(below[point - 1])));
        }
    }
    points.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_stand_on_each_other_and_reach_the_top() {
        let series = Series {
            at: vec![0, 1_000],
            versions: vec![("b".into(), vec![0, 3]), ("a".into(), vec![4, 1])],
        };
        let areas = Areas::new(&series).expect("a chart");
        assert_eq!(areas.top, 4);
        assert!(
            areas.areas[0]
                .points
                .starts_with("0.0,160.0 600.0,160.0 600.0,40.0")
        );
        assert!(areas.areas[1].points.contains("600.0,0.0"));
        assert_eq!(areas.label, "3 on b, 1 on a");
        assert!(Areas::new(&Series::default()).is_none());
    }
}
