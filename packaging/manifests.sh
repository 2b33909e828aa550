#!/usr/bin/env bash
# Homebrew's formula and winget's manifests for a release whose archives are there:
#
#   packaging/manifests.sh REPOSITORY PUBLISHER SHA256SUMS FOLDER
#
# REPOSITORY is the address of the project, SHA256SUMS the file of all archives, FOLDER gets the files.
set -euo pipefail
[ $# = 4 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
templates=$(dirname "$0")/templates
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -1)
repository=$1 publisher=$2 sums=$3 folder=$4
mkdir -p "$folder"

sum_of() {
    local sum
    sum=$(awk -v name="bitnet-gpu-$version-$1" '$2 == name || $2 == "*" name { print $1 }' "$sums")
    [ -n "$sum" ] || { echo "bitnet-gpu-$version-$1 is missing (needed in $sums)" >&2; exit 1; }
    echo "$sum"
}

fill() {
    local text name
    text=$(sed "s|@VERSION@|$version|g; s|@REPOSITORY@|$repository|g; s|@PUBLISHER@|$publisher|g" "$1")
    while [[ $text =~ @SHA256\ ([^@]+)@ ]]; do
        name=${BASH_REMATCH[1]}
        text=${text//"@SHA256 $name@"/$(sum_of "$name")}
    done
    printf '%s\n' "$text"
}

fill "$templates/bitnet-gpu.rb" >"$folder/bitnet-gpu.rb"
for manifest in "$templates"/winget*.yaml; do
    fill "$manifest" >"$folder/$(basename "$manifest" | sed "s/^winget/$publisher.bitnet-gpu/")"
done
