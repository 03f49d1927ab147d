//! The beginning of a stream: what it refuses, how it is cut into batches, the embedded tokens.

use super::CalibError;
use super::activations::{Scratch, Store, batches};
use super::slots::Slots;
use super::statistics::Statistics;
use super::stream::{ActivationStream, Lane, Observe, StreamOptions, TooFewTokens};
use crate::model::{Architecture, DecoderConfig, DecoderStages, EMBEDDED, LinearInput, Survey, embed};
use crate::runtime::{ExecutionProvider, Operand, Resident, Stages, Target};
use crate::tensor::DType;

/// Bytes that attention's scores of one batch may take on the CPU, whose kernel holds them all.
const CPU_SCORE_BYTES: usize = 256 << 20;

impl<'a> ActivationStream<'a> {
    /// Embeds `sequences`: `embedding(id, row)` fills `row`, `[hidden_size]`, with the embedding of a token.
    ///
    /// # Errors
    /// The set does not fit the model, no graph can be written for it, there are too few tokens, or the runtime or the scratch file cannot be had.
    pub fn start(
        model: &Architecture,
        options: &StreamOptions,
        sequences: &[Vec<u32>],
        embedding: &mut dyn FnMut(u32, &mut [f32]),
        observe: Observe<'a>,
    ) -> Result<ActivationStream<'a>, CalibError> {
        let cfg = &model.config;
        let tokens = check(cfg, sequences)?;
        let activation = match options.provider {
            ExecutionProvider::Cpu => DType::F32,
            ExecutionProvider::Cuda => DType::F16, // its GroupQueryAttention has no f32
        };
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let batches = batches(&lengths, |length| fitting(cfg, options, length));
        let stages = Stages::new(options.provider, options.threads).map_err(CalibError::Runtime)?;
        let walk = DecoderStages::of(model, activation, lengths.iter().copied().max().unwrap_or(1))?;
        if options.too_few_tokens == TooFewTokens::Refuse {
            refuse_too_few(&walk.survey, tokens)?;
        }
        let open = |graph| stages.open(graph, "a stage").map_err(CalibError::Runtime);
        let sessions = walk.graphs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let slots = Slots::of(&walk);
        let store = |width: usize| match options.provider {
            ExecutionProvider::Cpu => Scratch::new(&options.scratch, tokens, width).map(Store::Mapped),
            ExecutionProvider::Cuda => Ok(Store::Resident(batches.iter().map(|_| None).collect())),
        };
        let lane = |_| Ok(Lane { stores: slots.widths.iter().map(|&width| store(width)).collect::<Result<_, _>>()? });
        let lanes = (0..if options.reference { 2 } else { 1 }).map(lane).collect::<Result<Vec<Lane>, CalibError>>()?;
        let mut stream = ActivationStream {
            walk,
            cfg: cfg.clone(),
            provider: options.provider,
            activation,
            artifact: options.artifact,
            batches,
            lanes,
            statistics: Statistics::default(),
            sessions,
            slots,
            passed: 0,
            observe,
            stages,
        };
        stream.embed(sequences, embedding)?;
        Ok(stream)
    }

    fn embed(&mut self, sequences: &[Vec<u32>], embedding: &mut dyn FnMut(u32, &mut [f32])) -> Result<(), CalibError> {
        let (hidden, slot) = (self.cfg.hidden_size, self.slots.slot(self.walk.embedded));
        let mut cast = match self.activation {
            DType::F32 => None,
            activation => Some(self.stages.open(&embed(&self.cfg, activation)?, "a stage").map_err(CalibError::Runtime)?),
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
                        let operand = (EMBEDDED, Operand::F32 { shape: &shape, values: &rows });
                        cast.bind(&[]).and_then(|mut bound| bound.run_for_one(&[operand], Target::Device))
                    }
                };
                lane.stores[slot].put(index, batch, x.map_err(CalibError::ran(batch.tokens()))?)?;
            }
        }
        Ok(())
    }
}

/// How many tokens there are, once the set fits the model.
fn check(cfg: &DecoderConfig, sequences: &[Vec<u32>]) -> Result<usize, CalibError> {
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
    Ok(sequences.iter().map(Vec::len).sum())
}

/// Refuses a set of fewer tokens than an input of linears has features.
///
/// # Errors
/// [`CalibError::TooFewTokens`], of the widest input.
pub fn refuse_too_few(survey: &Survey, tokens: usize) -> Result<(), CalibError> {
    let wider = |widest: &'_ LinearInput, input: &'_ LinearInput| input.in_features > widest.in_features;
    let widest = survey.inputs.iter().reduce(|widest, input| if wider(widest, input) { input } else { widest });
    match widest {
        Some(input) if tokens < input.in_features => {
            Err(CalibError::TooFewTokens { tokens, in_features: input.in_features, input: input.sentence() })
        }
        _ => Ok(()),
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
