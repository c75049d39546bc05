//! A failure that lasts is cured by the next means, up to a new keeper process, whatever its code.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Context, Secrets, SecretsError,
        keeper::{KeeperClient, Supervisor},
    },
};

use crate::{
    home::{HANG_TIMEOUT, Home, MESSAGE, open_message, time_until_served, wait_until, with_home, within},
    p11_kit::{Server, library},
    support::Module,
};

/// A module of which every call fails until its process ends.
fn every_call_fails(module: Module, code: &str) {
    with_home(module, "", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (keepers, logins) = (home.keepers(), home.shim.calls("C_Login"));
        home.shim.order(&[&format!("stuck {code}")]);
        let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
        assert!(error.is_retryable(), "{code}: {error}");
        // Only a new process does not see the order any more.
        home.shim.order(&[]);
        let took = time_until_served(&*client, &key).await;
        println!("{module:?}, every call returns {code}: works again after {took:?}");
        assert_ne!(home.keepers(), keepers, "{code}");
        assert_eq!(home.shim.calls("C_Login") - logins, 1, "{code}: the new process logs in once");
    });
}

#[test]
fn a_device_error_at_every_call_on_softhsm() {
    every_call_fails(Module::SoftHsm, "0x30");
}

#[test]
fn a_device_error_at_every_call_on_kryoptic() {
    every_call_fails(Module::Kryoptic, "0x30");
}

#[test]
fn a_general_error_at_every_call() {
    every_call_fails(Module::Kryoptic, "0x5");
}

#[test]
fn a_closed_session_at_every_call() {
    every_call_fails(Module::SoftHsm, "0xb0");
}

/// The same with a keeper that listens on a socket.
#[test]
fn a_device_error_at_every_call_of_a_listening_keeper() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let listening = home.listen();
        let client = listening.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        home.shim.order(&["stuck 0x30"]);
        let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        home.shim.order(&[]);
        time_until_served(&*client, &key).await;
        assert_ne!(home.keepers(), keepers);
    });
}

/// The probes pass, since they forgive a key such failures, but no operation works.
#[test]
fn a_device_error_at_every_derivation() {
    every_derivation_fails("0x30");
}

#[test]
fn no_memory_at_every_derivation() {
    every_derivation_fails("0x31");
}

fn every_derivation_fails(code: &str) {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        home.shim.order(&[&format!("fail C_DeriveKey {code}")]);
        let end = Instant::now() + 2 * HANG_TIMEOUT;
        while home.keepers().iter().any(|keeper| keepers.contains(keeper)) {
            let error = open_message(&*client, &key, &within(Duration::from_secs(10))).await.unwrap_err();
            assert!(error.is_retryable(), "{error}");
            assert!(Instant::now() < end, "the keeper is not replaced");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        home.shim.order(&[]);
        time_until_served(&*client, &key).await;
    });
}

/// While the failure lasts, new processes are tried less and less often.
#[test]
fn a_failure_that_a_new_process_does_not_cure() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (starts, logins) = (home.shim.calls("C_Initialize"), home.shim.calls("C_Login"));
        home.shim.order(&["stuck 0x30"]);
        let started = || home.shim.calls("C_Initialize") - starts;
        let begin = Instant::now();
        let has_started = async |processes: usize| {
            while started() < processes {
                let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
                assert!(error.is_retryable(), "{error}");
                assert!(begin.elapsed() < 2 * HANG_TIMEOUT, "{} new processes", started());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            begin.elapsed()
        };
        let two = has_started(2).await;
        let third = has_started(3).await - two;
        println!("the second process after {two:?}, the third {third:?} later");
        // The waits are 1.5, 3 and 6 seconds.
        assert!(third >= Duration::from_secs(5), "{third:?}");
        assert_eq!(home.shim.calls("C_Login"), logins, "no PIN is presented to a module that does not answer");
        home.shim.order(&[]);
        time_until_served(&*client, &key).await;
    });
}

