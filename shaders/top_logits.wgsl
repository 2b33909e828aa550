// The 256 highest logits of each block of a row of logits, in order, and sum_i e^(logit_i - highest of the block)
// In: logits (rows, vocab) f32, finite.
// Out: lists (rows, blocks, 256) of key and id (common/rank.wgsl), padded with key 0; sums (rows, blocks) f32.
// Grid: (blocks, rows). One workgroup a block of per_block logits, a multiple of 256.
// Reference: a plain sort. Test: tests/gpu/ops/select.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  vocab: u32,
  per_block: u32,
  blocks: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> lists: array<Ranked>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let begin = group.x * p.per_block;
  let end = min(begin + p.per_block, p.vocab);
  let row = group.y * p.vocab;
  let block = group.y * p.blocks + group.x;
  best[i] = none();
  for (var at = begin; at < end; at += 256u) {
    workgroupBarrier();
    tile[i] = none();
    if (at + i < end) { tile[i] = Ranked(key_of(logits[row + at + i]), at + i); }
    sort_tile(i);
    merge_tile(i);
  }
  lists[block * 256u + i] = best[i];
  let highest = bitcast<f32>(bits_of(best[0].key));
  var sum = 0.0;
  for (var at = begin + i; at < end; at += 256u) { sum += exp(logits[row + at] - highest); }
  let total = reduce_add(sum, lane);
  if (i == 0u) { sums[block] = total; }
}
