// What the kernels share that read the copy of the head: bindings, and what a row's logit is at most. Those of one token
// and of several give the same bits.
//
// The sums are whole numbers: those of a block for four invocations a row at most 64 * 63 * 128, exact in f32 as well,
// and of up to 2^16 columns below 2^31. What follows is in f32, and off by less than the slack and the 1e-4 of the
// bound, whatever the direction of rounding.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  rows: u32,         // of this window
  row0: u32,         // the first row of this window
  blocks: u32,       // of 256 columns in a row
  copy0: u32,        // vec4<u32> of the window before its first row
  chunk0: u32,       // chunks of the windows before
  chunks: u32,       // of all windows
  vocab: u32,
  least: f32,        // what is lost at most where results are subnormal
}

@group(0) @binding(0) var<storage, read> copy: array<vec4<u32>>;    // (rows, 12 * blocks + 1)
@group(0) @binding(1) var<storage, read> planes: array<vec4<u32>>;  // (tokens, 2, 16 * blocks)
@group(0) @binding(2) var<storage, read> queries: array<Query>;     // (tokens)
@group(0) @binding(3) var<storage, read_write> uppers: array<u32>;  // (tokens, vocab)
@group(0) @binding(4) var<storage, read_write> chunks: array<Ranked>; // (tokens, chunks)
@group(0) @binding(5) var<storage, read_write> states: array<State>; // (tokens)

const ROWS: u32 = 4u; // of an invocation

var<workgroup> found: array<Ranked, WG>;

fn dots(u: vec4<u32>, x: vec4<u32>) -> Acc { return dot4(u.x, x.x) + dot4(u.y, x.y) + dot4(u.z, x.z) + dot4(u.w, x.w); }

// Writes the upper bound of a row of this window, and gives the row with its value by the copy, from the sums over its
// columns of which `quarter` 0 of four invocations speaks for all.
fn bounded(token: u32, row: u32, high: i32, low: i32, quarter: u32, lane: Lane) -> Ranked {
  let query = queries[token];
  let main = 256.0 * f32(sum4_i32(high, lane) - 32 * query.high);
  let rest = f32(sum4_i32(low, lane) - 32 * query.low);
  if (quarter != 0u || row >= p.rows) { return none(); }
  let kept = copy[p.copy0 + (row + 1u) * (12u * p.blocks + 1u) - 1u];
  let scale = bitcast<f32>(kept.x);
  let error = bitcast<f32>(kept.y);
  let norm = bitcast<f32>(kept.z);
  let value = (main + rest) * query.step * scale;
  let slack = (abs(main) + abs(rest)) * query.step * scale * 2e-6;
  let bound = (error * query.of_error + norm * query.of_norm) * 1.0001;
  var key = upper_key(value + slack + bound + p.least);
  // Sums that may overflow on the way, and rows with a weight that is not finite.
  if (query.useless == 1u || norm * query.norm > 1e37 || kept.w == 1u) { key = 0xffffffffu; }
  uppers[token * p.vocab + p.row0 + row] = key;
  return Ranked(upper_key(value), p.row0 + row);
}

// The best row of the chunk of this workgroup, from that of each invocation.
fn offer(token: u32, chunk: u32, best: Ranked, lane: Lane) {
  workgroupBarrier(); // what was found for another token is not read any more
  found[lane.index] = best;
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lane.index < half && before(found[lane.index + half], found[lane.index])) {
      found[lane.index] = found[lane.index + half];
    }
  }
  if (lane.index == 0u) {
    chunks[token * p.chunks + p.chunk0 + chunk] = found[0];
    atomicMax(&states[token].best, found[0].key);
  }
}
