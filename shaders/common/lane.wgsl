// Entry point and reductions through workgroup memory, for devices without subgroups.
// Twin of lane_subgroup.wgsl: same names, same meaning. A kernel that takes it defines
// `fn kernel(group: vec3<u32>, lane: Lane)` and must call the reductions in uniform control flow.
// WG is a power of two. `lane.index` counts the invocations of a workgroup from 0.
// Tests: tests/gpu/ops/ runs each kernel with both twins.

override WG: u32 = 64u;

struct Lane { index: u32 }

var<workgroup> lane_f32: array<f32, WG>;
var<workgroup> lane_i32: array<i32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  kernel(group, Lane(index));
}

// The sum over the workgroup, in every invocation. The barrier after the read lets the array be used again.
fn reduce_add(value: f32, lane: Lane) -> f32 {
  lane_f32[lane.index] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    if (lane.index < half) { lane_f32[lane.index] += lane_f32[lane.index + half]; }
    workgroupBarrier();
  }
  let total = lane_f32[0];
  workgroupBarrier();
  return total;
}

fn reduce_max(value: f32, lane: Lane) -> f32 {
  lane_f32[lane.index] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    if (lane.index < half) { lane_f32[lane.index] = max(lane_f32[lane.index], lane_f32[lane.index + half]); }
    workgroupBarrier();
  }
  let most = lane_f32[0];
  workgroupBarrier();
  return most;
}

fn reduce_add_i32(value: i32, lane: Lane) -> i32 {
  lane_i32[lane.index] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half = half >> 1u) {
    if (lane.index < half) { lane_i32[lane.index] += lane_i32[lane.index + half]; }
    workgroupBarrier();
  }
  let total = lane_i32[0];
  workgroupBarrier();
  return total;
}

// The sum over four adjacent invocations (those with the same index / 4), in each of them.
fn sum4_f32(value: f32, lane: Lane) -> f32 {
  lane_f32[lane.index] = value;
  workgroupBarrier();
  let first = lane.index & ~3u;
  let total = (lane_f32[first] + lane_f32[first + 1u]) + (lane_f32[first + 2u] + lane_f32[first + 3u]);
  workgroupBarrier();
  return total;
}

fn sum4_i32(value: i32, lane: Lane) -> i32 {
  lane_i32[lane.index] = value;
  workgroupBarrier();
  let first = lane.index & ~3u;
  let total = lane_i32[first] + lane_i32[first + 1u] + lane_i32[first + 2u] + lane_i32[first + 3u];
  workgroupBarrier();
  return total;
}
