//! Weights stored in a rotated basis, as PrismML's Bonsai 2 has them.

use super::Linear;

/// The basis that some weights are stored in.
///
/// With H the normalised Walsh-Hadamard matrix of `block` in Sylvester's order, applied to each block of the input, and s
/// the signs of the input's width: a folded matrix stores W diag(s) H, so that its product is W' (H (s x)); the rows of
/// the embedding table are stored as H (s e).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Elements that are mixed with each other: a power of two that divides the width of every folded input.
    pub block: usize,
    /// +1 or -1 for each element, by the width of the input; `None` where no sign changes.
    pub signs: Option<Vec<(usize, Vec<f32>)>>,
    /// Projections with folded weights, by layer; those of a block of multi-token prediction behind them.
    pub folded: Vec<Vec<Linear>>,
    /// The output head is folded: a matrix of its own, or the embedding table.
    pub head: bool,
    /// The head is the embedding table.
    pub tied: bool,
    /// Folded [`Linear::DeltaOut`] take value heads grouped by key head.
    pub v_grouped: bool,
}

impl Rotation {
    /// True where the input of a projection is rotated first.
    pub fn folds(&self, layer: usize, role: Linear) -> bool {
        self.folded.get(layer).is_some_and(|roles| roles.contains(&role))
    }

    /// The signs for an input of that width; `None` where there are none.
    ///
    /// # Panics
    /// If signs are given, but none for that width; reading the keys checks it.
    pub fn signs_of(&self, width: usize) -> Option<&[f32]> {
        let signs = self.signs.as_ref()?;
        let found = signs.iter().find(|(of, _)| *of == width);
        Some(&found.unwrap_or_else(|| panic!("signs for an input of {width}")).1)
    }
}
