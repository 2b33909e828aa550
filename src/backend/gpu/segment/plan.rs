//! The sizes of a segment, before anything is allocated.

use crate::{
    backend::gpu::{
        buffers::{arenas::Layout, shape::Shape},
        device::Gpu,
        lower::{screen::Screen, select::Select, weights::Weights},
    },
    error::Result,
    graph::{Graph, StateKind},
    model::Model,
    plan::{Segment, SegmentBytes, Sizes},
};

/// The sizes of a segment, checked against what the device binds.
pub struct Planned {
    pub layout: Layout,
    pub weights: Weights,
    pub shape: Shape,
}

pub fn plan(gpu: &Gpu, model: &Model, segment: &Segment, sizes: &Sizes) -> Result<Planned> {
    let mut layout = Layout::new(gpu.max_arena_bytes(), gpu.max_binding_bytes(), gpu.offset_alignment());
    let weights = Weights::place(&mut layout, model, &Graph::of(&model.config), segment, sizes)?;
    let (binding, cut) = (gpu.max_binding_bytes(), (gpu.tuning().chunk_tokens, gpu.split_keys()));
    let shape = Shape::new(&model.config, model.weights.act_group(), segment, sizes, binding, cut)?;
    Ok(Planned { layout, weights, shape })
}

/// Device memory that `segment` would take.
pub fn segment_bytes(gpu: &Gpu, model: &Model, segment: &Segment, sizes: &Sizes) -> Result<SegmentBytes> {
    let planned = plan(gpu, model, segment, sizes)?;
    Ok(bytes_of(&planned, model, segment))
}

pub fn bytes_of(planned: &Planned, model: &Model, segment: &Segment) -> SegmentBytes {
    let Planned { layout, weights, shape } = planned;
    SegmentBytes {
        weights: weights.layer_bytes,
        tables: weights.table_bytes,
        states: segment.layers.clone().map(|layer| shape.state_bytes(StateKind::of(&model.config, layer))).sum(),
        activations: layout.bytes() - weights.layer_bytes - weights.table_bytes
            + shape.activation_bytes(&model.config)
            + if segment.head { Select::bytes(model.config.vocab, shape.top_rows) } else { 0 }
            + if weights.screen.is_some() { Screen::bytes(&model.config, shape.top_rows) } else { 0 },
        mtp: 0,
    }
}
