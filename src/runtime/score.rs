use ndarray::ArrayView2;

use super::RuntimeError;
use super::cache::capacity_for;
use super::engine::Engine;
use crate::generate::{GenerateError, Score};

/// Positions whose logits are on the host at once: 128 MB at Llama 3's vocabulary.
const POSITIONS: usize = 256;

impl Score for Engine {
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.ids_of(text, false)
    }

    fn bos(&self) -> Option<u32> {
        self.artifact.beside.bos
    }

    fn logits(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, ArrayView2<'_, f32>)) -> Result<(), GenerateError> {
        let context = self.artifact.beside.context_length;
        if ids.len() > context {
            return Err(GenerateError::PromptTooLong { row: 0, tokens: ids.len(), max_new_tokens: 0, context });
        }
        if ids.is_empty() {
            return Err(GenerateError::EmptyPrompt { row: 0 });
        }
        let mut cache = self.decoder.cache(1, capacity_for(ids.len()))?;
        self.decoder.clear(&mut cache)?;
        for (chunk, first) in ids.chunks(POSITIONS).zip((0..).step_by(POSITIONS)) {
            let logits = self.decoder.logits(&mut cache, chunk, first)?;
            let shape = (chunk.len(), logits.len() / chunk.len());
            let logits = ArrayView2::from_shape(shape, &logits).map_err(|_| RuntimeError::Run {
                doing: "reading logits",
                reason: format!("{} values for {} positions", logits.len(), chunk.len()),
            })?;
            visit(first, logits);
        }
        Ok(())
    }
}
