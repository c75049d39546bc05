//! `claviger init --keeper`: the layout of the systemd units. Each step is one that docs/server.md names.

mod installed;
mod systemctl;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use zeroize::Zeroizing;

use claviger::did::peer;

use super::{
    arguments::{Args, PublicUrl, UnitArgs},
    created_files::CreatedFiles,
    template::{Api, Settings, Token, TokenSettings},
};
use crate::cli::{
    config::Config,
    did::create,
    failure::{Failure, Status},
    output::Out,
    pin,
    tokens::{custodian, open::check_uri},
    users::{user_and_group, user_id},
};
use systemctl::{StartedUnits, run as run_command};

/// The folder that the units read.
const FOLDER: &str = "/etc/claviger";
/// The state folder of the agent's unit.
const STATE_DIR: &str = "/var/lib/claviger";
/// The agent's user, and the agent's unit without its ending.
const AGENT: &str = "claviger";
/// How long the keeper may take to open its token.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sets up the units. Removes what it made if that fails.
pub fn run(name: &str, args: &Args, url: Option<&PublicUrl>, out: &Out) -> Result<(), Failure> {
    check_name(name)?;
    check_users(&args.units.api_user)?;
    let token = token_settings(name, args)?;
    let program = systemctl::check_machine()?;
    let mut files = CreatedFiles::begin_for_other_users(Path::new(FOLDER))?;
    let pin = pin::read_secret(&args.units.pin_source, Path::new(""), &format!("the PIN of the token {name:?}"))?;
    // Dropped before the files: the units are stopped while their files are still there.
    let mut units = StartedUnits::default();

    installed::complete(&program, &mut files)?;
    let state_dir = Path::new(STATE_DIR);
    if !state_dir.exists() {
        make_folder_of_agent(state_dir)?;
    }
    let keeper_file = files.folder().join(format!("keeper-{name}.toml"));
    files.write(&keeper_file, 0o644, &token.render_keeper())?;
    check_uri(Config::load(Some(&keeper_file))?.token(Some(name))?)?;
    let mut line = Zeroizing::new(String::with_capacity(pin.len() + 1));
    line.extend([&**pin, "\n"]);
    files.write(&files.folder().join(format!("keeper-{name}.pin")), 0o600, &line)?;
    drop((pin, line));
    let drop_in = drop_in(&args.units);
    if !drop_in.is_empty() {
        let folder = PathBuf::from(format!("/etc/systemd/system/claviger-keeper@{name}.service.d"));
        files.make_folder(&folder, 0o755, false)?;
        files.write(&folder.join("hsm.conf"), 0o644, &drop_in)?;
    }
    let settings = Settings {
        state_dir: STATE_DIR,
        token: Token::Held(name),
        http: url.map(|url| (args.listen, url.text.as_str())),
        peers_are_local: args.local_peers,
        api: Api::InRuntimeFolder(&args.units.api_user),
    };
    let file = files.write_configuration(&settings.render())?;
    let config = Config::load(Some(&file))?;

    run_command("systemctl", &["daemon-reload"])?;
    let keeper_unit = format!("claviger-keeper@{name}.service");
    out.say(&format!("Starting {keeper_unit} ..."));
    units.start("claviger-keeper.target")?;
    units.start(&keeper_unit)?;
    wait_for_token(&config, name, &keeper_unit)?;
    let created = create::make(&args.first_did(url), &config, out)?;
    // From here on the token has keys and the state folder has a DID, so everything stays.
    units.keep();
    let made = files.keep();
    out.say(&format!("Starting {AGENT}.service ..."));
    StartedUnits::default().start("claviger.service").map(StartedUnits::keep).map_err(|failure| {
        failure.hint(format!(
            "`journalctl -u claviger` says why. All files and the DID {} are made: correct {}, and run `systemctl \
             enable --now claviger`",
            created.document.id(),
            file.display()
        ))
    })?;
    print(url, &file, &keeper_unit, created.document.id(), &made, out)
}

