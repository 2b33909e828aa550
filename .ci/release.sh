# Sourced by ./check: the files of a release, each tried in a place that has nothing else.
#
# Needs: Linux and dpkg-deb; chroot as root, or where user namespaces are allowed. BITNET_PROGRAM names a program that is
# built already; without it cargo builds one.

have_release_tools() { [ "$(uname -s)" = Linux ] && command -v dpkg-deb >/dev/null; }

# Runs in the root folder $1, as its only world.
in_root() {
    local root=$1 enter=()
    shift
    [ "$(id -u)" = 0 ] || enter=(unshare --map-root-user)
    env -i PATH=/usr/bin:/usr/sbin HOME=/tmp "${enter[@]}" chroot "$root" "$@"
}

# A story of 20 tokens by the program that the words after $1 run, and its time, which nothing is asserted of.
story() {
    local name=$1 from text took
    shift
    from=$(date +%s%N)
    text=$("$@" run -p "Once upon a time" -n 20 -s 1)
    took=$((($(date +%s%N) - from) / 1000000))
    printf '%s: %d ms: %s\n' "$name" "$took" "$text"
    case $text in
        "Once upon a time"?*) ;;
        *) echo "$name: no story" >&2; return 1 ;;
    esac
}

release_tests() {
    local folder program
    folder=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    step "release: archive, package, container root"
    packaging/release.sh ${BITNET_PROGRAM:+"$BITNET_PROGRAM"}
    (cd target/dist && sha256sum --check --quiet SHA256SUMS)

    step "release: stories"
    mkdir "$folder/archive" "$folder/root" "$folder/deb"
    tar -C "$folder/archive" -xzf target/dist/bitnet-gpu-*-linux-gnu.tar.gz
    program=$(echo "$folder"/archive/*/bitnet-gpu)
    story "archive" env -i HOME="$folder" "$program"
    tar -C "$folder/root" -xzf target/dist/bitnet-gpu-*-root.tar.gz
    story "container root" in_root "$folder/root" /usr/bin/bitnet-gpu
    # The package has the program alone; its libraries are those of the container root.
    rm "$folder/root/usr/bin/bitnet-gpu"
    dpkg-deb --extract target/dist/bitnet-gpu_*.deb "$folder/deb"
    cp -r "$folder/deb/." "$folder/root"
    story "Debian package" in_root "$folder/root" /usr/bin/bitnet-gpu
    in_root "$folder/root" /usr/bin/bitnet-gpu doctor >/dev/null
    local file
    for file in bin/bitnet-gpu share/man/man1/bitnet-gpu.1.gz share/bash-completion/completions/bitnet-gpu \
        share/doc/bitnet-gpu/copyright lib/systemd/system/bitnet-gpu.service; do
        [ -s "$folder/deb/usr/$file" ] || { echo "/usr/$file is missing in the Debian package" >&2; return 1; }
    done

    step "release: manifests"
    # Sums of archives that other systems build.
    (cd target/dist && for other in aarch64-unknown-linux-gnu.tar.gz x86_64-unknown-linux-gnu.tar.gz \
        universal-apple-darwin.tar.gz x86_64-pc-windows-msvc.zip; do
        printf '%064d  bitnet-gpu-%s-%s\n' 0 "$(sed -n 's/^version = "\(.*\)"/\1/p' ../../Cargo.toml | head -1)" "$other"
    done) >"$folder/sums"
    packaging/manifests.sh https://example.org/project Someone "$folder/sums" "$folder/manifests"
    if grep -rn '@[A-Z]' "$folder/manifests"; then
        echo "a place in a manifest was not filled in" >&2
        return 1
    fi
    [ "$(find "$folder/manifests" -type f | wc -l)" = 4 ] || { echo "expected 4 manifests" >&2; return 1; }
}
