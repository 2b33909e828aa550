//! Matrices of MLX's affine quantisation: value = scale * code + bias, with a scale and a bias for each group of columns
//! (`mlx.core.quantize`). The codes of a row are a stream of bits, the lowest first, in words of 32.
//!
//! Groups of ternary weights come in two forms. Files made of ternary models have -scale as the bias and the codes 0, 1 and 2
//! (Ternary Bonsai). What `quantize` makes of such weights has the larger end of -d and d as the bias, 0 as a code in the
//! middle, and the other end one step short where the highest code cuts it: of 4 bits 0, 8 and 15 for d, 0 and -7/8 d.

use half::f16;
use safetensors::Dtype;

use super::{
    config::INSTEAD,
    dense,
    order::Order,
    safetensors::{Tensor, shape},
    ternary::is_real,
};
use crate::{
    error::{Error, Result},
    gguf::TensorType,
};

/// Bits of a word.
const WORD: usize = 32;

/// Code widths of `mlx.core.quantize`.
const WIDTHS: [usize; 6] = [2, 3, 4, 5, 6, 8];

/// A share of d that stands for 0: scales and biases are numbers of 8 bits or more, so that what should be 0 may be off by 2^-8.
const NOTHING: f32 = 1.0 / 64.0;

/// A matrix (rows, cols) and what belongs to it.
pub(super) struct Affine<'a> {
    pub codes: &'a Tensor,
    scales: &'a Tensor,
    biases: &'a Tensor,
    rows: usize,
    cols: usize,
    /// Bits of a code.
    pub bits: usize,
    /// Columns that share a scale.
    pub group: usize,
}

impl<'a> Affine<'a> {
    /// Checks types and shapes, which also say how wide codes and groups are: these differ from matrix to matrix.
    pub fn new(
        codes: &'a Tensor,
        scales: &'a Tensor,
        biases: &'a Tensor,
        (rows, cols): (usize, usize),
    ) -> Result<Self> {
        let wrong = |tensor: &Tensor, expected: String| {
            let found = format!("{} of {}", shape(&tensor.shape), tensor.dtype);
            Err(Error::malformed(format!("tensor {}", tensor.name), expected, found))
        };
        let bits = WIDTHS.into_iter().find(|bits| codes.shape == [rows, bits * cols / WORD]);
        let Some(bits) = bits.filter(|bits| codes.dtype == Dtype::U32 && (bits * cols).is_multiple_of(WORD)) else {
            return wrong(codes, format!("{rows} x {cols} codes of 2 to 8 bits in U32"));
        };
        let groups = scales.shape.last().copied().unwrap_or(0);
        let group = if groups > 0 && cols.is_multiple_of(groups) { cols / groups } else { 0 };
        for tensor in [scales, biases] {
            if group == 0 || !is_real(tensor.dtype) || tensor.shape != [rows, groups] {
                return wrong(tensor, format!("numbers for groups of {rows} x {cols} weights"));
            }
        }
        Ok(Self { codes, scales, biases, rows, cols, bits, group })
    }

    /// The ternary type with such groups, if all weights are ternary.
    pub fn ternary_type(&self) -> Option<TensorType> {
        let ty = match self.group {
            64 => TensorType::Q2_0,
            128 => TensorType::PQ2_0,
            _ => return None,
        };
        self.check().is_ok().then_some(ty)
    }

    /// Looks for a group that is not ternary.
    ///
    /// # Errors
    /// Names the first one.
    pub fn check(&self) -> Result<()> {
        let mut values = vec![0.0; self.cols];
        (0..self.rows).try_for_each(|row| self.ternary_row(row, &mut values).map(drop))
    }

