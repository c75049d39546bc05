//! The way to a running agent: its API, on its Unix socket or on the loopback interface.

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

use crate::cli::{config::Config, failure::Failure, serve::config::ApiAddress};

/// What an agent answers with, at most, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to the agent of this configuration.
pub struct Client {
    address: ApiAddress,
    token: Option<String>,
}

impl Client {
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let token = config.daemon.api.token_file.as_ref().map(|file| {
            let path = config.base.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| Failure::io(path.display(), &error))?;
            Ok::<_, Failure>(text.lines().next().unwrap_or_default().trim().to_owned())
        });
        Ok(Self { address: config.api_address(), token: token.transpose()? })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T, Failure> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| broken(&error.to_string()))?.to_bytes();
            Ok::<_, Failure>((status, body))
        };
        let (status, body) =
            tokio::time::timeout(PATIENCE, answer).await.map_err(|_| broken("it does not answer"))??;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| broken(&error.to_string()))
    }

    /// Server-sent events, one after the other, until `each` says no more or the agent ends.
    pub async fn events(
        &self,
        path: &str,
        mut each: impl FnMut(Value) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let response = self.send(Method::GET, path, None).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&error.to_string()))?;
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
                let value = serde_json::from_str(&data).map_err(|error| broken(&error.to_string()))?;
                if !each(value)? {
                    return Ok(());
                }
            }
        }
        if status.is_success() { Err(broken("it has ended")) } else { Err(refused(status, &text)) }
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
        let request = request.body(body).map_err(|error| broken(&error.to_string()))?;
        sender.send_request(request).await.map_err(|error| broken(&error.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let away = |what: String, error: std::io::Error| {
            Failure::new("agent-away", format!("no agent answers on {what}: {error}"))
                .hint("`claviger serve` runs it, with the same configuration")
        };
        let lost = |error: hyper::Error| broken(&error.to_string());
        match &self.address {
            ApiAddress::Unix(path) => {
                let stream =
                    UnixStream::connect(path).await.map_err(|error| away(path.display().to_string(), error))?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
                tokio::spawn(connection);
                Ok(sender)
            }
            ApiAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| away(address.clone(), error))?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure::new("agent-away", format!("the agent's answer: {why}"))
}

/// What the agent said, in its own words.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = said["error"]["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Failure::of_agent(said["error"]["code"].as_str().unwrap_or_default(), message)
}
