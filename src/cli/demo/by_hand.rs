//! The demo as commands of a shell. A test runs them as they stand.

use std::{env, path::Path};

/// The commands; bash and dash take them.
pub fn script(module: &Path) -> String {
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

/// A line that lets the shell find this program, if it does not yet.
fn path_line() -> Option<String> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?;
    let known = env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|entry| entry == folder));
    (!known).then(|| format!("export PATH={}:$PATH\n", folder.display()))
}
