// Entry point and reductions with subgroup operations. Right for every subgroup size of at least 4 that
// divides WG or is a multiple of it; the size is read at run time, wgpu cannot choose it.
// Twin of lane.wgsl: same names, same meaning.
// `lane.index` counts along subgroups, so that four adjacent invocations always share one.
// Tests: tests/gpu/ops/ runs each kernel with both twins.

override WG: u32 = 64u;

struct Lane { index: u32, in_subgroup: u32, subgroup: u32, subgroups: u32, size: u32 }

var<workgroup> lane_f32: array<f32, WG>;
var<workgroup> lane_i32: array<i32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
        @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_size) size: u32,
        @builtin(subgroup_invocation_id) in_subgroup: u32) {
  kernel(group, Lane(subgroup * size + in_subgroup, in_subgroup, subgroup, subgroups, size));
}

// The sum over the workgroup, in every invocation: of a subgroup, then of the sums of all, by each subgroup for itself. The
// barrier after the read lets the array be used again.
fn reduce_add(value: f32, lane: Lane) -> f32 {
  let part = subgroupAdd(value);
  if (lane.in_subgroup == 0u) { lane_f32[lane.subgroup] = part; }
  workgroupBarrier();
  var own = 0.0;
  for (var s = lane.in_subgroup; s < lane.subgroups; s += lane.size) { own += lane_f32[s]; }
  workgroupBarrier();
  return subgroupAdd(own);
}

fn reduce_max(value: f32, lane: Lane) -> f32 {
  let part = subgroupMax(value);
  if (lane.in_subgroup == 0u) { lane_f32[lane.subgroup] = part; }
  workgroupBarrier();
  var most = lane_f32[0];
  for (var s = lane.in_subgroup; s < lane.subgroups; s += lane.size) { most = max(most, lane_f32[s]); }
  workgroupBarrier();
  return subgroupMax(most);
}

fn reduce_add_i32(value: i32, lane: Lane) -> i32 {
  let part = subgroupAdd(value);
  if (lane.in_subgroup == 0u) { lane_i32[lane.subgroup] = part; }
  workgroupBarrier();
  var own = 0i;
  for (var s = lane.in_subgroup; s < lane.subgroups; s += lane.size) { own += lane_i32[s]; }
  workgroupBarrier();
  return subgroupAdd(own);
}

// The sum over four adjacent invocations (those with the same index / 4), in each of them.
fn sum4_f32(value: f32, lane: Lane) -> f32 {
  let pair = value + subgroupShuffleXor(value, 1u);
  return pair + subgroupShuffleXor(pair, 2u);
}

fn sum4_i32(value: i32, lane: Lane) -> i32 {
  let pair = value + subgroupShuffleXor(value, 1u);
  return pair + subgroupShuffleXor(pair, 2u);
}
