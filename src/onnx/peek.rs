//! What a serialized model says of itself, without reading its weights.

use std::io::{BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Field numbers of `onnx.proto`.
const GRAPH: u64 = 7;
const OUTPUT: u64 = 12;
const NAME: u64 = 1;

/// Whether the graph of the model in `file` has an output called `name`. Reads names and lengths; all else is passed over.
///
/// # Errors
/// The reader's; [`ErrorKind::InvalidData`] for what is no protobuf.
pub fn has_output<F: Read + Seek>(file: F, name: &str) -> Result<bool> {
    let mut file = BufReader::new(file);
    let end = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let Some(graph) = next(&mut file, GRAPH, end)? else { return Ok(false) };
    while let Some(output) = next(&mut file, OUTPUT, graph)? {
        if let Some(end) = next(&mut file, NAME, output)?
            && end - file.stream_position()? == name.len() as u64
        {
            let mut bytes = vec![0; name.len()];
            file.read_exact(&mut bytes)?;
            if bytes == name.as_bytes() {
                return Ok(true);
            }
        }
        file.seek(SeekFrom::Start(output))?;
    }
    Ok(false)
}

/// Goes into the next field `wanted` of bytes before `end`, and gives where that ends.
fn next<F: Read + Seek>(file: &mut BufReader<F>, wanted: u64, end: u64) -> Result<Option<u64>> {
    let broken = || Error::from(ErrorKind::InvalidData);
    while file.stream_position()? < end {
        let key = varint(file)?;
        let length = match key & 7 {
            0 => varint(file).map(|_| 0)?,
            1 => 8,
            2 => varint(file)?,
            5 => 4,
            _ => return Err(broken()),
        };
        let after = file.stream_position()?.checked_add(length).filter(|&after| after <= end).ok_or_else(broken)?;
        if key == wanted << 3 | 2 {
            return Ok(Some(after));
        }
        file.seek_relative(i64::try_from(length).map_err(|_| broken())?)?;
    }
    Ok(None)
}

fn varint(file: &mut impl Read) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(number);
        }
    }
    Err(ErrorKind::InvalidData.into())
}
