//! Where the elements of a tensor lie in the bytes of a file: what numpy and torch call strides.

use safetensors::Dtype;

/// A tensor in some bytes: element `[i, j, …]` is their element `offset + i * strides[0] + j * strides[1] + …`.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// First element, counted in elements.
    pub offset: usize,
    /// Elements from one index to the next in each dimension.
    pub strides: Vec<usize>,
}

impl Strided {
    /// Elements one after another, the last dimension contiguous (C order).
    pub fn row_major(dtype: Dtype, shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Strided { dtype, shape, offset: 0, strides }
    }

    /// Elements one after another, the first dimension contiguous (Fortran order).
    pub fn column_major(dtype: Dtype, shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in 1..shape.len() {
            strides[i] = strides[i - 1].saturating_mul(shape[i - 1]);
        }
        Strided { dtype, shape, offset: 0, strides }
    }

    /// Bytes of one element.
    pub fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Number of elements; none if it is beyond counting.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
    }

    /// Whether every element lies within `bytes` bytes, and there are no more elements than they hold
    /// (a stride of 0 could repeat one without end).
    pub fn fits(&self, bytes: usize) -> bool {
        let held = bytes / self.width();
        match self.elements() {
            None => false,
            Some(0) => self.offset <= held,
            Some(elements) => elements <= held && self.last().is_some_and(|last| last < held),
        }
    }

    fn last(&self) -> Option<usize> {
        let mut steps = self.shape.iter().zip(&self.strides);
        steps.try_fold(self.offset, |sum, (&n, &stride)| sum.checked_add((n - 1).checked_mul(stride)?))
    }

    /// Whether the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let row_major = Strided::row_major(self.dtype, self.shape.clone());
        let mut dimensions = self.shape.iter().zip(self.strides.iter().zip(&row_major.strides));
        // A dimension of one element has no step to take.
        dimensions.all(|(&n, (stride, expected))| n <= 1 || stride == expected)
    }

    /// The elements in row-major order. Only for what [`Strided::fits`].
    pub fn gather(&self, bytes: &[u8]) -> Vec<u8> {
        let width = self.width();
        let elements = self.elements().unwrap_or(0);
        let mut out = Vec::with_capacity(elements * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..elements {
            let steps = index.iter().zip(&self.strides).map(|(i, stride)| i * stride);
            let start = (self.offset + steps.sum::<usize>()) * width;
            out.extend_from_slice(&bytes[start..start + width]);
            for (i, &n) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn a_transposed_matrix_is_gathered_row_by_row() {
        let matrix = Strided::column_major(Dtype::U8, vec![2, 3]);
        assert_eq!(matrix.strides, [1, 2]);
        assert!(!matrix.is_contiguous());
        assert_eq!(matrix.gather(&BYTES), [0, 2, 4, 1, 3, 5]);
        let rows = Strided::row_major(Dtype::U8, vec![2, 3]);
        assert!(rows.is_contiguous());
        assert_eq!(rows.gather(&BYTES), BYTES);
    }

    #[test]
    fn a_view_into_the_middle_is_gathered_from_there() {
        let view = Strided { dtype: Dtype::U16, shape: vec![1, 2], offset: 1, strides: vec![7, 1] };
        assert!(view.is_contiguous() && view.fits(6));
        assert_eq!(view.gather(&BYTES), [2, 3, 4, 5]);
    }

    #[test]
    fn what_reaches_beyond_the_bytes_does_not_fit() {
        let of = |shape: &[usize], offset, strides: &[usize]| {
            Strided { dtype: Dtype::U16, shape: shape.to_vec(), offset, strides: strides.to_vec() }.fits(6)
        };
        assert!(of(&[3], 0, &[1]) && of(&[], 2, &[]) && of(&[0, 1 << 40], 3, &[1, 1]));
        assert!(!of(&[0, 1], 4, &[1, 1]), "nothing, but from behind the end");
        assert!(!of(&[3], 1, &[1]), "one element too far");
        assert!(!of(&[], 3, &[]), "behind the end");
        assert!(!of(&[2], 0, &[3]), "a step too far");
        assert!(!of(&[4], 0, &[0]), "more elements than there are");
        assert!(!of(&[1 << 40, 1 << 40], 0, &[1, 1]), "more elements than can be counted");
        assert!(!of(&[2, 2], usize::MAX, &[usize::MAX, 1]), "an offset beyond counting");
    }
}
