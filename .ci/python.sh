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

# The wheel, with what it asks for, in an empty environment: its size, the time to import it, and the first lines of its
# README, run there.
python_fresh() {
    local python=$1 wheel=$2 fresh=target/python-fresh folder said
    rm -rf "$fresh"
    "$python" -m venv "$fresh"
    "$fresh/bin/pip" install --quiet --disable-pip-version-check "$wheel"
    "$fresh/bin/python" - "$wheel" <<'END'
import os, subprocess, sys

size = os.path.getsize(sys.argv[1]) / 1e6
assert size <= 20, f"the wheel has {size:.1f} MB"
code = "import time; begun = time.perf_counter(); import bitnet_gpu; print(time.perf_counter() - begun)"
times = [float(subprocess.check_output([sys.executable, "-I", "-c", code])) for _ in range(5)]
print(f"{size:.1f} MB; imported in {times[0]:.3f} s, then in {min(times[1:]):.3f} s")
END
    folder=$(mktemp -d)
    awk '/^    from bitnet_gpu/ { on = 1 } on && /^[^ ]/ { exit } on { sub(/^    /, ""); print }' python/README.md >"$folder/lines.py"
    said=$("$fresh/bin/python" -I "$folder/lines.py")
    rm -r "$folder"
    printf '%s\n' "$said"
    [ "$(printf '%s\n' "$said" | wc -l)" -ge 2 ]
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
    step "the wheel where nothing else is"
    python_fresh "$bin/python" "$wheels"/*.whl
    step "types of the package"
    # Not beside its sources, which lack the compiled part.
    (cd "$wheels" && "$bin/mypy" --config-file ../../python/pyproject.toml -p bitnet_gpu)
    step "stubs of the compiled part"
    (cd "$wheels" && "$bin/python" -m mypy.stubtest --mypy-config-file ../../python/pyproject.toml bitnet_gpu)
    step "the package"
    (cd python/tests && "$bin/pytest" -q -p no:cacheprovider --ignore ray .)
    step "Ray"
    # Its sockets have short paths only.
    (cd python/tests/ray && RAY_TMPDIR=/tmp "$bin/pytest" -q -p no:cacheprovider .)
}
