//! A token that nobody uses: the keeper notices that it is missing, without a login and without disturbing anybody.

use std::{fs, thread, time::Duration};

use claviger::{
    keys::Curve,
    secrets::{Context, KeyState},
};

use crate::{
    home::{open_message, wait_until, with_home},
    support::Module,
};

/// A second of idle time is probed, and neither a login, nor a search, nor a private-key operation is seen at the module.
#[test]
fn a_probe_is_cheap_and_needs_no_login() {
    with_home(Module::SoftHsm, "probe_seconds = 1", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let counted = ["C_Login", "C_OpenSession", "C_FindObjectsInit", "C_DeriveKey", "C_Sign", "C_GetTokenInfo"];
        let count = || counted.map(|function| home.shim.calls(function));
        let (before, probes) = (count(), home.shim.calls("C_GetSessionInfo"));
        wait_until("the idle token is probed", || home.shim.calls("C_GetSessionInfo") > probes + 2).await;
        assert_eq!(count(), before, "{counted:?}");
        // A token that is used is not probed: its operations say more.
        let probes = home.shim.calls("C_GetSessionInfo");
        for _ in 0..30 {
            open_message(&*client, &key, &Context::default()).await.unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        assert!(home.shim.calls("C_GetSessionInfo") <= probes + 1);
    });
}

/// Nothing uses the token. It goes away and comes back, and the client is told both.
#[test]
fn a_missing_token_is_noticed_without_an_operation() {
    with_home(Module::SoftHsm, "probe_seconds = 1", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        wait_until("the token is ready", || client.state() == KeyState::Ready).await;
        let (tokens, away) = (home.folder().join("tokens"), home.folder().join("away"));
        fs::rename(&tokens, &away).unwrap();
        fs::create_dir(&tokens).unwrap();
        wait_until("the missing token is noticed", || client.state() == KeyState::Away).await;
        fs::remove_dir(&tokens).unwrap();
        fs::rename(&away, &tokens).unwrap();
        wait_until("the token is back", || client.state() == KeyState::Ready).await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
    });
}

/// A module that does not answer is taken out of service before a message waits for it.
#[test]
fn a_token_that_does_not_answer_is_noticed_without_an_operation() {
    with_home(Module::SoftHsm, "probe_seconds = 1", async |home| {
        home.generate(Curve::P256);
        let client = home.client().await;
        wait_until("the token is ready", || client.state() == KeyState::Ready).await;
        home.shim.order(&["hang C_GetSessionInfo", "hang C_GetAttributeValue"]);
        wait_until("the hanging token is noticed", || client.state() == KeyState::Away).await;
        home.shim.order(&[]);
        home.kill_keepers();
    });
}
