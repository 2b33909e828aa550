# The GPU tests on software Vulkan under Khronos' validation layer. `check` sources this file.
#
# Needs: apt and Debian's archive. Driver and layer are of later releases than Debian 12, whose layer is blind to all but broken
# rules of calls. They are unpacked below target/ and run by their own program loader: nothing is installed.

gpu_validate_folder=$PWD/target/gpu-validate

# Asked in this order. Debian 13's layer reports accesses out of bounds in spite of the robust access that wgpu turns on, but
# sees no hazards and no races; the one in sid is the other way round.
gpu_validate_releases=(sid trixie)

# calls: rules of the API, and barriers that are missing between kernels. bounds, races: inside kernels.
gpu_validate_kinds=(calls bounds races)

declare -A gpu_validate_planted=([calls]='rule hazard' [bounds]=outside [races]=race)

# Of the checks of accesses only those of buffers: each slows compiler and kernels down.
declare -A gpu_validate_settings=(
    # Without the heuristic the layer takes no notice of what kernels do.
    [calls]='validate_core=true validate_sync=true syncval_shader_accesses_heuristic=true'
    [bounds]='validate_core=false gpuav_enable=true gpuav_warn_on_robust_oob=true gpuav_post_process_descriptor_indexing=false
        gpuav_buffer_address_oob=false gpuav_buffers_validation=false gpuav_validate_ray_query=false'
    [races]='validate_core=false gpuav_enable=true gpuav_descriptor_checks=false gpuav_shared_memory_data_race=true'
)

# Kernels that the layer has made longer: LLVM, the compiler of lavapipe, takes minutes for some of them, Chromium's SwiftShader
# seconds.
declare -A gpu_validate_driver=(
    [calls]=share/vulkan/icd.d/lvp_icd.json
    [bounds]=lib/chromium/vk_swiftshader_icd.json
    [races]=lib/chromium/vk_swiftshader_icd.json
)

# Tests that start themselves again are left out: see gpu_validate_test. Inside kernels each kernel alone: whole models take long.
declare -A gpu_validate_tests=(
    [calls]='--skip shaders_valid --skip subgroups_of --skip without_a_driver'
    [bounds]='ops:: --skip subgroups_of'
    [races]='ops:: --skip subgroups_of'
)

# What the layer says of itself; and the layouts that naga gives variables in workgroup memory, for which tests/gpu_stats asks
# spirv-val (https://github.com/gfx-rs/wgpu/issues/7696).
gpu_validate_ignored='VALIDATION-SETTINGS|WARNING-GPU-Assisted-Validation|WARNING-Setting-Limit-Adjusted|VUID-StandaloneSpirv-None-10684'

# Fetches a release's packages and what they need, and unpacks them.
gpu_validate_fetch() {
    local apt=$gpu_validate_folder/$1/apt root=$gpu_validate_folder/$1/root package
    [ -e "$root/complete" ] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return
    rm -rf "$root"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root"
    : >"$apt/status"
    echo "deb ${DEBIAN_MIRROR:-http://deb.debian.org/debian} $1 main" >"$apt/sources.list"
    # As on a machine that has nothing yet, with none of this machine's sources and settings.
    local options=(-qq -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
        -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Parts=/dev/null
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=true -o Acquire::Languages=none)
    apt-get "${options[@]}" update || return
    apt-get "${options[@]}" --yes --download-only install \
        mesa-vulkan-drivers libvulkan1 vulkan-validationlayers spirv-tools || return
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$root" || return
    done
    # Of the browser's parts only this one.
    (cd "$apt" && apt-get "${options[@]}" download chromium-common) &&
        dpkg-deb --fsys-tarfile "$apt"/chromium-common_*.deb |
        tar -x -C "$root" ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json || return
    rm -r "$apt"
    touch "$root/complete"
}

