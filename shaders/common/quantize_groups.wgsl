// The quantisation of words with a scale for each group of columns: GROUP / 4 adjacent invocations a group. `put_word` and
// `put_act` say where results go.

// Word `w` of a row, of which lane.index is a part: n = 0 past the last. In uniform control flow.
fn quantize_word(token: u32, w: u32, n: vec4<f32>, lane: Lane) {
  let members = max(GROUP, 4u) / 4u;
  let member = lane.index % members;
  let leader = lane.index - member;
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
  if (member == 0u && 4u * w < cols()) { put_act(token, w / members, Act(top / 127.0, lane_i32[lane.index])); }
  workgroupBarrier(); // before the arrays are used again
}
