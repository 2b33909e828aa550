//! Demand of a model for memory on this GPU, by part, from the same placement that loading does.

use super::plan::segment_bytes;
use crate::{
    backend::gpu::device::Gpu,
    error::Result,
    model::Model,
    plan::{BackendKind, Demand, Segment, SegmentBytes, Sizes},
};

/// The demand of `model`; an error when the GPU cannot run it, whatever its memory.
///
/// Places in the arenas are whole multiples of the alignment, so that the parts add up to any segment.
pub fn demand(gpu: &Gpu, model: &Model, sizes: &Sizes) -> Result<Demand> {
    let bytes = |layers: std::ops::Range<usize>, embed, head| -> Result<SegmentBytes> {
        let segment = Segment { layers, backend: BackendKind::Gpu, embed, head, reason: String::new() };
        segment_bytes(gpu, model, &segment, sizes)
    };
    let (nothing, embed, head) = (bytes(0..0, false, false)?, bytes(0..0, true, false)?, bytes(0..0, false, true)?);
    let layers = (0..model.config.layers).map(|layer| bytes(layer..layer + 1, false, false));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    Ok(Demand {
        layer_state_bytes: layers.iter().map(|layer| layer.states).collect(),
        layer_weight_bytes: layers.into_iter().map(|layer| layer.weights).collect(),
        embed_bytes: embed.tables,
        head_bytes: head.tables,
        tied: model.weights.output.is_none(),
        activation_bytes: nothing.activations,
        head_activation_bytes: head.activations - nothing.activations,
        mtp_bytes: 0,
    })
}
