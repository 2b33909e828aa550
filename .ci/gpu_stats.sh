# What the compilers of real GPUs make of the kernels, without these GPUs. `check` sources this file.
#
# Needs: Mesa's RADV, which Debian's mesa-vulkan-drivers has beside the software driver. Up to Mesa 25 it compiles for a GPU
# that is only named to it; later versions are skipped.

have_radv() { compgen -G '/usr/share/vulkan/icd.d/radeon_icd*.json' >/dev/null; }

# $1: check compares with docs/gpu-stats.md, write writes it
gpu_stats() {
    step "what drivers make of the kernels"
    BITNET_GPU_STATS=$1 cargo test --test gpu_stats --locked -- --ignored no_driver --nocapture
}
