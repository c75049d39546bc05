# The steps of .ci/run that are more than one command. .ci/run sources this file.

cache=${CLAVIGER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/claviger}
export PATH=$cache/tools/bin:$PATH

# clock SECONDS: prints minutes and seconds.
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# step TITLE COMMAND...: runs the command, and prints how long it took.
# The command must not be part of `if` or `&&`: bash ignores `set -e` there, also inside the called function.
step() {
    title=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@"
    printf '== %s: %s\n' "$title" "$(clock $((SECONDS - start)))"
    title=
}
trap '[[ -z ${title:-} ]] || echo "== Failed: $title, after $(clock $((SECONDS - start)))"' EXIT

versions() {
    rustc --version
    cargo --version
    sed -n 's/^PRETTY_NAME=//p' /etc/os-release
    echo "$(nproc) cores, $(cc --version | head -n 1)"
    echo "SoftHSM $(softhsm2-util --version), $(softhsm/module)"
    echo "Kryoptic $(sed -n '/^name = "kryoptic-lib"/{n;s/.*"\(.*\)"/\1/p}' tests/kryoptic/Cargo.lock)"
}

format() {
    cargo fmt --all --check
    for package in tests/interop tests/kryoptic fuzz; do
        cargo fmt --check --manifest-path "$package/Cargo.toml"
    done
}

# tool NAME VERSION: installs this version of a cargo tool if no version is installed. A debug build takes half the time.
tool() {
    command -v "$1" >/dev/null || env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug \
        --config profile.dev.debug=false --root "$cache/tools" "$1@$2"
    cargo "${1#cargo-}" --version
}

tools() {
    tool cargo-deny 0.20.2
    tool cargo-hack 0.6.46
    tool cargo-fuzz 0.13.2
}

# The advisory database is fetched from the network. Without network, the step is skipped with a message.
advisories() {
    if timeout 120 cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked --all-features check advisories
    else
        echo 'Skipped: the advisory database cannot be reached from this machine'
    fi
}

dependencies() {
    local all links library min
    all=$(cargo tree --locked --package claviger --all-features --edges normal,build --prefix none --format '{p}' |
        awk '{ sub(/^v/, "", $2); print $1 "@" $2 }' | sort -u)
    links=$(grep -E '^(claviger-testkit|didcomm|openssl-sys)@' <<<"$all" || true)
    if [[ $links ]]; then
        echo "The product links $links" >&2
        return 1
    fi
    library=$(cargo tree --locked --package claviger --edges no-dev --prefix none --format '{p}' | sort -u | wc -l)
    if ((library > 160)); then
        echo "The default features bring $library crates (lines of cargo tree); the limit for library users is 160" >&2
        return 1
    fi
    # The oldest supported toolchain may not be installed. Instead of building with it, compare the `rust-version` of each dependency.
    min=$(cargo metadata --locked --no-deps --format-version 1 |
        jq -r '.packages[] | select(.name == "claviger") | .rust_version')
    cargo metadata --locked --all-features --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
        jq -r '.packages[] | select(.rust_version) | "\(.name)@\(.version) \(.rust_version)"' | sort |
        join - <(echo "$all") | while read -r package needs; do
            if [[ $(printf '%s\n' "$needs" "$min.99" | sort -V | tail -n 1) != "$min.99" ]]; then
                echo "$package needs Rust $needs; Cargo.toml says $min" >&2
                exit 1
            fi
        done
    echo "$(wc -l <<<"$all") packages, no test package among them, and all support Rust $min"
}

kryoptic() { tests/kryoptic/build; }

# The parts of .github/workflows/release.yml that need no other machine.
release_parts() {
    local dist
    dist=$(mktemp -d)
    DIST=$dist packaging/archive "$CLAVIGER_TEST_PROGRAM" test
    # As cargo binstall finds the program: `bin-dir` of Cargo.toml.
    tar --extract --gzip --file "$dist"/claviger-*-test.tar.gz --directory "$dist"
    "$dist"/claviger-*-test/claviger --version
    packaging/sbom cli,yubikey | jq --exit-status '(.components | length) > 100 and all(.components[]; .licenses and .hashes)' >/dev/null
    packaging/homebrew/fill https://example.org/a/b/releases/download/v1/source.tar.gz README.md >"$dist/claviger.rb"
    ruby -c "$dist/claviger.rb"
    rm -r "$dist"
}

published() {
    local log stale
    # Cargo assumes that a published version never changes, also in the temporary registry of a dry run. Remove what an earlier
    # run cached there, or cargo would use it instead of the current packages.
    stale=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*/claviger*)
    if [[ -e ${stale[0]} ]]; then
        rm -rf "${stale[@]}" "$CARGO_TARGET_DIR"/debug/.fingerprint/claviger*
    fi
    log=$(mktemp)
    cargo publish --workspace --dry-run --locked 2>&1 | tee "$log"
    # These warnings are expected: the tests need tokens, vectors and other agents, and are not published; nor are the packages
    # that the profiles name.
    if grep '^warning' "$log" | grep -v -e 'aborting upload due to dry run' -e '^warning: ignoring test' \
        -e 'profile package spec `claviger-\(testkit\|virtual-yubikey\)`'; then
        return 1
    fi
}

interop() {
    local peers
    # Downloads while the compiler works.
    tests/interop/peers/install >/dev/null &
    peers=$!
    CLAVIGER_TEST_SOFTHSM=$(softhsm/module)
    CLAVIGER_TEST_KRYOPTIC=$(tests/kryoptic/build)
    export CLAVIGER_TEST_SOFTHSM CLAVIGER_TEST_KRYOPTIC
    cargo clippy --locked --all-targets --manifest-path tests/interop/Cargo.toml -- -D warnings
    wait "$peers"
    cargo test --locked --manifest-path tests/interop/Cargo.toml
}
