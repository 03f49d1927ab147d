//! Weights of a checkpoint changed in place.

use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;

/// Changes a bf16 tensor of the safetensors file at `path`: its values, row by row.
pub fn edit(path: &Path, name: &str, change: impl FnOnce(&mut [f32])) {
    let mut bytes = fs::read(path).expect("the checkpoint has weights");
    let (start, mut values) = {
        let tensors = SafeTensors::deserialize(&bytes).expect("they are safetensors");
        let data = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data();
        let values = data.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
        (data.as_ptr() as usize - bytes.as_ptr() as usize, values.collect::<Vec<f32>>())
    };
    change(&mut values);
    let changed = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes());
    bytes[start..].iter_mut().zip(changed).for_each(|(byte, new)| *byte = new);
    fs::write(path, bytes).expect("the place is ours");
}
