//! claviger.toml as it is written first.

use std::net::SocketAddr;

use crate::cli::failure::Failure;

const TEMPLATE: &str = include_str!("claviger.toml");

/// What is filled in.
pub struct Settings<'a> {
    pub token: TokenSettings,
    /// None opens no port.
    pub place: Option<(SocketAddr, &'a str)>,
    /// Whether peers are on this machine.
    pub private: bool,
}

/// The [[token]].
pub struct TokenSettings {
    pub name: String,
    pub uri: String,
    pub environment: Vec<(String, String)>,
}

impl Settings<'_> {
    pub fn render(&self) -> String {
        let environment: Vec<String> =
            self.token.environment.iter().map(|(name, value)| format!("{name} = {}", quoted(value))).collect();
        let environment = match environment.is_empty() {
            true => String::new(),
            false => format!("# What its module reads.\nenvironment = {{ {} }}\n", environment.join(", ")),
        };
        let allow_private = match self.private {
            true => "allow_private = [\"127.0.0.0/8\", \"::1/128\"]",
            false => "#allow_private = []",
        };
        let (listen, public_url) = match self.place {
            Some((listen, url)) => {
                (format!("listen = {}", quoted(&listen.to_string())), format!("public_url = {}", quoted(url)))
            }
            None => {
                ("#listen = \"127.0.0.1:8080\"".to_owned(), "#public_url = \"https://agent.example.org\"".to_owned())
            }
        };
        TEMPLATE
            .replace("@NAME@", &quoted(&self.token.name))
            .replace("@URI@", &quoted(&self.token.uri))
            .replace("@ENVIRONMENT@", &environment)
            .replace("@LISTEN@", &listen)
            .replace("@PUBLIC_URL@", &public_url)
            .replace("@ALLOW_PRIVATE@", allow_private)
    }
}

impl TokenSettings {
    /// A token that there is.
    pub fn of_uri(uri: &str) -> Result<Self, Failure> {
        let wrong = |said: &str| Failure::words("bad-arguments", format!("--token-uri: {said}"));
        let scheme = uri.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !["pkcs11", "yubikey"].contains(&scheme.as_str()) {
            return Err(wrong("it begins with neither pkcs11: nor yubikey:")
                .hint("`claviger token list` shows the URIs of this machine's tokens"));
        }
        if uri.contains("pin-value=") {
            return Err(wrong("it has a PIN in it, which other processes see in the arguments")
                .hint("pin-source=file:PATH names a file with the PIN, relative to claviger.toml"));
        }
        Ok(Self {
            name: if scheme == "yubikey" { "yubikey" } else { "token" }.to_owned(),
            uri: uri.to_owned(),
            environment: Vec::new(),
        })
    }
}

/// A TOML string; all that JSON escapes TOML reads.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
