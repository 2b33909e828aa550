// o = sum_j e^(s_j - m) v_j, m = max(s_j), l = sum_j e^(s_j - m), s_j = scale * q . k_j, over one split of the keys
// In: x (tokens, stride) f32 with rotated q at q_offset; k_cache, v_cache (positions, kv_heads, head_dim) f16 or f32.
// Out: parts (tokens, splits, heads, head_dim + 2) f32: o, then m and l. input_attention.wgsl merges the splits.
// Grid: (kv_heads * ceil(heads / kv_heads / 4), splits, tokens). A workgroup takes up to four query heads of one kv head.
// Reference: bitnet_cpu_kernels::attention::attend. Test: tests/gpu_ops/.

struct Params {
  tokens: u32,
  start: u32,
  splits: u32,
  first: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,     // even, at most 256
  stride: u32,
  q_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> k_cache: array<u32>;
@group(0) @binding(2) var<storage, read> v_cache: array<u32>;
@group(0) @binding(3) var<storage, read_write> parts: array<f32>;

override SPLIT_KEYS: u32 = 128u; // keys for which there is a split, while there are splits

// 32 keys x 4 heads: one score an invocation; WG is 128.
const TILE: u32 = 32u;
const LOWEST: f32 = -1e30; // instead of -inf, which WGSL lets a compiler assume away

var<workgroup> q: array<f32, 1024>;    // (4 heads, head_dim)
var<workgroup> score: array<f32, 128>; // (4 heads, 32 keys)
var<workgroup> share: array<f32, 128>; // (4 heads, 32 keys)
var<workgroup> fade: array<f32, 4>;    // what the sums so far are multiplied by

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let per_kv = p.heads / p.kv_heads;
  let bundles = (per_kv + 3u) / 4u;
  let kv_head = group.x / bundles;
  let head_first = kv_head * per_kv + (group.x % bundles) * 4u;
  let count = min(4u, (kv_head + 1u) * per_kv - head_first);
  let token = group.z;
  let keys = p.start + token + 1u;
  // As if the token were alone, so that tokens checked together give the same bits; its empty splits are at the end.
  let splits = min((keys + SPLIT_KEYS - 1u) / SPLIT_KEYS, p.splits);
  let per_split = (keys + splits - 1u) / splits;
  let begin = min(group.y * per_split, keys);
  let end = min(begin + per_split, keys);
  let pairs = p.head_dim / 2u;

  for (var e = i; e < 4u * p.head_dim; e += WG) {
    let head = min(e / p.head_dim, count - 1u);
    q[e] = x[token * p.stride + p.q_offset + (head_first + head) * p.head_dim + e % p.head_dim];
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
      let at = (key * p.kv_heads + kv_head) * pairs;
      var dot_product = 0.0;
      for (var d = 0u; d < pairs; d++) {
        let k = load_k(at + d);
        dot_product += k.x * q[my_head * p.head_dim + 2u * d] + k.y * q[my_head * p.head_dim + 2u * d + 1u];
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
        let v = load_v(((first + j) * p.kv_heads + kv_head) * pairs + i);
        for (var h = 0u; h < 4u; h++) { o[h] += share[h * TILE + j] * v; }
      }
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
