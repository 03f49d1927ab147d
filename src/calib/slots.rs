//! Which store activations wait in between two stages: as few as are alive at once, each as wide as the widest it ever holds.

use std::collections::HashMap;

use crate::model::{DecoderStages, Waiting};

/// A store for each of the activations of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    of: HashMap<Waiting, usize>,
    /// Width of each store.
    pub widths: Vec<usize>,
}

impl Slots {
    /// Stores that are free again after a stage's reading are written by the same stage, batch after batch.
    pub fn of(stages: &DecoderStages) -> Slots {
        let last_reads = last_reads(stages);
        let dies = |waiting: &Waiting| last_reads.get(waiting).copied().unwrap_or(0);
        let mut slots = Slots { of: HashMap::from([(stages.embedded, 0)]), widths: vec![stages.embedded.width] };
        let mut free: Vec<usize> = Vec::new();
        for (index, stage) in stages.stages.iter().enumerate() {
            free.extend(stage.waiting().filter(|waiting| dies(waiting) == index).map(|waiting| slots.of[&waiting]));
            // What lives longest takes the tightest place, so that the residual stream stays where it is.
            let mut outputs = stage.outputs.clone();
            outputs.sort_by_key(|output| std::cmp::Reverse(dies(output)));
            for output in outputs {
                let slot = slots.take(&mut free, output.width);
                slots.of.insert(output, slot);
            }
        }
        slots
    }

    /// The store of these activations.
    pub fn slot(&self, waiting: Waiting) -> usize {
        self.of[&waiting]
    }

    /// The narrowest free store that is wide enough, else the widest, made wider; a new one where none is free.
    fn take(&mut self, free: &mut Vec<usize>, width: usize) -> usize {
        let fits = |&slot: &usize| (self.widths[slot] < width, self.widths[slot].abs_diff(width), slot);
        match free.iter().enumerate().min_by_key(|(_, slot)| fits(slot)).map(|(place, _)| place) {
            Some(place) => {
                let slot = free.remove(place);
                self.widths[slot] = self.widths[slot].max(width);
                slot
            }
            None => {
                self.widths.push(width);
                self.widths.len() - 1
            }
        }
    }
}

/// The last stage that reads each of the activations; what a model's head reads is read after all of them.
fn last_reads(stages: &DecoderStages) -> HashMap<Waiting, usize> {
    let reads = stages.stages.iter().enumerate();
    let reads = reads.flat_map(|(index, stage)| stage.waiting().map(move |waiting| (waiting, index)));
    let head = stages.stages.last().map(|last| (last.end, stages.stages.len()));
    reads.chain(head).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Architecture;
    use crate::tensor::DType;

    #[test]
    fn a_decoder_has_one_store_for_the_residual_stream_and_one_for_inputs() {
        let json = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "rope_theta": 10000.0, "tie_word_embeddings": true,
        });
        let architecture = Architecture::from_value(&json).expect("a config that is supported");
        let stages = DecoderStages::of(&architecture, DType::F32, 32).expect("sizes that fit");
        let slots = Slots::of(&stages);
        assert_eq!(slots.widths, [48, 80]);
        let (last, inputs) = stages.stages.split_last().expect("there are stages");
        assert!(inputs.iter().all(|stage| slots.slot(stage.end) == 1), "inputs are in the second");
        assert_eq!(slots.slot(last.end), 0, "the residual stream is at its end there");
    }
}
