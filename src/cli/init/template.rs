//! The claviger.toml that `claviger init` writes.

use std::net::SocketAddr;

use crate::cli::failure::Failure;

const TEMPLATE: &str = include_str!("claviger.toml");
const TOKEN: &str = include_str!("token.toml");
const KEEPER: &str = include_str!("keeper.toml");

/// The values for the template.
pub struct Settings<'a> {
    pub state_dir: &'a str,
    pub token: Token<'a>,
    /// The address to listen on, and the public URL. `None` opens no port.
    pub http: Option<(SocketAddr, &'a str)>,
    /// Whether connections to peers on this machine are allowed.
    pub peers_are_local: bool,
    pub api: Api<'a>,
}

/// The agent's token.
pub enum Token<'a> {
    /// The agent starts the keepers of this token.
    Own(TokenSettings),
    /// The unit `claviger-keeper@NAME.service` holds the token of this name.
    Held(&'a str),
}

/// The socket of the application's API.
pub enum Api<'a> {
    /// In the state folder, for the daemon's user.
    InState,
    /// In the runtime folder of the unit, for these users.
    InRuntimeFolder(&'a [String]),
}

/// The `[[token]]` entry of a token with its module.
pub struct TokenSettings {
    pub name: String,
    pub uri: String,
    pub environment: Vec<(String, String)>,
}

impl Settings<'_> {
    /// Returns the text of claviger.toml.
    pub fn render(&self) -> String {
        let token = match &self.token {
            Token::Own(token) => token.render(),
            Token::Held(name) => format!(
                "[[token]]\nname = {}\n# claviger-keeper@{name}.service holds the token, as /etc/claviger/keeper-{name}.toml \
                 says.\nkeeper = \"unix:/run/claviger/keeper-{name}.sock\"\n",
                toml_string(name)
            ),
        };
        let allow_private = match self.peers_are_local {
            true => "allow_private = [\"127.0.0.0/8\", \"::1/128\"]",
            false => "#allow_private = []",
        };
        let (listen, public_url) = match self.http {
            Some((listen, url)) => {
                (format!("listen = {}", toml_string(&listen.to_string())), format!("public_url = {}", toml_string(url)))
            }
            None => {
                ("#listen = \"127.0.0.1:8080\"".to_owned(), "#public_url = \"https://agent.example.org\"".to_owned())
            }
        };
        let (api, users) = match self.api {
            Api::InState => ("#listen = \"unix:state/api.sock\"", "#users = []".to_owned()),
            Api::InRuntimeFolder(users) => {
                ("listen = \"unix:/run/claviger-api/api.sock\"", format!("users = {}", serde_json::Value::from(users)))
            }
        };
        TEMPLATE
            .replace("@STATE_DIR@", &toml_string(self.state_dir))
            .replace("@TOKEN@\n", &format!("{token}\n"))
            .replace("@LISTEN@", &listen)
            .replace("@PUBLIC_URL@", &public_url)
            .replace("@ALLOW_PRIVATE@", allow_private)
            .replace("@API_LISTEN@", api)
            .replace("@API_USERS@", &users)
    }
}

impl TokenSettings {
    /// The entry of an existing token. Fails if the URI contains a PIN.
    pub fn from_uri(uri: &str) -> Result<Self, Failure> {
        let invalid = |message: &str| Failure::usage("bad-arguments", format!("--token-uri: {message}"));
        let scheme = uri.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !["pkcs11", "yubikey"].contains(&scheme.as_str()) {
            return Err(invalid("the URI begins with neither pkcs11: nor yubikey:")
                .hint("`claviger token list` shows the URIs of this machine's tokens"));
        }
        if uri.contains("pin-value=") {
            return Err(invalid("the URI has a PIN in it, which other processes see in the arguments")
                .hint("pin-source=file:PATH names a file with the PIN, relative to claviger.toml"));
        }
        Ok(Self {
            name: if scheme == "yubikey" { "yubikey" } else { "token" }.to_owned(),
            uri: uri.to_owned(),
            environment: Vec::new(),
        })
    }

    fn render(&self) -> String {
        let environment: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name} = {}", toml_string(value))).collect();
        let environment = match environment.is_empty() {
            true => String::new(),
            false => format!(
                "# Environment variables for the token's module.\nenvironment = {{ {} }}\n",
                environment.join(", ")
            ),
        };
        TOKEN
            .replace("@NAME@", &toml_string(&self.name))
            .replace("@URI@", &toml_string(&self.uri))
            .replace("@ENVIRONMENT@", &environment)
    }

    /// The configuration of a keeper that holds this token as a unit of its own.
    pub fn render_keeper(&self) -> String {
        KEEPER.replace("@TOKEN@\n", &self.render())
    }
}

/// Quotes a TOML string. TOML understands all escapes of JSON.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
