// c = silu(causal convolution of m); q = c_q / |c_q| / sqrt(DIM), k = c_k / |c_k|, v = c_v; S = e^g S; d = beta (v - S k); S = S + d k^T; o = S q, token by token
// In: x (tokens, stride) f32: m (channels) of each token; gates (tokens, 2 * value_heads) f32; weights: taps (KERNEL, channels), rate (value_heads), bias (value_heads); before (slots, KERNEL - 1, channels): the last m of earlier steps.
// Out: out (tokens, value_heads * DIM) f32; memory (slots, value_heads, DIM values, DIM keys): S.
// Grid: (value_heads * DIM / (WG / 4), tokens). A workgroup takes WG / 4 rows of S of one head, four invocations each, and the tokens of the sequence that begins at its token.
// Reference: bitnet_cpu_kernels::delta::conv, delta::mix. Test: tests/gpu/ops/delta.rs.
//
// g = rate * softplus(alpha + bias), beta = sigmoid of `gates`. Value head h goes with key head h % key_heads. A row of S
// depends on no other. It stays in workgroup memory from its sequence's first token of the step to the last, so that
// tokens of one step give the bits of single steps. Before its first token a sequence has zeros, whatever is stored.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  key_heads: u32,
  value_heads: u32,
  stride: u32,       // vec4 between tokens of x
  context: u32,      // positions of a sequence in the caches
  place: u32,
}

override DIM: u32 = 16u;    // of every head: a multiple of 16, at most 256
override KERNEL: u32 = 4u;  // taps
override HELD: u32 = 64u;   // vec4 of WG / 4 rows

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> before: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> memory: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> batch: Batch;

const NORM_EPS: f32 = 1e-6; // added to the sum of squares of a query or a key

var<workgroup> own: Token;
var<workgroup> last: u32;
var<workgroup> q: array<vec4<f32>, 64>;
var<workgroup> k: array<vec4<f32>, 64>;
var<workgroup> v: array<vec4<f32>, 16>; // of the WG / 4 rows
var<workgroup> held: array<vec4<f32>, HELD>; // word n of an invocation at n * WG + index

fn channels() -> u32 { return (2u * p.key_heads + p.value_heads) * DIM / 4u; }

// Four channels from `channel` (in vec4) on of token `t`, which is `nth` of its sequence in this step.
fn convolved(channel: u32, t: u32, nth: u32, slot: u32, is_first: bool) -> vec4<f32> {
  var sum = vec4<f32>();
  for (var tap = 0u; tap < KERNEL; tap++) {
    let back = KERNEL - 1u - tap;
    var m = vec4<f32>();
    if (back <= nth) {
      m = x[(t - back) * p.stride + channel];
    } else if (!is_first) {
      m = before[(slot * (KERNEL - 1u) + tap + nth) * channels() + channel];
    }
    sum += weights[tap * channels() + channel] * m;
  }
  return sum / (1.0 + exp(min(-sum, vec4(88.0))));
}

// A value of the decay's parameters, which follow the taps.
fn decay_weight(i: u32) -> f32 { return weights[KERNEL * channels() + i / 4u][i % 4u]; }

// ln(1 + e^x), of which no part overflows.
fn softplus(x: f32) -> f32 { return max(x, 0.0) + log(1.0 + exp(max(-abs(x), -88.0))); }

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let slices = max(4u * DIM / WG, 1u);
  let head = group.x / slices;
  let row = group.x % slices * (WG / 4u) + i / 4u;
  let quarter = i % 4u;
  // Through workgroup memory, which makes it known to be the same for all: there are barriers behind the return.
  if (i == 0u) {
    own = batch.tokens[group.y];
    last = group.y;
    while (last + 1u < p.tokens && batch.tokens[last + 1u].first == group.y) { last++; }
  }
  let at_token = workgroupUniformLoad(&own);
  let end = workgroupUniformLoad(&last) + 1u;
  if (at_token.first != group.y) { return; }
  let slot = at_token.base / p.context;
  let is_first = at_token.position == 0u;
  let words = DIM / 16u; // vec4 of an invocation
  let place = ((slot * p.value_heads + head) * DIM + row) * (DIM / 4u) + quarter;
  for (var n = 0u; n < words; n++) {
    var s = vec4<f32>();
    if (!is_first) { s = memory[place + 4u * n]; }
    held[n * WG + i] = s;
  }
  let of_k = p.key_heads * (DIM / 4u);
  let of_head = head % p.key_heads * (DIM / 4u);
  let of_v = 2u * of_k + (head * DIM + group.x % slices * (WG / 4u)) / 4u;

  for (var t = group.y; t < end; t++) {
    let nth = t - group.y;
    var squares = vec2<f32>();
    for (var c = i; c < DIM / 2u; c += WG) {
      let is_k = c >= DIM / 4u;
      let word = select(c, c - DIM / 4u, is_k);
      let value = convolved(select(0u, of_k, is_k) + of_head + word, t, nth, slot, is_first);
      let square = dot(value, value);
      if (is_k) {
        k[word] = value;
        squares.y += square;
      } else {
        q[word] = value;
        squares.x += square;
      }
    }
    if (i < WG / 16u) { v[i] = convolved(of_v + i, t, nth, slot, is_first); }
    let q_factor = 1.0 / (sqrt(reduce_add(squares.x, lane) + NORM_EPS) * sqrt(f32(DIM)));
    let k_factor = 1.0 / sqrt(reduce_add(squares.y, lane) + NORM_EPS);
    let a = gates[2u * t * p.value_heads + head] + decay_weight(p.value_heads + head);
    let decay = exp(max(decay_weight(head) * softplus(a), -87.0));
    let beta = 1.0 / (1.0 + exp(min(-gates[(2u * t + 1u) * p.value_heads + head], 88.0)));

    // S q and S k of the S before, so that a token goes through S once: S' q = e^g S q + d (k q).
    var sums = vec3<f32>();
    for (var n = 0u; n < words; n++) {
      let s = held[n * WG + i];
      let key = k[4u * n + quarter];
      let query = q[4u * n + quarter];
      sums += vec3(dot(s, key), dot(s, query), dot(key, query));
    }
    let recalled = decay * sum4_f32(sums.x, lane) * k_factor;
    let found = decay * sum4_f32(sums.y, lane);
    let overlap = sum4_f32(sums.z, lane) * k_factor;
    let change = beta * (v[i / 16u][i / 4u % 4u] - recalled);
    for (var n = 0u; n < words; n++) {
      held[n * WG + i] = decay * held[n * WG + i] + (change * k_factor) * k[4u * n + quarter];
    }
    if (quarter == 0u) {
      let value = (found + change * overlap) * q_factor;
      note(value);
      out[(t * p.value_heads + head) * DIM + row] = value;
    }
    workgroupBarrier(); // before q, k and v are written again
  }
  for (var n = 0u; n < words; n++) { memory[place + 4u * n] = held[n * WG + i]; }
}
