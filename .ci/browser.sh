# Every shader in a browser, the other implementation of WGSL. `check` sources this file.
#
# Needs: Chromium, whose WebGPU runs on SwiftShader, the GPU in software that comes with it.

browser() { command -v "${BITNET_CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome; }

install_browser() {
    command -v apt-get >/dev/null && as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

browser_tests() {
    step "shaders in $(browser)"
    BITNET_CHROMIUM=$(browser) cargo test --test browser --locked -- --nocapture
}