/// After its connection was lost, p11-kit's client answers every call with CKR_DEVICE_ERROR until C_Finalize.
#[test]
fn a_lost_connection_of_p11_kit() {
    let Some(client_module) = library("p11-kit-client.so") else { return };
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let socket = home.folder().join("p11-kit");
        let uri = format!(
            "pkcs11:token=demo?module-path={}&pin-source=file:{}",
            client_module.display(),
            home.pin_file().display()
        );
        let environment = format!("{{ P11_KIT_SERVER_ADDRESS = \"unix:path={}\" }}", socket.display());
        home.configure("claviger.toml", &format!("uri = {uri:?}\nenvironment = {environment}"), "");
        let server = Server::start(home.p11_kit_server(&socket), &socket);
        let client = home.client().await;
        // 0.24.1 passes on ECDSA, and no ECDH.
        client.sign(&key, &MESSAGE, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        drop(server);
        let error = client.sign(&key, &MESSAGE, &Context::default()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        let _server = Server::start(home.p11_kit_server(&socket), &socket);
        let back = Instant::now();
        until_signed(&client, &key).await;
        println!("p11-kit: works {:?} after the server's return", back.elapsed());
        assert_ne!(home.keepers(), keepers);
    });
}

async fn until_signed(client: &KeeperClient, key: &PublicKey) {
    let end = Instant::now() + 2 * HANG_TIMEOUT;
    while let Err(error) = client.sign(key, &MESSAGE, &Context::default()).await {
        assert!(error.is_retryable(), "{error}");
        assert!(Instant::now() < end, "operations still fail: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A person takes longer at the prompt for the PIN than an operation may. The keeper waits, and the operation succeeds.
#[test]
fn a_person_at_the_prompt_is_no_hang() {
    with_home(Module::SoftHsm, "hang_seconds = 1", async |home| {
        let key = home.generate(Curve::P256);
        let pinentry = Pinentry::install(home);
        let uri = home.uri.split("&pin-source").next().unwrap().to_owned() + "&pin-source=pinentry";
        home.configure("claviger.toml", &format!("uri = {uri:?}"), "hang_seconds = 1");
        let mut command = home.command("keeper --supervise agent");
        command.env("PATH", format!("{}:/usr/bin:/bin", pinentry.folder.display()));
        let supervisor = Supervisor::start(command).unwrap();
        let client = KeeperClient::start("demo", supervisor.connector("demo")).await.unwrap();
        open_message(&client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();

        // The login is lost with the session, so the next operation asks for the PIN.
        pinentry.make_wait();
        home.shim.order(&["fail C_DeriveKey 0xb3 at 1"]);
        let asked = pinentry.times_asked();
        let cx = Context::default();
        let operation = open_message(&client, &key, &cx);
        let person = async {
            wait_until("a person is asked", || pinentry.times_asked() > asked).await;
            // Longer than `hang_seconds`.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert_eq!(home.keepers(), keepers, "the keeper is not replaced");
            pinentry.answer();
        };
        let (opened, ()): (Result<(), SecretsError>, ()) = tokio::join!(operation, person);
        opened.unwrap();
        assert_eq!(home.keepers(), keepers);
        assert_eq!(pinentry.times_asked(), asked + 1, "the person is asked once");
    });
}

/// A `pinentry` that answers with the home's PIN, at once or when it is told to.
struct Pinentry {
    folder: PathBuf,
}

impl Pinentry {
    fn install(home: &Home) -> Self {
        let folder = home.folder().join("bin");
        fs::create_dir(&folder).unwrap();
        // The Assuan protocol.
        let (here, pin) = (folder.display(), fs::read_to_string(home.pin_file()).unwrap());
        let script = format!(
            "#!/bin/sh\necho OK\nwhile read -r line; do\ncase $line in GETPIN*)\n  echo asked >> {here}/asked\n  \
             while [ -e {here}/wait ]; do sleep 0.05; done\n  echo 'D {}';;\nesac\necho OK\ndone\n",
            pin.trim_end()
        );
        fs::write(folder.join("pinentry"), script).unwrap();
        fs::set_permissions(folder.join("pinentry"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { folder }
    }

    fn make_wait(&self) {
        fs::write(self.folder.join("wait"), "").unwrap();
    }

    fn answer(&self) {
        fs::remove_file(self.folder.join("wait")).unwrap();
    }

    fn times_asked(&self) -> usize {
        fs::read_to_string(self.folder.join("asked")).unwrap_or_default().lines().count()
    }
}
