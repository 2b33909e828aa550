//! State of the sequences of a segment, layer by layer: keys and values, or what a recurrent layer carries along.

use std::ops::Range;

use bitnet_cpu_kernels::{attention::KvCache, delta};

use super::{
    super::{Checkpoint, LayerState, Row, SlotId, States, lengths::Lengths},
    inputs::{Inputs, KEPT},
    mtp_state::Trail,
};
use crate::{
    error::{Error, Remedy, Result},
    graph::{CHECKPOINTS, Graph, StateKind},
    model::{Config, DeltaNet},
    plan::{Segment, Sizes},
};

/// State of one layer, for each sequence.
#[derive(Debug)]
pub(super) enum LayerStates {
    /// Keys and values of attention, by slot.
    Kv(Vec<KvCache>),
    /// State of a gated DeltaNet, and a copy for each checkpoint.
    Recurrent {
        /// By slot.
        live: Vec<delta::State>,
        /// By slot.
        kept: Vec<[delta::State; CHECKPOINTS]>,
    },
}

/// States of all layers of a segment.
#[derive(Debug)]
pub(super) struct SegmentStates {
    /// By layer, from the first of the segment.
    pub layers: Vec<LayerStates>,
    /// By slot, where a block of multi-token prediction is behind the layers; its keys and values are a layer more.
    pub trails: Vec<Trail>,
    /// Inputs of the recurrent layers, to take tokens back.
    pub inputs: Inputs,
    lengths: Lengths,
}

impl SegmentStates {
    /// # Errors
    /// [`Error::OutOfMemory`] if there is not the memory.
    pub fn new(graph: &Graph, config: &Config, segment: &Segment, sizes: &Sizes, has_mtp: bool) -> Result<Self> {
        let layers = segment.layers.clone();
        let mtp = has_mtp.then(|| StateKind::of_attention(config));
        let kinds = layers.clone().map(|layer| graph.layer(layer).state).chain(mtp);
        let all = kinds.map(|kind| layer_states(kind, config, sizes));
        let Some(all) = all.collect::<Result<Option<Vec<_>>>>()? else {
            let kinds = if config.delta.is_some() { "keys, values and recurrent states" } else { "keys and values" };
            let what = format!("the {kinds} of {} tokens", sizes.context_tokens * sizes.sequences);
            let bytes = layers.map(|layer| sizes.state_bytes(graph.layer(layer).state)).sum();
            return Err(Error::OutOfMemory { what, bytes }.with_remedy(Remedy::ShrinkCache));
        };
        let has_recurrent = all.iter().any(|layer| matches!(layer, LayerStates::Recurrent { .. }));
        let trails = (0..if has_mtp { sizes.sequences } else { 0 }).map(|_| Trail::new(config.dim)).collect();
        let widths = |layer: &LayerStates| match layer {
            LayerStates::Kv(_) => [0; 3],
            LayerStates::Recurrent { .. } => KEPT.map(|slot| slot.width(config)),
        };
        let inputs = Inputs::new(all.iter().map(widths), sizes.sequences);
        Ok(Self { layers: all, trails, inputs, lengths: Lengths::new(sizes.sequences, has_recurrent) })
    }

    /// Before a step over `rows`: recurrent states of sequences that begin are emptied.
    ///
    /// # Panics
    /// If a row does not go on where its recurrent states stand.
    pub fn begin(&mut self, rows: &[Row]) {
        for &Row { slot, ref positions, .. } in rows {
            let start = positions.start;
            let goes_on = !self.lengths.has_recurrent || self.lengths.can_begin(slot, start);
            assert!(goes_on, "slot {}: expected {}, found position {start}", slot.0, self.lengths.beginnings(slot));
            let is_empty = self.lengths.holds(slot, &(0..0), true);
            if start == 0 && !is_empty {
                self.zero(slot);
            }
            self.lengths.begin(slot, start);
        }
        self.inputs.begin(if self.lengths.has_recurrent { rows } else { &[] });
    }

    /// The keys and values of a layer of attention, by slot.
    ///
    /// # Panics
    /// If it is another layer.
    pub fn caches(&mut self, layer: usize) -> &mut [KvCache] {
        match &mut self.layers[layer] {
            LayerStates::Kv(caches) => caches,
            LayerStates::Recurrent { .. } => unreachable!("attention keeps keys and values"),
        }
    }

