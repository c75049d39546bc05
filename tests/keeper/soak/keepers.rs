//! Keepers as the program starts them: a supervisor, and one process of a token after the other.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use claviger::secrets::keeper::{KeeperClient, Supervisor};
use claviger_fault_module::Shim;

/// Sessions of a keeper.
pub const SESSIONS: usize = 2;

/// The keepers of one token behind the shim.
pub struct Keepers {
    supervisor: Arc<Supervisor>,
    shim: Shim,
}

impl Keepers {
    /// Of the token at this URI, of which a session keeps so many secrets. `profile` is the device's, changed for this.
    pub fn start(uri: &str, profile: &str, kept: usize, folder: &Path, shim: &Shim) -> Self {
        let agreement = format!("[agreement]\nkept_secrets = {kept}\n");
        assert!(profile.contains("[agreement]\n"), "it has a place for it");
        fs::create_dir(folder.join("hsm-config")).unwrap();
        fs::write(folder.join("hsm-config/soak.toml"), profile.replace("[agreement]\n", &agreement)).unwrap();
        let configuration = format!(
            "state_dir = \"state\"\n[keeper]\nrate = 0\naudit = \"/dev/null\"\n\
             [[token]]\nname = \"demo\"\nuri = \"{uri}\"\nprofile = \"soak\"\nsessions = {SESSIONS}\n"
        );
        fs::write(folder.join("claviger.toml"), configuration).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
        command.arg("--config").arg(folder.join("claviger.toml")).args(["keeper", "--supervise", "agent"]);
        Self { supervisor: Supervisor::start(command).expect("a supervisor"), shim: shim.clone() }
    }

    pub async fn client(&self) -> Arc<KeeperClient> {
        let client = KeeperClient::start("demo", self.supervisor.connect("demo")).await.expect("a keeper");
        assert_eq!(client.trouble(), None);
        Arc::new(client)
    }

    /// Those that live.
    pub fn living(&self) -> Vec<u32> {
        living(&self.shim)
    }

    /// Waits until those that were succeeded have ended: each has answered all it was asked.
    pub async fn one_is_left(&self) {
        for _ in 0..1000 {
            if self.living().len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} live", self.living());
    }
}

/// The keepers that live: all that called the module but this process, which made the keys.
pub fn living(shim: &Shim) -> Vec<u32> {
    shim.living().into_iter().filter(|process| *process != std::process::id()).collect()
}
