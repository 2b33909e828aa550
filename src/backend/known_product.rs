//! A small ternary product with its result from the scalar reference: what each backend has to get right before
//! it is used.

use bitnet_cpu_kernels::{
    Cpu, Isa,
    format::{Layout, Scales, TernaryView, ternary_bytes},
    quantize::QuantizedActs,
    ternary,
};

const ROWS: usize = 67;
const COLS: usize = 384;
/// Whole groups of 64, 128 and 256.
#[cfg(any(feature = "gpu", test))]
const GROUPED_COLS: usize = 768;
const TOKENS: usize = 3;

pub(super) struct KnownProduct {
    cols: usize,
    codes: Vec<u8>,
    /// (tokens, cols)
    pub acts: Vec<i8>,
    /// (tokens, rows)
    expected: Vec<i32>,
}

impl KnownProduct {
    pub fn new() -> Self {
        Self::with_cols(COLS)
    }

    /// One whose columns are whole groups of every size.
    #[cfg(any(feature = "gpu", test))]
    pub fn grouped() -> Self {
        Self::with_cols(GROUPED_COLS)
    }

    fn with_cols(cols: usize) -> Self {
        // Noise over all byte values: code 3 is computed as well, as +2.
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0];
        let codes = (0..ternary_bytes(Layout::I2sP128, ROWS, cols)).map(noise).collect();
        // 127 in every group and nothing beyond, so that quantising these values gives them back.
        let act = |i: usize| if i.is_multiple_of(64) { 127 } else { noise(i + 1_000_000).cast_signed().max(-127) };
        let acts = (0..TOKENS * cols).map(act).collect();
        let mut known = Self { cols, codes, acts, expected: Vec::new() };
        known.expected = known.on(Isa::Scalar);
        known
    }

    /// One that no kernel gets right, for tests of what follows.
    #[cfg(test)]
    pub fn wrong() -> Self {
        let mut known = Self::new();
        known.expected[ROWS + 3] += 1;
        known
    }

    pub fn weights(&self) -> TernaryView<'_> {
        TernaryView {
            rows: ROWS,
            cols: self.cols,
            codes: &self.codes,
            layout: Layout::I2sP128,
            scales: Scales::PerTensor(1.0),
        }
    }

    /// The product as the kernels of `isa` compute it.
    pub fn on(&self, isa: Isa) -> Vec<i32> {
        let mut acts = QuantizedActs::new(TOKENS, self.cols);
        acts.set_raw(self.cols, &self.acts, &[1.0; TOKENS]);
        let mut out = vec![0; TOKENS * ROWS];
        ternary::matmul_i32(&Cpu::new(isa, 1), &acts, self.weights(), &mut out);
        out
    }

    /// The first difference, in words.
    pub fn fault(&self, found: &[i32]) -> Option<String> {
        let at = self.expected.iter().zip(found).position(|(expected, found)| expected != found)?;
        let (token, row) = (at / ROWS, at % ROWS);
        Some(format!("expected {}, found {} at token {token}, row {row}", self.expected[at], found[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_found_and_placed() {
        let known = KnownProduct::new();
        let mut found = known.expected.clone();
        assert_eq!(known.fault(&found), None);
        found[ROWS + 5] += 1;
        let fault = known.fault(&found).unwrap();
        assert!(fault.ends_with(&format!("found {} at token 1, row 5", found[ROWS + 5])), "{fault}");
    }
}
