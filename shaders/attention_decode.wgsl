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
  head_dim: u32,     // even, at most 256
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
  let pairs = p.head_dim / 2u;

  for (var h = 0u; h < count; h++) {
    load_head(token * p.stride + p.q_offset + (head_first + h) * Q_STEP * p.head_dim, true, false, lane);
    for (var e = i; e < p.head_dim; e += WG) {
      let value = rotated(e, position);
      note(value);
      q[h * p.head_dim + e] = value;
    }
  }
  // Heads that are not there compute something that nobody reads.
  for (var e = count * p.head_dim + i; e < 4u * p.head_dim; e += WG) { q[e] = 0.0; }

  // One workgroup of each kv head and token appends to the cache.
  for (var key = max(begin, cached); key < end; key++) {
    let appends = group.x % bundles == 0u && key == position;
    let x_row = (at_token.first + key - cached) * p.stride + kv_head * p.head_dim;
    let at = (key - cached) * p.head_dim;
    let row = (window_row + key) * p.kv_heads + kv_head;
    load_head(x_row + p.k_offset, false, true, lane);
    for (var pair = i; pair < pairs; pair += WG) {
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
      for (var e = i; e < p.head_dim; e += WG) { fresh[at + e] = q8_rounded(kept[e], steps[e / 32u]); }
      if (appends) {
        for (var w = i; w < q8_row_words(); w += WG) { k_cache[row * q8_row_words() + w] = q8_word(w); }
      }
    }
    if (V_TYPE == Q8_CACHE) {
      workgroupBarrier(); // the keys in `kept` are not read any more
      for (var e = i; e < p.head_dim; e += WG) { kept[e] = x[x_row + p.v_offset + e]; }
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
      let mine = my_head * p.head_dim;
      var dot_product = 0.0;
      let row = (window_row + key) * p.kv_heads + kv_head;
      if (key < cached && K_TYPE == Q8_CACHE) {
        // The same order of additions; codes past the head are 0.
        let at = row * q8_row_words();
        for (var w = 0u; w < q8_code_words(); w++) {
          let d = q8_scale(k_cache[at + q8_code_words() + w / 16u], w / 8u);
          let k = d * vec4<f32>(unpack4xI8(k_cache[at + w]));
          let there = mine + 4u * w;
          dot_product += k.x * q[there] + k.y * q[there + 1u];
          dot_product += k.z * q[there + 2u] + k.w * q[there + 3u];
        }
      } else if (key < cached) {
        for (var d = 0u; d < pairs; d++) {
          let k = load_k(row, d);
          dot_product += k.x * q[mine + 2u * d] + k.y * q[mine + 2u * d + 1u];
        }
      } else {
        let at = (key - cached) * p.head_dim;
        for (var d = 0u; d < pairs; d++) {
          dot_product += fresh[at + 2u * d] * q[mine + 2u * d] + fresh[at + 2u * d + 1u] * q[mine + 2u * d + 1u];
        }
      }
      s = dot_product * p.scale;
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
    if (i < pairs) {
      for (var h = 0u; h < 4u; h++) { o[h] *= fade[h]; }
      for (var j = 0u; j < min(TILE, end - first); j++) {
        var v = vec2<f32>();
        if (first + j < cached) {
          v = load_v((window_row + first + j) * p.kv_heads + kv_head, i);
        } else {
          let at = (at_token.first + first + j - cached) * p.stride + p.v_offset + kv_head * p.head_dim + 2u * i;
          v = vec2(x[at], x[at + 1u]);
          if (V_TYPE == Q8_CACHE) {
            let step = fresh_steps[(first + j - cached) * 8u + i / 16u];
            v = vec2(q8_rounded(v.x, step), q8_rounded(v.y, step));
          } else if (V_TYPE != F32_CACHE) {
            v = unpack2x16float(f16_pack(v));
          }
        }
        for (var h = 0u; h < 4u; h++) { o[h] += share[h * TILE + j] * v; }
      }
    }
  }

  if (p.splits == 1u) {
    workgroupBarrier();
    if (my_key == 0u) { fade[my_head] = l; }
    workgroupBarrier();
    if (i < pairs) {
      for (var h = 0u; h < 4u; h++) { o[h] = o[h] / fade[h]; }
    }
  }
  let width = p.head_dim + 2u;
  let out = ((token * p.splits + group.y) * p.heads + head_first) * width;
  if (i < pairs) {
    for (var h = 0u; h < count; h++) {
      parts[out + h * width + 2u * i] = o[h].x;
      parts[out + h * width + 2u * i + 1u] = o[h].y;
    }
  }
  if (my_key == 0u && my_head < count) {
    parts[out + my_head * width + p.head_dim] = m;
    parts[out + my_head * width + p.head_dim + 1u] = l;
  }
}
