//! The prepared dispatches of a segment.

use crate::{
    backend::gpu::{
        buffers::{activations::ActivationBuffers, arenas::Arenas, memory::LayerMemory, shape::Shape},
        device::Gpu,
        lower::{
            fuse::KernelPhase,
            lowering::{Lowering, most_apart},
            screen::Screen,
            select::Select,
            weights::Weights,
        },
        record::encode::{Builder, Dispatch, Uniforms},
    },
    error::Result,
    graph::Graph,
    model::Model,
    plan::{Segment, Sizes},
};

/// Tokens that share a reading of the head's weights when the logits of many are wanted.
const HEAD_TILE: u32 = 4;

/// The output head and what chooses among its logits.
pub struct HeadLists {
    /// Final norm of the tokens whose logits are wanted.
    pub norm: Dispatch,
    /// Logits of one token, and of several, behind that norm.
    pub one: Vec<Dispatch>,
    pub many: Vec<Dispatch>,
    /// The highest logits, where there is a copy of the head.
    pub screen: Option<Screen>,
    pub select: Select,
}

/// The dispatches of a segment.
pub struct Lists {
    /// Ids to hidden states; empty when hidden states come in.
    pub embed: Vec<Dispatch>,
    /// One list a layer: for one token, for as many as [`Shape::small_batch`], for more.
    pub decode: Vec<Vec<Dispatch>>,
    pub few: Vec<Vec<Dispatch>>,
    pub prefill: Vec<Vec<Dispatch>>,
    /// `None` when hidden states go out.
    pub head: Option<HeadLists>,
}

/// Everything the dispatches of a segment are made from.
pub struct Made<'a> {
    pub gpu: &'a Gpu,
    pub model: &'a Model,
    pub segment: &'a Segment,
    pub sizes: &'a Sizes,
    pub shape: &'a Shape,
    pub weights: &'a Weights,
    pub arenas: &'a Arenas,
    pub activations: &'a ActivationBuffers,
    pub memories: &'a [LayerMemory],
}

impl Lists {
    /// All dispatches, and the buffer for their parameters where the device needs one.
    pub fn new(made: &Made<'_>) -> Result<(Self, Option<Uniforms>)> {
        let &Made { gpu, model, segment, sizes, shape, weights, arenas, activations, memories } = made;
        let mut lowering = Lowering {
            builder: Builder::new(gpu),
            config: &model.config,
            sizes,
            activations,
            arenas,
            weights,
            small_batch: shape.small_batch,
            split_keys: shape.split_keys,
            apart_layers: 0,
        };
        let embed = match &weights.embed {
            Some(region) => lowering.embed(&model.weights.token_embd, region)?,
            None => Vec::new(),
        };
        let head = if segment.head { head(&mut lowering, made)? } else { None };
        if gpu.prefers_apart() {
            let beside = embed.len() + head.as_ref().map_or(0, HeadLists::most_dispatches);
            lowering.apart_layers = segment.layers.start + most_apart(segment.layers.len(), beside);
        }
        let graph = Graph::of(&model.config);
        let mut lists = |phase| {
            let layers = segment.layers.clone().zip(weights.layers.iter().zip(memories));
            let mut layers = layers
                .map(|(layer, (weights, memory))| {
                    lowering.layer(&graph.layer(layer).ops, layer, weights, memory, phase)
                })
                .collect::<Result<Vec<_>>>()?;
            if let Some(last) = layers.last_mut() {
                last.extend(lowering.norm_before_last()?);
            }
            Ok(layers)
        };
        let decode = lists(KernelPhase::Decode)?;
        let few = if shape.small_batch > 1 { lists(KernelPhase::Few)? } else { Vec::new() };
        let prefill = if shape.chunk_tokens > shape.small_batch { lists(KernelPhase::Prefill)? } else { Vec::new() };
        let uniforms = lowering.builder.finish()?;
        Ok((Self { embed, decode, few, prefill, head }, uniforms))
    }

    /// Most dispatches of one submit.
    pub fn most_dispatches(&self) -> usize {
        let of_layers = |layers: &[Vec<Dispatch>]| layers.iter().map(Vec::len).sum::<usize>();
        let layers = of_layers(&self.decode).max(of_layers(&self.few)).max(of_layers(&self.prefill));
        self.embed.len() + layers + self.head.as_ref().map_or(0, HeadLists::most_dispatches)
    }
}

impl HeadLists {
    fn most_dispatches(&self) -> usize {
        let full = 1 + self.one.len().max(self.many.len());
        full.max(self.screen.as_ref().map_or(0, Screen::len)) + self.select.most_dispatches()
    }
}

fn head<'a>(lowering: &mut Lowering<'a>, made: &Made<'a>) -> Result<Option<HeadLists>> {
    let &Made { gpu, model, shape, weights, activations, .. } = made;
    let (Some(region), Some(norm)) = (&weights.head, lowering.last_norm()) else { return Ok(None) };
    let table = model.weights.head();
    let screen = match &weights.screen {
        Some(copy) => Some(lowering.screened_head(table, (region, copy, norm), shape.top_rows)?),
        None => None,
    };
    Ok(Some(HeadLists {
        norm: lowering.head_norm(norm)?,
        one: lowering.head(table, region, 1)?,
        many: lowering.head(table, region, HEAD_TILE)?,
        screen,
        select: Select::new(gpu, &mut lowering.builder, activations, (model.config.vocab, shape.top_rows))?,
    }))
}
