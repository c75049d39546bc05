//! Who may use the API, by the configuration.

use std::path::PathBuf;

use claviger::agent::api::{BearerToken, ClientName, Identity, InvalidPermission, Permissions, Scope};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    config::{ApiAddress, Config},
    failure::Failure,
    users::user_id,
};

/// The callers of the API. Serialized, they have no tokens: see [`tokens_line`](Self::tokens_line).
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ApiCallers {
    users: Vec<Caller<u32>>,
    tokens: Vec<Caller<()>>,
    clients: Vec<Caller<()>>,
    /// The tokens of `tokens`, in their order.
    #[serde(skip)]
    secrets: Vec<BearerToken>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Caller<I> {
    id: I,
    name: String,
    scopes: Vec<Scope>,
}

impl ApiCallers {
    /// Reads the configured users, tokens and clients. The token files and /etc/passwd are outside the agent's sandbox.
    pub fn read(config: &Config) -> Result<Self, Failure> {
        let api = &config.daemon.api;
        let mut callers = Self::default();
        match config.api_address() {
            ApiAddress::Unix(_) => callers.add_users(config)?,
            ApiAddress::Tcp(_) => callers.add_tokens(config)?,
        }
        if api.remote.is_none() && !api.client.is_empty() {
            return Err(invalid("[[api.client]] is for the port of [api.remote], which is not configured"));
        }
        callers.clients.extend(api.client.iter().map(|client| Caller::new((), &client.name, &client.scopes)));
        callers.permissions().map_err(|error| invalid(&format!("[api]: {error}")))?;
        Ok(callers)
    }

    fn add_users(&mut self, config: &Config) -> Result<(), Failure> {
        let api = &config.daemon.api;
        if !api.token.is_empty() {
            return Err(invalid("[[api.token]] is for the loopback interface, and [api] listens on a Unix socket")
                .hint("[[api.user]] gives the processes of a user some scopes"));
        }
        let own = rustix::process::getuid().as_raw();
        self.users.push(Caller::new(0, "root", &Scope::ALL));
        if own != 0 {
            self.users.push(Caller::new(own, &own.to_string(), &Scope::ALL));
        }
        for name in &api.users {
            let id = user_id(name)?;
            // `users` may name a user twice, also root or the agent's user.
            if !self.users.iter().any(|user| user.id == id) {
                self.users.push(Caller::new(id, name, &Scope::ALL));
            }
        }
        for user in &api.user {
            let id = user_id(&user.name)?;
            if [0, own].contains(&id) {
                let message =
                    format!("[[api.user]] names {:?}: root and the agent's user may use the whole API", user.name);
                return Err(invalid(&message));
            }
            self.users.push(Caller::new(id, &user.name, &user.scopes));
        }
        Ok(())
    }

    fn add_tokens(&mut self, config: &Config) -> Result<(), Failure> {
        let api = &config.daemon.api;
        if !api.user.is_empty() {
            return Err(invalid("[[api.user]] is for the Unix socket, and [api] listens on the loopback interface")
                .hint("[[api.token]] gives the bearer of a token some scopes"));
        }
        let Some(token_file) = &api.token_file else {
            return Err(invalid(
                "[api] listens on the loopback interface, where any program can connect, and has no token_file",
            )
            .hint("`openssl rand -hex 32 > api.token; chmod 600 api.token` makes one; a Unix socket needs none"));
        };
        self.add_token(config, "token_file in [api]", "token_file", token_file, &Scope::ALL)?;
        for token in &api.token {
            self.add_token(config, "file in [[api.token]]", &token.name, &token.file, &token.scopes)?;
        }
        Ok(())
    }

    fn add_token(
        &mut self,
        config: &Config,
        setting: &str,
        name: &str,
        file: &PathBuf,
        scopes: &[Scope],
    ) -> Result<(), Failure> {
        let path = config.base.join(file);
        let token = BearerToken::read(&path);
        self.secrets.push(token.map_err(|error| invalid(&format!("{setting}, {}: {error}", path.display())))?);
        self.tokens.push(Caller::new((), name, scopes));
        Ok(())
    }

    /// The tokens in one line, separated by spaces, which no token contains.
    pub fn tokens_line(&self) -> Zeroizing<String> {
        // The text never grows, so that no copy is left behind.
        let length = self.secrets.iter().map(|token| token.expose().len() + 1).sum();
        let mut line = Zeroizing::new(String::with_capacity(length));
        for token in &self.secrets {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(token.expose());
        }
        line
    }

    /// Adds the tokens of a line of [`tokens_line`](Self::tokens_line).
    pub fn with_tokens(mut self, line: &str) -> Self {
        let tokens =
            line.split_ascii_whitespace().map(|token| BearerToken::from_secret(Zeroizing::new(token.to_owned())));
        self.secrets = tokens.collect();
        self
    }

    /// The permissions of all callers.
    pub fn permissions(&self) -> Result<Permissions, InvalidPermission> {
        let mut permissions = Permissions::default();
        for user in &self.users {
            permissions.allow(Identity::User(user.id), &user.name, &user.scopes)?;
        }
        for (token, secret) in self.tokens.iter().zip(&self.secrets) {
            permissions.allow(Identity::Token(secret.clone()), &token.name, &token.scopes)?;
        }
        for client in &self.clients {
            permissions.allow(Identity::Client(ClientName::parse(&client.name)?), &client.name, &client.scopes)?;
        }
        Ok(permissions)
    }
}

impl<I> Caller<I> {
    fn new(id: I, name: &str, scopes: &[Scope]) -> Self {
        Self { id, name: name.to_owned(), scopes: scopes.to_vec() }
    }
}

fn invalid(message: &str) -> Failure {
    Failure::usage("bad-config", message.to_owned())
}
