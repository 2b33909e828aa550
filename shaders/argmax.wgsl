// The lowest id of the highest logit: into the result, and into the ids of the next step
// In: logits (vocab) f32, finite.
// Out: result: two words that are not used, then id and logit; ids: the id first.
// Grid: (1). One workgroup, threads stride over the vocabulary.
// Reference: a plain scan. Test: tests/gpu/ops/select.rs.

struct Params {
  tokens: u32,
  start: u32,
  splits: u32,
  first: u32,
  vocab: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;

var<workgroup> found: array<Ranked, WG>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  var own = none();
  // Ids rise, so of equals the first stays. Four loads at a time are under way together.
  var at = i;
  for (; at + 3u * WG < p.vocab; at += 4u * WG) {
    let four = vec4(key_of(logits[at]), key_of(logits[at + WG]), key_of(logits[at + 2u * WG]), key_of(logits[at + 3u * WG]));
    if (four.x > own.key) { own = Ranked(four.x, at); }
    if (four.y > own.key) { own = Ranked(four.y, at + WG); }
    if (four.z > own.key) { own = Ranked(four.z, at + 2u * WG); }
    if (four.w > own.key) { own = Ranked(four.w, at + 3u * WG); }
  }
  for (; at < p.vocab; at += WG) {
    let key = key_of(logits[at]);
    if (key > own.key) { own = Ranked(key, at); }
  }
  found[i] = own;
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (i < half && before(found[i + half], found[i])) { found[i] = found[i + half]; }
  }
  if (i == 0u) {
    result[1] = vec2(found[0].id, bits_of(found[0].key));
    ids[0] = found[0].id;
  }
}
