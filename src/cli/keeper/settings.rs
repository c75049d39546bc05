//! A keeper with the settings of the configuration.

use std::{fs::metadata, os::unix::fs::MetadataExt, sync::Arc};

use claviger::secrets::{
    LazyToken, SecretsError,
    keeper::{Keeper, KeeperOptions, PeerCredentials, Role, renewal_wait},
};

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    private_folder,
    tokens::open::Opener,
    users::user_id,
};

/// Starts a keeper. The keeper opens its token as soon as the token is present. `failed_keepers` is how many keepers of
/// the token in a row have ended because the token failed. `logs_outages` is false if its client logs the outages.
pub fn start_keeper(
    config: &Config,
    token: &TokenConfig,
    opener: Opener,
    failed_keepers: u32,
    logs_outages: bool,
) -> Result<Arc<Keeper>, SecretsError> {
    let audit = config.audit_path();
    if let Some(folder) = audit.parent() {
        private_folder::create(folder)
            .map_err(|error| SecretsError::AuditFailed(format!("{}: {error}", folder.display())))?;
    }
    let options = KeeperOptions {
        audit: Some(audit),
        audit_refusals: config.keeper.audit_refusals,
        rate: config.keeper.rate(),
        hang_timeout: config.keeper.hang_timeout(),
        check_interval: config.keeper.check_interval(),
        probe_interval: config.keeper.probe_interval(),
        renew_after: renewal_wait(config.keeper.renew_after(), failed_keepers),
        logs_outages,
        policy: token.policy(),
        key_policies: config.keys.clone(),
    };
    let (name, sessions) = (token.name.clone(), token.sessions.unwrap_or(1));
    let lazy_token = LazyToken::new(name, sessions, move |confirmed| opener.open(confirmed));
    let lazy_token = if token.is_yubikey() { lazy_token.without_module() } else { lazy_token };
    Keeper::start(Arc::new(lazy_token), options)
}

/// Returns the function that decides who may connect in which role. Custodians may also connect as agents. Without
/// settings in the configuration, only this user and root may connect, in either role.
pub fn may_connect(
    config: &Config,
) -> Result<impl Fn(&PeerCredentials, Role) -> bool + Send + Sync + 'static, Failure> {
    let own = metadata("/proc/self").map(|metadata| metadata.uid());
    let own = own.map_err(|error| Failure::io("/proc/self", &error))?;
    let users = |names: &Option<Vec<String>>| match names {
        None => Ok(vec![0, own]),
        Some(names) => names.iter().map(|name| user_id(name)).collect::<Result<Vec<u32>, Failure>>(),
    };
    let (agents, custodians) = (users(&config.keeper.agents)?, users(&config.keeper.custodians)?);
    Ok(move |peer: &PeerCredentials, role| {
        let Some(uid) = peer.uid else { return false };
        custodians.contains(&uid) || role == Role::Agent && agents.contains(&uid)
    })
}
