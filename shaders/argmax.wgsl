// The lowest id of the highest logit of each row of logits: into the result, and of a single row into the next step
// In: logits (rows, vocab) f32, finite; batch, whose token `first` the first row belongs to.
// Out: result (rows, 257) pairs: the second of a row is id and logit; batch: with one row, the token that follows.
// Grid: (1, rows). One workgroup a row, threads stride over the vocabulary by four adjacent logits.
// Reference: a plain scan. Test: tests/gpu/ops/select.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  vocab: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> batch: Batch;

var<workgroup> found: array<Ranked, WG>;

fn keys_at(at: u32) -> vec4<u32> {
  return vec4(key_of(logits[at]), key_of(logits[at + 1u]), key_of(logits[at + 2u]), key_of(logits[at + 3u]));
}

// The first of the highest of these, of which the last four have ids from `at` on.
fn highest(before: Ranked, keys: vec4<u32>, at: u32) -> Ranked {
  var result = before;
  if (keys.x > result.key) { result = Ranked(keys.x, at); }
  if (keys.y > result.key) { result = Ranked(keys.y, at + 1u); }
  if (keys.z > result.key) { result = Ranked(keys.z, at + 2u); }
  if (keys.w > result.key) { result = Ranked(keys.w, at + 3u); }
  return result;
}

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let row = group.y * p.vocab;
  var own = none();
  // Ids rise, so of equals the first stays. Four loads of four logits are under way together.
  var at = 4u * i;
  for (; at + 12u * WG + 3u < p.vocab; at += 16u * WG) {
    let four0 = keys_at(row + at);
    let four1 = keys_at(row + at + 4u * WG);
    let four2 = keys_at(row + at + 8u * WG);
    let four3 = keys_at(row + at + 12u * WG);
    own = highest(own, four0, at);
    own = highest(own, four1, at + 4u * WG);
    own = highest(own, four2, at + 8u * WG);
    own = highest(own, four3, at + 12u * WG);
  }
  for (; at + 3u < p.vocab; at += 4u * WG) { own = highest(own, keys_at(row + at), at); }
  for (; at < p.vocab; at++) {
    let key = key_of(logits[row + at]);
    if (key > own.key) { own = Ranked(key, at); }
  }
  found[i] = own;
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (i < half && before(found[i + half], found[i])) { found[i] = found[i + half]; }
  }
  if (i == 0u) {
    result[257u * group.y + 1u] = vec2(found[0].id, bits_of(found[0].key));
    if (p.tokens == 1u) {
      let last = batch.tokens[p.first];
      batch.tokens[0] = Token(found[0].id, last.position + 1u, 0u, last.base);
    }
  }
}
