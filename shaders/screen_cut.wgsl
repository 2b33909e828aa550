// best = the key that `count` of the chunks reach, and no fewer than that
// In: chunks (tokens, chunks) key and row, as head_screen.wgsl leaves them.
// Out: states.best.
// Grid: (1, tokens). Four bits at a time, from the highest: of the keys that have those found so far, each value is counted.
// Reference: a plain sort. Test: tests/gpu/ops/screen.rs.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  chunks: u32,
  count: u32,
}

@group(0) @binding(0) var<storage, read> chunks: array<Ranked>;
@group(0) @binding(1) var<storage, read_write> states: array<State>;

var<workgroup> counts: array<atomic<u32>, 16>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let first = group.y * p.chunks;
  var cut = 0u;
  var wanted = p.count;
  for (var n = 0u; n < 8u; n++) {
    let shift = 28u - 4u * n;
    if (lane.index < 16u) { atomicStore(&counts[lane.index], 0u); }
    workgroupBarrier();
    for (var c = lane.index; c < p.chunks; c += WG) {
      let key = chunks[first + c].key;
      if ((key ^ cut) >> shift < 16u) { atomicAdd(&counts[(key >> shift) & 15u], 1u); }
    }
    workgroupBarrier();
    var digit = 15u;
    for (; digit > 0u; digit--) {
      let own = atomicLoad(&counts[digit]);
      if (own >= wanted) { break; }
      wanted -= own;
    }
    cut |= digit << shift;
    workgroupBarrier(); // the counts are not read any more
  }
  if (lane.index == 0u) { atomicStore(&states[group.y].best, cut); }
}
