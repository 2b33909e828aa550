//! The output head screened, for steps that want the highest logits alone.
//!
//! It reads a copy of the head in 6 bits a weight, with the bounds of `bitnet_cpu_kernels::screen`, which
//! proves them: no row is left out that could be among the wanted. Four kernels:
//!
//! 1. `screen_query` norms each token and takes it in 16 bits;
//! 2. `head_screen` (for several tokens `head_screen_few`) gives for each row what its logit is at most, and the best row of each chunk of 64;
//! 3. `screen_probe` computes the rows of the best chunks in full; the lowest of these logits is a threshold that as
//!    many rows reach as are wanted (for more than one, `screen_cut` finds first which chunks are the best);
//! 4. `screen_rescore` computes every row in full whose bound reaches the threshold, in the order of additions of
//!    `head`, and puts the lowest f32 in place of the other logits.
//!
//! However many rows remain, the step is the same list of dispatches: nothing is read back in between. The kernels that
//! choose ([`Select`](super::select::Select)) find among the logits what a full head would have left them, as every one
//! of the highest is there. Of the rest they know only that it is lower: what bias and penalties may raise, and sums
//! over the vocabulary, take the full head. The sampler asks for `Want::Last` in the first case and for more than
//! [`few`] candidates in the second; penalties and bans that lower a logit only make it ask for more candidates.
//!
//! The arithmetic of a GPU is not that of the processor: `head_screen.wgsl` and `screen_query.wgsl` say how much wider
//! their bounds are for it.

use bitnet_cpu_kernels::screen::BLOCK;

use super::{
    head::HeadNorm,
    lowering::{Lowering, MAX_WORKGROUPS, all, place_code},
    select::{Selection, few},
};
use crate::{
    backend::gpu::{
        buffers::arenas::Region,
        device::Gpu,
        kernels::{
            params,
            pipelines::{Shader, Variant},
        },
        record::encode::{Dispatch, Extent},
    },
    error::Result,
    model::{Config, DenseMatrix},
};

/// Rows of a chunk: what one workgroup of `head_screen` takes.
const CHUNK_ROWS: usize = 64;
/// The bound of rounding of a sum of `cols` products, in whatever order and direction, as a share of |w| |x|: n u / (1 -
/// n u) with u = 2^-23 (Higham, Accuracy and Stability of Numerical Algorithms, chapter 4; half of it where a device
/// rounds to nearest). A few units more for the weights of types that are products themselves.
pub fn gamma(cols: usize) -> f32 {
    let units = (cols as f32 + 16.0) * f32::EPSILON;
    units / (1.0 - units) * 1.01
}

/// The most that a bound may lose where a device takes subnormal numbers for 0: each product and sum the smallest
/// normal one.
pub fn least(cols: usize) -> f32 {
    (4 * cols + 64) as f32 * f32::MIN_POSITIVE
}

/// u32 of the token in 8 bits: whole blocks.
fn plane_words(cols: usize) -> usize {
    cols.div_ceil(BLOCK) * BLOCK / 4
}

/// Bytes of common/screen.wgsl for each token.
const QUERY_BYTES: u64 = 28;
const STATE_BYTES: u64 = 12;

