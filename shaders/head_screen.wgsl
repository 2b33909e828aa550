// upper[row0 + row] = copy[row] * x + what the logit of the row may be above that, from a copy of the head in 6 bits
// In: copy (rows, row_quads): codes, then scale, error and norm (bitnet_cpu_kernels::screen); planes, query (screen_query.wgsl).
// Out: uppers (vocab) keys (common/rank.wgsl); chunks: of each WG rows the one highest by the copy; state.best.
// Grid: (ceil(rows / WG)). Four invocations a row, four rows each: these share what is read of the token.
// Reference: bitnet_cpu_kernels::screen. Test: tests/gpu/ops/screen.rs.
//
// The sums are whole numbers: those of a block for four invocations a row at most 64 * 63 * 128, exact in f32 as well,
// and of up to 2^16 columns below 2^31. What follows is in f32, and off by less than the slack and the 1e-4 of the
// bound, whatever the direction of rounding.

struct Params {
  tokens: u32,
  start: u32,
  splits: u32,
  first: u32,
  rows: u32,         // of this window
  row0: u32,         // the first row of this window
  blocks: u32,       // of 256 columns in a row
  copy0: u32,        // vec4<u32> of the window before its first row
  chunk0: u32,       // chunks of the windows before
  least: f32,        // what is lost at most where results are subnormal
}

@group(0) @binding(0) var<storage, read> copy: array<vec4<u32>>;    // (rows, 12 * blocks + 1)
@group(0) @binding(1) var<storage, read> planes: array<vec4<u32>>;  // (2, 16 * blocks)
@group(0) @binding(2) var<storage, read> query: Query;
@group(0) @binding(3) var<storage, read_write> uppers: array<u32>;
@group(0) @binding(4) var<storage, read_write> chunks: array<Ranked>;
@group(0) @binding(5) var<storage, read_write> state: State;

const ROWS: u32 = 4u;

var<workgroup> found: array<Ranked, WG>;

fn dots(u: vec4<u32>, x: vec4<u32>) -> Acc { return dot4(u.x, x.x) + dot4(u.y, x.y) + dot4(u.z, x.z) + dot4(u.w, x.w); }

fn kernel(group: vec3<u32>, lane: Lane) {
  let quarter = lane.index % 4u;
  let first = group.x * WG + lane.index / 4u;
  let row_quads = 12u * p.blocks + 1u;
  let six = vec4(0x3f3f3f3fu);
  let two = vec4(0x03030303u);
  var high: array<i32, ROWS>;
  var low: array<i32, ROWS>;
  for (var b = 0u; b < p.blocks; b++) {
    // Run r of a block has columns 64 r on, 16 in each invocation's part.
    let h = 16u * b + quarter;
    let l = h + 16u * p.blocks;
    let h0 = planes[h];
    let h1 = planes[h + 4u];
    let h2 = planes[h + 8u];
    let h3 = planes[h + 12u];
    let l0 = planes[l];
    let l1 = planes[l + 4u];
    let l2 = planes[l + 8u];
    let l3 = planes[l + 12u];
    for (var t = 0u; t < ROWS; t++) {
      let row = min(first + t * (WG / 4u), p.rows - 1u);
      let at = p.copy0 + row * row_quads + 12u * b + quarter;
      let c0 = copy[at];
      let c1 = copy[at + 4u];
      let c2 = copy[at + 8u];
      let u0 = (c0 >> vec4(2u)) & six;
      let u1 = (c1 >> vec4(2u)) & six;
      let u2 = (c2 >> vec4(2u)) & six;
      let u3 = ((c0 & two) << vec4(4u)) | ((c1 & two) << vec4(2u)) | (c2 & two);
      high[t] += i32(dots(u0, h0) + dots(u1, h1) + dots(u2, h2) + dots(u3, h3));
      low[t] += i32(dots(u0, l0) + dots(u1, l1) + dots(u2, l2) + dots(u3, l3));
    }
  }
  var best = none();
  for (var t = 0u; t < ROWS; t++) {
    let main = 256.0 * f32(sum4_i32(high[t], lane) - 32 * query.high);
    let rest = f32(sum4_i32(low[t], lane) - 32 * query.low);
    let row = first + t * (WG / 4u);
    if (quarter == 0u && row < p.rows) {
      let kept = copy[p.copy0 + (row + 1u) * row_quads - 1u];
      let scale = bitcast<f32>(kept.x);
      let error = bitcast<f32>(kept.y);
      let norm = bitcast<f32>(kept.z);
      let value = (main + rest) * query.step * scale;
      let slack = (abs(main) + abs(rest)) * query.step * scale * 2e-6;
      let bound = (error * query.of_error + norm * query.of_norm) * 1.0001;
      var key = upper_key(value + slack + bound + p.least);
      // Sums that may overflow on the way, and rows with a weight that is not finite.
      if (query.useless == 1u || norm * query.norm > 1e37 || kept.w == 1u) { key = 0xffffffffu; }
      uppers[p.row0 + row] = key;
      let own = Ranked(upper_key(value), p.row0 + row);
      if (before(own, best)) { best = own; }
    }
  }
  found[lane.index] = best;
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lane.index < half && before(found[lane.index + half], found[lane.index])) {
      found[lane.index] = found[lane.index + half];
    }
  }
  if (lane.index == 0u) {
    chunks[p.chunk0 + group.x] = found[0];
    atomicMax(&state.best, found[0].key);
  }
}
