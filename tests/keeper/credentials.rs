//! A PIN that is a systemd credential, in the layout of the packaged units: a keeper that listens, and commands of other
//! users. A corrected credential is tried, and a refused one is not tried again.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Context, KeyState, keeper::KeeperClient},
};

use crate::{
    home::{Home, Listening, open_message, wait_until, with_home},
    support::Module,
};

const WRONG: &str = "87654321";

impl Home {
    /// Has the keeper's configuration name a credential with this PIN. Returns the right PIN.
    fn use_credential(&self, pin: &str) -> String {
        let right = fs::read_to_string(self.pin_file()).unwrap().trim_end().to_owned();
        let (uri, source) = self.uri.split_once("pin-source=").unwrap();
        assert!(!source.contains('&'), "the source is the last attribute");
        self.configure("claviger.toml", &format!("uri = \"{uri}pin-source=credential:pin\""), "");
        fs::create_dir(self.credentials()).unwrap();
        self.write_credential(pin);
        right
    }

    fn write_credential(&self, pin: &str) {
        fs::write(self.credentials().join("pin"), pin).unwrap();
    }

    fn logins(&self) -> usize {
        self.shim.calls("C_Login")
    }

    /// Runs a command with the configuration of an agent, whose token is held by the keeper that listens.
    fn run_as_agent(&self, words: &str) -> Output {
        self.configure("agent.toml", &format!("keeper = {:?}", self.address()), "");
        self.command_with("agent.toml", words).stderr(Stdio::piped()).output().unwrap()
    }

    /// What the PIN guard has on disk.
    fn guard_records(&self) -> String {
        let files = fs::read_dir(self.folder().join("state/pin-guard")).unwrap();
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }
}

/// Starts the keeper, and waits until its token has the state.
async fn listen(home: &Home, state: KeyState) -> (Listening, std::sync::Arc<KeeperClient>) {
    let listening = home.listen();
    let client = listening.client().await;
    wait_until(&format!("the token is {state:?}"), || client.state() == state).await;
    (listening, client)
}

async fn assert_serves(client: &KeeperClient, key: &PublicKey) {
    open_message(client, key, &Context::default()).await.unwrap();
}

/// systemd writes the file of a credential anew at each start. So the wrong PIN must be recognised by its content, and
/// so must the corrected one.
#[test]
fn a_corrected_credential_is_tried_once_and_a_refused_one_is_not() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let right = home.use_credential(WRONG);
        let before = home.logins();
        for _ in 0..3 {
            drop(listen(home, KeyState::Locked).await);
            home.wait_for_end();
            home.write_credential(&format!("{WRONG}\n"));
        }
        assert_eq!(home.logins() - before, 1, "the refused PIN was presented again");
        let records = home.guard_records();
        assert!(!records.contains(WRONG) && !records.contains(&right), "{records}");
        home.write_credential("12345678");
        drop(listen(home, KeyState::Locked).await);
        home.wait_for_end();
        home.write_credential(WRONG);
        drop(listen(home, KeyState::Locked).await);
        home.wait_for_end();
        assert_eq!(home.logins() - before, 2, "the first PIN was presented again after the second");
        home.write_credential(&right);
        let (_listening, client) = listen(home, KeyState::Ready).await;
        assert_serves(&client, &key).await;
        assert_eq!(home.logins() - before, 3);
        assert!(!home.guard_records().contains("marks"), "nothing of a correct PIN is recorded");
    });
}

/// A credential that changes while the keeper runs, as a mounted secret does, is tried without a restart.
#[test]
fn a_credential_that_changes_under_a_keeper_is_tried_once() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let right = home.use_credential(WRONG);
        let (_listening, client) = listen(home, KeyState::Locked).await;
        let before = home.logins();
        home.write_credential(&right);
        wait_until("the changed credential is tried", || client.state() == KeyState::Ready).await;
        assert_serves(&client, &key).await;
        assert_eq!(home.logins() - before, 1);
    });
}

/// `token unlock` with the agent's configuration asks the keeper. The keeper still has the PIN that was refused, so it
/// presents that again only after a restart: a person may mean the corrected one.
#[test]
fn token_unlock_asks_the_keeper_that_listens() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let right = home.use_credential(WRONG);
        let (listening, client) = listen(home, KeyState::Locked).await;
        let before = home.logins();
        let refused = home.run_as_agent("--json token unlock demo");
        assert_eq!((refused.status.code(), home.logins()), (Some(3), before), "{refused:?}");
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(stderr.contains("restart its service"), "{stderr}");
        // Somebody gives the token the PIN of the credential. Nothing tells the keeper.
        home.change_pin(&right, WRONG);
        drop((client, listening));
        home.wait_for_end();
        let (_listening, client) = listen(home, KeyState::Locked).await;
        assert_eq!(home.logins(), before, "an unchanged credential is not tried again");
        let unlocked = home.run_as_agent("token unlock demo");
        assert!(unlocked.status.success(), "{unlocked:?}");
        wait_until("the token is ready", || client.state() == KeyState::Ready).await;
        assert_serves(&client, &key).await;
        assert_eq!(home.logins() - before, 1);
        // `token lock` goes the same way.
        assert!(home.run_as_agent("token lock demo").status.success());
        wait_until("the token is locked", || client.state() == KeyState::Locked).await;
        let unlocked = home.run(&format!("token unlock demo --keeper {}", home.address()));
        assert!(unlocked.status.success(), "{unlocked:?}");
        wait_until("the token is ready", || client.state() == KeyState::Ready).await;
    });
}

/// A person at a shell has no credentials. The command says what to run, once, and presents nothing.
#[test]
fn token_unlock_says_what_to_run_without_the_credential() {
    with_home(Module::SoftHsm, "", async |home| {
        home.generate(Curve::P256);
        home.use_credential(WRONG);
        fs::remove_dir_all(home.credentials()).unwrap();
        let before = home.logins();
        let output = home.run("--json token unlock demo");
        assert_eq!((output.status.code(), home.logins()), (Some(3), before), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let failure: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        let text = |member: &str| failure["error"][member].as_str().unwrap().to_owned();
        assert_eq!(text("code"), "pin-needed");
        assert!(text("message").contains("systemctl restart claviger-keeper@demo"), "{failure}");
        let config = home.folder().join("claviger.toml");
        let line = format!("claviger --config {} token unlock demo", config.display());
        assert!(text("hint").contains("LoadCredential=pin:") && text("hint").contains(&line), "{failure}");
        assert!(!stderr.contains("CREDENTIALS_DIRECTORY"), "{stderr}");
        // The line is for another working folder.
        let mut command = Command::new(claviger_testkit::program!());
        command.args(["--config", "claviger.toml", "token", "unlock", "demo"]).env_clear().current_dir(home.folder());
        let relative = String::from_utf8(command.output().unwrap().stderr).unwrap();
        let state = format!("-E STATE_DIRECTORY={}", home.folder().join("state").display());
        assert!(relative.contains(&line) && relative.contains(&state), "{relative}");
    });
}
