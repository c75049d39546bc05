# Functions of the scripts that make throw-away tokens. The scripts source this file.

# parse_arguments DIR LABEL [PIN]: checks the arguments, makes the folder, and sets dir (absolute), label, pin and pin_file.
parse_arguments() {
    if (($# < 2 || $# > 3)); then
        echo "Usage: $0 DIR LABEL [PIN]" >&2
        exit 2
    fi
    label=$2
    # A label in PKCS#11 has at most 32 bytes. These characters need no quoting in URIs and file names.
    if [[ ! $label =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$ ]]; then
        echo "A label is 1 to 32 letters, digits, dots, dashes or underscores, not '$label'" >&2
        exit 2
    fi
    pin=${3:-$(random_pin)}
    # Kryoptic requires at least 8 characters. If a PIN is too short, softhsm2-util asks for it for ever.
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

# init_token OPTION...: initialises a token with $label and $pin. The options are softhsm2-util's, for the slot and the module.
#
# softhsm2-util takes PINs from its arguments, which every user of the machine can read, or from a terminal. `script` (in
# Debian's essential package bsdutils) provides a terminal. The terminal echoes the PINs, so its output is not shown. The
# security officer's PIN is not kept: a throw-away token is replaced, not repaired.
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

# encoded PATH: prints the path, percent-encoded as the value of an attribute (RFC 7512).
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

# print_token MODULE VARIABLE VALUE: prints the variable as a line for the shell, and the token's URI for claviger.toml.
print_token() {
    printf 'export %s=%q\n' "$2" "$3"
    printf 'pkcs11:token=%s?module-path=%s&pin-source=file:%s\n' "$label" "$(encoded "$1")" "$(encoded "$pin_file")"
}
