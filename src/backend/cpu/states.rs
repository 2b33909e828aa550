//! State of the sequences of a segment, layer by layer: keys and values, or what a recurrent layer carries along.

use std::ops::Range;

use bitnet_cpu_kernels::{
    attention::{KvCache, Placed},
    delta,
};

use super::super::{Checkpoint, LayerState, SlotId, States};
use crate::{
    error::{Error, Remedy, Result},
    graph::{CHECKPOINTS, Graph, StateKind},
    model::{Config, DeltaNet},
    plan::{Segment, Sizes},
};

/// State of one layer, for each sequence.
#[derive(Debug)]
pub(super) enum LayerStates {
    /// Of attention.
    Kv(Vec<KvCache>),
    /// Of a gated DeltaNet, and a copy for each checkpoint.
    Recurrent {
        /// By slot.
        live: Vec<delta::State>,
        /// By slot.
        kept: Vec<[delta::State; CHECKPOINTS]>,
    },
}

/// Positions that the recurrent layers of a sequence stand behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    /// `None` after a step that failed halfway.
    live: Option<usize>,
    kept: [Option<usize>; CHECKPOINTS],
}

/// States of all layers of a segment.
#[derive(Debug)]
pub(super) struct SegmentStates {
    /// By layer, from the first of the segment.
    pub layers: Vec<LayerStates>,
    /// By slot. Of no use where no layer is recurrent.
    lengths: Vec<Lengths>,
    has_recurrent: bool,
}

impl SegmentStates {
    /// # Errors
    /// [`Error::OutOfMemory`] if there is not the memory.
    pub fn new(graph: &Graph, config: &Config, segment: &Segment, sizes: &Sizes) -> Result<Self> {
        let layers = segment.layers.clone();
        let all = layers.clone().map(|layer| layer_states(graph.layer(layer).state, config, sizes));
        let Some(all) = all.collect::<Result<Option<Vec<_>>>>()? else {
            let kinds = if config.delta.is_some() { "keys, values and recurrent states" } else { "keys and values" };
            let what = format!("the {kinds} of {} tokens", sizes.context_tokens * sizes.sequences);
            let bytes = layers.map(|layer| sizes.state_bytes(graph.layer(layer).state)).sum();
            return Err(Error::OutOfMemory { what, bytes }.with_remedy(Remedy::ShrinkCache));
        };
        Ok(Self {
            has_recurrent: all.iter().any(|layer| matches!(layer, LayerStates::Recurrent { .. })),
            layers: all,
            lengths: vec![Lengths { live: Some(0), ..Lengths::default() }; sizes.sequences],
        })
    }

    /// Before a step over `rows`: recurrent states of sequences that begin are emptied.
    ///
    /// # Panics
    /// If a row does not go on where its recurrent states stand.
    pub fn begin(&mut self, rows: &[Placed]) {
        if !self.has_recurrent {
            return;
        }
        for row in rows {
            let live = self.lengths[row.cache].live.take();
            if row.start > 0 {
                assert_eq!(live, Some(row.start), "recurrent states of slot {} before its next step", row.cache);
                continue;
            }
            if live != Some(0) {
                self.zero(row.cache);
            }
        }
    }

    /// After a step over `rows`.
    pub fn finish(&mut self, rows: &[Placed]) {
        for row in rows {
            self.lengths[row.cache].live = Some(row.start + row.tokens);
        }
    }

    fn zero(&mut self, slot: usize) {
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, .. } = layer {
                live[slot].clear();
            }
        }
    }
}

/// `None` if there is not the memory.
fn layer_states(kind: StateKind, config: &Config, sizes: &Sizes) -> Result<Option<LayerStates>> {
    let sequences = 0..sizes.sequences;
    match kind {
        StateKind::Kv { kv_heads, head_dim } => {
            let cache = |_| KvCache::try_new(kv_heads, head_dim, sizes.context_tokens, sizes.k_type, sizes.v_type);
            Ok(sequences.map(cache).collect::<Option<Vec<_>>>().map(LayerStates::Kv))
        }
        StateKind::Recurrent { .. } => {
            let shape = delta_shape(config.delta.as_ref().ok_or_else(|| Error::missing("heads", "recurrent layers"))?);
            let state =
                || delta::State::try_new(shape).map_err(|e| Error::unsupported("a recurrent layer", e.to_string()));
            let (mut live, mut kept) = (Vec::new(), Vec::new());
            for _ in sequences {
                let copies = (0..=CHECKPOINTS).map(|_| state()).collect::<Result<Option<Vec<_>>>>()?;
                let Some(mut copies) = copies else { return Ok(None) };
                live.extend(copies.pop());
                kept.push(copies.try_into().unwrap_or_else(|_| unreachable!("one for each checkpoint")));
            }
            Ok(Some(LayerStates::Recurrent { live, kept }))
        }
    }
}

