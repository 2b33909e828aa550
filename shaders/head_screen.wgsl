// upper[row0 + row] = copy[row] * x + what the logit of the row may be above that, from a copy of the head in 6 bits
// In: copy (rows, row_quads): codes, then scale, error and norm (bitnet_cpu_kernels::screen); planes, query (screen_query.wgsl).
// Out: uppers (vocab) keys (common/rank.wgsl); chunks: of each WG rows the one highest by the copy; state.best.
// Grid: (ceil(rows / WG)). Four invocations a row, four rows each: these share what is read of the token. One token.
// Reference: bitnet_cpu_kernels::screen. Test: tests/gpu/ops/screen.rs.

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
    var c: array<array<vec4<u32>, 3>, ROWS>;
    for (var t = 0u; t < ROWS; t++) {
      let row = min(first + t * (WG / 4u), p.rows - 1u);
      let at = p.copy0 + row * row_quads + 12u * b + quarter;
      c[t] = array(copy[at], copy[at + 4u], copy[at + 8u]);
    }
    // Run after run: all of a token's unpacked at once would not fit in the registers.
    for (var r = 0u; r < 3u; r++) {
      let high_run = planes[h + 4u * r];
      let low_run = planes[l + 4u * r];
      for (var t = 0u; t < ROWS; t++) {
        let u = (c[t][r] >> vec4(2u)) & six;
        high[t] += i32(dots(u, high_run));
        low[t] += i32(dots(u, low_run));
      }
    }
    let high_run = planes[h + 12u];
    let low_run = planes[l + 12u];
    for (var t = 0u; t < ROWS; t++) {
      let u = ((c[t][0] & two) << vec4(4u)) | ((c[t][1] & two) << vec4(2u)) | (c[t][2] & two);
      high[t] += i32(dots(u, high_run));
      low[t] += i32(dots(u, low_run));
    }
  }
  var best = none();
  for (var t = 0u; t < ROWS; t++) {
    let own = bounded(0u, first + t * (WG / 4u), high[t], low[t], quarter, lane);
    if (before(own, best)) { best = own; }
  }
  offer(0u, group.x, best, lane);
}
