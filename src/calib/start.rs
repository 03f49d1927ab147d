//! The beginning of a stream: what it refuses, how it is cut into batches, the embedded tokens.

use super::CalibError;
use super::activations::{Scratch, Store, batches};
use super::statistics::Statistics;
use super::steps::{Kinds, Tap};
use super::stream::{Lane, Observe, Stream, StreamOptions, TooFewTokens};
use crate::model::{DecoderConfig, stages};
use crate::runtime::{ExecutionProvider, Operand, Resident, Stages, Target};
use crate::tensor::DType;

/// Bytes that attention's scores of one batch may take on the CPU, whose kernel holds them all.
const CPU_SCORE_BYTES: usize = 256 << 20;

impl<'a> Stream<'a> {
    /// Embeds `sequences`: `embedding(id, row)` fills `row`, `[hidden_size]`, with the embedding of a token.
    ///
    /// # Errors
    /// The set does not fit the model, there are too few tokens, or the runtime or the scratch file cannot be had.
    pub fn start(
        cfg: &DecoderConfig,
        options: &StreamOptions,
        sequences: &[Vec<u32>],
        embedding: &mut dyn FnMut(u32, &mut [f32]),
        observe: Observe<'a>,
    ) -> Result<Stream<'a>, CalibError> {
        let tokens = check(cfg, sequences, options.too_few_tokens)?;
        let activation = match options.provider {
            ExecutionProvider::Cpu => DType::F32,
            ExecutionProvider::Cuda => DType::F16, // its GroupQueryAttention has no f32
        };
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let batches = batches(&lengths, |length| fitting(cfg, options, length));
        let stages = Stages::new(options.provider, options.threads).map_err(CalibError::Runtime)?;
        let kinds = Kinds::open(&stages, cfg, activation, lengths.iter().copied().max().unwrap_or(1))?;
        let store = |width: usize| match options.provider {
            ExecutionProvider::Cpu => Scratch::new(&options.scratch, tokens, width).map(Store::Mapped),
            ExecutionProvider::Cuda => Ok(Store::Resident(batches.iter().map(|_| None).collect())),
        };
        let widest = cfg.hidden_size.max(cfg.q_width()).max(cfg.intermediate_size);
        let lane = |_| Ok(Lane { residual: store(cfg.hidden_size)?, input: store(widest)? });
        let lanes = (0..if options.reference { 2 } else { 1 }).map(lane).collect::<Result<Vec<Lane>, CalibError>>()?;
        let mut stream = Stream {
            cfg: cfg.clone(),
            provider: options.provider,
            activation,
            artifact: options.artifact,
            batches,
            lanes,
            statistics: Statistics::default(),
            kinds,
            layer: 0,
            tap: Tap::Start,
            observe,
            stages,
        };
        stream.embed(sequences, embedding)?;
        Ok(stream)
    }

    fn embed(&mut self, sequences: &[Vec<u32>], embedding: &mut dyn FnMut(u32, &mut [f32])) -> Result<(), CalibError> {
        let hidden = self.cfg.hidden_size;
        let mut cast = match self.activation {
            DType::F32 => None,
            activation => Some(self.stages.open(&stages::embed(&self.cfg, activation)?, "a stage").map_err(CalibError::Runtime)?),
        };
        for (index, batch) in self.batches.iter().enumerate() {
            let mut rows = vec![0f32; batch.tokens() * hidden];
            let ids = batch.sequences.iter().flat_map(|&sequence| &sequences[sequence]);
            for (row, &id) in rows.chunks_exact_mut(hidden).zip(ids) {
                embedding(id, row);
            }
            let shape = batch.shape(hidden);
            for lane in &mut self.lanes {
                let x = match &mut cast {
                    None => Resident::copied(&shape, &rows),
                    Some(cast) => {
                        let operand = (stages::INPUT, Operand::F32 { shape: &shape, values: &rows });
                        cast.bind(&[]).and_then(|mut bound| bound.run_for_one(&[operand], Target::Device))
                    }
                };
                lane.residual.put(index, batch, x.map_err(CalibError::ran(batch.tokens()))?)?;
            }
        }
        Ok(())
    }
}

/// How many tokens there are, once the set fits the model.
fn check(cfg: &DecoderConfig, sequences: &[Vec<u32>], too_few: TooFewTokens) -> Result<usize, CalibError> {
    if sequences.is_empty() {
        return Err(CalibError::NoSequences);
    }
    let (positions, vocab_size) = (cfg.max_position_embeddings, cfg.vocab_size);
    for (sequence, ids) in sequences.iter().enumerate() {
        match ids.len() {
            0 => return Err(CalibError::EmptySequence { sequence }),
            tokens if tokens > positions => return Err(CalibError::SequenceTooLong { sequence, tokens, positions }),
            _ => {}
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(CalibError::UnknownToken { sequence, id, vocab_size });
        }
    }
    let tokens = sequences.iter().map(Vec::len).sum();
    let inputs = [
        (cfg.intermediate_size, Tap::Down.input()),
        (cfg.q_width(), Tap::Output.input()),
        (cfg.hidden_size, Tap::Attention.input()),
    ];
    match inputs.into_iter().max_by_key(|(in_features, _)| *in_features) {
        Some((in_features, input)) if tokens < in_features && too_few == TooFewTokens::Refuse => {
            Err(CalibError::TooFewTokens { tokens, in_features, input })
        }
        _ => Ok(tokens),
    }
}

/// Sequences of `length` tokens that run at once.
fn fitting(cfg: &DecoderConfig, options: &StreamOptions, length: usize) -> usize {
    let tokens = options.batch_tokens.unwrap_or(match options.provider {
        ExecutionProvider::Cpu => 4096,
        ExecutionProvider::Cuda => 16384,
    });
    let score_bytes = cfg.num_attention_heads * length * length * size_of::<f32>();
    match options.provider {
        ExecutionProvider::Cpu => (tokens / length).min(CPU_SCORE_BYTES / score_bytes),
        ExecutionProvider::Cuda => tokens / length,
    }
}