/// The heads as the kernels take them.
pub(super) fn delta_shape(delta: &DeltaNet) -> delta::Shape {
    delta::Shape {
        key_heads: delta.key_heads,
        value_heads: delta.value_heads,
        dim: delta.head_dim,
        kernel: delta.kernel,
    }
}

impl States for SegmentStates {
    fn clear(&mut self, slot: SlotId) -> Result<()> {
        // Positions of keys and values are overwritten as they are computed again.
        self.lengths[slot.index()] = Lengths { live: Some(0), ..Lengths::default() };
        self.zero(slot.index());
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        let Lengths { live, kept } = self.lengths[from.index()];
        let place = kept.iter().position(|kept| *kept == Some(len));
        let is_live = live == Some(len);
        if self.has_recurrent && !is_live && place.is_none() {
            let thing = format!("a fork of {len} tokens");
            return Err(Error::malformed(thing, "a length that the recurrent layers have", format!("{live:?}")));
        }
        for layer in &mut self.layers {
            match layer {
                LayerStates::Kv(caches) => {
                    if let Ok([from, to]) = caches.get_disjoint_mut([from.index(), to.index()]) {
                        to.copy_from(from, len);
                    }
                }
                LayerStates::Recurrent { live, kept } => match place.filter(|_| !is_live) {
                    Some(place) => live[to.index()].copy_from(&kept[from.index()][place]),
                    None => {
                        if let Ok([from, to]) = live.get_disjoint_mut([from.index(), to.index()]) {
                            to.copy_from(from);
                        }
                    }
                },
            }
        }
        self.lengths[to.index()] = Lengths { live: Some(len), ..Lengths::default() };
        Ok(())
    }

    fn rewind(&mut self, slot: SlotId, len: usize) -> bool {
        !self.has_recurrent || self.lengths[slot.index()].live == Some(len)
    }

    fn checkpoint(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        // Keys and values of earlier positions stay where they are.
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, kept } = layer {
                kept[slot.index()][place.index()].copy_from(&live[slot.index()]);
            }
        }
        let lengths = &mut self.lengths[slot.index()];
        lengths.kept[place.index()] = lengths.live;
        Ok(())
    }

    fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, kept } = layer {
                live[slot.index()].copy_from(&kept[slot.index()][place.index()]);
            }
        }
        let lengths = &mut self.lengths[slot.index()];
        lengths.live = lengths.kept[place.index()];
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        *to = match &self.layers[layer] {
            LayerStates::Kv(caches) => {
                let [k, v] = caches[slot.index()].read(positions);
                LayerState::Kv { k, v }
            }
            LayerStates::Recurrent { live, .. } => {
                let held = self.lengths[slot.index()].live;
                if held != Some(positions.end) {
                    let thing = format!("the recurrent state of layer {layer} behind {} tokens", positions.end);
                    return Err(Error::malformed(thing, "that length", format!("{held:?}")));
                }
                let state = &live[slot.index()];
                LayerState::Recurrent { conv: state.conv().to_vec(), state: state.memory().to_vec() }
            }
        };
        Ok(())
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        let wrong =
            |expected: &str, found: &str| Err(Error::malformed(format!("state for layer {layer}"), expected, found));
        match (&mut self.layers[layer], from) {
            (LayerStates::Kv(caches), LayerState::Kv { k, v }) => caches[slot.index()].write(positions.start, k, v),
            (LayerStates::Recurrent { live, .. }, LayerState::Recurrent { conv, state }) => {
                let to = &mut live[slot.index()];
                if (conv.len(), state.len()) != (to.conv().len(), to.memory().len()) {
                    return wrong("a recurrent state of its shape", "one of another");
                }
                to.conv_mut().copy_from_slice(conv);
                to.memory_mut().copy_from_slice(state);
                self.lengths[slot.index()].live = Some(positions.end);
            }
            (LayerStates::Kv(_), LayerState::Recurrent { .. }) => return wrong("keys and values", "a recurrent state"),
            (LayerStates::Recurrent { .. }, LayerState::Kv { .. }) => {
                return wrong("a recurrent state", "keys and values");
            }
        }
        Ok(())
    }
}
