// q, k: (RMSNorm over the head, where the model has it) then rotated by position; k, v: appended to the cache
// In: x (tokens, stride) f32 with q, k, v at their offsets; rope (positions, half) cos then (positions, half) sin; norms (head_dim).
// Out: q in place; k_cache, v_cache (rows of positions, kv_heads, head_dim) at base + position, typed as kv_cache.wgsl says.
// Grid: (heads + 2 * kv_heads, tokens). One workgroup a head, two adjacent elements an invocation.
// Reference: bitnet_cpu_kernels::rope::apply, attention::KvCache::append. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  heads: u32,
  kv_heads: u32,
  stride: u32,
  q_offset: u32,
  k_offset: u32,
  v_offset: u32,
  half: u32,         // rotated pairs of a head; 0 rotates nothing
  sines: u32,        // f32 of the table before the sines
  eps: f32,
  place: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(2) var<storage, read_write> v_cache: array<u32>;
@group(0) @binding(3) var<storage, read> rope: array<f32>;
@group(0) @binding(4) var<storage, read> q_norm: array<f32>;
@group(0) @binding(5) var<storage, read> k_norm: array<f32>;
@group(0) @binding(6) var<storage, read_write> batch: Batch;

var<workgroup> own: Token;

fn kernel(group: vec3<u32>, lane: Lane) {
  let token = group.y;
  // Through workgroup memory, which makes it known to be the same for all: there are barriers behind the return.
  if (lane.index == 0u) { own = batch.tokens[token]; }
  let at_token = workgroupUniformLoad(&own);
  let window_row = at_token.base - WINDOW_BASE; // wraps to a huge number before the window
  if (window_row >= WINDOW_ROWS) { return; }
  let position = at_token.position;
  let is_q = group.x < p.heads;
  let is_k = !is_q && group.x < p.heads + p.kv_heads;
  var base = token * p.stride;
  var kv_head = 0u;
  if (is_q) {
    base += p.q_offset + group.x * Q_STEP * HEAD_DIM;
  } else if (is_k) {
    kv_head = group.x - p.heads;
    base += p.k_offset + kv_head * HEAD_DIM;
  } else {
    kv_head = group.x - p.heads - p.kv_heads;
    base += p.v_offset + kv_head * HEAD_DIM;
  }
  load_head(base, is_q, is_k, lane);

  let row = (window_row + position) * p.kv_heads + kv_head;
  let in_blocks = select(V_TYPE, K_TYPE, is_k) == Q8_CACHE && !is_q;
  for (var pair = lane.index; pair < pairs(); pair += WG) {
    let e = 2u * pair;
    var result = vec2(part[e], part[e + 1u]);
    if (is_q || is_k) { result = vec2(rotated(e, position), rotated(e + 1u, position)); }
    note(result.x);
    note(result.y);
    if (is_q) {
      x[base + e] = result.x;
      x[base + e + 1u] = result.y;
    } else if (in_blocks) {
      kept[e] = result.x;
      kept[e + 1u] = result.y;
    } else if (is_k) {
      store_k(row, pair, result);
    } else {
      store_v(row, pair, result);
    }
  }
  if (in_blocks) {
    find_steps(lane);
    for (var w = lane.index; w < q8_row_words(); w += WG) {
      let at = row * q8_row_words() + w;
      if (is_k) { k_cache[at] = q8_word(w); } else { v_cache[at] = q8_word(w); }
    }
  }
}
