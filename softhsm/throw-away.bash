# What softhsm/token and softhsm/kryoptic-token share. To be sourced.

# check_words DIR LABEL [PIN]: sets dir (made, absolute), label, pin and pin_file.
check_words() {
    if (($# < 2 || $# > 3)); then
        echo "Usage: $0 DIR LABEL [PIN]" >&2
        exit 2
    fi
    label=$2
    # 32 bytes are what PKCS#11 has room for; the rest keeps quoting out of URIs and file names.
    if [[ ! $label =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$ ]]; then
        echo "A label is 1 to 32 letters, digits, dots, dashes or underscores, not '$label'" >&2
        exit 2
    fi
    pin=${3:-$(random_pin)}
    # Kryoptic wants 8, and softhsm2-util asks again for ever when one is too short.
    if [[ ! $pin =~ ^[[:graph:]]{8,32}$ ]]; then
        echo "A PIN is 8 to 32 printable characters without blanks" >&2
        exit 2
    fi
    umask 077
    mkdir -p "$1"
    dir=$(cd "$1" && pwd -P)
    pin_file=$dir/$label.pin
    if [[ -e $pin_file ]]; then
        echo "There is a token '$label' in $dir already" >&2
        exit 1
    fi
}

random_pin() { od -An -N10 -tx1 /dev/urandom | tr -d ' \n'; }

# init_token SLOT...: initialises a token with softhsm2-util's options for the slot (and module), as `label` with `pin`.
#
# softhsm2-util takes PINs from its arguments, where every user of the machine reads them, or from a
# terminal. `script` (Debian's essential bsdutils) gives it one. The terminal echoes, so what it prints
# stays here. The security officer's PIN is forgotten: a throw-away token is made anew, not repaired.
init_token() {
    local so_pin output
    so_pin=$(random_pin)
    if ! output=$(printf '%s\n' "$so_pin" "$so_pin" "$pin" "$pin" |
        timeout 60 script --quiet --return --command "softhsm2-util --init-token $* --label $label" /dev/null); then
        echo "softhsm2-util could not initialise the token '$label':" >&2
        grep -E '^(ERROR|CKR_|Could)' <<<"$output" >&2 || true
        exit 1
    fi
    printf '%s' "$pin" >"$pin_file"
}

# encoded PATH: percent-encoded as RFC 7512 wants it in the value of an attribute.
encoded() {
    local LC_ALL=C path=$1 i c
    for ((i = 0; i < ${#path}; i++)); do
        c=${path:i:1}
        case $c in
        [A-Za-z0-9/._~-]) printf '%s' "$c" ;;
        *) printf '%%%02X' "'$c" ;;
        esac
    done
}

# show MODULE VARIABLE FILE: the line for the shell, and the token's URI for our configuration.
show() {
    printf 'export %s=%q\n' "$2" "$3"
    printf 'pkcs11:token=%s?module-path=%s&pin-source=file:%s\n' "$label" "$(encoded "$1")" "$(encoded "$pin_file")"
}
