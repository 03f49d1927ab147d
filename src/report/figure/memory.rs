//! Bytes on the disk and in memory.

use super::axis::{Axis, Scale};
use super::bars::{self, bars_from};
use super::{Figure, LABEL, TICK, WIDTH, titled};
use crate::report::numbers;
use crate::report::scene::{Anchor, Color, INK, MUTED, Rect, Scene};
use crate::report::study::{Row, Study};

const ROW: f64 = 29.0;
const DISK: Color = Color(0x00, 0x72, 0xB2);
const MEMORY: Color = Color(0xF0, 0xC6, 0x6B);
const TITLE: &str = "Memory";

pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let height = 72.0 + 34.0 + ROW * shown.len() as f64 + 52.0;
    let (mut scene, top) = titled(height, TITLE, "size of the artifact on disk, and of its weights once a session is made");
    key(&mut scene, top);
    let largest = shown.iter().flat_map(|&at| [study.rows[at].model_bytes(), in_memory(&study.rows[at])]).flatten().max();
    let (unit, unit_name) = numbers::byte_unit(largest.unwrap_or(1) as f64);
    let highest = largest.unwrap_or(1) as f64 / unit;
    let rows_top = top + 30.0;
    let bottom = rows_top + ROW * shown.len() as f64;
    let axis = Axis::new(Scale::Linear, [0.0, highest], [bars_from(study, shown), WIDTH - 110.0]);
    bars::scale(&mut scene, &axis, 6, [rows_top, bottom]);
    scene.text([WIDTH - 24.0, bottom + 38.0], format!("{unit_name} (powers of ten)"), TICK.at(Anchor::End));
    for (place, &at) in shown.iter().enumerate() {
        let y = rows_top + ROW * (place as f64 + 0.5);
        bars::name(&mut scene, study, at, y, ROW);
        let row = &study.rows[at];
        let values = [(row.model_bytes(), DISK, -6.0), (in_memory(row), MEMORY, 6.0)];
        if values.iter().all(|(value, ..)| value.is_none()) {
            scene.text_centred([axis.at(0.0) + 8.0, y], bars::reason(study, at), LABEL.colored(MUTED));
        }
        for (value, color, offset) in values {
            let Some(bytes) = value else {
                if row.model_bytes().is_some() {
                    scene.text_centred([axis.at(0.0) + 6.0, y + offset], "not measured", TICK);
                }
                continue;
            };
            let end = axis.at(bytes as f64 / unit);
            bar(&mut scene, Rect { left: axis.at(0.0), right: end, top: y + offset - 5.0, bottom: y + offset + 5.0 }, color);
            scene.text_centred([end + 6.0, y + offset], numbers::bytes(bytes), TICK.colored(INK));
        }
    }
    let caption = "Upper bar: model.onnx and its data file. Lower bar: what the weights take in the process once the session is made (resident memory on the CPU, \
                   device memory on CUDA); odd widths are widened there, and kernels may keep a second, packed copy."
        .to_owned();
    Figure { name: "memory_comparison", title: TITLE.to_owned(), caption, scene }
}

fn in_memory(row: &Row) -> Option<u64> {
    row.weights_memory()
}

fn bar(scene: &mut Scene, area: Rect, color: Color) {
    scene.outlined(area.corners(), color, INK, 0.8);
}

fn key(scene: &mut Scene, top: f64) {
    let mut x = 28.0;
    for (name, color) in [("on disk", DISK), ("weights in memory", MEMORY)] {
        bar(scene, Rect { left: x, right: x + 22.0, top: top + 2.0, bottom: top + 14.0 }, color);
        scene.text_centred([x + 30.0, top + 8.0], name, LABEL);
        x += 110.0;
    }
}
