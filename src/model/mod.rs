//! Decoders as ONNX graphs: knows no checkpoint files and no quantization mathematics.
//!
//! A family of models is one file of [`families`]; everything else here is shared by all of them.

mod architecture;
mod attention;
mod config;
mod decoder;
mod families;
mod family;
mod module;
mod options;
mod padding;
mod parts;
mod portable;
mod quantized;
mod rope;
mod rotation;
mod stages;
mod stored;
mod survey;
mod transforms;
mod windows;

pub use architecture::Architecture;
pub use config::{ConfigError, DecoderConfig, RopeScaling};
pub use decoder::{DecoderGraph, decoder};
pub use families::architectures;
pub use family::Family;
pub use options::{GraphForm, GraphOptions};
pub use rope::{RopeTables, most_positions, rope_factors, rope_tables};
pub use rotation::{ModelRotation, ModelRotationError, RotationOptions};
pub use stages::{
    DecoderStage, DecoderStages, EMBEDDED, FINAL_HIDDEN, HEAD_MATRIX, HEAD_WEIGHT, HeadForm, ROWS, StageInput, StageOperand,
    Waiting, embed, head,
};
pub use stored::{Order, StoredCodes, StoredForm, StoredOutliers, StoredScales, StoredWeight, WeightForm};
pub use survey::{ExpectedTensor, LinearInput, Survey, SurveyedLinear};
pub use transforms::{Scaling, Smooth};
