//! Saved sequences as bytes, for files: a head, the tokens, and the states of every layer as they lie in memory.
//!
//! All numbers are little-endian. The head is [`MAGIC`], a hash of the [`SavedForm`] and of the model, and the number of
//! tokens; a checksum ends it all. Sizes follow from the form, so that nothing in a file says how much memory to take.

use std::io::{Read, Write};

use bitnet_cpu_kernels::attention::Q8_BLOCK;
use half::f16;

use super::{Phase, Runtime, SavedSequence, sequence::Steps};
use crate::{
    backend::{KvRows, LayerState},
    cache_dir::StableHash,
    error::{Error, Result},
    graph::StateKind,
    plan::KvType,
};

const MAGIC: [u8; 8] = *b"BTNSEQ01";

/// Shape of the saved sequences of a [`Runtime`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedForm {
    states: Vec<StateKind>,
    k_type: KvType,
    v_type: KvType,
    vocab: usize,
    context_tokens: usize,
}

impl Runtime {
    /// Shape of what [`save`](Self::save) gives and [`restore_saved`](Self::restore_saved) takes.
    pub fn saved_form(&self) -> SavedForm {
        let sizes = &self.sizes;
        SavedForm {
            states: self.state_kinds().collect(),
            k_type: sizes.k_type,
            v_type: sizes.v_type,
            vocab: self.vocab,
            context_tokens: sizes.context_tokens,
        }
    }

    /// Whether a sequence has the states that a [`SavedForm`] of now says: what runs where may have changed since. How long
    /// it is does not count.
    pub fn takes(&self, saved: &SavedSequence) -> bool {
        self.saved_form().is_of(saved)
    }

    /// The states of a sequence, in the order in which they are saved.
    fn state_kinds(&self) -> impl Iterator<Item = StateKind> {
        let segments = self.phases.indices(self.phases.effective(Phase::Prefill));
        segments.map(|index| &self.phases.loaded[index]).flat_map(|loaded| {
            let layers = loaded.segment.layers.clone();
            // A block of multi-token prediction has the kind that comes behind all layers.
            let behind = self.kinds.len() - 1;
            let mtp = (loaded.states(&self.sizes) > layers.len()).then_some(behind);
            layers.chain(mtp).map(|layer| self.kinds[layer])
        })
    }
}

impl SavedForm {
    fn is_of(&self, saved: &SavedSequence) -> bool {
        let context_tokens = saved.form.context_tokens;
        saved.states.len() == self.states.len() && saved.form == Self { context_tokens, ..self.clone() }
    }

    /// Writes a sequence of this form, and gives the number of bytes. `model` tells models of one shape apart:
    /// [`ModelFile::fingerprint`](crate::ModelFile::fingerprint).
    ///
    /// # Errors
    /// If it cannot be written, or is of another form.
    pub fn write(&self, saved: &SavedSequence, model: u64, to: &mut impl Write) -> std::io::Result<u64> {
        if !self.is_of(saved) {
            let reason = "saved sequence: expected one of this form, found one of another";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
        }
        let mut to = Counted { to, hash: StableHash::new(), len: 0 };
        to.write(&MAGIC)?;
        to.write(&self.hash(model).to_le_bytes())?;
        to.write(&(saved.tokens.len() as u64).to_le_bytes())?;
        to.values(&saved.tokens, u32::to_le_bytes)?;
        let steps: Vec<u32> = saved.steps.bounds().map(|bound| bound as u32).collect();
        to.write(&(steps.len() as u64).to_le_bytes())?;
        to.values(&steps, u32::to_le_bytes)?;
        for state in &saved.states {
            match state {
                LayerState::Kv { k, v } => {
                    for rows in [k, v] {
                        match rows {
                            KvRows::Floats(values) => to.values(values, f32::to_le_bytes)?,
                            KvRows::F16 { bits } => to.values(bits, u16::to_le_bytes)?,
                            KvRows::Q8_0 { codes, scales } => {
                                to.values(codes, i8::to_le_bytes)?;
                                to.values(scales, u16::to_le_bytes)?;
                            }
                        }
                    }
                }
                LayerState::Recurrent { conv, state } => {
                    to.values(conv, f32::to_le_bytes)?;
                    to.values(state, f32::to_le_bytes)?;
                }
            }
        }
        let hash = to.hash.value();
        to.write(&hash.to_le_bytes())?;
        Ok(to.len)
    }

    /// True for a file that begins as [`write`](Self::write) lets it begin, of any model.
    pub fn begins(from: &mut impl Read) -> bool {
        let mut head = [0; MAGIC.len()];
        from.read_exact(&mut head).is_ok_and(|()| head == MAGIC)
    }