/// Whether the name can be part of a unit's and a file's name.
fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=32).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-') {
        true => Ok(()),
        false => {
            let message = format!("--keeper {name:?}: a unit cannot have this name");
            Err(Failure::usage("bad-arguments", message).hint("use 1 to 32 letters, digits, dashes and underscores"))
        }
    }
}

/// Whether the users of the API are there: the agent does not start with a name that is unknown.
fn check_users(names: &[String]) -> Result<(), Failure> {
    names.iter().try_for_each(|name| {
        user_id(name).map(drop).map_err(|failure| Failure {
            code: "bad-arguments",
            message: format!("--api-user {name:?}: there is no such user in /etc/passwd"),
            ..failure
        })
    })
}

/// The keeper's `[[token]]`. Its PIN comes from systemd.
fn token_settings(name: &str, args: &Args) -> Result<TokenSettings, Failure> {
    const PIN_SOURCE: &str = "pin-source=credential:pin";
    let uri = args.token_uri.as_deref().unwrap_or_default();
    let mut token = TokenSettings::from_uri(uri)?;
    if !uri.contains("pin-source=") {
        token.uri = format!("{uri}{}{PIN_SOURCE}", if uri.contains('?') { '&' } else { '?' });
    } else if !uri.contains(PIN_SOURCE) {
        let message = "--token-uri has a pin-source, which the keeper's unit cannot read";
        return Err(Failure::usage("bad-arguments", message)
            .hint("leave it out: --pin-source says where the PIN is now, and systemd passes it to the keeper"));
    }
    token.name = name.to_owned();
    token.environment = args.environment.clone();
    Ok(token)
}

/// What the keeper's unit must allow to a module that reaches its HSM by itself.
fn drop_in(args: &UnitArgs) -> String {
    let mut lines = String::new();
    if !args.hsm_address.is_empty() {
        lines += "PrivateNetwork=no\nRestrictAddressFamilies=AF_INET AF_INET6\n";
        lines.extend(args.hsm_address.iter().map(|address| format!("IPAddressAllow={address}\n")));
    }
    if !args.hsm_device.is_empty() {
        lines += "PrivateDevices=no\nDevicePolicy=closed\n";
        lines.extend(args.hsm_device.iter().map(|device| format!("DeviceAllow={device} rw\n")));
    }
    match lines.is_empty() {
        true => lines,
        false => format!("# What the token's module needs, by `claviger init --keeper`.\n[Service]\n{lines}"),
    }
}

fn make_folder_of_agent(folder: &Path) -> Result<(), Failure> {
    let (user, group) = user_and_group(AGENT)?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.and_then(|()| chown(folder, Some(user), Some(group))).map_err(|error| Failure::io(folder.display(), &error))
}

