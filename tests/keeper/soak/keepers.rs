//! Keepers as the program starts them: a supervisor, and for one token one keeper after the other.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use claviger::secrets::keeper::{KeeperClient, Supervisor};
use claviger_fault_module::Shim;

/// The sessions of each keeper.
pub const SESSIONS: usize = 2;

/// The keepers of one token behind the shim.
pub struct Keepers {
    supervisor: Arc<Supervisor>,
    shim: Shim,
}

impl Keepers {
    /// Starts a supervisor for the token at `uri`. Each session keeps `kept` shared secrets in the token. `profile` is
    /// the device's profile, which is adapted.
    pub fn start(uri: &str, profile: &str, kept: usize, folder: &Path, shim: &Shim) -> Self {
        let agreement = format!("[agreement]\nkept_secrets = {kept}\n");
        assert!(profile.contains("[agreement]\n"), "the profile has the section");
        fs::create_dir(folder.join("hsm-config")).unwrap();
        fs::write(folder.join("hsm-config/soak.toml"), profile.replace("[agreement]\n", &agreement)).unwrap();
        let configuration = format!(
            "state_dir = \"state\"\n[keeper]\nrate = 0\naudit = \"/dev/null\"\n\
             [[token]]\nname = \"demo\"\nuri = \"{uri}\"\nprofile = \"soak\"\nsessions = {SESSIONS}\n"
        );
        fs::write(folder.join("claviger.toml"), configuration).unwrap();
        let mut command = Command::new(claviger_testkit::program!());
        command.arg("--config").arg(folder.join("claviger.toml")).args(["keeper", "--supervise", "agent"]);
        Self { supervisor: Supervisor::start(command).expect("a supervisor"), shim: shim.clone() }
    }

    pub async fn client(&self) -> Arc<KeeperClient> {
        let client = KeeperClient::start("demo", self.supervisor.connector("demo")).await.expect("a keeper");
        assert_eq!(client.outage(), None);
        Arc::new(client)
    }

    /// The running keepers.
    pub fn running(&self) -> Vec<u32> {
        running(&self.shim)
    }

    /// Waits until the replaced keepers have ended, which each does when its requests are answered.
    pub async fn one_is_left(&self) {
        for _ in 0..1000 {
            if self.running().len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} are running", self.running());
    }
}

/// The running keepers: all processes that called the module, except this one, which made the keys.
pub fn running(shim: &Shim) -> Vec<u32> {
    shim.running_processes().into_iter().filter(|process| *process != std::process::id()).collect()
}
