// The highest logits of the vocabulary, in order, from those of its blocks; sum_i e^(logit_i - highest)
// In: lists (blocks, 256) of key and id; sums (blocks) f32, as top_logits.wgsl leaves them.
// Out: result: the sum as f32, a word that is not used, then 256 pairs of id and logit.
// Grid: (1). One workgroup merges list after list.
// Reference: a plain sort. Test: tests/gpu/ops/select.rs.

struct Params {
  tokens: u32,
  start: u32,
  splits: u32,
  first: u32,
  blocks: u32,
}

@group(0) @binding(0) var<storage, read> lists: array<Ranked>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<vec2<u32>>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  best[i] = lists[i];
  for (var block = 1u; block < p.blocks; block++) {
    workgroupBarrier();
    tile[i] = lists[block * 256u + 255u - i];
    merge_tile(i);
  }
  workgroupBarrier();
  result[1u + i] = vec2(best[i].id, bits_of(best[i].key));
  let highest = bitcast<f32>(bits_of(best[0].key));
  var sum = 0.0;
  for (var block = i; block < p.blocks; block += 256u) {
    sum += sums[block] * exp(bitcast<f32>(bits_of(lists[block * 256u].key)) - highest);
  }
  let total = reduce_add(sum, lane);
  if (i == 0u) { result[0] = vec2(bitcast<u32>(total), 0u); }
}
