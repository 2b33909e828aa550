// q, k: (RMSNorm over the head, where the model has it) then rotated; k, v appended to the cache; o = sum_j e^(s_j - m) v_j
// In: x (tokens, stride) f32 with q, k, v at their offsets; rope (positions, half) cos then sin; norms (head_dim).
// Out: k_cache, v_cache (rows of positions, kv_heads, head_dim) at base + position: kv_cache.wgsl; parts (tokens, splits, heads, head_dim + 2).
// Grid: (kv_heads * ceil(heads / kv_heads / 4), splits, tokens). A workgroup takes up to four query heads of one kv head.
// Reference: bitnet_cpu_kernels::rope::apply, attention::{KvCache::append, attend}. Test: tests/gpu/ops/.
//
// m = max(s_j), l = sum_j e^(s_j - m), s_j = scale * q . k_j, over one split of the keys. Parts are o, m and l, or, when
// there is one split, o / l; attention_merge.wgsl merges several. The keys and values of this step are taken from x, not
// from the cache, which other workgroups write meanwhile: rounded as the cache rounds them. Tokens of several sequences
// share nothing but the dispatch.

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
  scale: f32,
  place: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(2) var<storage, read_write> v_cache: array<u32>;
@group(0) @binding(3) var<storage, read> rope: array<f32>;
@group(0) @binding(4) var<storage, read> q_norm: array<f32>;
@group(0) @binding(5) var<storage, read> k_norm: array<f32>;
@group(0) @binding(6) var<storage, read_write> batch: Batch;
@group(0) @binding(7) var<storage, read_write> parts: array<f32>;

override SPLIT_KEYS: u32 = 128u; // keys for which there is a split, while there are splits

// 32 keys x 4 heads: one score an invocation; WG is 128.
const TILE: u32 = 32u;
const LOWEST: f32 = -1e30; // instead of -inf, which WGSL lets a compiler assume away

override FRESH: u32 = 256u; // most tokens of a step times head_dim

var<workgroup> q: array<f32, 1024>;    // (4 heads, head_dim)
var<workgroup> own: Token;
var<workgroup> fresh: array<f32, FRESH>; // (new tokens of the sequence, head_dim): keys of this kv head
var<workgroup> fresh_steps: array<Step, 64>; // (8 new tokens, 8 blocks): of the values, where they are q8_0
var<workgroup> score: array<f32, 128>; // (4 heads, 32 keys)
var<workgroup> share: array<f32, 128>; // (4 heads, 32 keys)
var<workgroup> fade: array<f32, 4>;    // what the sums so far are multiplied by; at the end l

// The part of q . k of two adjacent elements, those at q[at] and behind.
fn dot2(k: vec2<f32>, at: u32) -> f32 { return k.x * q[at] + k.y * q[at + 1u]; }

// q . k with a key of the cache in pairs, for the head that begins at q[mine]. All three forms add in the order of pairs.
fn dot_pairs(row: u32, mine: u32) -> f32 {
  var sum = 0.0;
  var d = 0u;
  // Four loads are under way at a time.
  for (; d + 4u <= pairs(); d += 4u) {
    let k0 = load_k(row, d);
    let k1 = load_k(row, d + 1u);
    let k2 = load_k(row, d + 2u);
    let k3 = load_k(row, d + 3u);
    let at = mine + 2u * d;
    sum += dot2(k0, at);
    sum += dot2(k1, at + 2u);
    sum += dot2(k2, at + 4u);
    sum += dot2(k3, at + 6u);
  }
  for (; d < pairs(); d++) { sum += dot2(load_k(row, d), mine + 2u * d); }
  return sum;
}

// As `dot_pairs`, with the key of q8_0 whose words begin at k_cache[at]; codes past the head are 0.
fn dot_codes(at: u32, mine: u32) -> f32 {
  var sum = 0.0;
  for (var b = 0u; b < q8_blocks(); b++) {
    let d = q8_scale(k_cache[at + q8_code_words() + b / 2u], b);
    for (var w = 8u * b; w < min(8u * b + 8u, q8_code_words()); w++) {
      let k = d * vec4<f32>(unpack4xI8(k_cache[at + w]));
      sum += dot2(k.xy, mine + 4u * w);
      sum += dot2(k.zw, mine + 4u * w + 2u);
    }
  }
  return sum;
}