/// The buffers of a screened head for up to `tokens`, by name.
fn buffers(config: &Config, chunks: usize, tokens: usize) -> [(&'static str, u64); 5] {
    let tokens = tokens as u64;
    [
        ("tokens in 16 bits", tokens * 2 * 4 * plane_words(config.dim) as u64),
        ("bounds of tokens", tokens * QUERY_BYTES),
        ("upper bounds of logits", tokens * 4 * config.vocab as u64),
        ("best rows of chunks", tokens * 8 * chunks as u64),
        ("states of the screen", tokens * STATE_BYTES),
    ]
}

/// The dispatches of a screened head.
pub struct Screen {
    query: Dispatch,
    /// The bounds of all rows, for one token and for several.
    one: Vec<Dispatch>,
    few: Vec<Dispatch>,
    /// Where more than the highest logit is wanted.
    cut: Dispatch,
    finish: Vec<Dispatch>,
    states: wgpu::Buffer,
}

impl Screen {
    /// Bytes of its buffers for up to `tokens`.
    pub fn bytes(config: &Config, tokens: usize) -> u64 {
        buffers(config, config.vocab.div_ceil(CHUNK_ROWS), tokens).iter().map(|&(_, bytes)| bytes).sum()
    }

    /// True where it gives the logits that `choice` needs.
    pub fn serves(choice: Selection) -> bool {
        choice != Selection::Top
    }

    /// To be recorded in place of the full head.
    pub fn dispatches(&self, choice: Selection, tokens: usize) -> impl Iterator<Item = &Dispatch> {
        let cut = (choice == Selection::Few).then_some(&self.cut);
        let rows = if tokens == 1 { &self.one } else { &self.few };
        std::iter::once(&self.query).chain(rows).chain(cut).chain(&self.finish)
    }

    /// Most dispatches of a step.
    pub fn len(&self) -> usize {
        2 + self.one.len() + self.finish.len()
    }

    /// The word that tells how many rows were computed in full for a token: buffer, offset and bytes.
    pub fn exact_rows(&self, token: usize) -> (&wgpu::Buffer, u64, u64) {
        (&self.states, STATE_BYTES * token as u64, 4)
    }
}

impl<'a> Lowering<'a> {
    /// The final norm of up to `tokens` and the screened head; `copy` is the region of
    /// [`copy_rows`](crate::backend::gpu::buffers::head_copy::copy_rows).
    pub fn screened_head(
        &mut self,
        table: &DenseMatrix,
        (region, copy, norm): (&'a Region, &'a Region, HeadNorm<'a>),
        tokens: usize,
    ) -> Result<Screen> {
        let config = self.config;
        let windows = self.windows(copy, MAX_WORKGROUPS * CHUNK_ROWS)?;
        let chunks = windows.iter().map(|window| window.rows.len().div_ceil(CHUNK_ROWS)).sum();
        let gpu = self.builder.gpu;
        let [planes, queries, uppers, best, states] = made(gpu, config, chunks, tokens)?;
        let query = self.screen_query(norm, &planes, &queries, &states)?;
        let rest = [all(&planes), all(&queries), all(&uppers), all(&best), all(&states)];
        let one = self.screen_rows(Shader::HeadScreen, copy, &rest, chunks)?;
        let few = if tokens > 1 { self.screen_rows(Shader::HeadScreenFew, copy, &rest, chunks)? } else { Vec::new() };
        let params = params::ScreenCut { chunks: chunks as u32, count: few_count(config), ..Default::default() };
        let variant = self.builder.variant(Shader::ScreenCut);
        let cut = self.builder.dispatch(variant, &[], params, &[all(&best), all(&states)], a_token(1))?;
        let activations = self.activations;
        let rescored = [all(&uppers), all(&activations.logits), all(&states), all(&activations.batch)];
        let probed = [all(&best), all(&states)];
        let mut finish = self.exact_rows(Shader::ScreenProbe, table, region, &probed, (chunks, true))?;
        finish.extend(self.exact_rows(Shader::ScreenRescore, table, region, &rescored, (chunks, false))?);
        Ok(Screen { query, one, few, cut, finish, states })
    }

    /// The bounds of all rows by their copy, a dispatch a window.
    fn screen_rows(
        &mut self,
        shader: Shader,
        copy: &'a Region,
        rest: &[wgpu::BufferBinding<'_>],
        chunks: usize,
    ) -> Result<Vec<Dispatch>> {
        let config = self.config;
        let mut chunk0 = 0;
        let mut out = Vec::new();
        for window in self.windows(copy, MAX_WORKGROUPS * CHUNK_ROWS)? {
            let workgroups = window.rows.len().div_ceil(CHUNK_ROWS);
            let params = params::HeadScreen {
                rows: window.rows.len() as u32,
                row0: window.rows.start as u32,
                blocks: config.dim.div_ceil(BLOCK) as u32,
                copy0: (window.before_bytes / 16) as u32,
                chunk0: chunk0 as u32,
                chunks: chunks as u32,
                vocab: config.vocab as u32,
                least: least(config.dim),
                ..Default::default()
            };
            let buffers = [&[window.binding], rest].concat();
            let variant = self.builder.variant(shader);
            let grid = [Extent::Fixed(workgroups), Extent::Fixed(1), Extent::Fixed(1)];
            out.push(self.builder.dispatch(variant, &[], params, &buffers, grid)?);
            chunk0 += workgroups;
        }
        Ok(out)
    }

    fn screen_query(
        &mut self,
        norm: HeadNorm<'a>,
        planes: &wgpu::Buffer,
        queries: &wgpu::Buffer,
        states: &wgpu::Buffer,
    ) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let params = params::ScreenQuery {
            cols: config.dim as u32,
            stride: config.dim as u32,
            eps: config.eps(norm.role),
            place: place_code(config.layers + 1),
            words: plane_words(config.dim) as u32,
            gamma: gamma(config.dim),
            ..Default::default()
        };
        let weight = self.whole("the output norm", norm.weight)?;
        let (from, to) = (all(norm.from), all(&activations.normed));
        let buffers = [from, weight, to, all(&activations.batch), all(planes), all(queries), all(states)];
        let variant = self.builder.variant(Shader::ScreenQuery);
        self.builder.dispatch(variant, &[], params, &buffers, a_token(1))
    }

    /// A dispatch for each window of the head of a kernel that computes single rows. Of a token it has a workgroup for
    /// each of the `chunks`, whose best rows may lie in any window, or for every [`CHUNK_ROWS`] rows of the window.
    fn exact_rows(
        &mut self,
        shader: Shader,
        table: &DenseMatrix,
        region: &'a Region,
        rest: &[wgpu::BufferBinding<'_>],
        (chunks, by_chunk): (usize, bool),
    ) -> Result<Vec<Dispatch>> {
        let config = self.config;
        let mut out = Vec::new();
        for window in self.windows(region, MAX_WORKGROUPS * CHUNK_ROWS)? {
            let params = params::ScreenExact {
                rows: window.rows.len() as u32,
                row0: window.rows.start as u32,
                cols: config.dim as u32,
                row_bytes: table.ty.row_bytes(config.dim) as u32,
                table0: window.before_bytes as u32,
                chunks: chunks as u32,
                vocab: config.vocab as u32,
                place: place_code(config.layers + 1),
                ..Default::default()
            };
            let workgroups = if by_chunk { chunks } else { window.rows.len().div_ceil(CHUNK_ROWS) };
            let variant = Variant::new(shader, self.builder.gpu.choices(), Some(table.ty));
            let mut buffers = vec![all(&self.activations.normed), window.binding];
            buffers.extend_from_slice(rest);
            out.push(self.builder.dispatch(variant, &[], params, &buffers, a_token(workgroups))?);
        }
        Ok(out)
    }
}

/// So many workgroups for each token.
fn a_token(workgroups: usize) -> [Extent; 3] {
    [Extent::Fixed(workgroups), Extent::PerTokens(1), Extent::Fixed(1)]
}

fn few_count(config: &Config) -> u32 {
    few(config.vocab) as u32
}

fn made(gpu: &Gpu, config: &Config, chunks: usize, tokens: usize) -> Result<[wgpu::Buffer; 5]> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let made = buffers(config, chunks, tokens).map(|(name, bytes)| gpu.buffer(name, bytes.max(32), usage));
    let made = made.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(made.try_into().unwrap_or_else(|_| unreachable!("five were made")))
}
