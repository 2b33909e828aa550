// A scale for each group of columns: GROUP / 4 adjacent invocations a group, four adjacent columns each.

fn quantize_row(token: u32, lane: Lane) {
  let norm = norm_of_row(token, lane);
  let members = max(GROUP, 4u) / 4u;
  let member = lane.index % members;
  let leader = lane.index - member;
  // Every invocation takes every turn: they meet at the barriers.
  for (var base = 0u; base < words(); base += WG) {
    let w = base + lane.index;
    var n = vec4<f32>();
    if (w < words()) { n = normed(token, w, norm); }
    note(dot(abs(n), vec4(1.0)));
    lane_f32[lane.index] = largest(n);
    workgroupBarrier();
    for (var half = members / 2u; half > 0u; half = half >> 1u) {
      if (member < half) { lane_f32[lane.index] = max(lane_f32[lane.index], lane_f32[lane.index + half]); }
      workgroupBarrier();
    }
    let top = max(lane_f32[leader], 1e-5);

    let q = quantised(n, top);
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