    /// After a step over `rows`.
    pub fn finish(&mut self, rows: &[Row]) {
        for row in rows {
            if let Some((len, place)) = row.checkpoint {
                self.lengths.set(row.slot, len);
                self.lengths.keep(row.slot, place);
            }
            self.lengths.set(row.slot, row.positions.end);
        }
    }

    fn zero(&mut self, slot: SlotId) {
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, .. } = layer {
                live[slot.index()].clear();
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
        self.inputs.clear();
        self.lengths.clear(slot);
        self.zero(slot);
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        let source = self.lengths.source(from, len).ok_or_else(|| self.lengths.not_held(from, len))?;
        if len == 0 {
            return self.clear(to);
        }
        self.inputs.clear();
        for layer in &mut self.layers {
            match layer {
                LayerStates::Kv(caches) => {
                    if let Ok([from, to]) = caches.get_disjoint_mut([from.index(), to.index()]) {
                        to.copy_from(from, len);
                    }
                }
                LayerStates::Recurrent { live, kept } => match source {
                    Some(place) => live[to.index()].copy_from(&kept[from.index()][place.index()]),
                    None => {
                        if let Ok([from, to]) = live.get_disjoint_mut([from.index(), to.index()]) {
                            to.copy_from(from);
                        }
                    }
                },
            }
        }
        if let Ok([from, to]) = self.trails.get_disjoint_mut([from.index(), to.index()]) {
            to.copy_from(from);
            to.cut(len);
        }
        self.lengths.clear(to);
        self.lengths.set(to, len);
        Ok(())
    }

    fn rewind(&mut self, slot: SlotId, len: usize) -> bool {
        if self.lengths.rewind(slot, len) {
            return true;
        }
        let row = self.inputs.row(slot, len);
        let place = row.and_then(|row| self.lengths.checkpoint_before(slot, row.positions.start, len));
        let Some(place) = place else { return false };
        self.inputs.take_back(slot, len, place);
        self.lengths.set(slot, len);
        true
    }

    fn checkpoint(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        // Keys and values of earlier positions stay where they are.
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, kept } = layer {
                kept[slot.index()][place.index()].copy_from(&live[slot.index()]);
            }
        }
        self.lengths.keep(slot, place);
        Ok(())
    }

    fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        self.lengths.restore(slot, place)?;
        self.inputs.forget(slot);
        for layer in &mut self.layers {
            if let LayerStates::Recurrent { live, kept } = layer {
                live[slot.index()].copy_from(&kept[slot.index()][place.index()]);
            }
        }
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        let layer = &self.layers[layer];
        if !self.lengths.holds(slot, &positions, matches!(layer, LayerStates::Recurrent { .. })) {
            return Err(self.lengths.not_held(slot, positions.end));
        }
        *to = match layer {
            LayerStates::Kv(caches) => {
                let [k, v] = caches[slot.index()].read(positions);
                LayerState::Kv { k, v }
            }
            LayerStates::Recurrent { live, .. } => {
                let state = &live[slot.index()];
                LayerState::Recurrent { conv: state.conv().to_vec(), state: state.memory().to_vec() }
            }
        };
        Ok(())
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        let wrong =
            |expected: &str, found: &str| Err(Error::malformed(format!("state for layer {layer}"), expected, found));
        self.inputs.clear();
        match (&mut self.layers[layer], from) {
            (LayerStates::Kv(caches), LayerState::Kv { k, v }) => caches[slot.index()].write(positions.start, k, v),
            (LayerStates::Recurrent { live, .. }, LayerState::Recurrent { conv, state }) => {
                let to = &mut live[slot.index()];
                if (conv.len(), state.len()) != (to.conv().len(), to.memory().len()) {
                    return wrong("a recurrent state of its shape", "one of another");
                }
                to.conv_mut().copy_from_slice(conv);
                to.memory_mut().copy_from_slice(state);
            }
            (LayerStates::Kv(_), LayerState::Recurrent { .. }) => return wrong("keys and values", "a recurrent state"),
            (LayerStates::Recurrent { .. }, LayerState::Kv { .. }) => {
                return wrong("a recurrent state", "keys and values");
            }
        }
        if let Some(trail) = self.trails.get_mut(slot.index()) {
            trail.begin(positions.end);
        }
        self.lengths.begin(slot, positions.start);
        self.lengths.set(slot, positions.end);
        Ok(())
    }
}
