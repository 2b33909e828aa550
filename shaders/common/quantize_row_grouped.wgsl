// A scale for each group of columns: GROUP / 4 adjacent invocations a group, four adjacent columns each.

fn quantize_row(token: u32, lane: Lane) {
  var squares = 0.0;
  for (var w = lane.index; w < words(); w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, cols()); c++) {
      let v = value(token, c);
      note(v);
      squares += v * v;
    }
  }
  var norm = 1.0;
  if (NORM) { norm = 1.0 / sqrt(reduce_add(squares, lane) / f32(cols()) + eps()); }

  let members = max(GROUP, 4u) / 4u;
  let member = lane.index % members;
  let leader = lane.index - member;
  // Every invocation takes every turn: they meet at the barriers.
  for (var base = 0u; base < words(); base += WG) {
    let w = base + lane.index;
    var n = vec4<f32>();
    if (4u * w < cols()) {
      for (var j = 0u; j < 4u; j++) {
        n[j] = normed(token, 4u * w + j, norm);
        note(n[j]);
      }
    }
    lane_f32[lane.index] = max(max(abs(n.x), abs(n.y)), max(abs(n.z), abs(n.w)));
    workgroupBarrier();
    for (var half = members / 2u; half > 0u; half = half >> 1u) {
      if (member < half) { lane_f32[lane.index] = max(lane_f32[lane.index], lane_f32[lane.index + half]); }
      workgroupBarrier();
    }
    let top = max(lane_f32[leader], 1e-5);

    let q = vec4<i32>(clamp(round(n * (127.0 / top)), vec4(-128.0), vec4(127.0)));
    lane_i32[lane.index] = q.x + q.y + q.z + q.w;
    workgroupBarrier();
    for (var half = members / 2u; half > 0u; half = half >> 1u) {
      if (member < half) { lane_i32[lane.index] += lane_i32[lane.index + half]; }
      workgroupBarrier();
    }
    if (w < words()) { put_word(token, w, pack4xI8(q)); }
    if (member == 0u && 4u * w < cols()) {
      put_act(token, w / members, Act(top / 127.0, lane_i32[lane.index]));
    }
    workgroupBarrier(); // before the arrays are used again
  }
}
