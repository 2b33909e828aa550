// y = o / sqrt(mean(o^2) + eps) * head_norm * silu(z) by heads, GROUPED: heads of a key head side by side; rotated and quantised as rotate_quantize.wgsl does it. The last m of each sequence are kept
// In: o (tokens, cols) f32; weight (cols) f32: s / sqrt(BLOCK); head_norm (DIM); x (tokens, stride) f32: m at 0, z at z_offset.
// Out: xq (tokens, words) four int8 each, zero past cols; acts (tokens, groups) step and sum; before (slots, KERNEL - 1, channels).
// Grid: (tiles + ceil(channels / WG), tokens). The first workgroups take a tile each; the others, of a sequence's last token, channels of what is kept.
// Reference: bitnet_cpu_kernels::delta::gated_norm, quantize::norm_rotate_quantize, delta::conv. Test: tests/gpu/ops/delta.rs.
//
// `before` is written here, where no workgroup of the convolution reads it any more.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  cols: u32,
  words: u32,        // u32 of a row of xq: columns rounded up to 128, over 4
  groups: u32,       // scales of a token
  eps: f32,
  place: u32,        // see finite.wgsl
  key_heads: u32,
  value_heads: u32,
  stride: u32,       // f32 between tokens of x
  z_offset: u32,
  context: u32,      // positions of a sequence in the caches
}

override DIM: u32 = 16u;    // of every head: a multiple of 16, at most 256
override KERNEL: u32 = 4u;  // taps of the convolution
override GROUPED: bool = false;

@group(0) @binding(0) var<storage, read> o: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> batch: Batch;
@group(0) @binding(5) var<storage, read> head_norm: array<f32>;
@group(0) @binding(6) var<storage, read> x: array<f32>;
@group(0) @binding(7) var<storage, read_write> before: array<f32>;

// Word w of the result. A head may lie in two tiles, so each invocation takes the norm of its own.
fn source(token: u32, w: u32, norm: f32, lane: Lane) -> vec4<f32> {
  let c = 4u * w;
  if (c >= cols()) { return vec4<f32>(); }
  var head = c / DIM;
  if (GROUPED) {
    let group = p.value_heads / p.key_heads;
    head = head % group * p.key_heads + head / group;
  }
  let d = c % DIM;
  let base = (token * p.cols + head * DIM) / 4u;
  var squares = 0.0;
  for (var n = 0u; n < DIM / 4u; n++) { squares += dot(o[base + n], o[base + n]); }
  let own = 1.0 / sqrt(squares / f32(DIM) + p.eps);
  let at = token * p.stride + p.z_offset + head * DIM + d;
  let z = vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
  let gate = z / (1.0 + exp(min(-z, vec4(88.0))));
  let result = o[base + d / 4u] * own * vec4(head_norm[d], head_norm[d + 1u], head_norm[d + 2u], head_norm[d + 3u]) * gate;
  if (BLOCK == 1u) { return result; }
  return result * vec4(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]);
}

// Keeps the last KERNEL - 1 values of a channel for the steps to come.
fn keep(token: u32, channel: u32) {
  let own = batch.tokens[token];
  let channels = (2u * p.key_heads + p.value_heads) * DIM;
  let here = token - own.first + 1u; // tokens of the sequence in this step
  let slot = own.base / p.context;
  let place = slot * (KERNEL - 1u) * channels + channel;
  for (var n = 0u; n < KERNEL - 1u; n++) {
    let back = KERNEL - 2u - n; // from the last token
    var value = 0.0;
    if (back < here) {
      value = x[(token - back) * p.stride + channel];
    } else if (own.position + 1u > here) {
      value = before[place + (n + here) * channels];
    }
    before[place + n * channels] = value;
  }
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let token = group.y;
  let tiles = (words() + WG - 1u) / WG;
  if (group.x < tiles) {
    quantize_word(token, group.x * WG + lane.index, rotated_word(token, group.x * WG + lane.index, 1.0, lane), lane);
    return;
  }
  let channel = (group.x - tiles) * WG + lane.index;
  let is_last = token + 1u == p.tokens || batch.tokens[token + 1u].first != batch.tokens[token].first;
  if (is_last && channel < (2u * p.key_heads + p.value_heads) * DIM) { keep(token, channel); }
}
