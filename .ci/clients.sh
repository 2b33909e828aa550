# The server with the clients that programs are written with, and its page in a browser. `check` sources this file.
#
# Needs: Python 3.10 or newer with venv, the Python registry; for the page also Chromium and ChromeDriver.

clients_environment=target/clients
clients_packages=(openai litellm langchain-openai ollama llm anthropic pytest selenium)

have_clients() {
    [ -x "$clients_environment/bin/pytest" ] && return
    python3 -m venv "$clients_environment" &&
        "$clients_environment/bin/pip" install --quiet --disable-pip-version-check "${clients_packages[@]}"
}

have_driver() { command -v chromedriver >/dev/null && browser >/dev/null; }

install_driver() {
    command -v apt-get >/dev/null && as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            chromium chromium-driver >/dev/null
}

clients_tests() {
    step "the server and its clients"
    cargo build --bins --locked
    local tests=(tests/clients)
    have_driver || tests+=(--ignore tests/clients/test_page.py)
    BITNET_GPU=target/debug/bitnet-gpu CHROMIUM=$(browser) CHROMEDRIVER=$(command -v chromedriver) \
        "$clients_environment/bin/pytest" -q -p no:cacheprovider "${tests[@]}"
}
