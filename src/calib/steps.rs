//! The kinds of stages, what lies between them, and where tokens stand.

use super::CalibError;
use super::activations::Batch;
use crate::model::stages::{self, Branch};
use crate::model::{DecoderConfig, names};
use crate::onnx::{GraphError, Model};
use crate::runtime::{Operand, Stage, Stages};
use crate::tensor::DType;

/// One session for each kind of stage.
pub(super) struct Kinds {
    enter: Stage,
    attend: Stage,
    add_attention: Stage,
    activate: Stage,
    add_mlp: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Enter,
    Attend,
    AddAttention,
    Activate,
    AddMlp,
}

/// Which linears read the activations that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tap {
    Start,
    Attention,
    Output,
    Mlp,
    Down,
    Head,
}

impl Tap {
    pub fn input(self) -> &'static str {
        match self {
            Tap::Start => "the first norm",
            Tap::Attention => "self_attn.q_proj, k_proj and v_proj",
            Tap::Output => "self_attn.o_proj",
            Tap::Mlp => "mlp.gate_proj and up_proj",
            Tap::Down => "mlp.down_proj",
            Tap::Head => "lm_head",
        }
    }

    /// The stage that comes next.
    pub fn next(self) -> &'static str {
        match self {
            Tap::Start => "enter",
            Tap::Attention => "attend",
            Tap::Output => "add_attention",
            Tap::Mlp => "activate",
            Tap::Down => "add_mlp",
            Tap::Head => "logits",
        }
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Enter => "enter",
            Kind::Attend => "attend",
            Kind::AddAttention => "add_attention",
            Kind::Activate => "activate",
            Kind::AddMlp => "add_mlp",
        }
    }

    pub fn adds(self) -> bool {
        matches!(self, Kind::AddAttention | Kind::AddMlp)
    }
}

impl Kinds {
    /// `positions`: the longest sequence.
    pub fn open(stages: &Stages, cfg: &DecoderConfig, activation: DType, positions: usize) -> Result<Kinds, CalibError> {
        let open = |kind: Kind, graph: Result<Model, GraphError>| {
            stages.open(&graph?, &format!("the stage {}", kind.name())).map_err(CalibError::Runtime)
        };
        Ok(Kinds {
            enter: open(Kind::Enter, stages::enter(cfg, activation))?,
            attend: open(Kind::Attend, stages::attend(cfg, activation, positions))?,
            add_attention: open(Kind::AddAttention, stages::add(cfg, activation, Branch::Attention))?,
            activate: open(Kind::Activate, stages::activate(cfg, activation))?,
            add_mlp: open(Kind::AddMlp, stages::add(cfg, activation, Branch::Mlp))?,
        })
    }

    pub fn stage(&mut self, kind: Kind) -> &mut Stage {
        match kind {
            Kind::Enter => &mut self.enter,
            Kind::Attend => &mut self.attend,
            Kind::AddAttention => &mut self.add_attention,
            Kind::Activate => &mut self.activate,
            Kind::AddMlp => &mut self.add_mlp,
        }
    }
}

/// Where the tokens of a batch stand: every sequence begins at position 0 and fills its row.
pub(super) struct Places {
    seqlens_k: Vec<i32>,
    total_sequence_length: [i32; 1],
    position_ids: Vec<i64>,
    shape: [usize; 2],
}

impl Places {
    pub fn of(batch: &Batch) -> Places {
        let (rows, length) = (batch.sequences.len(), batch.length);
        let total = i32::try_from(length).expect("sequences are limited by the model's positions");
        Places {
            seqlens_k: vec![total - 1; rows],
            total_sequence_length: [total],
            position_ids: (0..rows).flat_map(|_| 0..i64::from(total)).collect(),
            shape: [rows, length],
        }
    }

    pub fn operands(&self) -> [(&'static str, Operand<'_>); 3] {
        [
            (names::SEQLENS_K, Operand::I32 { shape: &self.shape[..1], values: &self.seqlens_k }),
            (names::TOTAL_SEQUENCE_LENGTH, Operand::I32 { shape: &[], values: &self.total_sequence_length }),
            (names::POSITION_IDS, Operand::I64 { shape: &self.shape, values: &self.position_ids }),
        ]
    }
}
