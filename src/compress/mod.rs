//! Chooses the numbers: the widths of a budget, the codes and scales of a calibration.

pub mod budget;
pub mod calibrate;
