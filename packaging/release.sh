#!/usr/bin/env bash
# Files of a release for the machine that it runs on, in target/dist:
#
#   packaging/release.sh             builds the program first
#   packaging/release.sh PROGRAM     takes one that is built
#   TARGET=universal-apple-darwin packaging/release.sh PROGRAM     names the archive otherwise than by this machine
#
#   bitnet-gpu-VERSION-TARGET.tar.gz   program, licence, manual page, completions (Windows: .zip)
#   bitnet-gpu_VERSION_ARCH.deb        where dpkg-deb is
#   bitnet-gpu-VERSION-ARCH-root.tar.gz  Linux: the program and the libraries that it needs, for `docker import`
#   SHA256SUMS
#
# The program is linked with the C library of the machine: build on the oldest system that is to run it. It is not linked
# statically (musl), as such a program cannot load the drivers of a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
dist=target/dist
program=${1:-}
if [ -z "$program" ]; then
    BITNET_COMMIT=$(git rev-parse --short=9 HEAD 2>/dev/null || true) cargo build --release --locked --bin bitnet-gpu
    program=target/release/bitnet-gpu
fi

rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Program, manual page, completions, licences: the same in every package.
common() {
    local folder=$work/common
    mkdir -p "$folder/completions"
    cp "$program" "$folder/"
    cp LICENSE README.md CHANGELOG.md "$folder/"
    cp assets/ATTRIBUTION.md "$folder/ATTRIBUTION-built-in-model.md"
    "$program" man >"$folder/bitnet-gpu.1"
    "$program" completions bash >"$folder/completions/bitnet-gpu.bash"
    "$program" completions zsh >"$folder/completions/_bitnet-gpu"
    "$program" completions fish >"$folder/completions/bitnet-gpu.fish"
    "$program" completions powershell >"$folder/completions/_bitnet-gpu.ps1"
}

archive() {
    local name=bitnet-gpu-$version-$target
    cp -r "$work/common" "$work/$name"
    case $target in
        *windows*) (cd "$work" && 7z a -bso0 "$name.zip" "$name") && mv "$work/$name.zip" "$dist/" ;;
        *) tar -C "$work" --owner=0 --group=0 -czf "$dist/$name.tar.gz" "$name" 2>/dev/null ||
            tar -C "$work" -czf "$dist/$name.tar.gz" "$name" ;; # BSD's has no --owner.
    esac
}

# The newest version of the C library that the program asks for.
libc_version() { grep -aoE 'GLIBC_[0-9]+\.[0-9]+' "$program" | sed 's/GLIBC_//' | sort -Vu | tail -1; }

deb() {
    local arch root=$work/deb share
    arch=$(dpkg --print-architecture)
    share=$root/usr/share
    mkdir -p "$root"/{DEBIAN,usr/bin,usr/lib/systemd/system} "$share"/{man/man1,doc/bitnet-gpu} \
        "$share"/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
    install -m 755 "$program" "$root/usr/bin/bitnet-gpu"
    sed 's|/usr/local/bin/|/usr/bin/|' packaging/bitnet-gpu.service >"$root/usr/lib/systemd/system/bitnet-gpu.service"
    gzip -9n <"$work/common/bitnet-gpu.1" >"$share/man/man1/bitnet-gpu.1.gz"
    gzip -9n <CHANGELOG.md >"$share/doc/bitnet-gpu/changelog.gz"
    cat LICENSE assets/ATTRIBUTION.md >"$share/doc/bitnet-gpu/copyright"
    cp README.md "$share/doc/bitnet-gpu/"
    cp "$work/common/completions/bitnet-gpu.bash" "$share/bash-completion/completions/bitnet-gpu"
    cp "$work/common/completions/_bitnet-gpu" "$share/zsh/vendor-completions/"
    cp "$work/common/completions/bitnet-gpu.fish" "$share/fish/vendor_completions.d/"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: bitnet-gpu
Version: $version
Architecture: $arch
Maintainer: ${MAINTAINER:-The authors of bitnet-gpu}
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Depends: libc6 (>= $(libc_version)), libgcc-s1
Recommends: ca-certificates, libvulkan1, mesa-vulkan-drivers
Section: science
Priority: optional
Description: runs ternary language models on the processor or a GPU
 Chat, server and tools for language models whose weights are -1, 0 and 1,
 such as BitNet b1.58: GGUF files, with SIMD kernels and through Vulkan.
CONTROL
    chmod -R u=rwX,go=rX "$root"
    dpkg-deb --root-owner-group --build "$root" "$dist/bitnet-gpu_${version}_$arch.deb" >/dev/null
}

# A root file system: the program, the libraries that the linker names, and the authorities for downloads.
container_root() {
    local root=$work/root library
    mkdir -p "$root"/{usr/bin,tmp,models,etc/ssl/certs}
    install -m 755 "$program" "$root/usr/bin/bitnet-gpu"
    ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
        install -D -m 755 "$library" "$root$library"
    done
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    fi
    chmod 1777 "$root/tmp"
    tar -C "$root" --owner=0 --group=0 -czf "$dist/bitnet-gpu-$version-$(uname -m)-root.tar.gz" .
}

common
archive
if [ "$(uname -s)" = Linux ]; then
    command -v dpkg-deb >/dev/null && deb
    container_root
fi
cd "$dist"
if command -v sha256sum >/dev/null; then sha256sum -- * >SHA256SUMS; else shasum -a 256 -- * >SHA256SUMS; fi
cat SHA256SUMS