/// Waits until the keeper has opened its token. A refused PIN or a wrong URI ends the wait.
fn wait_for_token(config: &Config, name: &str, unit: &str) -> Result<(), Failure> {
    let until = Instant::now() + KEEPER_TIMEOUT;
    let token = config.token(Some(name))?;
    loop {
        let failure = match custodian::open(config, token) {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        let may_come = failure.status == Status::TokenNotReady && failure.code == "token-absent";
        if !may_come || Instant::now() > until || systemctl::has_failed(unit) {
            return Err(failure.hint(format!("`journalctl -u {unit}` has the keeper's log")));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Prints what was made, and what to do next.
fn print(
    url: Option<&PublicUrl>,
    file: &Path,
    keeper_unit: &str,
    did: &str,
    made: &[PathBuf],
    out: &Out,
) -> Result<(), Failure> {
    let mut notes = Vec::new();
    if let Some(url) = url.filter(|url| url.is_local()) {
        notes.push(format!("only this machine reaches {}; --public-url names a URL that peers reach", url.text));
    }
    let next = match url {
        Some(_) => ["claviger status", "claviger invite"],
        None => ["claviger status", "claviger mediator use DID"],
    };
    let units = ["claviger.service", "claviger-keeper.target", keeper_unit];
    if out.json {
        let mut document = json!({
            "configuration": file, "did": did, "software_token": false, "units": units, "files": made, "next": next,
            "notes": notes,
        });
        if let Some(short) = peer::short_form(did) {
            document["short"] = short.into();
        }
        return out.document(&document);
    }
    for note in notes {
        out.say(&format!("Note: {note}."));
    }
    for path in made {
        out.say(&format!("Made {}", path.display()));
    }
    out.say(&format!("{} and {keeper_unit} run, and start with the machine. The first DID:", units[0]));
    out.line(did)?;
    out.say(&format!("Next:\n    {}\n    {}", next[0], next[1]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Init {
        #[command(flatten)]
        args: Args,
    }

    fn init(args: &[&str]) -> Args {
        Init::parse_from(["init", "--keeper", "prod"].iter().chain(args)).args
    }

    #[test]
    fn the_pin_comes_from_systemd() {
        for (uri, wanted) in [
            ("pkcs11:token=a", Some("pkcs11:token=a?pin-source=credential:pin")),
            ("pkcs11:token=a?module-path=/m.so", Some("pkcs11:token=a?module-path=/m.so&pin-source=credential:pin")),
            ("yubikey:serial=1?pin-source=credential:pin", Some("yubikey:serial=1?pin-source=credential:pin")),
            ("pkcs11:token=a?pin-source=file:pin", None),
            ("pkcs11:token=a?pin-value=1", None),
            ("soft", None),
        ] {
            let made = token_settings("prod", &init(&["--token-uri", uri]));
            assert_eq!(made.ok().map(|token| token.uri).as_deref(), wanted, "{uri}");
        }
    }

    #[test]
    fn names_of_units_are_checked() {
        for (name, is_good) in [("prod", true), ("hsm-2_b", true), ("", false), ("a b", false), ("../x", false)] {
            assert_eq!(check_name(name).is_ok(), is_good, "{name:?}");
        }
    }

    /// What a module may reach is what was named, and nothing else.
    #[test]
    fn a_drop_in_allows_what_was_named() {
        let with = |more: &[&str]| drop_in(&init(&[&["--token-uri", "pkcs11:token=a"], more].concat()).units);
        assert_eq!(with(&[]), "");
        let network = with(&["--hsm-address", "192.0.2.7", "--hsm-address", "2001:db8::/64"]);
        assert!(network.contains("\nIPAddressAllow=192.0.2.7\nIPAddressAllow=2001:db8::/64\n"), "{network}");
        assert!(network.contains("\nPrivateNetwork=no\n") && !network.contains("Device"), "{network}");
        let device = with(&["--hsm-device", "/dev/tpmrm0"]);
        assert!(device.ends_with("\nPrivateDevices=no\nDevicePolicy=closed\nDeviceAllow=/dev/tpmrm0 rw\n"), "{device}");
    }

    #[test]
    fn both_configurations_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let args = init(&["--token-uri", "pkcs11:token=a?module-path=/m.so", "--environment", "A=b \"c\""]);
        let keeper = folder.path().join("keeper.toml");
        fs::write(&keeper, token_settings("prod", &args).unwrap().render_keeper()).unwrap();
        let config = Config::load(Some(&keeper)).unwrap();
        assert_eq!(config.token(Some("prod")).unwrap().environment["A"], "b \"c\"");
        assert_eq!(config.keeper.agents.as_deref(), Some(&["claviger".to_owned()][..]));
        let agent = folder.path().join("claviger.toml");
        let settings = Settings {
            state_dir: STATE_DIR,
            token: Token::Held("prod"),
            http: None,
            peers_are_local: false,
            api: Api::InRuntimeFolder(&["app".to_owned()]),
        };
        fs::write(&agent, settings.render()).unwrap();
        let config = Config::load(Some(&agent)).unwrap();
        assert_eq!(config.state_dir, Path::new(STATE_DIR));
        let token = config.token(None).unwrap();
        assert_eq!(token.keeper.as_deref(), Some("unix:/run/claviger/keeper-prod.sock"));
    }
}