    /// All numbers, their rows in that order.
    ///
    /// # Errors
    /// Names a row that has none.
    pub fn rows(&self, order: Order) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.rows * self.cols];
        for (row, out) in values.chunks_exact_mut(self.cols).enumerate() {
            let row = order.source(row);
            self.row(row, out);
            if let Some(value) = out.iter().find(|value| !value.is_finite()) {
                let thing = format!("tensor {}", self.codes.name);
                return Err(Error::malformed(thing, "finite numbers", format!("{value} in row {row}")));
            }
        }
        Ok(values)
    }

    /// All numbers as F16.
    ///
    /// # Errors
    /// Names a number that F16 does not hold.
    pub fn short(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(2 * self.rows * self.cols);
        let mut values = vec![0.0; self.cols];
        for row in 0..self.rows {
            self.row(row, &mut values);
            for (col, value) in values.iter().enumerate() {
                let short = f16::from_f32(*value);
                if !short.is_finite() {
                    let found = format!("{value} at row {row}, column {col}");
                    return Err(Error::malformed(format!("tensor {}", self.codes.name), "numbers that fit f16", found));
                }
                bytes.extend(short.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// The numbers of a row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let mut codes = vec![0; self.cols];
        let (scales, biases) = self.read(row, &mut codes);
        let groups = out.chunks_exact_mut(self.group).zip(codes.chunks_exact(self.group));
        for ((values, codes), (scale, bias)) in groups.zip(scales.iter().zip(&biases)) {
            for (value, code) in values.iter_mut().zip(codes) {
                *value = scale * f32::from(*code) + bias;
            }
        }
    }

    /// The numbers of a row whose groups are -d, 0 and d; true where MLX has cut some of them.
    ///
    /// # Errors
    /// Names a group that is not ternary.
    pub fn ternary_row(&self, row: usize, out: &mut [f32]) -> Result<bool> {
        let mut codes = vec![0; self.cols];
        let (scales, biases) = self.read(row, &mut codes);
        let groups = out.chunks_exact_mut(self.group).zip(codes.chunks_exact(self.group));
        let mut is_cut = false;
        for (at, ((values, codes), (scale, bias))) in groups.zip(scales.iter().zip(&biases)).enumerate() {
            let ends = Ends::of(codes, *scale, *bias, self.bits).ok_or_else(|| {
                let thing = format!("tensor {} of MLX in {} bits", self.codes.name, self.bits);
                let first = at * self.group;
                let columns = format!("columns {first} to {}", first + self.group - 1);
                let reason = format!("row {row} has other weights than -d, 0 and d in {columns}: {INSTEAD}");
                Error::unsupported(thing, reason)
            })?;
            is_cut |= ends.is_cut;
            for (value, code) in values.iter_mut().zip(codes) {
                *value = ends.value(*code);
            }
        }
        Ok(is_cut)
    }

    /// Reads the codes of a row; gives its scales and biases.
    fn read(&self, row: usize, codes: &mut [u8]) -> (Vec<f32>, Vec<f32>) {
        let row_words = self.bits * self.cols / WORD;
        let mut words = self.codes.data[4 * row * row_words..][..4 * row_words].as_chunks::<4>().0.iter();
        let (mut held, mut held_bits) = (0_u64, 0);
        for code in codes {
            if held_bits < self.bits {
                let word = words.next().expect("rows are whole words");
                held |= u64::from(u32::from_le_bytes(*word)) << held_bits;
                held_bits += WORD;
            }
            *code = (held & ((1 << self.bits) - 1)) as u8;
            held >>= self.bits;
            held_bits -= self.bits;
        }
        let groups = self.cols / self.group;
        let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
        dense::read(self.scales, row * groups, &mut scales);
        dense::read(self.biases, row * groups, &mut biases);
        (scales, biases)
    }
}

/// Values of the lowest and the highest code of a ternary group; one between them is 0.
struct Ends {
    low: (u8, f32),
    high: (u8, f32),
    is_cut: bool,
}

impl Ends {
    /// `None` where the group is not ternary.
    fn of(codes: &[u8], scale: f32, bias: f32, bits: usize) -> Option<Self> {
        let low = *codes.iter().min()?;
        let high = *codes.iter().max()?;
        let value = |code: u8| scale * f32::from(code) + bias;
        let (first, last) = (value(low), value(high));
        if !(scale.is_finite() && first.is_finite() && last.is_finite()) {
            return None;
        }
        let most = first.abs().max(last.abs());
        let ends = |first, last, is_cut| Some(Self { low: (low, first), high: (high, last), is_cut });
        if most == 0.0 {
            return ends(0.0, 0.0, false);
        }
        let is_nothing = |value: f32| value.abs() <= NOTHING * most;
        let mut between = codes.iter().copied().filter(|&code| code != low && code != high);
        let steps = match between.next() {
            _ if low == high => return ends(first, first, false),
            Some(middle) => {
                if !between.all(|code| code == middle) || !is_nothing(value(middle)) {
                    return None;
                }
                f32::from(middle - low) - f32::from(high - middle)
            }
            None if is_nothing(first) => return ends(0.0, last, false),
            None if is_nothing(last) => return ends(first, 0.0, false),
            None => ((first.abs() - last.abs()) / scale).abs().copysign(first.abs() - last.abs()),
        };
        // Steps that the high end is nearer to 0 than the low one: none, or one that the highest code has cut.
        let is_cut = (steps - 1.0).abs() < 0.25 && usize::from(high) == (1 << bits) - 1;
        let is_even = steps.abs() < 0.25;
        if first.signum() == last.signum() || !(is_even || is_cut) {
            return None;
        }
        ends(most.copysign(first), most.copysign(last), is_cut)
    }

    fn value(&self, code: u8) -> f32 {
        match code {
            code if code == self.low.0 => self.low.1,
            code if code == self.high.0 => self.high.1,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;

    fn tensor(name: &str, dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), data: Bytes::from(data) }
    }

    fn numbers(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        tensor(name, Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Codes as a stream of bits, made bit by bit.
    fn stream(codes: &[u8], bits: usize) -> Vec<u8> {
        let mut bytes = vec![0; codes.len() * bits / 8];
        for (at, code) in codes.iter().enumerate() {
            for bit in 0..bits {
                let place = at * bits + bit;
                bytes[place / 8] |= (code >> bit & 1) << (place % 8);
            }
        }
        bytes
    }

    #[test]
    fn codes_of_every_width_are_a_stream_of_bits() {
        for bits in WIDTHS {
            let top = (1_usize << bits) - 1;
            let codes: Vec<u8> = (0..128).map(|at| (at * 7 % (top + 1)) as u8).collect();
            let packed = tensor("w", Dtype::U32, &[2, 64 * bits / 32], stream(&codes, bits));
            let scales = numbers("s", &[2, 2], &[0.5, -1.0, 2.0, 0.25]);
            let biases = numbers("b", &[2, 2], &[1.0, 0.0, -3.0, 8.0]);
            let matrix = Affine::new(&packed, &scales, &biases, (2, 64)).unwrap();
            assert_eq!((matrix.bits, matrix.group), (bits, 32));
            let mut row = vec![0.0; 64];
            matrix.row(1, &mut row);
            for (at, value) in row.iter().enumerate() {
                let expected = [2.0, 0.25][at / 32] * f32::from(codes[64 + at]) + [-3.0, 8.0][at / 32];
                assert_eq!(*value, expected, "{bits} bits, column {at}");
            }
        }
    }

    /// Values of a group of such codes; `None` where it is not ternary.
    fn group(codes: &[u8], scale: f32, bias: f32, bits: usize) -> Option<(Vec<f32>, bool)> {
        let ends = Ends::of(codes, scale, bias, bits)?;
        Some((codes.iter().map(|code| ends.value(*code)).collect(), ends.is_cut))
    }

    #[test]
    fn ternary_groups_are_told_from_others() {
        // Made of ternary weights: the bias is -scale.
        assert_eq!(group(&[0, 1, 2], 0.5, -0.5, 2), Some((vec![-0.5, 0.0, 0.5], false)));
        assert_eq!(group(&[2, 0], -0.5, 0.5, 4), Some((vec![-0.5, 0.5], false)));
        // By `mlx.core.quantize` of 0.3, 0 and -0.3 in bf16, in groups that have all, one sign, or one value.
        for (bits, middle, top) in [(2, 2, 3), (4, 8, 15), (8, 128, 255)] {
            let step = half::bf16::from_f32(-0.3 / f32::from(middle)).to_f32();
            let d = half::bf16::from_f32(0.3).to_f32();
            assert_eq!(group(&[0, middle, top], step, d, bits), Some((vec![d, 0.0, -d], true)), "{bits}");
            assert_eq!(group(&[top, 0], step, d, bits), Some((vec![-d, d], true)), "{bits}");
            let step = half::bf16::from_f32(-0.3 / f32::from(top)).to_f32();
            assert_eq!(group(&[0, top], step, d, bits), Some((vec![d, 0.0], false)), "{bits}");
            assert_eq!(group(&[0, top], -step, -d, bits), Some((vec![-d, 0.0], false)), "{bits}");
        }
        assert_eq!(group(&[0, 0], -1e-7, 0.3, 4), Some((vec![0.3, 0.3], false)));
        assert_eq!(group(&[0, 3, 7], 0.0, 0.0, 4), Some((vec![0.0, 0.0, 0.0], false)));
        // Four values, a middle that is not 0, ends that differ, a cut where none is, no numbers.
        for (codes, scale, bias) in [
            (&[0, 1, 2, 3][..], 0.5, -0.5),
            (&[0, 7, 15], -0.1, 0.8),
            (&[0, 8, 14], -0.1, 0.8),
            (&[0, 8, 12], -0.1, 0.8),
            (&[0, 15], -0.1, 1.0),
            (&[0, 1], 0.1, 1.0),
            (&[0, 1, 2], f32::NAN, 0.5),
            (&[0, 1, 2], 0.5, f32::INFINITY),
        ] {
            assert_eq!(group(codes, scale, bias, 4), None, "{codes:?} {scale} {bias}");
        }
    }
}
