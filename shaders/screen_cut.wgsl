// best = the key that `count` of the chunks reach, and no fewer than that
// In: chunks (tokens, chunks) key and row, as head_screen.wgsl leaves them.
// Out: states.best.
// Grid: (1, tokens). Bit after bit: it is in where enough keys are not below.
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

fn kernel(group: vec3<u32>, lane: Lane) {
  let first = group.y * p.chunks;
  var cut = 0u;
  for (var bit = 0x80000000u; bit > 0u; bit = bit >> 1u) {
    var reached = 0i;
    for (var c = lane.index; c < p.chunks; c += WG) { reached += select(0i, 1i, chunks[first + c].key >= (cut | bit)); }
    if (reduce_add_i32(reached, lane) >= i32(p.count)) { cut = cut | bit; }
  }
  if (lane.index == 0u) { atomicStore(&states[group.y].best, cut); }
}
