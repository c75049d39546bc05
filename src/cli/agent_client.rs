//! A client of the running agent's API, on its Unix socket or on the loopback interface.

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::{
    config::{ApiAddress, Config},
    failure::Failure,
    runtime::block_on,
};

/// The largest response body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How long an agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How many items of a list are asked for at once.
const PAGE_SIZE: usize = 1000;
/// How often a request is sent that can be repeated, and the pause before it is repeated.
const ATTEMPTS: usize = 4;
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// A client of the agent that runs with this configuration. Each request uses a new connection.
pub struct AgentClient {
    address: ApiAddress,
    token: Option<String>,
    /// Whether the configuration is a file, and not the defaults alone.
    has_file: bool,
}

impl AgentClient {
    /// Reads the bearer token, if the configuration names a file with one. Does not connect yet.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let token = config.daemon.api.token_file.as_ref().map(|file| {
            let path = config.base.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| Failure::io(path.display(), &error))?;
            Ok::<_, Failure>(text.lines().next().unwrap_or_default().trim().to_owned())
        });
        Ok(Self { address: config.api_address(), token: token.transpose()?, has_file: config.file.is_some() })
    }

    /// Sends a GET request, and reads the answer as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, None).await
    }

    /// Whether an agent answers, and does not let this caller read its status.
    pub async fn is_refused(&self) -> Result<bool, Failure> {
        let (_, body) = self.exchange(Method::GET, "/v1/status", None).await?;
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(matches!(error["error"]["code"].as_str(), Some("unauthorized" | "scope-missing" | "client-unknown")))
    }

    /// Sends a GET request, and reads the answer as text.
    pub async fn get_text(&self, path: &str) -> Result<String, Failure> {
        let (status, body) = self.exchange(Method::GET, path, None).await?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        String::from_utf8(body.into()).map_err(|error| no_answer(&error.to_string()))
    }

    /// Reads all pages of a list. `path` has no query.
    pub async fn get_all(&self, path: &str, list: &str) -> Result<Vec<Value>, Failure> {
        Ok(self.get_pages(path, "", list, usize::MAX).await?.0)
    }

    /// Reads the pages of a list until it has `limit` entries. `path` has no query, and `filter` is empty or parts of one, each
    /// after `&`. Returns the entries, and the cursor behind them.
    pub async fn get_pages(
        &self,
        path: &str,
        filter: &str,
        list: &str,
        limit: usize,
    ) -> Result<(Vec<Value>, String), Failure> {
        let (mut entries, mut cursor) = (Vec::new(), String::new());
        while entries.len() < limit {
            let size = PAGE_SIZE.min(limit - entries.len());
            let path = format!("{path}?limit={size}&after={}{filter}", percent_encoded(&cursor));
            let mut page: Value = self.get(&path).await?;
            page["cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
            match page[list].take() {
                Value::Array(found) if !found.is_empty() => entries.extend(found),
                _ => break,
            }
        }
        Ok((entries, cursor))
    }

    /// Sends a POST request with a JSON body, and reads the answer as JSON.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.request(Method::POST, path, Some(body)).await
    }

    /// Sends a PATCH request with a JSON body, and reads the answer as JSON.
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.request(Method::PATCH, path, Some(body)).await
    }

    /// Sends a DELETE request, and reads the answer as JSON.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::DELETE, path, None).await
    }

    /// Like `post`, for a request that can be repeated: one that got no complete answer is sent again.
    pub async fn post_repeatable<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        // An agent that does not run is reported at once.
        drop(self.connect().await?);
        for _ in 1..ATTEMPTS {
            match self.post(path, body).await {
                Err(failure) if failure.code == "agent-away" => {
                    tracing::info!(reason = failure.message, "request is repeated");
                    tokio::time::sleep(REPEAT_PAUSE).await;
                }
                answered => return answered,
            }
        }
        self.post(path, body).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let (status, body) = self.exchange(method, path, body).await?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| no_answer(&error.to_string()))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Bytes), Failure> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| no_answer(&error.to_string()))?.to_bytes();
            Ok::<_, Failure>((status, body))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| no_answer("timeout"))?
    }

    /// Passes the data of each server-sent event to `handle`, until `handle` returns `false`. An end of the connection
    /// before that is a failure.
    pub async fn events(
        &self,
        path: &str,
        mut handle: impl FnMut(Value) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let response = self.send(Method::GET, path, None).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| no_answer(&error.to_string()))?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if !status.is_success() {
                continue;
            }
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event).into_owned();
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).collect();
                if data.is_empty() {
                    continue;
                }
                let value = serde_json::from_str(&data).map_err(|error| no_answer(&error.to_string()))?;
                if !handle(value)? {
                    return Ok(());
                }
            }
        }
        if status.is_success() { Err(no_answer("the connection ended")) } else { Err(refused(status, &text)) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Failure> {
        let mut sender = self.connect().await?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())));
        let request = request.body(body).map_err(|error| no_answer(&error.to_string()))?;
        let failed = |error: hyper::Error| match &self.address {
            ApiAddress::Unix(path) if is_of_another_user(path) => user_not_served(),
            _ => no_answer(&error.to_string()),
        };
        sender.send_request(request).await.map_err(failed)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let unreachable = |what: String, error: std::io::Error| {
            Failure::new("agent-away", format!("no agent answers on {what}: {error}")).hint(match self.has_file {
                true => "start the agent: `claviger serve` with the same configuration",
                false => "no configuration file was found: run the command in the folder of the agent's claviger.toml, or name it \
                     with --config",
            })
        };
        let failed = |error: hyper::Error| no_answer(&error.to_string());
        match &self.address {
            ApiAddress::Unix(path) => {
                let stream =
                    UnixStream::connect(path).await.map_err(|error| unreachable(path.display().to_string(), error))?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(sender)
            }
            ApiAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| unreachable(address.clone(), error))?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }
}

/// Asks a running agent to serve DIDs that were made or changed. `changed` is the DID whose document was changed. Returns whether
/// an agent did: without a running agent nothing happens, since an agent reads our DIDs when it starts.
pub fn reload_own_dids(config: &Config, changed: Option<&str>) -> bool {
    let query = changed.map_or(String::new(), |did| format!("?changed={}", percent_encoded(did)));
    let path = format!("/v1/dids/reload{query}");
    let reloaded = AgentClient::new(config).and_then(|client| block_on(client.post::<Value>(&path, &Value::Null)));
    let reloaded = reloaded.inspect_err(|failure| {
        tracing::debug!(reason = failure.message, "agent not told to reload its DIDs");
    });
    reloaded.is_ok()
}

/// Whether a socket is that of an agent which runs as another user, and which may refuse this one.
fn is_of_another_user(socket: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    own != 0 && socket.metadata().is_ok_and(|socket| socket.uid() != own)
}

/// The failure of a request whose connection the agent has closed, as it does with those of users that it does not serve.
fn user_not_served() -> Failure {
    no_answer("it has closed the connection").hint(
        "the agent may not serve this user: add it to `users` in [api], or as an [[api.user]] with scopes, and send \
         SIGHUP",
    )
}

/// The failure of a request that got no complete answer.
fn no_answer(why: &str) -> Failure {
    Failure::new("agent-away", format!("the agent did not answer the request: {why}"))
}

/// The failure of a request that the agent refused, with the code and the message of the agent.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = error["error"]["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Failure::from_agent(error["error"]["code"].as_str().unwrap_or_default(), message)
}

/// Percent-encodes a value for a path or a query (RFC 3986). A DID may contain colons and percent signs.
pub fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
