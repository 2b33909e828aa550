// The highest logits of each row of logits, in order, from those of its blocks; sum_i e^(logit_i - highest)
// In: lists (rows, blocks, 256) of key and id; sums (rows, blocks) f32, as top_logits.wgsl leaves them.
// Out: result (rows, 257) pairs: the sum as f32 and a word that is not used, then 256 of id and logit.
// Grid: (1, rows). One workgroup merges list after list.
// Reference: a plain sort. Test: tests/gpu/ops/select.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  blocks: u32,
}

@group(0) @binding(0) var<storage, read> lists: array<Ranked>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<vec2<u32>>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let i = lane.index;
  let first = group.y * p.blocks;
  let out = group.y * 257u;
  best[i] = lists[first * 256u + i];
  for (var block = 1u; block < p.blocks; block++) {
    workgroupBarrier();
    tile[i] = lists[(first + block) * 256u + 255u - i];
    merge_tile(i);
  }
  workgroupBarrier();
  result[out + 1u + i] = vec2(best[i].id, bits_of(best[i].key));
  let highest = bitcast<f32>(bits_of(best[0].key));
  var sum = 0.0;
  for (var block = i; block < p.blocks; block += 256u) {
    sum += sums[first + block] * exp(bitcast<f32>(bits_of(lists[(first + block) * 256u].key)) - highest);
  }
  let total = reduce_add(sum, lane);
  if (i == 0u) { result[out] = vec2(bitcast<u32>(total), 0u); }
}
