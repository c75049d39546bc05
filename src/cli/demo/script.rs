//! The demo as a shell script. A test runs the script as printed.

use std::{env, path::Path};

/// The script of the demo with `--envelopes`, for bash and dash.
pub fn envelopes(module: &Path) -> String {
    let module = module.display();
    let path = path_line().unwrap_or_default();
    format!(
        r##"{path}mkdir claviger-demo && cd claviger-demo && mkdir tokens
echo "directories.tokendir = $PWD/tokens" > softhsm2.conf
export SOFTHSM2_CONF=$PWD/softhsm2.conf

# A folder for each, with a PIN, a configuration and a token
for who in alice bob mediator; do
  mkdir $who
  (umask 077; od -An -N8 -tx1 /dev/urandom | tr -d ' \n' > $who/pin)
  cat > $who/claviger.toml <<END
state_dir = "state"
[[token]]
name = "$who"
uri = "pkcs11:token=$who?module-path={module}&pin-source=file:pin"
END
  claviger --config $who/claviger.toml token init $who --so-pin-source file:$who/pin
done
alice() {{ claviger --config alice/claviger.toml "$@"; }}
bob() {{ claviger --config bob/claviger.toml "$@"; }}
mediator() {{ claviger --config mediator/claviger.toml "$@"; }}

# Keys in the tokens, and DIDs of their public halves
ALICE=$(alice did create --method peer:2)
MEDIATOR=$(mediator did create --method peer:2)
BOB=$(bob did create --method peer:2 --service https://mediator.example/ --routing-key $MEDIATOR)
say() {{ echo '{{"type": "https://didcomm.org/basicmessage/2.0/message", "body": {{"content": "'$1'"}}}}'; }}

# Alice to Bob, signed and authcrypted
say 'The key stays where it is.' | alice pack --sign-by $ALICE --from $ALICE --to $BOB --no-forward | bob unpack

# Bob to Alice, anoncrypted
say 'Mine too.' | bob pack --to $ALICE | alice unpack

# Alice to Bob, through the mediator
say 'See you at eight.' | alice pack --from $ALICE --to $BOB > forward.json
mediator unpack < forward.json
mediator unpack --forwarded < forward.json | bob unpack
"##
    )
}

/// The script of the demo with two daemons, for bash and dash.
pub fn daemons(module: &Path) -> String {
    let module = module.display();
    let path = path_line().unwrap_or_default();
    format!(
        r##"{path}mkdir claviger-demo && cd claviger-demo && mkdir tokens
echo "directories.tokendir = $PWD/tokens" > softhsm2.conf
export SOFTHSM2_CONF=$PWD/softhsm2.conf

# A folder for each, with a PIN, a configuration, a token, and a DID that leads to its port
create_agent() {{
  mkdir $1
  (umask 077; od -An -N8 -tx1 /dev/urandom | tr -d ' \n' > $1/pin)
  cat > $1/claviger.toml <<END
state_dir = "state"
[[token]]
name = "$1"
uri = "pkcs11:token=$1?module-path={module}&pin-source=file:pin"
[http]
listen = "127.0.0.1:$2"
public_url = "http://127.0.0.1:$2"
[net]
allow_private = ["127.0.0.0/8"]
END
  claviger --config $1/claviger.toml token init $1 --so-pin-source file:$1/pin
  claviger --config $1/claviger.toml did create --method peer:2 --service http://127.0.0.1:$2 > $1/did
}}
create_agent alice 8101
create_agent bob 8102
alice() {{ claviger --config alice/claviger.toml "$@"; }}
bob() {{ claviger --config bob/claviger.toml "$@"; }}

# Two daemons
claviger --config alice/claviger.toml serve > alice/log 2>&1 & ALICE=$!
claviger --config bob/claviger.toml serve > bob/log 2>&1 & BOB=$!
trap 'kill $ALICE $BOB' EXIT
for who in alice bob; do until $who status 2> /dev/null | grep 'messages are opened'; do sleep 1; done; done

# They meet, and talk
bob accept "$(alice invite --goal 'To try this out')"
bob ping $(cat alice/did)
bob send --to $(cat alice/did) 'The key stays where it is.' --within 30
until alice inbox | grep 'stays where it is'; do sleep 1; done
"##
    )
}

/// A line that adds this program's folder to PATH. `None` if PATH has the folder already.
fn path_line() -> Option<String> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?;
    let known = env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|entry| entry == folder));
    (!known).then(|| format!("export PATH={}:$PATH\n", folder.display()))
}
