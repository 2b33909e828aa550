// The lowest id of the highest logit of each row of logits: into the result, and of a single row into the next step
// In: logits (rows, vocab) f32, finite; batch, whose token `first` the first row belongs to.
// Out: result (rows, 257) pairs: the second of a row is id and logit; batch: with one row, the token that follows.
// Grid: (1, rows). One workgroup a row, threads stride over the vocabulary.
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

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let row = group.y * p.vocab;
  var own = none();
  // Ids rise, so of equals the first stays. Four loads at a time are under way together.
  var at = i;
  for (; at + 3u * WG < p.vocab; at += 4u * WG) {
    let here = row + at;
    let four = vec4(key_of(logits[here]), key_of(logits[here + WG]), key_of(logits[here + 2u * WG]), key_of(logits[here + 3u * WG]));
    if (four.x > own.key) { own = Ranked(four.x, at); }
    if (four.y > own.key) { own = Ranked(four.y, at + WG); }
    if (four.z > own.key) { own = Ranked(four.z, at + 2u * WG); }
    if (four.w > own.key) { own = Ranked(four.w, at + 3u * WG); }
  }
  for (; at < p.vocab; at += WG) {
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
