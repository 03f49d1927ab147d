use rayon::prelude::*;

/// Sides of a tile: a line of each side is a whole number of cache lines, and a tile of 32-bit elements fits the nearest
/// cache.
const TILE: usize = 64;

/// Transposes a row-major matrix `[rows, columns]` to `[columns, rows]`; for scales, and for dense weights that MatMul takes
/// as its right operand.
///
/// # Panics
/// Where `matrix` or `transposed` is not `rows · columns` long.
pub fn transpose_into<T: Copy + Default + Send + Sync>(matrix: &[T], rows: usize, columns: usize, transposed: &mut [T]) {
    assert_eq!(matrix.len(), rows * columns, "a matrix of these sizes");
    let read = |row: usize, column: usize, line: &mut [T]| {
        let start = row * columns + column;
        line.copy_from_slice(&matrix[start..start + line.len()]);
    };
    transpose_with(rows, columns, read, transposed);
}

/// As [`transpose_into`], into a new vector.
pub fn transpose<T: Copy + Default + Send + Sync>(matrix: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut transposed = vec![T::default(); matrix.len()];
    transpose_into(matrix, rows, columns, &mut transposed);
    transposed
}

/// `[rows, columns]` elements of two or four bytes as `[columns, rows]`.
pub fn transpose_bytes(bytes: Vec<u8>, rows: usize, columns: usize, element: usize) -> Vec<u8> {
    match element {
        2 => transpose(bytes.as_chunks::<2>().0, rows, columns).into_flattened(),
        _ => transpose(bytes.as_chunks::<4>().0, rows, columns).into_flattened(),
    }
}

/// Transposes the matrix `[rows, columns]` whose elements `read(row, first column, line)` writes into a line, on all cores.
///
/// # Panics
/// Where `transposed` is not `rows · columns` long.
pub fn transpose_with<T, R>(rows: usize, columns: usize, read: R, transposed: &mut [T])
where
    T: Copy + Default + Send + Sync,
    R: Fn(usize, usize, &mut [T]) + Sync,
{
    assert_eq!(transposed.len(), rows * columns, "a transpose of the same size");
    transposed.par_chunks_mut((TILE * rows).max(1)).enumerate().for_each(|(band, lines)| {
        let left = band * TILE;
        let width = TILE.min(columns - left);
        let mut tile = [[T::default(); TILE]; TILE];
        for top in (0..rows).step_by(TILE) {
            let bottom = rows.min(top + TILE);
            for (row, line) in (top..bottom).zip(&mut tile) {
                read(row, left, &mut line[..width]);
            }
            for (column, line) in lines.chunks_exact_mut(rows).enumerate() {
                for (slot, source) in line[top..bottom].iter_mut().zip(&tile) {
                    *slot = source[column];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_matrix_is_transposed() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3), [1, 4, 2, 5, 3, 6]);
        assert!(transpose::<u8>(&[], 0, 3).is_empty());
    }

    #[test]
    fn sizes_that_no_tile_divides_are_transposed() {
        let (rows, columns) = (37, 131);
        let matrix: Vec<u16> = (0..rows * columns).map(|i| i as u16).collect();
        let transposed = transpose(&matrix, rows, columns);
        for (i, &element) in transposed.iter().enumerate() {
            assert_eq!(element, matrix[(i % rows) * columns + i / rows]);
        }
    }
}
