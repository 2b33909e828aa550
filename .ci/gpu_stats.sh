# What the compilers of real GPUs make of the kernels, without these GPUs. `check` sources this file.
#
# Needs: Mesa's RADV, which Debian's mesa-vulkan-drivers has beside the software driver. Up to Mesa 25 it compiles for a GPU
# that is only named to it; later versions are skipped.

have_radv() { compgen -G '/usr/share/vulkan/icd.d/radeon_icd*.json' >/dev/null; }

# $1: check compares with docs/gpu-stats.md, write writes it
gpu_stats() {
    step "what drivers make of the kernels"
    local said
    said=$(mktemp)
    BITNET_GPU_STATS=$1 cargo test --test gpu_stats --locked -- --ignored no_driver --nocapture 2>&1 | tee "$said"
    local skipped
    while read -r skipped; do
        not_covered+=("what drivers make of the kernels: $skipped")
    done < <(grep ': skipped: ' "$said")
    rm "$said"
}