    /// Reads what [`write`](Self::write) wrote, and the number of bytes.
    ///
    /// # Errors
    /// If it is something else, of another model or form, longer than the context, or damaged, or a value is no number.
    pub fn read(&self, model: u64, from: &mut impl Read) -> Result<(SavedSequence, u64)> {
        let mut from = Checked { from, hash: StableHash::new(), len: 0 };
        if from.bytes::<8>()? != MAGIC {
            return Err(wrong("one as it is written here", "another file"));
        }
        if from.number()? != self.hash(model) {
            return Err(wrong("one of this model, with caches of these types", "one of another"));
        }
        let len = from.number()?;
        let len = usize::try_from(len).ok().filter(|&len| len > 0 && len < self.context_tokens);
        let len = len.ok_or_else(|| wrong("fewer tokens than the context holds", "more"))?;
        let tokens = from.values(len, u32::from_le_bytes)?;
        if tokens.iter().any(|&id| id as usize >= self.vocab) {
            return Err(damaged());
        }
        let bounds = usize::try_from(from.number()?).ok().filter(|&bounds| bounds <= 2 * len).ok_or_else(damaged)?;
        let bounds = from.values(bounds, u32::from_le_bytes)?;
        let steps = Steps::from_bounds(bounds.iter().map(|&bound| bound as usize), len).ok_or_else(damaged)?;
        let states = self.states.iter().map(|kind| self.state(*kind, len, &mut from)).collect::<Result<_>>()?;
        let hash = from.hash.value();
        if from.number()? != hash || from.from.read(&mut [0]).map_err(unreadable)? != 0 {
            return Err(damaged());
        }
        Ok((SavedSequence { form: self.clone(), tokens, steps, states }, from.len))
    }

    fn state(&self, kind: StateKind, len: usize, from: &mut Checked<impl Read>) -> Result<LayerState> {
        match kind {
            StateKind::Kv { kv_heads, head_dim } => {
                let mut rows = |ty| -> Result<KvRows> {
                    let (values, blocks) = (len * kv_heads * head_dim, len * kv_heads * head_dim.div_ceil(Q8_BLOCK));
                    Ok(match ty {
                        KvType::F32 => KvRows::Floats(from.floats(values)?),
                        KvType::F16 => KvRows::F16 { bits: from.halves(values)? },
                        KvType::Q8_0 => KvRows::Q8_0 {
                            codes: from.values(values, i8::from_le_bytes)?,
                            scales: from.halves(blocks)?,
                        },
                    })
                };
                Ok(LayerState::Kv { k: rows(self.k_type)?, v: rows(self.v_type)? })
            }
            StateKind::Recurrent { conv: (channels, positions), heads, key_dim, value_dim } => {
                Ok(LayerState::Recurrent {
                    conv: from.floats(channels * positions)?,
                    state: from.floats(heads * key_dim * value_dim)?,
                })
            }
        }
    }

    /// The context may differ: what fits is taken.
    fn hash(&self, model: u64) -> u64 {
        let form = format!("{model} {:?} {:?} {:?} {}", self.states, self.k_type, self.v_type, self.vocab);
        StableHash::new().with(form.as_bytes()).value()
    }
}

const THING: &str = "saved sequence";

fn wrong(expected: &str, found: &str) -> Error {
    Error::malformed(THING, expected, found)
}

fn damaged() -> Error {
    wrong("one as it was written", "a damaged one")
}

fn no_numbers() -> Error {
    wrong("numbers", "NaN or infinity")
}

fn unreadable(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { damaged() } else { Error::io("read", THING, error) }
}

/// Counts and sums up what is written.
struct Counted<'a, W> {
    to: &'a mut W,
    hash: StableHash,
    len: u64,
}

impl<W: Write> Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash = self.hash.with(bytes);
        self.len += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn values<T: Copy, const N: usize>(&mut self, values: &[T], bytes: fn(T) -> [u8; N]) -> std::io::Result<()> {
        let mut chunk = Vec::with_capacity(N * CHUNK);
        for values in values.chunks(CHUNK) {
            chunk.clear();
            values.iter().for_each(|&value| chunk.extend(bytes(value)));
            self.write(&chunk)?;
        }
        Ok(())
    }
}

/// Values that are converted at a time.
const CHUNK: usize = 4096;

/// Sums up what is read.
struct Checked<'a, R> {
    from: &'a mut R,
    hash: StableHash,
    len: u64,
}