// As `dot_pairs`, with the key of this step that begins at fresh[at].
fn dot_fresh(at: u32, mine: u32) -> f32 {
  var sum = 0.0;
  for (var e = 0u; e < HEAD_DIM; e += 2u) { sum += dot2(vec2(fresh[at + e], fresh[at + e + 1u]), mine + e); }
  return sum;
}

// Pair i of the value of the sequence's n-th token of the step, whose first is `first`, as it will be found in the cache.
fn fresh_v(n: u32, first: u32, kv_head: u32, i: u32) -> vec2<f32> {
  let at = (first + n) * p.stride + p.v_offset + kv_head * HEAD_DIM + 2u * i;
  let v = vec2(x[at], x[at + 1u]);
  if (V_TYPE == F32_CACHE) { return v; }
  if (V_TYPE == Q8_CACHE) {
    let step = fresh_steps[n * 8u + i / 16u];
    return vec2(q8_rounded(v.x, step), q8_rounded(v.y, step));
  }
  return unpack2x16float(f16_pack(v));
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let per_kv = p.heads / p.kv_heads;
  let bundles = (per_kv + 3u) / 4u;
  let kv_head = group.x / bundles;
  let head_first = kv_head * per_kv + (group.x % bundles) * 4u;
  let count = min(4u, (kv_head + 1u) * per_kv - head_first);
  let token = group.z;
  // Through workgroup memory, which makes it known to be the same for all: there are barriers in what depends on it.
  if (i == 0u) { own = batch.tokens[token]; }
  let at_token = workgroupUniformLoad(&own);
  let window_row = at_token.base - WINDOW_BASE; // wraps to a huge number before the window
  if (window_row >= WINDOW_ROWS) { return; }
  let position = at_token.position;
  let cached = position - (token - at_token.first); // keys that earlier steps have cached
  let keys = position + 1u;
  // As if the token were alone, so that tokens checked together give the same bits; its empty splits are at the end.
  let splits = min((keys + SPLIT_KEYS - 1u) / SPLIT_KEYS, p.splits);
  let per_split = (keys + splits - 1u) / splits;
  let begin = min(group.y * per_split, keys);
  let end = min(begin + per_split, keys);

  for (var h = 0u; h < count; h++) {
    load_head(token * p.stride + p.q_offset + (head_first + h) * Q_STEP * HEAD_DIM, true, false, lane);
    for (var e = i; e < HEAD_DIM; e += WG) {
      let value = rotated(e, position);
      note(value);
      q[h * HEAD_DIM + e] = value;
    }
  }
  // Heads that are not there compute something that nobody reads.
  for (var e = count * HEAD_DIM + i; e < 4u * HEAD_DIM; e += WG) { q[e] = 0.0; }

  // One workgroup of each kv head and token appends to the cache.
  for (var key = max(begin, cached); key < end; key++) {
    let appends = group.x % bundles == 0u && key == position;
    let x_row = (at_token.first + key - cached) * p.stride + kv_head * HEAD_DIM;
    let at = (key - cached) * HEAD_DIM;
    let row = (window_row + key) * p.kv_heads + kv_head;
    load_head(x_row + p.k_offset, false, true, lane);
    for (var pair = i; pair < pairs(); pair += WG) {
      let e = 2u * pair;
      let k = vec2(rotated(e, key), rotated(e + 1u, key));
      let v = vec2(x[x_row + p.v_offset + e], x[x_row + p.v_offset + e + 1u]);
      if (appends) {
        note(k.x);
        note(k.y);
        note(v.x);
        note(v.y);
        if (K_TYPE != Q8_CACHE) { store_k(row, pair, k); }
        if (V_TYPE != Q8_CACHE) { store_v(row, pair, v); }
      }
      if (K_TYPE == Q8_CACHE) {
        kept[e] = k.x;
        kept[e + 1u] = k.y;
      } else {
        var found = k;
        if (K_TYPE != F32_CACHE) { found = unpack2x16float(f16_pack(k)); }
        fresh[at + e] = found.x;
        fresh[at + e + 1u] = found.y;
      }
    }
    if (K_TYPE == Q8_CACHE) {
      find_steps(lane);
      for (var e = i; e < HEAD_DIM; e += WG) { fresh[at + e] = q8_rounded(kept[e], steps[e / 32u]); }
      if (appends) {
        for (var w = i; w < q8_row_words(); w += WG) { k_cache[row * q8_row_words() + w] = q8_word(w); }
      }
    }
    if (V_TYPE == Q8_CACHE) {
      workgroupBarrier(); // the keys in `kept` are not read any more
      for (var e = i; e < HEAD_DIM; e += WG) { kept[e] = x[x_row + p.v_offset + e]; }
      find_steps(lane);
      for (var b = i; b < q8_blocks(); b += WG) { fresh_steps[(key - cached) * 8u + b] = steps[b]; }
      if (appends) {
        for (var w = i; w < q8_row_words(); w += WG) { v_cache[row * q8_row_words() + w] = q8_word(w); }
      }
    }
  }
  workgroupBarrier();

  let my_key = i / 4u;
  let my_head = i % 4u;
  var m = LOWEST;
  var l = 0.0;
  var o: array<vec2<f32>, 4>;
  for (var first = begin; first < end; first += TILE) {
    let key = first + my_key;
    var s = LOWEST;
    if (key < end) {
      let mine = my_head * HEAD_DIM;
      let row = (window_row + key) * p.kv_heads + kv_head;
      if (key >= cached) {
        s = dot_fresh((key - cached) * HEAD_DIM, mine);
      } else if (K_TYPE == Q8_CACHE) {
        s = dot_codes(row * q8_row_words(), mine);
      } else {
        s = dot_pairs(row, mine);
      }
      s *= p.scale;
    }
    score[my_head * TILE + my_key] = s;
    workgroupBarrier();

    var most = m;
    for (var j = 0u; j < TILE; j++) { most = max(most, score[my_head * TILE + j]); }
    share[my_head * TILE + my_key] = exp(s - most);
    if (my_key == 0u) { fade[my_head] = exp(m - most); }
    l *= exp(m - most);
    m = most;
    workgroupBarrier();

    for (var j = 0u; j < TILE; j++) { l += share[my_head * TILE + j]; }
    if (i < pairs()) {
      for (var h = 0u; h < 4u; h++) { o[h] *= fade[h]; }
      let there = min(TILE, end - first);
      let earlier = min(there, max(cached, first) - first);
      let row = (window_row + first) * p.kv_heads + kv_head;
      var j = 0u;
      // Four values are under way at a time.
      for (; j + 4u <= earlier; j += 4u) {
        let v0 = load_v(row + j * p.kv_heads, i);
        let v1 = load_v(row + (j + 1u) * p.kv_heads, i);
        let v2 = load_v(row + (j + 2u) * p.kv_heads, i);
        let v3 = load_v(row + (j + 3u) * p.kv_heads, i);
        for (var h = 0u; h < 4u; h++) {
          let at = h * TILE + j;
          o[h] += share[at] * v0;
          o[h] += share[at + 1u] * v1;
          o[h] += share[at + 2u] * v2;
          o[h] += share[at + 3u] * v3;
        }
      }
      for (; j < earlier; j++) {
        let v = load_v(row + j * p.kv_heads, i);
        for (var h = 0u; h < 4u; h++) { o[h] += share[h * TILE + j] * v; }
      }
      for (; j < there; j++) {
        let v = fresh_v(first + j - cached, at_token.first, kv_head, i);
        for (var h = 0u; h < 4u; h++) { o[h] += share[h * TILE + j] * v; }
      }
    }
  }

  if (p.splits == 1u) {
    workgroupBarrier();
    if (my_key == 0u) { fade[my_head] = l; }
    workgroupBarrier();
    if (i < pairs()) {
      for (var h = 0u; h < 4u; h++) { o[h] = o[h] / fade[h]; }
    }
  }
  let width = HEAD_DIM + 2u;
  let out = ((token * p.splits + group.y) * p.heads + head_first) * width;
  if (i < pairs()) {
    for (var h = 0u; h < count; h++) {
      parts[out + h * width + 2u * i] = o[h].x;
      parts[out + h * width + 2u * i + 1u] = o[h].y;
    }
  }
  if (my_key == 0u && my_head < count) {
    parts[out + my_head * width + HEAD_DIM] = m;
    parts[out + my_head * width + HEAD_DIM + 1u] = l;
  }
}
