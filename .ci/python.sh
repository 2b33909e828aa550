# The wheel for Python: built, installed where nothing else is, tested; then Ray on two nodes of this machine, of which one
# dies. `check` sources this file.
#
# Needs: Python 3.10 or newer with venv, and its registry.

python_environment=target/python
python_packages=(maturin numpy pytest mypy pydantic hnswlib "ray[data,serve]")

have_python() {
    [ -x "$python_environment/bin/pytest" ] && return
    python3 -m venv "$python_environment" &&
        "$python_environment/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}"
}

python_tests() {
    local bin wheels
    bin=$PWD/$python_environment/bin
    wheels=target/wheels-python
    step "lints of the Python crate"
    cargo fmt --manifest-path python/Cargo.toml -- --check
    PYO3_PYTHON=$bin/python CARGO_TARGET_DIR=target cargo clippy --manifest-path python/Cargo.toml --locked -- -D warnings
    step "the wheel"
    rm -rf "$wheels"
    CARGO_TARGET_DIR=target "$bin/maturin" build --locked --strip --manifest-path python/Cargo.toml -i "$bin/python" -o "$wheels"
    "$bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
    step "types of the package"
    # Not beside its sources, which lack the compiled part.
    (cd "$wheels" && "$bin/mypy" --config-file ../../python/pyproject.toml -p bitnet_gpu)
    step "the package"
    (cd python/tests && "$bin/pytest" -q -p no:cacheprovider --ignore ray .)
    step "Ray"
    # Its sockets have short paths only.
    (cd python/tests/ray && RAY_TMPDIR=/tmp "$bin/pytest" -q -p no:cacheprovider .)
}
