//! A client of the running agent's API, on its Unix socket or on the loopback interface.

use std::time::Duration;

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
/// How often a request is sent that can be repeated, and the pause before it is repeated.
const ATTEMPTS: usize = 4;
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// A client of the agent that runs with this configuration. Each request uses a new connection.
pub struct AgentClient {
    address: ApiAddress,
    token: Option<String>,
}

impl AgentClient {
    /// Reads the bearer token, if the configuration names a file with one. Does not connect yet.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let token = config.daemon.api.token_file.as_ref().map(|file| {
            let path = config.base.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| Failure::io(path.display(), &error))?;
            Ok::<_, Failure>(text.lines().next().unwrap_or_default().trim().to_owned())
        });
        Ok(Self { address: config.api_address(), token: token.transpose()? })
    }

    /// Sends a GET request, and reads the answer as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, None).await
    }

    /// Sends a POST request with a JSON body, and reads the answer as JSON.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.request(Method::POST, path, Some(body)).await
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
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| no_answer(&error.to_string()))?.to_bytes();
            Ok::<_, Failure>((status, body))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| no_answer("timeout"))??;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| no_answer(&error.to_string()))
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
        sender.send_request(request).await.map_err(|error| no_answer(&error.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let unreachable = |what: String, error: std::io::Error| {
            Failure::new("agent-away", format!("no agent answers on {what}: {error}"))
                .hint("start the agent: `claviger serve` with the same configuration")
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

/// Asks a running agent to serve DIDs that were made or changed. Returns whether an agent did: without a running agent
/// nothing happens, since an agent reads our DIDs when it starts.
pub fn reload_own_dids(config: &Config) -> bool {
    let reloaded =
        AgentClient::new(config).and_then(|client| block_on(client.post::<Value>("/v1/dids/reload", &Value::Null)));
    let reloaded = reloaded.inspect_err(|failure| {
        tracing::debug!(reason = failure.message, "agent not told to reload its DIDs");
    });
    reloaded.is_ok()
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
