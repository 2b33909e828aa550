//! Data that every lowering needs: the buffers of a segment, and the bindings that a kernel takes of them.

use super::weights::{LayerWeights, Weights};
use crate::{
    backend::gpu::{
        buffers::{
            activations::ActivationBuffers,
            arenas::{Arenas, Region, Window},
            limits::too_large,
        },
        record::encode::Builder,
    },
    error::{Error, Remedy, Result},
    model::{Activation, Config, Norm},
    plan::Sizes,
};

/// Codes of places for the word that finite.wgsl writes: the earliest place has the largest one.
pub fn place_code(place: usize) -> u32 {
    u32::MAX - place as u32
}

/// The damaged place by that word; `None` when nothing is damaged.
pub fn damaged_place(word: u32, layers: usize) -> Option<String> {
    match (word != 0).then(|| (u32::MAX - word) as usize)? {
        0 => Some("the embedding".to_owned()),
        place if place <= layers => Some(format!("layer {}", place - 1)),
        _ => Some("the output head".to_owned()),
    }
}

/// Most workgroups in one dimension.
pub const MAX_WORKGROUPS: usize = 65535;
pub fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

pub fn activation_constant(activation: Activation) -> f64 {
    match activation {
        Activation::Relu2 => 1.0,
        Activation::Silu => 2.0,
        Activation::GeluTanh => 3.0,
    }
}

/// Turns ops into dispatches.
pub struct Lowering<'a> {
    pub builder: Builder<'a>,
    pub config: &'a Config,
    pub sizes: &'a Sizes,
    pub activations: &'a ActivationBuffers,
    pub arenas: &'a Arenas,
    pub weights: &'a Weights,
    /// Most tokens of a step of [`KernelPhase::Few`].
    pub small_batch: usize,
    /// Keys for which attention has a split.
    pub split_keys: usize,
    /// So many layers leave the norm and quantisation before their largest product to a kernel of its own.
    pub apart_layers: usize,
}

/// The most that [`Lowering::apart_layers`] may be of `layers` when a token has so many dispatches beside them: it stays
/// within seven a layer, of which six are there in any case, and six more.
pub fn most_apart(layers: usize, beside: usize) -> usize {
    (layers + 6).saturating_sub(beside).min(layers)
}

pub fn all(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

impl<'a> Lowering<'a> {
    pub fn windows(&self, region: &Region, max_rows: usize) -> Result<Vec<Window<'a>>> {
        let gpu = self.builder.gpu;
        let windows = self.arenas.windows(region, gpu.max_binding_bytes(), max_rows, gpu.offset_alignment());
        for window in &windows {
            let bytes = window.binding.size.map_or(0, wgpu::BufferSize::get);
            if bytes > gpu.max_binding_bytes() {
                return Err(too_large("a row of weights", bytes, gpu.max_binding_bytes()));
            }
        }
        Ok(windows)
    }

    /// A region that kernels need in one binding: a norm, the table of rotations.
    pub fn whole(&self, what: &str, region: &Region) -> Result<wgpu::BufferBinding<'a>> {
        match &self.windows(region, usize::MAX)?[..] {
            [one] => Ok(one.binding.clone()),
            _ => Err(Error::unsupported(what, "it does not fit in one binding of this GPU")),
        }
    }

    /// The table of rotations.
    pub fn rotations(&self) -> Result<wgpu::BufferBinding<'a>> {
        let table = self.whole("the table of rotations", &self.weights.rope);
        table.map_err(|error| error.with_remedy(Remedy::LowerContext))
    }

    /// Epsilon of a norm, where there is one.
    pub fn eps(&self, norm: Option<Norm>) -> f32 {
        norm.map_or(self.config.rms_eps, |norm| self.config.eps(norm))
    }

    pub fn norm(&self, norm: Option<Norm>, weights: &'a LayerWeights) -> Result<wgpu::BufferBinding<'a>> {
        match norm {
            Some(role) => {
                let region = weights.norm(role).ok_or_else(|| Error::missing(format!("norm {role:?}"), "the layer"))?;
                self.whole("a norm", region)
            }
            // Not read: anything that no dispatch of a block writes.
            None => self.rotations(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_apart_stay_within_the_dispatches_of_a_token() {
        for (layers, beside, apart) in [(30, 0, 30), (30, 6, 30), (30, 19, 17), (30, 36, 0), (30, 50, 0), (1, 6, 1)] {
            assert_eq!(most_apart(layers, beside), apart, "{layers} layers, {beside} dispatches beside them");
            assert!(apart == 0 || 6 * layers + apart + beside <= 7 * layers + 6);
        }
    }

    #[test]
    fn the_earliest_damage_is_named() {
        let layers = 3;
        let places = |of: &[usize]| damaged_place(of.iter().map(|&p| place_code(p)).max().unwrap_or(0), layers);
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[4, 2]).unwrap(), "layer 1");
        assert_eq!(places(&[4]).unwrap(), "the output head");
        assert_eq!(places(&[3, 0]).unwrap(), "the embedding");
    }
}
