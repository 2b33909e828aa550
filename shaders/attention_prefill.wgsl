// out[t][h] = softmax_j(scale * q[t][h] . k_j, j <= position of t) . v_j, for 16 tokens and one head a workgroup
// In: x (tokens, stride) f32 with rotated q at q_offset; k_cache, v_cache (kv_cache.wgsl); batch, of one sequence.
// Out: out (tokens, heads, head_dim) f32.
// Grid: (heads, ceil(tokens / 16)). 256 invocations make a 16 x 16 tile of scores, 32 elements of the heads at a time.
// Reference: bitnet_cpu_kernels::attention::attend. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  heads: u32,
  kv_heads: u32,
  stride: u32,
  q_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> k_cache: array<u32>;
@group(0) @binding(2) var<storage, read> v_cache: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> batch: array<vec4<u32>>; // common/batch.wgsl, read only: its state, then its tokens

override Q_STEP: u32 = 1u; // from query to query in x, in heads: 2 where each has its gate behind it

// Pairs of an invocation, of a constant: with a bound of run time, drivers would choose among all of `o` at each access.
fn rounds() -> u32 { return (pairs() + 15u) / 16u; }

const LOWEST: f32 = -1e30; // instead of -inf, which WGSL lets a compiler assume away

// Rows padded by one against bank conflicts. 5.3 KiB together.
var<workgroup> q_tile: array<f32, 528>; // (16 tokens, 33)
var<workgroup> k_tile: array<f32, 528>; // (16 keys, 33)
var<workgroup> tile: array<f32, 272>;   // (16 tokens, 17): scores, then shares

fn kernel(group: vec3<u32>, lane: Lane) {
  let start = batch[1].y; // position of the first token
  let window_row = batch[1].w - WINDOW_BASE;
  let down = lane.index / 16u;   // the token of this invocation
  let across = lane.index % 16u; // its key, later its pairs of elements
  let head = group.x;
  let kv_head = head / (p.heads / p.kv_heads);
  let token = group.y * 16u + down;
  let base = min(token, p.tokens - 1u) * p.stride + p.q_offset + head * Q_STEP * HEAD_DIM;
  let keys = start + min(group.y * 16u + 16u, p.tokens); // that any token of this tile may see

  var m = LOWEST;
  var l = 0.0;
  var o: array<vec2<f32>, 8>; // pairs across, across + 16, ...
  for (var first = 0u; first < keys; first += 16u) {
    var s = 0.0;
    // Staging: row `down` of both tiles, pair `across`.
    let key_row = (window_row + min(first + down, keys - 1u)) * p.kv_heads + kv_head;
    for (var d = 0u; d < pairs(); d += 16u) {
      var q_pair = vec2(0.0, 0.0);
      var k_pair = vec2(0.0, 0.0);
      if (d + across < pairs()) {
        q_pair = vec2(x[base + 2u * (d + across)], x[base + 2u * (d + across) + 1u]);
        k_pair = load_k(key_row, d + across);
      }
      q_tile[down * 33u + 2u * across] = q_pair.x;
      q_tile[down * 33u + 2u * across + 1u] = q_pair.y;
      k_tile[down * 33u + 2u * across] = k_pair.x;
      k_tile[down * 33u + 2u * across + 1u] = k_pair.y;
      workgroupBarrier();
      for (var e = 0u; e < 32u; e++) { s += q_tile[down * 33u + e] * k_tile[across * 33u + e]; }
      workgroupBarrier();
    }
    s = select(LOWEST, s * p.scale, first + across <= start + token);
    tile[down * 17u + across] = s;
    workgroupBarrier();
    var most = m;
    for (var j = 0u; j < 16u; j++) { most = max(most, tile[down * 17u + j]); }
    workgroupBarrier();
    tile[down * 17u + across] = exp(s - most);
    workgroupBarrier();
    let fade = exp(m - most);
    m = most;
    l *= fade;
    for (var b = 0u; b < rounds(); b++) { o[b] *= fade; }
    for (var j = 0u; j < min(16u, keys - first); j++) {
      let share = tile[down * 17u + j];
      l += share;
      let row = (window_row + first + j) * p.kv_heads + kv_head;
      // Past the head some other pair is added up, which nobody reads.
      for (var b = 0u; b < rounds(); b++) { o[b] += share * load_v(row, min(across + 16u * b, pairs() - 1u)); }
    }
    workgroupBarrier();
  }
  if (token < p.tokens) {
    let at = (token * p.heads + head) * HEAD_DIM;
    for (var b = 0u; b < rounds(); b++) {
      let pair = across + 16u * b;
      if (pair < pairs()) {
        out[at + 2u * pair] = o[b].x / l;
        out[at + 2u * pair + 1u] = o[b].y / l;
      }
    }
  }
}