impl<R: Read> Checked<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.from.read_exact(into).map_err(unreadable)?;
        self.hash = self.hash.with(into);
        self.len += into.len() as u64;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// Finite ones: others would spoil every answer that goes on from them.
    fn floats(&mut self, count: usize) -> Result<Vec<f32>> {
        let values = self.values(count, f32::from_le_bytes)?;
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(no_numbers()) }
    }

    /// As [`floats`](Self::floats), of half floats.
    fn halves(&mut self, count: usize) -> Result<Vec<u16>> {
        let values = self.values(count, u16::from_le_bytes)?;
        if values.iter().all(|&bits| f16::from_bits(bits).is_finite()) { Ok(values) } else { Err(no_numbers()) }
    }

    /// Memory is taken as bytes come, not as they are promised.
    fn values<T, const N: usize>(&mut self, count: usize, value: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut values = Vec::new();
        let mut chunk = vec![0; N * CHUNK.min(count)];
        while values.len() < count {
            let part = &mut chunk[..N * CHUNK.min(count - values.len())];
            self.read(part)?;
            values.extend(part.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> SavedForm {
        let recurrent = StateKind::Recurrent { conv: (3, 2), heads: 2, key_dim: 2, value_dim: 2 };
        let kv = StateKind::Kv { kv_heads: 2, head_dim: 4 };
        let states = vec![kv, recurrent, kv];
        SavedForm { states, k_type: KvType::Q8_0, v_type: KvType::F16, vocab: 100, context_tokens: 64 }
    }

    fn sequence(len: usize) -> SavedSequence {
        let kv = |seed: usize| LayerState::Kv {
            k: KvRows::Q8_0 {
                codes: (0..len * 8).map(|at| (at * seed % 251) as u8 as i8).collect(),
                scales: (0..len * 2).map(|at| (at + seed) as u16).collect(),
            },
            v: KvRows::F16 { bits: (0..len * 8).map(|at| (at * seed) as u16).collect() },
        };
        let state = (0..8).map(|at| at as f32 * 0.5).collect();
        let recurrent = LayerState::Recurrent { conv: vec![-1.5, 2.0, 0.0, 1e-9, 7.0, f32::MIN], state };
        let mut steps = Steps::default();
        steps.add(2, 3);
        steps.add(7, 1);
        let states = vec![kv(3), recurrent, kv(5)];
        SavedSequence { form: form(), tokens: (0..len as u32).collect(), steps, states }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (form, saved) = (form(), sequence(20));
        let mut file = Vec::new();
        assert_eq!(form.write(&saved, 7, &mut file).unwrap(), file.len() as u64);
        let (read, bytes) = form.read(7, &mut file.as_slice()).unwrap();
        assert_eq!((&read.tokens, &read.states, bytes), (&saved.tokens, &saved.states, file.len() as u64));
        let prompt: Vec<u32> = (0..4).chain([99; 20]).collect();
        assert_eq!(read.reusable_prefix(&prompt, 8), saved.reusable_prefix(&prompt, 8));
    }

    #[test]
    fn other_files_and_damaged_ones_are_refused() {
        let (form, mut file) = (form(), Vec::new());
        form.write(&sequence(20), 7, &mut file).unwrap();
        let refused = |form: &SavedForm, model, mut bytes: &[u8]| {
            form.read(model, &mut bytes).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(refused(&form, 8, &file).contains("of this model"));
        let wider = SavedForm { k_type: KvType::F16, ..form.clone() };
        assert!(refused(&wider, 7, &file).contains("of these types"));
        let written = wider.write(&sequence(20), 7, &mut Vec::new());
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        let short = SavedForm { context_tokens: 20, ..form.clone() };
        assert!(refused(&short, 7, &file).contains("fewer tokens"));
        assert!(refused(&form, 7, b"GGUF and more").contains("another file"));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x41;
            assert!(!refused(&form, 7, &damaged).is_empty(), "byte {at}");
            assert!(!refused(&form, 7, &file[..at]).is_empty(), "the first {at} bytes");
        }
        file.push(0);
        assert!(refused(&form, 7, &file).contains("damaged"));
    }

    /// Its checksum fits: it is damaged on purpose, or was saved after a fault.
    #[test]
    fn values_that_are_no_numbers_are_refused() {
        /// Changes a value of the layers of a saved sequence.
        type Spoil<'a> = &'a dyn Fn(&mut [LayerState]);

        let form = form();
        let refused = |spoil: Spoil| {
            let (mut saved, mut file) = (sequence(20), Vec::new());
            spoil(&mut saved.states);
            form.write(&saved, 7, &mut file).unwrap();
            form.read(7, &mut file.as_slice()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let infinity = f16::INFINITY.to_bits();
        let spoils: [Spoil; 4] = [
            &|states| {
                if let LayerState::Kv { k: KvRows::Q8_0 { scales, .. }, .. } = &mut states[2] {
                    scales[3] = infinity;
                }
            },
            &|states| {
                if let LayerState::Kv { v: KvRows::F16 { bits }, .. } = &mut states[0] {
                    bits[5] = f16::NAN.to_bits();
                }
            },
            &|states| {
                if let LayerState::Recurrent { conv, .. } = &mut states[1] {
                    conv[0] = f32::NAN;
                }
            },
            &|states| {
                if let LayerState::Recurrent { state, .. } = &mut states[1] {
                    state[7] = f32::NEG_INFINITY;
                }
            },
        ];
        assert_eq!(refused(&|_| {}), "");
        for (at, spoil) in spoils.into_iter().enumerate() {
            assert!(refused(spoil).contains("NaN or infinity"), "{at}");
        }
    }
}