# $1: release. Its program loader with its libraries, to put before a program.
gpu_validate_loader() {
    local libraries
    libraries=$(dirname "$gpu_validate_folder/$1"/root/usr/lib/*/libVkLayer_khronos_validation.so)
    echo "$libraries"/ld-linux*.so.* --library-path "$libraries"
}

# $1: release, $2: kind; the rest: arguments of cargo test, whose programs run on the release's libraries. What they start by
# their own path would be the loader. Leaves what the layer says in messages.log.
gpu_validate_test() (
    local root=$gpu_validate_folder/$1/root log=$gpu_validate_folder/messages.log setting host
    {
        printf 'khronos_validation.%s\n' debug_action=VK_DBG_LAYER_ACTION_LOG_MSG report_flags=error,warn "log_filename=$log" \
            message_id_filter=VUID-StandaloneSpirv-None-10684
        for setting in ${gpu_validate_settings[$2]}; do
            echo "khronos_validation.$setting"
        done
    } >"$gpu_validate_folder/vk_layer_settings.txt"
    : >"$log"
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=$(gpu_validate_loader "$1")"
    export BITNET_REQUIRE_GPU=1 VK_DRIVER_FILES="$root/usr/${gpu_validate_driver[$2]}"
    unset VK_ICD_FILENAMES VK_ADD_DRIVER_FILES
    export VK_LAYER_PATH="$root/usr/share/vulkan/explicit_layer.d" VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
    export VK_LAYER_SETTINGS_PATH="$gpu_validate_folder/vk_layer_settings.txt"
    [ -d "${XDG_RUNTIME_DIR:-}" ] || export XDG_RUNTIME_DIR=/tmp
    shift 2
    cargo test --locked "$@"
)

# The names of the messages.
gpu_validate_messages() {
    { grep -oE '^Validation [A-Za-z ]+: \[ [^ ]+ \]' "$gpu_validate_folder/messages.log" || true; } |
        { grep -vE "$gpu_validate_ignored" || true; } | sort | uniq -c
}

# $1: release, $2: kind. Whether the layer reports each planted fault of the kind, and nothing where there is none.
gpu_validate_sees() {
    local fault
    for fault in nothing ${gpu_validate_planted[$2]}; do
        gpu_validate_test "$1" "$2" --quiet --test gpu_validate -- --ignored --exact "$fault" >/dev/null || return
        if [ "$fault" = nothing ]; then
            [ -z "$(gpu_validate_messages)" ] || return
        else
            [ -n "$(gpu_validate_messages)" ] || return
        fi
    done
}

# The newest release knows the most rules.
gpu_validate_modules() {
    local release=${gpu_validate_releases[0]}
    if ! gpu_validate_fetch "$release"; then
        not_covered+=("SPIR-V of the kernels: Debian's archive could not be reached")
        return
    fi
    step "SPIR-V of the kernels by spirv-val of Debian $release"
    BITNET_SPIRV_VAL="$(gpu_validate_loader "$release") $gpu_validate_folder/$release/root/usr/bin/spirv-val" \
        cargo test --locked --test gpu_stats -- valid:: --nocapture
}

gpu_validate() {
    gpu_validate_modules
    local kind release seen messages
    for kind in "${gpu_validate_kinds[@]}"; do
        seen=
        for release in "${gpu_validate_releases[@]}"; do
            if gpu_validate_fetch "$release" && gpu_validate_sees "$release" "$kind"; then
                seen=$release
                break
            fi
        done
        if [ -z "$seen" ]; then
            not_covered+=("$kind under a validation layer: none reports the planted faults (${gpu_validate_planted[$kind]})")
            continue
        fi
        step "$kind under the validation layer of Debian $seen"
        # shellcheck disable=SC2086
        gpu_validate_test "$seen" "$kind" --test gpu -- ${gpu_validate_tests[$kind]}
        messages=$(gpu_validate_messages)
        if [ -n "$messages" ]; then
            printf '%s\n%s\n' "$messages" "in full: $gpu_validate_folder/messages.log" >&2
            return 1
        fi
    done
}
