//! The configured tokens as [`Secrets`].

use std::sync::Arc;

use claviger::secrets::{
    FailoverSecrets, Secrets,
    keeper::{KeeperClient, Supervisor},
};

use super::open::{check_uri, open_in_process, start_keyring};
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    yubikey_wait::{YubiKeyWait, is_unplugged},
};

/// Opens tokens in configured order until `is_enough` accepts their keys.
///
/// A token that cannot be opened is skipped, because another may hold the key. If a key is still missing after all tokens
/// were tried, the function waits for an unplugged YubiKey, or returns the failure of a skipped token. `supervisor`
/// starts the tokens' keepers, or connects to keepers with a socket; without it, the tokens are opened in this process.
pub async fn open_until(
    config: &Config,
    supervisor: Option<&Arc<Supervisor>>,
    is_enough: impl Fn(&dyn Secrets) -> bool,
) -> Result<Arc<dyn Secrets>, Failure> {
    let mut wait = YubiKeyWait::new(config);
    let mut opened: Vec<Arc<dyn Secrets>> = Vec::new();
    let mut missing: Vec<&TokenConfig> = config.tokens.iter().collect();
    let mut failed = None;
    loop {
        let mut unplugged = Vec::new();
        for token in std::mem::take(&mut missing) {
            match open(config, token, supervisor).await {
                Ok(token) => opened.push(token),
                Err(failure) if is_unplugged(token, &failure) => {
                    unplugged.push((token, failure));
                    continue;
                }
                // The token is not tried again, because a person may have been asked for its PIN.
                Err(failure) => {
                    failed.get_or_insert(failure);
                    continue;
                }
            }
            let all = FailoverSecrets::new(opened.clone());
            if is_enough(&all) {
                return Ok(Arc::new(all));
            }
        }
        missing = unplugged.iter().map(|(token, _)| *token).collect();
        let retry = unplugged.iter().any(|(token, failure)| wait.should_retry(token, failure));
        match failed.take().or_else(|| unplugged.into_iter().next().map(|(_, failure)| failure)) {
            Some(failure) if retry => failed = Some(failure).filter(|failure| failure.code != "token-absent"),
            Some(failure) => return Err(failure),
            None => return Ok(Arc::new(FailoverSecrets::new(opened))),
        }
    }
}

/// Opens one token through its keeper, or in this process.
async fn open(
    config: &Config,
    token: &TokenConfig,
    supervisor: Option<&Arc<Supervisor>>,
) -> Result<Arc<dyn Secrets>, Failure> {
    let Some(supervisor) = supervisor else {
        let opened = open_in_process(config, token, false)?;
        return Ok(Arc::new(start_keyring(config, &token.name, opened).await?));
    };
    check_uri(token)?;
    let client = KeeperClient::start(&token.name, supervisor.connector(&token.name)).await?;
    match client.outage() {
        Some(outage) => Err(Failure::from_token(&token.name, &outage.error)),
        None => Ok(Arc::new(client)),
    }
}
